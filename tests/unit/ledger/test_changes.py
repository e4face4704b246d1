"""Changes of the workspace in the ledger: each is stored once, and removed after 35 days."""

from msgspec.structs import replace

from faillog_otel.clock import DAY_NS
from faillog_otel.ledger.facts import ChangesState, changes_state, note_changes_state
from faillog_otel.ledger.ledger import SqliteLedger
from faillog_otel.segment.answers import Change

NOW_NS = 20_000 * DAY_NS
FIRST = Change(
    id="a1",
    at_ns=NOW_NS - 40,
    kind="Destination Modified",
    resource_id="d1",
    resource_type="DESTINATION",
    resource_name="Mixpanel (prod)",
    actor="[redacted:secret]",
    actor_email="[redacted:email]",
)
SECOND = replace(FIRST, id="a2", at_ns=NOW_NS - 20, kind="Source Modified", resource_id="s1")


def test_a_change_is_stored_once(ledger: SqliteLedger) -> None:
    assert ledger.note_changes([SECOND]) == [SECOND]
    assert ledger.note_changes([FIRST, SECOND, FIRST]) == [FIRST]
    assert ledger.note_changes([]) == []
    assert ledger.changes(0, NOW_NS) == [FIRST, SECOND]


def test_a_window_has_its_first_time_and_lacks_its_last(ledger: SqliteLedger) -> None:
    ledger.note_changes([FIRST, SECOND])
    assert ledger.changes(FIRST.at_ns, SECOND.at_ns) == [FIRST]


def test_changes_are_removed_as_failures_are(ledger: SqliteLedger) -> None:
    ledger.note_changes([FIRST, SECOND])
    ledger.prune(SECOND.at_ns + 35 * DAY_NS)
    assert ledger.changes(0, NOW_NS) == [SECOND]


def test_the_state_of_reading_is_kept(ledger: SqliteLedger) -> None:
    assert changes_state(ledger) == ChangesState()
    state = ChangesState(NOW_NS, NOW_NS + 5, "no permission")
    note_changes_state(ledger, state)
    assert changes_state(ledger) == state
