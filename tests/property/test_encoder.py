"""What our encoder writes is what the official classes write of the mapping, to the last byte."""

from typing import Any

import pytest
from fuzz.with_hypothesis import EVENT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support.events import attempt, error, event, exchange
from support.reference_encoder import ProtobufEncoder

from faillog_otel import propagation
from faillog_otel.config import Limits, MappingConfig, Secret, TimePolicy
from faillog_otel.events.decode import decode
from faillog_otel.events.model import Event, ExchangeAnswer, Reason, RecordContext
from faillog_otel.otlp.encoder import WireEncoder
from faillog_otel.otlp.parts import MAX_REASONS

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CONFIGS = st.builds(
    MappingConfig,
    bodies=st.sampled_from(("none", "keys", "response", "all")),
    time_policy=st.sampled_from((TimePolicy(), TimePolicy("arrival"), TimePolicy("clamp", 60.0))),
    join=st.sampled_from(("parent", "link", "off")),
    destination_names=st.sampled_from(
        ({}, {"abc": "Mixpanel (Actions)", "def": "Orders"}, {"abc": ""}, {"abc": "é\n" * 2000})
    ),
    limits=st.sampled_from(
        (
            *(Limits(), Limits(attributes=20), Limits(attribute_bytes=700), Limits(attributes=100)),
            *(Limits(attributes=100, attribute_bytes=4000), Limits(body_bytes=5000, extra_bytes=10)),
        )
    ),
    redaction_key=st.sampled_from((None, Secret("key"))),
)
CONTEXTS = st.builds(
    RecordContext,
    st.sampled_from((0, 1, 2**63 - 1)),
    st.none()
    | st.builds(
        ExchangeAnswer,
        st.none() | st.integers(100, 999),
        st.none() | st.builds(Reason, st.text(min_size=1), st.none() | st.text(min_size=1, max_size=64)),
    ),
    st.sampled_from((None, TRACEPARENT, TRACEPARENT[:-1] + "0", "odd")),
    destination_name=st.sampled_from((None, "Mixpanel (prod)", "a\u202eb", "é" * 2000)),
)
LONG = st.sampled_from((60, 127, 128, 255, 256, 2047, 2048, 2049, 4097, 17_000)).map("é".__mul__)
TEXT = st.text() | LONG | st.sampled_from(("", "a\u202eb\x1b[0m", "\U0001f600" * 600))
MESSAGE_IDS = TEXT | st.sampled_from(
    (f"{TRACEPARENT}-x", TRACEPARENT[:-1] + "0-x", propagation.message_id_for(TRACEPARENT, compact=True))
)
TIMES = st.sampled_from(
    (
        *("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000000001Z", "2025-03-23T20:00:00.000Z"),
        *("2025-03-23T20:00:02.123Z", "2262-04-11T23:47:16.854775807Z", "2025-03-23 20:00:00.5+02:00"),
    )
)
KINDS = st.sampled_from(("destination", "subscription", "source", "x"))
PARTY = st.fixed_dictionaries({"type": KINDS, "id": TEXT})
ROUTED = st.fixed_dictionaries({}, optional={side: st.lists(PARTY, max_size=3) for side in ("to", "from")})
REQUEST = {"method": st.sampled_from(("post", "BREW", "")), "url": TEXT | st.just("https://h:1/?a=b")}
RESPONSE = {
    "status": st.sampled_from((100, 200, 399, 400, 503)),
    "headers": st.dictionaries(st.sampled_from(("Date", "x-ratelimit-a", "b")), TEXT),
    "body": TEXT
    | st.sampled_from(
        (
            *('{"error":"no","user":{"a":[1,"x"]}}', '{"error":', '[{"code":1}]'),
            '[{"errorType":"BAD_KEY","errorMessage":"no","errorReporter":"DESTINATION"},{"status":200}]',
        )
    ),
}
PROPERTIES = {
    "messageId": MESSAGE_IDS,
    "destinationExchangeId": TEXT,
    "attempt": st.sampled_from((0, 1, 127, 128, -1, 2**63 - 1, -(2**63))),
    "outcome": st.sampled_from(("failure", "success", "", "odd\n")) | TEXT,
    "discarded": st.booleans(),
    "reason": TEXT,
    "featureName": st.sampled_from(("delivery", "destinationInsertFunction", "", "odd\n")) | TEXT,
    "errorreporter": st.sampled_from(("INTEGRATIONS", "DESTINATION")),
    "errorCode": st.just("E_CODE"),
    "occurredAt": TIMES,
    "loggedAt": TIMES,
    "routed": ROUTED,
    "requestToDestination": st.fixed_dictionaries({}, optional=REQUEST | {"body": TEXT}),
    "responseFromDestination": st.fixed_dictionaries({}, optional=RESPONSE),
    "more": st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
}
NAMES = ("Error Logged", "Delivery Attempt Logged", "Destination Exchange Logged", "Other", "")
VERSIONS = st.sampled_from((b'"v1"', b"1", b'"1"', b'"v1.7"', b"null", b"2"))
RAWS = EVENT | st.builds(
    lambda name, version, properties: event(name, **properties).replace(b'"v1"', version, 1),
    st.sampled_from(NAMES),
    VERSIONS,
    st.fixed_dictionaries({}, optional=PROPERTIES).map(
        lambda some: {"messageId": "m", "attempt": 1, "occurredAt": "2025-03-23T20:00:00Z", **some}
    ),
)


@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=400)
@given(st.lists(RAWS, min_size=1, max_size=4), CONTEXTS, CONFIGS)
def test_any_event_becomes_what_the_official_classes_write(
    raws: list[bytes], context: RecordContext, config: MappingConfig
) -> None:
    """One after the other and once more: what was remembered of one event never tells in another."""
    ours, reference = WireEncoder(config), ProtobufEncoder(config)
    events = [each for each in map(decode, raws) if isinstance(each, Event)]
    for each in (*events, *events):
        written, expected = ours.encode(each, context), reference.encode(each, context)
        assert LogRecord.FromString(written.log) == LogRecord.FromString(expected.log)
        assert Span.FromString(written.span) == Span.FromString(expected.span)
        assert written == expected


@pytest.mark.parametrize("make", [error, attempt, exchange])
def test_what_is_remembered_is_bounded_and_changes_nothing(make: Any) -> None:
    ours, reference = WireEncoder(MappingConfig()), ProtobufEncoder(MappingConfig())
    for number in (*range(MAX_REASONS + 2), 0, MAX_REASONS):
        routed = {"to": [{"type": "destination", "id": f"d{number}"}], "from": []}
        found = decode(make(routed=routed, reason=f"reason {number}"))
        assert isinstance(found, Event)
        if number % 100 < 2:
            assert ours.encode(found, RecordContext(0)) == reference.encode(found, RecordContext(0))
        else:
            ours.encode(found, RecordContext(0))
