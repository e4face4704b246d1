"""A connection that falls silent, as behind a firewall that forgot it: it is left, and a new one is made."""

import pytest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from support.clock import MovedClock
from support.delivery import delivery_to, endpoint_of
from support.relay import Relay

from faillog_otel.config import NetworkProtocol
from faillog_otel.otlp.outcome import Acked
from faillog_otel.otlp.wire import EncodedEvent
from faillog_otel.sandbox.collector import Receiver

LOG = EncodedEvent(LogRecord(event_name="e").SerializeToString(), b"")


@pytest.mark.thin(4)
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("in_flight", [1, 4])
def test_a_silent_connection_is_replaced(protocol: NetworkProtocol, in_flight: int) -> None:
    """As after a firewall forgot it: no error, no answer. The next try takes a new one."""
    with Receiver() as receiver, Relay(int(endpoint_of(receiver, protocol).rpartition(":")[2])) as relay:
        endpoint = f"http://127.0.0.1:{relay.port}"
        with delivery_to(
            *(endpoint, MovedClock()),
            protocol=protocol,
            in_flight=in_flight,
            timeout_seconds=0.5,
            wait_seconds=3600,
        ) as delivery:
            for _ in range(2):
                for ticket in [delivery.submit([LOG]) for _ in range(in_flight)]:
                    assert delivery.result(ticket) == [{"logs": Acked()}]
                relay.fall_silent()
            for ticket in [delivery.submit([LOG]) for _ in range(in_flight)]:
                assert delivery.result(ticket) == [{"logs": Acked()}]


def test_one_silent_connection_replaces_all_idle_ones() -> None:
    """Else each of them would cost a timeout."""
    with Receiver() as receiver, Relay(int(receiver.http_endpoint.rpartition(":")[2])) as relay:
        endpoint = f"http://127.0.0.1:{relay.port}"
        with delivery_to(endpoint, MovedClock(), in_flight=4, timeout_seconds=0.5) as delivery:
            while relay.connections < 3:
                for ticket in [delivery.submit([LOG]) for _ in range(12)]:
                    delivery.result(ticket)
            relay.fall_silent()
            requests = delivery.sent.requests
            assert delivery.result(delivery.submit([LOG])) == [{"logs": Acked()}]
            assert delivery.sent.requests == requests + 2
