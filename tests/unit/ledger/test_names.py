"""Names in the ledger: a row for each change; the version of an object; old ones are removed."""

import pytest

from faillog_otel.clock import DAY_NS
from faillog_otel.events.model import JSON_LINES, Survey
from faillog_otel.ledger import Content, Spooled
from faillog_otel.ledger.ledger import SqliteLedger
from faillog_otel.ledger.names import Rename
from faillog_otel.segment.answers import Name
from faillog_otel.segment.hours import ObjectVersion

NOW_NS = 20_000 * DAY_NS
MIXPANEL = Name("destination", "d1", "Mixpanel", source="s1", product="Mixpanel (Actions)")
PROD = Name("destination", "d1", "Mixpanel (prod)", source="s1", product="Mixpanel (Actions)")
BRAZE = Name("destination", "d2", "", product="Braze")
SHOP = Name("source", "s1", "Shop", slug="shop")


def spool(ledger: SqliteLedger, name: str) -> Spooled:
    """An object that is downloaded now."""
    hour = NOW_NS // DAY_NS * 24 - 5
    request = ledger.debit("c", hour, "first", NOW_NS)
    ledger.listed(request, "c", hour, [f"https://h/{name}"], NOW_NS)
    listed = ledger.next_listed(NOW_NS)
    assert listed
    content = Content(1, 0, 1, "", Survey(JSON_LINES, None))
    ledger.spooled(listed, ObjectVersion(name, None, 9), content, NOW_NS)
    spooled = ledger.spooled_object(listed.id)
    assert spooled
    return spooled


def rows(ledger: SqliteLedger) -> int:
    return len(ledger.rows("SELECT * FROM names"))


def test_only_a_change_makes_a_row(ledger: SqliteLedger) -> None:
    assert ledger.note_names([MIXPANEL, BRAZE, SHOP], NOW_NS) == 3
    assert ledger.note_names([MIXPANEL, BRAZE, SHOP], NOW_NS + 1) == 0
    assert ledger.note_names([PROD, BRAZE], NOW_NS + 2) == 1
    assert ledger.names() == {"d1": PROD, "d2": BRAZE, "s1": SHOP}
    assert ledger.renames(NOW_NS) == [Rename("destination", "d1", "Mixpanel", "Mixpanel (prod)", NOW_NS + 2)]
    assert ledger.renames(NOW_NS + 3) == []


def test_an_object_keeps_the_names_of_its_download(ledger: SqliteLedger) -> None:
    before = spool(ledger, "a")
    ledger.note_names([MIXPANEL, BRAZE], NOW_NS)
    first = spool(ledger, "b")
    ledger.note_names([PROD], NOW_NS)
    second = spool(ledger, "c")
    assert before.names_to is None
    assert first.names_to is not None
    assert second.names_to is not None
    assert ledger.shown_names(first.names_to) == {"d1": "Mixpanel", "d2": "Braze"}
    assert ledger.shown_names(second.names_to) == {"d1": "Mixpanel (prod)", "d2": "Braze"}


def test_a_replaced_name_is_removed_after_35_days_once_no_spooled_object_needs_it(
    ledger: SqliteLedger,
) -> None:
    ledger.note_names([MIXPANEL, BRAZE], NOW_NS)
    spooled = spool(ledger, "a")
    ledger.note_names([PROD], NOW_NS + DAY_NS)
    ledger.prune(NOW_NS + 30 * DAY_NS)
    assert rows(ledger) == 3
    ledger.prune(NOW_NS + 36 * DAY_NS)
    assert spooled.names_to is not None
    assert ledger.shown_names(spooled.names_to)["d1"] == "Mixpanel"
    ledger.not_whole(spooled, "gone", NOW_NS)
    ledger.prune(NOW_NS + 36 * DAY_NS)
    assert ledger.names() == {"d1": PROD, "d2": BRAZE}
    assert rows(ledger) == 2


@pytest.mark.parametrize("first", [MIXPANEL, SHOP])
def test_of_equal_ids_the_destinations_name_is_shown(ledger: SqliteLedger, first: Name) -> None:
    same = Name("source", "d1", "A source"), MIXPANEL
    ledger.note_names(same if first is SHOP else same[::-1], NOW_NS)
    assert ledger.names()["d1"] == MIXPANEL
    assert ledger.shown_names(2)["d1"] == "Mixpanel"
