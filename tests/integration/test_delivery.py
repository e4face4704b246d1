"""A receiver that answers badly, over real sockets: what arrived, what was counted, how often it was asked.

Only the waiting takes no time: the clock is moved.
"""

import socket
import time
from email.utils import formatdate

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support.clock import MovedClock
from support.delivery import ScriptedReplies, delivery_to, endpoint_of
from support.raw_server import raw_server, read_request

from faillog_otel.config import NetworkProtocol, Secret, Signal
from faillog_otel.events.kept_record import Rejection
from faillog_otel.otlp.delivery import Delivery, SendResults
from faillog_otel.otlp.outcome import Acked, Unacceptable, Unsent
from faillog_otel.otlp.wire import EncodedEvent
from faillog_otel.sandbox.collector import Receiver, Reply

PROTOCOLS: list[NetworkProtocol] = ["http/protobuf", "http/json", "grpc"]
ACKED, UNSENT = Acked(), Unsent()
BOTH: SendResults = {"logs": ACKED, "traces": ACKED}
LEFT: SendResults = {"logs": UNSENT, "traces": UNSENT}


def item(name: str) -> EncodedEvent:
    return EncodedEvent(LogRecord(event_name=name).SerializeToString(), Span(name=name).SerializeToString())


def log(name: str) -> EncodedEvent:
    return EncodedEvent(LogRecord(event_name=name).SerializeToString(), b"")


ITEMS = [item(str(n)) for n in range(3)]
LOGS = [log(str(n)) for n in range(8)]


def partial(rejected: int, message: str = "no") -> bytes:
    success = ExportLogsPartialSuccess(rejected_log_records=rejected, error_message=message)
    return ExportLogsServiceResponse(partial_success=success).SerializeToString()


def send(delivery: Delivery, items: list[EncodedEvent]) -> list[SendResults]:
    """Sends a batch and clears up its suspects, as a run does at its end."""
    found = delivery.result(delivery.submit(items))
    return [delivery.settle(item, results) for item, results in zip(items, found, strict=True)]


def names(receiver: Receiver) -> list[str]:
    return [record.event_name for record in receiver.logs()]


def refusing(name: str, reply: Reply) -> "Refusing":
    return Refusing([name], reply)


class Refusing:
    """Refuses requests that hold one of these records, and takes all others."""

    def __init__(self, poison: list[str], reply: Reply) -> None:
        self.poison = [each.encode() for each in poison]
        self.reply = reply
        self.requests = 0

    def __call__(self, _signal: Signal, body: bytes) -> Reply | None:
        self.requests += 1
        return self.reply if any(each in body for each in self.poison) else None


# -- success -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_batch_arrives_in_both_signals_and_counts(protocol: NetworkProtocol) -> None:
    with (
        Receiver() as receiver,
        delivery_to(endpoint_of(receiver, protocol), MovedClock(), protocol=protocol) as delivery,
    ):
        assert send(delivery, ITEMS) == [BOTH] * 3
        assert names(receiver) == [span.name for span in receiver.spans()] == ["0", "1", "2"]
        sent = delivery.sent
        assert (sent.logs, sent.traces, sent.requests, sent.retries) == (3, 3, 2, 0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_every_protocol_carries_the_same_bytes(protocol: NetworkProtocol, compression: str) -> None:
    bodies = []
    for each in ("http/protobuf", protocol):
        with (
            Receiver() as receiver,
            delivery_to(
                endpoint_of(receiver, each), MovedClock(), protocol=each, compression=compression
            ) as delivery,
        ):
            send(delivery, ITEMS)
            bodies.append([received.request() for received in receiver.received])
    assert bodies[0] == bodies[1]


def test_an_item_without_span_is_sent_as_a_log_only() -> None:
    with Receiver() as receiver, delivery_to(receiver.http_endpoint, MovedClock()) as delivery:
        assert send(delivery, LOGS[:1]) == [{"logs": ACKED}]
        assert [each.signal for each in receiver.received] == ["logs"]


@pytest.mark.parametrize(
    "reply", [Reply(200), Reply(202), Reply(204), Reply(200, headers={"content-type": "x"})]
)
def test_an_empty_success_is_a_success(reply: Reply) -> None:
    with (
        Receiver(ScriptedReplies(logs=[reply])) as receiver,
        delivery_to(receiver.http_endpoint, MovedClock()) as delivery,
    ):
        assert send(delivery, ITEMS) == [BOTH] * 3
        assert len(receiver.received) == 2


def test_a_warning_is_a_success() -> None:
    """A partial success that rejects no record (OTLP's specification)."""
    with (
        Receiver(ScriptedReplies(logs=[Reply(200, partial(0, "deprecated"))])) as receiver,
        delivery_to(receiver.http_endpoint, MovedClock()) as delivery,
    ):
        assert send(delivery, ITEMS) == [BOTH] * 3


# -- partial success -----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize(("rejected", "taken"), [(2, 1), (3, 0), (7, 0)])
def test_partly_rejected_is_never_sent_again_and_the_other_signal_still_goes(
    protocol: NetworkProtocol, rejected: int, taken: int
) -> None:
    with (
        Receiver(ScriptedReplies(logs=[Reply(body=partial(rejected))])) as receiver,
        delivery_to(endpoint_of(receiver, protocol), MovedClock(), protocol=protocol) as delivery,
    ):
        rejection = Rejection("logs", rejected, 3, "no")
        assert send(delivery, ITEMS) == [{"logs": rejection, "traces": ACKED}] * 3
        assert [each.signal for each in receiver.received] == ["logs", "traces"]
        assert (delivery.sent.logs, delivery.sent.traces) == (taken, 3)


# -- again, later --------------------------------------------------------------------------------------

RETRYABLE = [
    *(("http/protobuf", Reply(status)) for status in (429, 502, 503, 504)),
    ("http/json", Reply(503)),
    ("http/protobuf", Reply(hangs_up=True)),
    ("http/protobuf", Reply(hangs_up=True, taken=True)),
    *(
        ("grpc", Reply(code=code))
        for code in ("CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS")
    ),
    ("grpc", Reply(code="RESOURCE_EXHAUSTED", retry_seconds=0)),
]


@pytest.mark.parametrize(("protocol", "reply"), RETRYABLE)
def test_what_may_be_retried_is_sent_again_byte_for_byte(protocol: NetworkProtocol, reply: Reply) -> None:
    script = ScriptedReplies(logs=[reply, reply])
    with (
        Receiver(script) as receiver,
        delivery_to(endpoint_of(receiver, protocol), MovedClock(), protocol=protocol) as delivery,
    ):
        assert send(delivery, ITEMS) == [BOTH] * 3
        assert len(set(script.bodies[:3])) == 1
        assert (delivery.sent.requests, delivery.sent.retries) == (4, 2)
        assert names(receiver)[-3:] == ["0", "1", "2"]
        assert delivery.sent.logs == 3


def test_pauses_grow_and_are_jittered() -> None:
    """So that many sidecars do not all come back in the same second."""
    clock = MovedClock()
    with (
        Receiver(ScriptedReplies(logs=[Reply(503)] * 9)) as receiver,
        delivery_to(receiver.http_endpoint, clock, wait_seconds=1000) as delivery,
    ):
        send(delivery, ITEMS)
    for at, pause in enumerate(clock.waits):
        assert min(30.0, 0.5 * 2**at) / 2 <= pause <= min(30.0, 0.5 * 2**at)
    assert len(clock.waits) == 9


@pytest.mark.parametrize(
    ("protocol", "reply", "seconds"),
    [
        ("http/protobuf", Reply(429, headers={"retry-after": "17"}), 17.0),
        ("http/protobuf", Reply(503, headers={"retry-after": "86400"}), 86400.0),
        ("grpc", Reply(code="UNAVAILABLE", retry_seconds=17.5), 17.5),
        ("grpc", Reply(code="RESOURCE_EXHAUSTED", retry_seconds=100), 100.0),
    ],
)
def test_as_long_as_the_collector_asks_is_waited_however_long(
    protocol: NetworkProtocol, reply: Reply, seconds: float
) -> None:
    clock = MovedClock()
    with (
        Receiver(ScriptedReplies(logs=[reply])) as receiver,
        delivery_to(
            endpoint_of(receiver, protocol), clock, protocol=protocol, wait_seconds=float("inf")
        ) as delivery,
    ):
        assert send(delivery, ITEMS) == [BOTH] * 3
    assert clock.waits == [seconds]


def test_retry_after_may_be_a_date() -> None:
    clock, at = MovedClock(), time.time() + 500
    reply = Reply(429, headers={"retry-after": formatdate(at, usegmt=True)})
    with (
        Receiver(ScriptedReplies(logs=[reply])) as receiver,
        delivery_to(receiver.http_endpoint, clock, wait_seconds=1000) as delivery,
    ):
        assert send(delivery, ITEMS) == [BOTH] * 3
    (waited,) = clock.waits
    assert 400 < waited <= 500


def test_a_retry_after_that_says_nothing_is_no_retry_after() -> None:
    clock = MovedClock()
    reply = Reply(429, headers={"retry-after": "tomorrow, maybe"})
    with (
        Receiver(ScriptedReplies(logs=[reply])) as receiver,
        delivery_to(receiver.http_endpoint, clock) as delivery,
    ):
        assert send(delivery, ITEMS) == [BOTH] * 3
    assert 0.25 <= clock.waits[0] <= 0.5


def test_a_retry_after_beyond_the_wait_ends_it_at_once() -> None:
    script, clock = ScriptedReplies(traces=[Reply(503, headers={"retry-after": "32"})]), MovedClock()
    with Receiver(script) as receiver, delivery_to(receiver.http_endpoint, clock) as delivery:
        assert send(delivery, ITEMS) == [{"logs": ACKED, "traces": UNSENT}] * 3
        assert "32 s" in delivery.gave_up_because
        assert (delivery.sent.logs, delivery.sent.traces) == (3, 0)
        assert send(delivery, ITEMS) == [LEFT] * 3
        assert len(receiver.received) == 2
    assert clock.waits == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_collector_that_is_away_is_waited_for(protocol: NetworkProtocol) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    clock = MovedClock()
    with delivery_to(f"http://127.0.0.1:{port}", clock, wait_seconds=5, protocol=protocol) as delivery:
        assert send(delivery, ITEMS) == [LEFT] * 3
        assert f"127.0.0.1:{port}" in delivery.gave_up_because
    assert sum(clock.waits) == pytest.approx(5.0)


def test_the_wait_counts_anew_from_each_acknowledgement() -> None:
    away = [Reply(503)] * 6  # 12 to 24 seconds, each time
    clock = MovedClock()
    script = ScriptedReplies(logs=[*away, Reply(), *away, Reply(), *away, Reply()])
    with Receiver(script) as receiver, delivery_to(receiver.http_endpoint, clock) as delivery:
        for _ in range(3):
            assert send(delivery, LOGS[:1]) == [{"logs": ACKED}]
    assert sum(clock.waits) > 30


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_an_answer_that_does_not_come_in_time_is_asked_again(protocol: NetworkProtocol) -> None:
    script = ScriptedReplies(logs=[Reply(delay_seconds=60)])
    with (
        Receiver(script) as receiver,
        delivery_to(
            endpoint_of(receiver, protocol), MovedClock(), protocol=protocol, timeout_seconds=0.3
        ) as delivery,
    ):
        assert send(delivery, LOGS[:1]) == [{"logs": ACKED}]
        assert len(script.bodies) == 2


def test_an_answer_that_drips_is_given_up_by_the_timeout_as_a_whole() -> None:
    """Each byte comes in time, all of them never do."""

    def treat(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
        peer.drip(connection, b"x")

    with (
        raw_server(treat) as peer,
        delivery_to(peer.origin, MovedClock(), wait_seconds=0, timeout_seconds=0.3) as delivery,
    ):
        assert send(delivery, LOGS[:1]) == [{"logs": UNSENT}]
        assert "no answer within 0.3 s" in delivery.gave_up_because


# -- refused -------------------------------------------------------------------------------------------

REFUSED = [
    *(("http/protobuf", Reply(status, headers={"location": "/v1/logs"})) for status in (301, 302, 307)),
    *(("http/protobuf", Reply(status)) for status in (401, 403, 404, 405, 501)),
    ("http/protobuf", Reply(200, b"<html>log in</html>", {"content-type": "text/html"}, taken=False)),
    ("http/protobuf", Reply(200, b"\xff\xff", {"content-type": "application/x-protobuf"}, taken=False)),
    *(("grpc", Reply(code=code)) for code in ("UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED")),
    ("grpc", Reply(code="RESOURCE_EXHAUSTED")),
]


@pytest.mark.parametrize(("protocol", "reply"), REFUSED)
def test_what_is_refused_for_good_is_held_and_only_empty_requests_look_whether_that_changed(
    protocol: NetworkProtocol, reply: Reply
) -> None:
    clock, script = MovedClock(), ScriptedReplies(logs=[reply] * 1000)
    with (
        Receiver(script) as receiver,
        delivery_to(endpoint_of(receiver, protocol), clock, protocol=protocol) as delivery,
    ):
        assert send(delivery, ITEMS) == [LEFT] * 3
        assert receiver.logs() == []
    assert [bool(body) for body in script.bodies] == [True] + [False] * (len(script.bodies) - 1)
    assert len(script.bodies) > 3
    assert sum(clock.waits) == pytest.approx(30.0)


def test_what_was_held_is_sent_when_somebody_mended_it() -> None:
    with (
        Receiver(ScriptedReplies(logs=[Reply(401)] * 3)) as receiver,
        delivery_to(receiver.http_endpoint, MovedClock()) as delivery,
    ):
        assert send(delivery, ITEMS) == [BOTH] * 3
        assert names(receiver) == ["0", "1", "2"]
        assert len(receiver.received) == 6  # refused, two looks, a look that is taken, the logs, the spans


@pytest.mark.parametrize(
    ("protocol", "reply"),
    [
        ("http/protobuf", Reply(400)),
        ("http/protobuf", Reply(500)),
        ("http/json", Reply(400)),
        ("grpc", Reply(code="INVALID_ARGUMENT")),
        ("grpc", Reply(code="INTERNAL")),
        ("grpc", Reply(code="UNKNOWN")),
    ],
)
def test_one_record_that_is_refused_is_found_and_all_others_arrive(
    protocol: NetworkProtocol, reply: Reply
) -> None:
    items = [log(f"good-{n}") for n in range(8)]
    items[5] = log("poison")
    script = refusing("poison", reply)
    with (
        Receiver(script) as receiver,
        delivery_to(endpoint_of(receiver, protocol), MovedClock(), protocol=protocol) as delivery,
    ):
        results = [each["logs"] for each in send(delivery, items)]
        assert isinstance(results[5], Unacceptable)
        assert results[5].reason == "refused"
        assert results[:5] + results[6:] == [ACKED] * 7
        assert sorted(filter(None, names(receiver))) == sorted(f"good-{n}" for n in range(8) if n != 5)
        assert script.requests <= 1 + 1 + 2 * 3 + 2  # the batch, a look, two halves thrice, once more alone


@pytest.mark.parametrize("status", [400, 500])
def test_when_everything_is_refused_nothing_is_quarantined(status: int) -> None:
    """It is the collector's settings, then, and no record's fault."""
    clock, script = MovedClock(), ScriptedReplies(logs=[Reply(status)] * 1000)
    with Receiver(script) as receiver, delivery_to(receiver.http_endpoint, clock) as delivery:
        assert send(delivery, ITEMS) == [LEFT] * 3
        assert receiver.logs() == []
    assert sum(map(bool, script.bodies)) == 1
    assert sum(clock.waits) == pytest.approx(30.0)


@pytest.mark.parametrize("status", [400, 500])
def test_when_all_but_empty_requests_are_refused_nothing_is_quarantined(status: int) -> None:
    """The Collector's receiver takes empty requests by itself: that proves nothing about its exporters."""

    def script(_signal: Signal, body: bytes) -> Reply | None:
        return Reply(status) if body else None

    clock = MovedClock()
    with Receiver(script) as receiver, delivery_to(receiver.http_endpoint, clock) as delivery:
        assert [each["logs"] for each in send(delivery, LOGS)] == [UNSENT] * 8
        assert names(receiver) == []


def test_a_suspicion_is_dropped_when_the_collector_was_ill_and_not_the_record() -> None:
    """All was refused for a while, though empty requests were taken; then the collector is well again."""
    refused: list[bytes] = []

    def script(_signal: Signal, body: bytes) -> Reply | None:
        if body and len(refused) < 15:  # the batch, and all of its halves down to single records
            refused.append(body)
            return Reply(500)
        return None

    with Receiver(script) as receiver, delivery_to(receiver.http_endpoint, MovedClock()) as delivery:
        assert [each["logs"] for each in send(delivery, LOGS)] == [ACKED] * 8
        assert sorted(filter(None, names(receiver))) == [str(n) for n in range(8)]


def test_a_single_record_is_cleared_up_by_a_later_batch() -> None:
    with (
        Receiver(refusing("poison", Reply(400))) as receiver,
        delivery_to(receiver.http_endpoint, MovedClock()) as delivery,
    ):
        (found,) = delivery.result(delivery.submit([log("poison")]))
        assert not delivery.can_settle(found)
        assert send(delivery, [log("good")]) == [{"logs": ACKED}]
        assert delivery.can_settle(found)
        assert isinstance(delivery.settle(log("poison"), found)["logs"], Unacceptable)


def test_an_outage_that_only_empty_requests_survive_is_no_proof_against_a_record() -> None:
    """One request was taken just before; many were in flight. That says nothing of what is refused since."""
    taken: list[bytes] = []

    def script(_signal: Signal, body: bytes) -> Reply | None:
        if b"first" in body:
            taken.append(body)
            return Reply(delay_seconds=0.3)
        return Reply(500) if body else None

    with (
        Receiver(script) as receiver,
        delivery_to(receiver.http_endpoint, MovedClock(), in_flight=2) as delivery,
    ):
        first, second = delivery.submit([log("first")]), delivery.submit(LOGS)
        assert delivery.result(first) == [{"logs": ACKED}]
        found = delivery.result(second)
        settled = [delivery.settle(item, results) for item, results in zip(LOGS, found, strict=True)]
        assert settled == [{"logs": UNSENT}] * 8
        assert taken


def test_halving_stops_when_nothing_is_taken_any_more() -> None:
    """Each half costs a request; a collector that fails altogether must not get a thousand."""

    def script(_signal: Signal, body: bytes) -> Reply | None:
        return Reply(500) if body else None

    clock = MovedClock()
    items = [log(str(n)) for n in range(512)]
    with Receiver(script) as receiver, delivery_to(receiver.http_endpoint, clock) as delivery:
        assert send(delivery, items) == [{"logs": UNSENT}] * 512
        assert len(receiver.received) < 200
    assert sum(clock.waits) == pytest.approx(30.0)


def test_a_partial_success_that_took_nothing_proves_nothing() -> None:
    script = ScriptedReplies(
        logs=[Reply(200, partial(1)), *[Reply(400) if n % 2 == 0 else Reply() for n in range(99)]]
    )
    with Receiver(script) as receiver, delivery_to(receiver.http_endpoint, MovedClock()) as delivery:
        assert isinstance(send(delivery, [log("a")])[0]["logs"], Rejection)
        assert send(delivery, [log("b")]) == [{"logs": UNSENT}]


@pytest.mark.parametrize("odd", [Reply(200, partial(1)), Reply(413)])
def test_what_an_empty_request_is_answered_is_never_the_fate_of_records(odd: Reply) -> None:
    def script(_signal: Signal, body: bytes) -> Reply | None:
        return Reply(400) if b"bad" in body else odd if not body else None

    with Receiver(script) as receiver, delivery_to(receiver.http_endpoint, MovedClock()) as delivery:
        results = [each["logs"] for each in send(delivery, [log("good"), log("bad")])]
        assert not any(isinstance(result, Rejection) for result in results)
        assert delivery.sent.logs == len([result for result in results if result == ACKED])


@pytest.mark.parametrize(
    ("protocol", "reply"),
    [
        ("http/protobuf", Reply(429, headers={"retry-after": "0"})),
        ("http/protobuf", Reply(429, headers={"retry-after": "Fri, 01 Jan 2021 00:00:00 GMT"})),
        ("grpc", Reply(code="UNAVAILABLE", retry_seconds=0)),
    ],
)
def test_retry_at_once_causes_no_busy_loop(protocol: NetworkProtocol, reply: Reply) -> None:
    """Also a wait of zero seconds gets a pause."""
    clock = MovedClock()
    with (
        Receiver(lambda _signal, _body: reply) as receiver,
        delivery_to(endpoint_of(receiver, protocol), clock, protocol=protocol) as delivery,
    ):
        assert send(delivery, LOGS[:1]) == [{"logs": UNSENT}]
        assert len(receiver.received) < 20


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_header_value_that_the_server_says_back_is_not_shown(protocol: NetworkProtocol) -> None:
    reply = Reply(
        401,
        b"invalid key 's3cr3tKEY'",
        {"content-type": "text/plain"},
        code="UNAUTHENTICATED",
        details="invalid key 's3cr3tKEY'",
    )
    headers = (("authorization", Secret("Bearer s3cr3tKEY")),)
    with (
        Receiver(lambda _signal, _body: reply) as receiver,
        delivery_to(
            endpoint_of(receiver, protocol), MovedClock(), protocol=protocol, headers=headers
        ) as delivery,
    ):
        assert send(delivery, LOGS[:1]) == [{"logs": UNSENT}]
        assert "invalid key '***'" in delivery.gave_up_because


# -- too large -----------------------------------------------------------------------------------------


def larger_than(most: int) -> "Larger":
    return Larger(most)


class Larger:
    """Answers 413 to requests that are larger."""

    def __init__(self, most: int) -> None:
        self.most = most

    def __call__(self, _signal: Signal, body: bytes) -> Reply | None:
        return Reply(413) if len(body) > self.most else None


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_request_that_is_too_large_is_halved_until_it_fits(protocol: NetworkProtocol) -> None:
    items = [log(f"{n}" * 1000) for n in range(8)]
    with (
        Receiver(larger_than(3500), max_grpc_bytes=3500) as receiver,
        delivery_to(endpoint_of(receiver, protocol), MovedClock(), protocol=protocol) as delivery,
    ):
        assert [each["logs"] for each in send(delivery, items)] == [ACKED] * 8
        assert [name[0] for name in names(receiver)] == [str(n) for n in range(8)]
        assert delivery.sent.requests == 1 + 2 + 4


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_single_record_that_is_too_large_is_unfit(protocol: NetworkProtocol) -> None:
    items = [log("a"), log("b" * 5000), log("c")]
    with (
        Receiver(larger_than(3500), max_grpc_bytes=3500) as receiver,
        delivery_to(endpoint_of(receiver, protocol), MovedClock(), protocol=protocol) as delivery,
    ):
        results = [each["logs"] for each in send(delivery, items)]
        assert isinstance(results[1], Unacceptable)
        assert results[1].reason == "too_large"
        assert [results[0], results[2]] == [ACKED, ACKED]
        assert names(receiver) == ["a", "c"]


# -- stopping ------------------------------------------------------------------------------------------


def test_a_stop_while_waiting_leaves_the_batch_untaken() -> None:
    clock = MovedClock()

    def stop(_signal: Signal, _body: bytes) -> Reply:
        clock.stop = True
        return Reply(503)

    with Receiver(stop) as receiver, delivery_to(receiver.http_endpoint, clock) as delivery:
        assert send(delivery, ITEMS) == [LEFT] * 3
        assert delivery.gave_up_because == "interrupted"
        assert len(receiver.received) == 1


def test_results_come_in_the_order_of_the_batches_though_many_are_in_flight() -> None:
    with (
        Receiver() as receiver,
        delivery_to(receiver.grpc_endpoint, MovedClock(), protocol="grpc", in_flight=8) as delivery,
    ):
        tickets = [delivery.submit([item(f"{n}")] * (n + 1)) for n in range(20)]
        assert [delivery.result(ticket) for ticket in tickets] == [[BOTH] * (n + 1) for n in range(20)]
        assert len(receiver.logs()) == len(receiver.spans()) == sum(range(21))
