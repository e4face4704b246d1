"""How much a log record takes along: what `--backend` sets, rule by rule."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from support.events import error, exchange

from faillog_otel.backends import BACKENDS
from faillog_otel.config import Limits, MappingConfig
from faillog_otel.events.decode import decode
from faillog_otel.events.model import Event, RecordContext
from faillog_otel.otlp.mapping import map_event
from faillog_otel.otlp.wire import Log
from faillog_otel.reports.preview import explain

LOKI_BYTES, LOKI_ENTRIES = 64 * 1024, 128
LOKIS_OWN = 12
"""Ids, severity, scope, observed time, flags, dropped attributes, what Loki itself detects."""


def event_of(raw: bytes) -> Event:
    found = decode(raw)
    assert isinstance(found, Event), found
    return found


def log_of(raw: bytes, limits: Limits, **config: Any) -> Log:
    return map_event(event_of(raw), RecordContext(0), MappingConfig(limits=limits, **config)).log


def text_of(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


def test_bodies_and_extras_have_their_own_lengths_and_ids_keep_theirs() -> None:
    raw = exchange(
        responseFromDestination={"status": 500, "body": "b" * 9000},
        requestToDestination={"body": "r" * 9000},
        destinationExchangeId="i" * 9000,
        more="e" * 9000,
    )
    found = dict(log_of(raw, Limits(body_bytes=5000, extra_bytes=3000), bodies="all").attributes)
    assert found["segment.response.body"] == "b" * 5000
    assert found["segment.request.body"] == "r" * 5000
    assert found["segment.body_truncated"] is True
    assert found["segment.extra.more"] == "e" * 3000
    assert found["segment.destination_exchange.id"] == "i" * 2048
    whole = dict(log_of(raw, Limits(body_bytes=9000)).attributes)
    assert (len(str(whole["segment.response.body"])), "segment.body_truncated" in whole) == (9000, False)


def test_a_longer_body_is_redacted_to_its_end() -> None:
    body = "x" * 4000 + ' {"password": "hunter2hunter2"}'
    raw = exchange(responseFromDestination={"status": 500, "body": body})
    found = dict(log_of(raw, BACKENDS["honeycomb"].limits).attributes)
    assert str(found["segment.response.body"]).endswith('{"password": "[redacted:secret]"}')


def test_of_too_many_attributes_the_last_ones_go_and_are_counted() -> None:
    raw = error(**{f"k{number}": number for number in range(70)})
    free, bound = log_of(raw, Limits()), log_of(raw, Limits(attributes=20))
    assert bound.attributes == free.attributes[:20]
    assert bound.dropped_attributes == 6 + len(free.attributes) - 20
    assert free.dropped_attributes == 6


def test_an_attribute_that_is_too_large_leaves_room_for_those_behind_it() -> None:
    raw = error(large="x" * 2000, small="y")
    free = sum(len(name) + len(text_of(value)) for name, value in log_of(error(), Limits()).attributes)
    log = log_of(raw, Limits(attribute_bytes=free + 100))
    names = [name for name, _ in log.attributes]
    assert ("segment.extra.large" in names, "segment.extra.small" in names) == (False, True)
    assert log.dropped_attributes == 1


TEXTS = st.text(max_size=20) | st.sampled_from(["x" * 3000, "ü" * 9000, '"<&\x01' * 700])
VALUES = st.recursive(
    TEXTS | st.integers() | st.booleans() | st.none(),
    lambda inner: st.dictionaries(TEXTS, inner, max_size=4) | st.lists(inner, max_size=4),
    max_leaves=20,
)


@given(
    st.dictionaries(TEXTS, VALUES, max_size=5),
    st.integers(0, 300),
    st.lists(TEXTS, max_size=40),
    st.sampled_from([0, 2000]),
)
def test_whatever_is_in_an_event_loki_has_room_for_its_record(
    extras: dict[str, Any], more: int, headers: list[str], length: int
) -> None:
    raw = exchange(
        **{f"k{number}": "x" * length for number in range(more)},
        **{f"extra {name}": value for name, value in extras.items()},
        requestToDestination={"body": "r" * 20_000},
        responseFromDestination={
            "status": 500,
            "body": "b" * 20_000,
            "headers": [[f"x-ratelimit-{number}", value] for number, value in enumerate(headers)],
        },
        reason="r" * 5000,
    )
    found = decode(raw)
    if not isinstance(found, Event):
        return
    log = map_event(found, RecordContext(0), MappingConfig(limits=BACKENDS["loki"].limits, bodies="all")).log
    size = sum(len(name.encode()) + len(text_of(value).encode()) for name, value in log.attributes)
    assert size <= LOKI_BYTES - 16 * 1024
    assert len(log.attributes) <= LOKI_ENTRIES - LOKIS_OWN - 16
    names = {name for name, _ in log.attributes}
    assert {"segment.event", "log.record.uid", "segment.response.body"} <= names


def test_what_is_explained_is_what_leaves_under_the_limits() -> None:
    config = MappingConfig(limits=BACKENDS["datadog"].limits)
    raw = exchange(responseFromDestination={"status": 500, "body": "b" * 6000})
    found = explain(event_of(raw), RecordContext(0), config)
    assert found.attributes["segment.response.body"] == "b" * 5000
    assert found.stays["responseFromDestination.body"] == "truncated to 5000 bytes"
