"""The mapping, rule by rule, as the tables of docs/reference/attributes.md have it."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.events import ABSENT, ROUTED, TIMES, attempt, error, event, exchange
from support.reference_encoder import encode_log, encode_span

from faillog_otel import propagation
from faillog_otel.config import MappingConfig, TimePolicy
from faillog_otel.events.decode import answer_of, decode
from faillog_otel.events.model import Event, ExchangeAnswer, Reason, RecordContext
from faillog_otel.otlp.mapping import Mapped, map_event
from faillog_otel.otlp.wire import Link, Log, Severity, Span, SpanKind, StatusCode
from faillog_otel.propagation import digest

AT = 1742760000 * 1_000_000_000
NOW = AT + 3600 * 1_000_000_000


def mapped(raw: bytes, answer: ExchangeAnswer | None = None, **config: Any) -> Mapped:
    found = decode(raw)
    assert isinstance(found, Event), found
    return map_event(found, RecordContext(NOW, answer), MappingConfig(**config))


def log_of(raw: bytes, answer: ExchangeAnswer | None = None, **config: Any) -> Log:
    return mapped(raw, answer, **config).log


def records(both: Mapped) -> list[Log | Span]:
    return [both.log, both.span] if both.span else [both.log]


def span_of(raw: bytes, answer: ExchangeAnswer | None = None, **config: Any) -> Span:
    span = mapped(raw, answer, **config).span
    assert span is not None
    return span


def attributes(record: Log | Span) -> dict[str, Any]:
    found = dict(record.attributes)
    assert len(found) == len(record.attributes), "an attribute key may stand only once"
    return found


# -- identity ------------------------------------------------------------------------------------------


def test_an_exchange_is_a_trace_of_its_own_and_an_attempt_links_to_it_unseen() -> None:
    digest = hashlib.sha256(b'["segment.exchange","x"]').digest()
    span = span_of(exchange())
    assert (span.trace_id, span.span_id, span.parent_span_id) == (digest[:16], digest[16:24], b"")
    assert span_of(attempt()).links == [
        Link(
            digest[:16],
            digest[16:24],
            [("segment.link.type", "exchange"), ("segment.destination_exchange.id", "x")],
            0x101,
        )
    ]


def test_attempts_and_errors_of_a_message_share_its_trace() -> None:
    trace_id = hashlib.sha256(b'["segment.message","m"]').digest()[:16]
    assert span_of(attempt()).trace_id == log_of(attempt()).trace_id == log_of(error()).trace_id == trace_id


def test_an_attempt_has_its_own_span_and_its_log_points_at_it() -> None:
    fields = b'["segment.attempt","m","abc","ghi",4,"2025-03-23T20:00:00Z"]'
    both = mapped(attempt())
    assert both.span is not None
    assert both.span.span_id == both.log.span_id == hashlib.sha256(fields).digest()[:8]
    assert both.span.parent_span_id == b""


def test_an_absent_route_is_null_in_the_span_id() -> None:
    """The formula in docs/concepts/ids.md has a place for it, so that other programs compute the same id."""
    fields = b'["segment.attempt","m",null,null,4,"2025-03-23T20:00:00Z"]'
    assert span_of(attempt(routed=ABSENT)).span_id == hashlib.sha256(fields).digest()[:8]


def test_an_error_is_a_log_without_span() -> None:
    both = mapped(error())
    assert (both.span, both.log.span_id) == (None, b"")


def test_an_attempt_without_exchange_id_has_no_link() -> None:
    assert span_of(attempt(destinationExchangeId=ABSENT)).links == []


def test_log_record_uid_is_the_hash_of_the_records_own_bytes() -> None:
    uid = hashlib.sha256(b"segment.error\n" + error()).hexdigest()[:32]
    assert attributes(log_of(error()))["log.record.uid"] == uid


def test_flags_say_sampled_and_not_remote() -> None:
    assert span_of(attempt()).flags == span_of(exchange()).flags == 0x101
    assert log_of(attempt()).flags == log_of(error()).flags == 0x01


# -- names, kinds, status, severity ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "name", "kind"),
    [
        (attempt(), "deliver abc", SpanKind.CONSUMER),
        (attempt(routed=ABSENT), "deliver", SpanKind.CONSUMER),
        (exchange(), "HTTP abc", SpanKind.CLIENT),
        (exchange(requestToDestination={"method": "post"}), "POST abc", SpanKind.CLIENT),
        (exchange(requestToDestination={"method": "BREW"}), "HTTP abc", SpanKind.CLIENT),
        (exchange(routed=ABSENT), "HTTP", SpanKind.CLIENT),
    ],
)
def test_span_name_and_kind(raw: bytes, name: str, kind: SpanKind) -> None:
    assert (span_of(raw).name, span_of(raw).kind) == (name, kind)


def test_a_name_that_segment_has_is_in_the_span_and_the_body_only() -> None:
    found = decode(attempt())
    assert isinstance(found, Event)
    context = RecordContext(NOW, destination_name="Mixpanel (prod)")
    both = map_event(found, context, MappingConfig())
    assert both.span
    assert both.span.name == "deliver Mixpanel (prod)"
    assert both.log.body.startswith("Delivery to Mixpanel (prod) ")
    plain = mapped(attempt())
    assert plain.span
    assert both.span.attributes == plain.span.attributes
    assert both.log.attributes == plain.log.attributes
    assert attributes(both.log)["messaging.destination.name"] == "abc"
    named = map_event(found, context, MappingConfig(destination_names={"abc": "Mine"}))
    assert named == mapped(attempt(), destination_names={"abc": "Mine"})


def test_a_known_name_of_a_destination_stands_in_names_and_never_in_ids() -> None:
    span = span_of(attempt(), destination_names={"abc": "Mixpanel (Actions)"})
    assert span.name == "deliver Mixpanel (Actions)"
    assert attributes(span)["messaging.destination.name"] == "Mixpanel (Actions)"
    assert attributes(span)["segment.destination.id"] == "abc"
    assert span.span_id == span_of(attempt()).span_id


@pytest.mark.parametrize(
    ("response", "status", "message", "error_type", "severity"),
    [
        ({"status": 200}, StatusCode.UNSET, "", None, Severity.INFO),
        ({"status": 302}, StatusCode.UNSET, "", None, Severity.INFO),
        ({"status": 399}, StatusCode.UNSET, "", None, Severity.INFO),
        ({"status": 400}, StatusCode.ERROR, "HTTP 400", "400", Severity.ERROR),
        ({"status": 503}, StatusCode.ERROR, "HTTP 503", "503", Severity.ERROR),
        ({"status": "200"}, StatusCode.UNSET, "", None, Severity.INFO),
        ({"body": "x"}, StatusCode.UNSET, "", None, Severity.INFO),
        ({}, StatusCode.ERROR, "no response", "_OTHER", Severity.ERROR),
        (ABSENT, StatusCode.ERROR, "no response", "_OTHER", Severity.ERROR),
    ],
)
def test_an_exchange_failed_from_400_up_or_without_response(
    response: object, status: StatusCode, message: str, error_type: str | None, severity: Severity
) -> None:
    both = mapped(exchange(responseFromDestination=response))
    assert both.span is not None
    assert (both.span.status, both.span.status_message) == (status, message)
    assert attributes(both.span).get("error.type") == error_type
    assert both.log.severity == severity


@pytest.mark.parametrize(
    ("outcome", "status", "severity"),
    [
        ("failure", StatusCode.ERROR, Severity.WARN),
        ("success", StatusCode.UNSET, Severity.INFO),
        ("postponed", StatusCode.UNSET, Severity.INFO),
        (ABSENT, StatusCode.UNSET, Severity.INFO),
    ],
)
def test_an_attempt_failed_when_its_outcome_is_failure(
    outcome: object, status: StatusCode, severity: Severity
) -> None:
    both = mapped(attempt(outcome=outcome))
    assert both.span is not None
    assert (both.span.status, both.log.severity) == (status, severity)


@pytest.mark.parametrize(("discarded", "severity"), [(True, 17), (False, 13), (ABSENT, 13)])
def test_an_error_is_worse_when_the_message_was_discarded(discarded: object, severity: int) -> None:
    assert log_of(error(discarded=discarded)).severity == severity


@pytest.mark.parametrize(
    ("properties", "answer", "message", "error_type"),
    [
        ({}, None, "failure", "_OTHER"),
        ({}, ExchangeAnswer(418, None), "HTTP 418", "418"),
        ({}, ExchangeAnswer(418, Reason("I'm a teapot")), "I'm a teapot", "418"),
        ({}, ExchangeAnswer(None, Reason("ETIMEDOUT", "ETIMEDOUT")), "ETIMEDOUT", "ETIMEDOUT"),
        ({"reason": "own"}, ExchangeAnswer(418, Reason("exchange's")), "own", "418"),
        ({"reason": "own"}, ExchangeAnswer(None, Reason("ECONNRESET")), "own", "ECONNRESET"),
        ({"reason": "own"}, ExchangeAnswer(None, Reason("x", "ECONNRESET")), "own", "ECONNRESET"),
        ({"reason": "timed out"}, ExchangeAnswer(None, Reason("ECONNRESET")), "timed out", "ETIMEDOUT"),
        ({"reason": "own"}, ExchangeAnswer(None, Reason("ECONNRESET", in_body=True)), "own", "_OTHER"),
        ({"responseFromDestination": {"status": 500}}, ExchangeAnswer(418, None), "HTTP 500", "500"),
        ({"errorCode": "E_X"}, ExchangeAnswer(200, None), "E_X", "E_X"),
    ],
)
def test_an_attempt_says_what_its_exchange_said_and_its_own_word_wins(
    properties: dict[str, Any], answer: ExchangeAnswer | None, message: str, error_type: str
) -> None:
    both = mapped(attempt(**properties), answer)
    assert both.span is not None
    assert both.span.status_message == message
    for record in (both.span, both.log):
        assert attributes(record)["error.type"] == error_type


def test_a_success_has_a_status_code_and_no_error_type() -> None:
    found = attributes(span_of(attempt(outcome="success"), ExchangeAnswer(200, None)))
    assert found["http.response.status_code"] == 200
    assert "error.type" not in found


# -- attributes ------------------------------------------------------------------------------------------


def test_all_attributes_of_an_attempt_in_their_order() -> None:
    span = span_of(attempt(loggedAt="2025-03-23T20:00:01.5Z"), ExchangeAnswer(418, Reason("I'm a teapot")))
    group = digest("segment.failure", "abc", None, "418", 418, "i'm a teapot")
    assert span.attributes == [
        ("messaging.system", "segment"),
        ("messaging.operation.name", "deliver"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", "abc"),
        ("segment.event", "segment.attempt"),
        ("segment.source.id", "ghi"),
        ("segment.destination.id", "abc"),
        ("http.response.status_code", 418),
        ("error.type", "418"),
        ("segment.reason.class", "unknown"),
        ("segment.reason.retryable", False),
        ("segment.delivery.attempt", 4),
        ("segment.delivery.outcome", "failure"),
        ("segment.trace.origin", "derived"),
        ("segment.reason", "I'm a teapot"),
        ("segment.failure.group", group[:8].hex()),
        ("messaging.message.id", "m"),
        ("segment.destination_exchange.id", "x"),
        ("segment.occurred_at", "2025-03-23T20:00:00Z"),
        ("segment.logged_at", "2025-03-23T20:00:01.5Z"),
        ("segment.report_lag_ms", 1500),
    ]


def test_an_exchange_has_no_message_and_what_its_request_says_of_the_server() -> None:
    request = {"method": "POST", "url": "https://u:p@api.example:8443/x?token=t"}
    found = attributes(span_of(exchange(requestToDestination=request)))
    assert "messaging.message.id" not in found
    assert "segment.trace.origin" not in found
    assert found["http.request.method"] == "POST"
    assert found["url.full"] == "https://[redacted:secret]@api.example:8443/x?token=[redacted:secret]"
    assert (found["server.address"], found["server.port"]) == ("api.example", 8443)


def test_an_unknown_method_is_other_and_no_url_is_invented() -> None:
    found = attributes(span_of(exchange()))
    assert found["http.request.method"] == "_OTHER"
    assert not {"url.full", "server.address", "server.port"} & set(found)


@pytest.mark.parametrize("url", ["not a url", "https://h:port/", "https://[zz"])
def test_an_odd_url_travels_on_without_server(url: str) -> None:
    found = attributes(span_of(exchange(requestToDestination={"url": url})))
    assert found["url.full"] == url
    assert "server.port" not in found


def test_spans_and_logs_carry_the_same_but_for_what_only_logs_carry() -> None:
    both = mapped(
        exchange(more=1, responseFromDestination={"status": 500, "body": "b", "headers": {"Date": "d"}})
    )
    assert both.span is not None
    only_logs = attributes(both.log).keys() - attributes(both.span).keys()
    assert only_logs == {
        "log.record.uid",
        "segment.extra.more",
        "segment.response.body",
        "http.response.header.date",
    }
    assert attributes(both.span).items() <= attributes(both.log).items()


def test_headers_leave_by_the_allow_list_only() -> None:
    """Any other header may hold a credential."""
    headers = {
        "Content-Type": "text/plain",
        "X-RateLimit-Remaining": 0,
        "Set-Cookie": "s",
        "X-Mine": ["a", "b"],
        "Authorization": "Basic c2VjcmV0",
    }
    raw = exchange(responseFromDestination={"status": 200, "headers": headers})
    found = {k: v for k, v in log_of(raw).attributes if k.startswith("http.response.header.")}
    assert found == {
        "http.response.header.content-type": ("text/plain",),
        "http.response.header.x-ratelimit-remaining": ("0",),
    }
    more = attributes(log_of(raw, response_headers=("X-Mine", "authorization")))
    assert more["http.response.header.x-mine"] == ("a", "b")
    assert more["http.response.header.authorization"] == ("[redacted:secret]",)


@pytest.mark.parametrize(
    ("bodies", "names"),
    [
        ("none", set()),
        ("keys", {"segment.response.body"}),
        ("response", {"segment.response.body"}),
        ("all", {"segment.request.body", "segment.response.body"}),
    ],
)
def test_bodies_leave_as_far_as_they_are_allowed(bodies: str, names: set[str]) -> None:
    found = {key for key, _ in log_of(exchange(), bodies=bodies).attributes if key.endswith(".body")}
    assert found == names


def test_a_body_is_redacted_then_cut_and_says_so() -> None:
    body = '{"token": "abc", "mail": "jane@shop.example", "more": "' + "ü" * 2000 + '"}'
    found = attributes(log_of(exchange(responseFromDestination={"status": 500, "body": body})))
    shown = found["segment.response.body"]
    assert shown.startswith('{"token": "[redacted:secret]", "mail": "[redacted:email]", "more": "ü')
    assert 2047 <= len(shown.encode()) <= 2048
    assert found["segment.body_truncated"] is True
    assert "segment.body_truncated" not in attributes(log_of(exchange()))


def test_a_body_that_is_no_text_leaves_as_json() -> None:
    raw = exchange(responseFromDestination={"status": 500, "body": {"a": [1, None]}})
    assert attributes(log_of(raw))["segment.response.body"] == '{"a":[1,null]}'


def test_unknown_fields_leave_under_their_dotted_paths() -> None:
    raw = error(
        mapping={"id": "mp", "n": {"deep": 1.5, "ok": True}},
        tags=["a", {"b": 1}],
        nothing=None,
        empty={},
        big=2**63,
        low=-(2**63),
        owner="jane@shop.example",
        apiToken={"v": "s"},
    )
    found = {k.removeprefix("segment.extra."): v for k, v in log_of(raw).attributes if ".extra." in k}
    assert found == {
        "mapping.id": "mp",
        "mapping.n.deep": 1.5,
        "mapping.n.ok": True,
        "tags": '["a",{"b":1}]',
        "empty": "{}",
        "big": str(2**63),
        "low": -(2**63),
        "owner": "[redacted:email]",
        "apiToken.v": "[redacted:secret]",
    }


def test_an_extra_is_redacted_by_its_neighbours() -> None:
    """As lists of headers do: the name is beside the value."""
    log = log_of(
        error(
            given={"name": "X-Api-Key", "comment": "", "value": "Foo c4n4ry"},
            phones={"home": "0171 1234567", "all": [4155552671]},
            mobile=4155552671.0,
            errors={"token": ["is invalid"], "api_key": "can't be blank"},
            usage={"prompt_tokens": 12},
            rawHeaders=["Host", "x", "Authorization", "Foo c4n4ry"],
        )
    )
    extras = {key.removeprefix("segment.extra."): value for key, value in log.attributes if ".extra." in key}
    assert extras == {
        "given.name": "X-Api-Key",
        "given.comment": "",
        "given.value": "[redacted:secret]",
        "phones.home": "[redacted:phone]",
        "phones.all": "[redacted:phone]",
        "mobile": "[redacted:phone]",
        "errors.token": '["is invalid"]',
        "errors.api_key": "can't be blank",
        "usage.prompt_tokens": 12,
        "rawHeaders": '["Host","x","Authorization","[redacted:secret]"]',
    }


@pytest.mark.parametrize("bodies", ["none", "keys", "response", "all"])
def test_unknown_fields_inside_request_and_response_are_a_part_of_their_bodies(bodies: str) -> None:
    request = {"payload": "REQUEST", "data": {"a": "REQUEST"}, "path": "/REQUEST", "error": "REQUEST"}
    response = {"status": "odd", "data": "RESPONSE", "more": {"error": "ERROR", "list": ["RESPONSE"]}}
    inside = {"requestToDestination": request, "responseFromDestination": response}
    for raw in (exchange(**inside), event("New", **inside, **TIMES)):
        log = log_of(raw, bodies=bodies)
        shown = repr(log)
        assert ("REQUEST" in shown, "RESPONSE" in shown) == (bodies == "all", bodies in ("response", "all"))
        assert attributes(log)["segment.extra.responseFromDestination.status"] == "odd"
        assert ("'ERROR'" in shown) == (bodies != "none")
        extras = [key for key, _ in log.attributes if ".extra.requestToDestination." in key]
        assert len(extras) == (4 if bodies == "all" else 0)


@pytest.mark.parametrize(
    ("header", "value", "shown"),
    [
        ("x-ratelimit-remaining", "99", "99"),
        ("x-ratelimit-reset-tokens", "6m0s", "6m0s"),
        ("x-ratelimit-reset", "Mon, 23 Nov 2026 13:34:45 GMT", "Mon, 23 Nov 2026 13:34:45 GMT"),
        ("x-ratelimit-reset", "2026-11-23T13:34:45Z", "2026-11-23T13:34:45Z"),
        ("x-ratelimit-policy", '"default";q=100;w=60, 10;w=1', '"default";q=100;w=60, 10;w=1'),
        ("x-ratelimit-resource", "core", "core"),
        ("x-ratelimit-key", "c4n4ry5Xq9ZtK2mW", "[redacted:secret]"),
        ("x-ratelimit-user", "jane_1", "[redacted:secret]"),
        ("x-ratelimit-ip", "203.0.113.7", "[redacted:ip]"),
    ],
)
def test_headers_about_rate_limits_leave_with_numbers_times_and_words_only(
    header: str, value: str, shown: str
) -> None:
    log = log_of(exchange(responseFromDestination={"status": 429, "headers": {header: value}}))
    assert attributes(log)[f"http.response.header.{header}"] == (shown,)


@pytest.mark.parametrize("bodies", ["none", "keys", "response", "all"])
def test_the_rules_for_bodies_and_headers_hold_for_every_event_and_shape(bodies: str) -> None:
    inside = {
        "requestToDestination": {"body": "REQUEST", "headers": {"X-Internal": "INTERNAL"}},
        "responseFromDestination": {
            "body": "RESPONSE",
            "headers": [["X-Internal", "INTERNAL"], ["Date", "d"]],
        },
    }
    for raw in (
        error(**inside),
        attempt(**inside).replace(b'"v1"', b'"v2"'),
        event("New", **inside, **TIMES),
    ):
        log = log_of(raw, bodies=bodies)
        shown = repr(log.attributes)
        assert ("REQUEST" in shown, "RESPONSE" in shown) == (bodies == "all", bodies in ("response", "all"))
        assert "INTERNAL" not in shown
        assert attributes(log)["http.response.header.date"] == ("d",)


def test_at_most_64_extras_leave_each_cut_and_the_rest_is_counted() -> None:
    log = log_of(error(**{f"k{n}": "x" * 5000 for n in range(100)}))
    extras = [(key, value) for key, value in log.attributes if ".extra." in key]
    assert [key for key, _ in extras] == [f"segment.extra.k{n}" for n in range(64)]
    assert all(value == "x" * 2048 for _, value in extras)
    assert log.dropped_attributes == 36


def test_two_paths_with_one_name_both_leave() -> None:
    """OTLP forbids two attributes of one name, so the second gets a mark."""
    found = attributes(log_of(error(**{"a.b": 1, "a": {"b": 2}})))
    assert (found["segment.extra.a.b"], found["segment.extra.a.b~"]) == (1, 2)


def test_several_destinations_are_all_named() -> None:
    to = [{"type": "destination", "id": "a"}, {"type": "destination", "id": "b"}]
    found = attributes(span_of(attempt(routed={"to": to})))
    assert (found["segment.destination.id"], found["segment.destination.ids"]) == ("a", ("a", "b"))
    assert "segment.destination.ids" not in attributes(span_of(attempt()))


def test_a_reason_is_redacted_wherever_it_shows() -> None:
    both = mapped(attempt(reason="jane@shop.example is blocked"))
    assert both.span is not None
    assert both.span.status_message == "[redacted:email] is blocked"
    assert attributes(both.log)["segment.reason"] == "[redacted:email] is blocked"
    assert "jane" not in both.log.body


# -- bodies of logs, other events ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "answer", "body"),
    [
        (error(reason="no"), None, "Error in delivery to abc, message discarded: no (message m)"),
        (error(discarded=False, attempt=3), None, "Error in delivery to abc (message m, attempt 3)"),
        (error(routed=ABSENT), None, "Error in delivery, message discarded (message m)"),
        (
            attempt(reason="no, thanks"),
            ExchangeAnswer(418, None),
            "Delivery to abc failed: HTTP 418, no, thanks (message m, attempt 4)",
        ),
        (attempt(reason="no"), None, "Delivery to abc failed: no (message m, attempt 4)"),
        (attempt(), None, "Delivery to abc failed (message m, attempt 4)"),
        (
            attempt(outcome="success"),
            ExchangeAnswer(200, None),
            "Delivery to abc succeeded: HTTP 200 (message m, attempt 4)",
        ),
        (
            attempt(outcome="deferred"),
            ExchangeAnswer(418, None),
            "Delivery to abc: outcome deferred, HTTP 418 (message m, attempt 4)",
        ),
        (attempt(outcome=ABSENT), None, "Delivery to abc: unknown outcome (message m, attempt 4)"),
        (exchange(), None, "Request to abc: HTTP 418 (exchange x)"),
        (exchange(reason="no"), None, "Request to abc: HTTP 418, no (exchange x)"),
        (
            exchange(responseFromDestination=ABSENT, routed=ABSENT),
            None,
            "Request: no response (exchange x)",
        ),
        (
            exchange(responseFromDestination={"body": "x"}),
            None,
            "Request to abc: response without a status (exchange x)",
        ),
        (
            event("Retry Logged", messageId="m", routed=ROUTED, reason="no", **TIMES),
            None,
            "Unknown event to abc: Retry Logged, no (message m)",
        ),
        (event("Retry Logged", **TIMES).replace(b'"Retry Logged"', b"{}"), None, "Unknown event: no name"),
        (
            event("for jane@shop.example " + "x" * 999, **TIMES),
            None,
            "Unknown event: for [redacted:email] " + "x" * 235,
        ),
        (event("Retry Logged", **TIMES), None, "Unknown event: Retry Logged"),
        (
            error(messageId="a\nb\x1b[31m\u202e"),
            None,
            r"Error in delivery to abc, message discarded (message a\nb\x1b[31m\u202e)",
        ),
    ],
)
def test_a_logs_body_is_one_line_for_people(raw: bytes, answer: ExchangeAnswer | None, body: str) -> None:
    assert log_of(raw, answer).body == body


def test_ids_are_faithful_whatever_is_in_them() -> None:
    message_id = "a\nb\x1b[31m\u202e jane@shop.example"
    assert attributes(log_of(error(messageId=message_id)))["messaging.message.id"] == message_id


def test_another_event_is_a_log_of_its_own_name() -> None:
    log = log_of(event("Retry Logged", messageId="m", delay=7, **TIMES))
    assert (log.event_name, log.severity, log.span_id) == ("segment.other", Severity.INFO, b"")
    assert log.trace_id.hex() == propagation.trace_id_of("m")
    found = attributes(log)
    assert found["segment.extra.event"] == "Retry Logged"
    assert found["segment.extra.version"] == "v1"
    assert found["segment.extra.delay"] == 7


def test_an_unknown_version_travels_as_it_came() -> None:
    log = log_of(error().replace(b'"v1"', b"2"))
    assert (log.event_name, log.severity) == ("segment.other", Severity.INFO)
    found = attributes(log)
    assert (found["segment.extra.event"], found["segment.extra.version"]) == ("Error Logged", 2)
    assert "segment.extra.version" not in attributes(
        log_of(event("Retry Logged", **TIMES).replace(b'"v1"', b"null"))
    )


# -- fields of Segment's first draft -----------------------------------------------------------------------

DRAFT = {
    "to": [{"type": "destination", "id": "abc"}, {"type": "subscription", "id": "def"}],
    "from": [{"type": "source", "id": "ghi"}],
}


@pytest.mark.parametrize("make", [error, attempt, exchange])
def test_a_subscription_has_attributes_of_its_own(make: Any) -> None:
    both = mapped(make(routed=DRAFT), destination_names={"abc": "Mixpanel", "def": "Track Order"})
    for record in records(both):
        found = attributes(record)
        assert found["segment.subscription.id"] == "def"
        assert found["messaging.destination.subscription.name"] == "Track Order"
        assert (found["segment.destination.id"], found["messaging.destination.name"]) == ("abc", "Mixpanel")
        assert "segment.destination.ids" not in found
        assert not any(name.startswith("segment.extra") for name in found)
    unnamed = attributes(log_of(make(routed=DRAFT)))
    assert unnamed["segment.subscription.id"] == "def"
    assert "messaging.destination.subscription.name" not in unnamed
    assert not any("subscription" in name for name in attributes(log_of(make())))


def test_a_subscription_changes_no_id_of_an_attempt() -> None:
    beat = DRAFT | {"to": DRAFT["to"][::-1]}
    spans = [span_of(attempt(routed=routed)) for routed in (ROUTED, DRAFT, beat)]
    assert len({(span.trace_id, span.span_id, span.name) for span in spans}) == 1


@pytest.mark.parametrize("make", [error, attempt, exchange])
def test_the_feature_is_named(make: Any) -> None:
    both = mapped(make(featureName="destinationInsertFunction"))
    for record in records(both):
        assert attributes(record)["segment.feature"] == "destinationInsertFunction"


def test_an_errors_attempt_is_that_of_its_delivery() -> None:
    assert attributes(log_of(error(attempt=2)))["segment.delivery.attempt"] == 2
    assert "segment.delivery.attempt" not in attributes(log_of(error()))


def test_prose_is_a_reason_and_no_error_type() -> None:
    found = mapped(attempt(reason="some description for why"))
    for record in records(found):
        own = attributes(record)
        assert (own["segment.reason"], own["error.type"]) == ("some description for why", "_OTHER")
    assert attributes(log_of(attempt(reason="prose"), ExchangeAnswer(418, None)))["error.type"] == "418"


RESULT = {
    "errortype": "BAD_KEY",
    "errormessage": "no key for jane@shop.example",
    "errorreporter": "DESTINATION",
}


def test_whose_fault_it_is_has_an_attribute() -> None:
    for make in (error, attempt, exchange):
        found = attributes(log_of(make(**RESULT)))
        assert found["segment.error.reporter"] == "DESTINATION"
        assert found["segment.reason"] == "no key for [redacted:email]"
    assert attributes(log_of(error(**RESULT)))["error.type"] == "BAD_KEY"


@pytest.mark.parametrize("bodies", ["none", "keys", "response", "all"])
def test_what_a_body_says_of_the_reason_leaves_where_bodies_do(bodies: Any) -> None:
    raw = exchange(responseFromDestination={"body": json.dumps([RESULT])})
    both = mapped(raw, bodies=bodies)
    for record in records(both):
        found = attributes(record)
        if bodies == "none":
            assert not {"segment.reason", "segment.error.reporter"} & found.keys()
            assert "no key" not in str(record)
        else:
            assert found["segment.reason"] == "no key for [redacted:email]"
            assert found["segment.error.reporter"] == "DESTINATION"
    failed, taken = (
        attributes(log_of(attempt(outcome=outcome), answer_to(raw), bodies=bodies))
        for outcome in ("failure", "success")
    )
    assert failed.get("segment.error.reporter") == (None if bodies == "none" else "DESTINATION")
    assert "segment.reason" not in taken  # what failed in its batch is another event


def answer_to(raw: bytes) -> ExchangeAnswer:
    found = decode(raw)
    assert isinstance(found, Event)
    answer = answer_of(found)
    assert answer is not None
    return answer[1]


def test_a_null_header_is_absent() -> None:
    headers = {"Date": None, "Server": ["a", None], "Retry-After": [None]}
    for form in (headers, [list(pair) for pair in headers.items()]):
        found = attributes(log_of(exchange(responseFromDestination={"status": 500, "headers": form})))
        assert {name: value for name, value in found.items() if "header" in name} == {
            "http.response.header.server": ("a",)
        }


def test_another_event_without_message_has_no_trace() -> None:
    log = log_of(event("Retry Logged", loggedAt=TIMES["loggedAt"]))
    assert log.trace_id == b""
    assert "segment.trace.origin" not in attributes(log)
    assert log.time_ns == AT


# -- times -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "time_ns"),
    [
        (TimePolicy(), AT),
        (TimePolicy("clamp", 7200), AT),
        (TimePolicy("clamp", 60), NOW - 60 * 1_000_000_000),
        (TimePolicy("arrival"), NOW),
    ],
)
def test_a_shifted_record_keeps_its_true_time_and_says_so(policy: TimePolicy, time_ns: int) -> None:
    both = mapped(attempt(), time_policy=policy)
    assert both.span is not None
    assert (both.log.time_ns, both.span.time_ns, both.log.observed_ns) == (time_ns, time_ns, AT)
    for record in (both.log, both.span):
        found = attributes(record)
        assert found["segment.occurred_at"] == "2025-03-23T20:00:00Z"
        assert found.get("segment.time_shifted") == (True if time_ns != AT else None)


def test_a_shift_changes_no_id() -> None:
    shifted, plain = (span_of(attempt(), time_policy=TimePolicy(kind)) for kind in ("arrival", "occurred"))
    assert (shifted.trace_id, shifted.span_id, shifted.links) == (plain.trace_id, plain.span_id, plain.links)


# -- always ------------------------------------------------------------------------------------------------

TEXTS = st.text(max_size=40)
PROPERTIES = st.dictionaries(
    TEXTS | st.sampled_from(["reason", "error", "routed", "outcome", "discarded", "loggedAt", "name"]),
    st.none()
    | st.booleans()
    | st.integers()
    | TEXTS
    | st.lists(TEXTS, max_size=2)
    | st.dictionaries(TEXTS, TEXTS),
    max_size=5,
)


@given(PROPERTIES, st.sampled_from([error, attempt, exchange]))
def test_whatever_is_understood_becomes_the_same_bytes_every_time(
    properties: dict[str, Any], make: Any
) -> None:
    raw = make(**properties)
    found = decode(raw)
    if isinstance(found, Event):
        first, again = (mapped(raw, ExchangeAnswer(500, Reason("r"))) for _ in range(2))
        assert encode_log(first.log) == encode_log(again.log)
        attributes(first.log)
        if first.span and again.span:
            assert encode_span(first.span) == encode_span(again.span)
            assert len(first.span.trace_id) == 16
