"""What holds for every kind of event in the table, so for a new one as well."""

from typing import Any

import pytest
from support.events import ABSENT, TIMES, event

from faillog_otel.config import MappingConfig
from faillog_otel.events.decode import decode
from faillog_otel.events.model import ATTEMPT, ERROR, KINDS, BadRecord, Event, Kind, RecordContext
from faillog_otel.ledger.results import Counts
from faillog_otel.otlp.encoder import WireEncoder
from faillog_otel.otlp.mapping import map_event

VALUES: dict[str, Any] = {"messageId": "m", "attempt": 1, "destinationExchangeId": "x", **TIMES}
"""A value of each field that a kind may require."""
OTHERS: dict[str, tuple[Any, Any]] = {
    "attempt": (1, 2),
    "outcome": ("success", "failure"),
    "discarded": (True, False),
}
"""Two values of each field that varies."""
NAMED = [(kind, name) for kind in KINDS for name in kind.segment_names or ("Unheard Of",)]


def camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def smallest(kind: Kind, **more: Any) -> dict[str, Any]:
    """The properties that a kind requires."""
    required = {camel(name): VALUES[camel(name)] for name in kind.required}
    return {"occurredAt": TIMES["occurredAt"], **required, **more}


def understood(raw: bytes) -> Event:
    found = decode(raw)
    assert isinstance(found, Event), found
    return found


@pytest.mark.parametrize(("kind", "name"), NAMED)
def test_an_event_with_what_its_kind_requires_becomes_its_records(kind: Kind, name: str) -> None:
    found = understood(event(name, **smallest(kind)))
    mapped = map_event(found, RecordContext(0), MappingConfig())
    assert (found.kind, mapped.log.event_name) == (kind, kind.event_name)
    assert (mapped.span and mapped.span.kind.name) == kind.span
    assert ("segment.event", kind.event_name) in mapped.log.attributes


@pytest.mark.parametrize(("kind", "field"), [(kind, name) for kind in KINDS for name in kind.required])
def test_without_a_required_field_a_record_is_not_understood(kind: Kind, field: str) -> None:
    found = decode(event(kind.segment_names[0], **smallest(kind, **{camel(field): ABSENT})))
    assert isinstance(found, BadRecord)
    assert (found.reason, camel(field) in found.detail) == ("missing_field", True)


@pytest.mark.parametrize(("kind", "field"), [(kind, name) for kind in KINDS for name in kind.varies])
def test_what_is_remembered_of_an_event_leaks_into_no_other(kind: Kind, field: str) -> None:
    """Events that differ in one field only: the encoder remembers parts of the first one."""
    encoder = WireEncoder(MappingConfig())
    full = {
        camel(name): VALUES[camel(name)]
        for name in kind.properties.__struct_fields__
        if camel(name) in VALUES
    }
    first, second = (
        understood(event(kind.segment_names[0], **{**full, camel(field): value})) for value in OTHERS[field]
    )
    records = [encoder.encode(each, RecordContext(0)).log for each in (first, second, first)]
    for each, record in zip((first, second, first), records, strict=True):
        assert record == WireEncoder(MappingConfig()).encode(each, RecordContext(0)).log


def test_bad_events_are_counted_by_kind() -> None:
    counts = Counts()
    counts.count_events(ATTEMPT, 3, are_bad=True)
    counts.count_events(ERROR, 2, are_bad=False)
    assert counts.events == {kind.name: 0 for kind in KINDS} | {"error": 2, "attempt": 3}
    assert (counts.failures, counts.discarded, counts.unknown_version) == (3, 0, 0)
