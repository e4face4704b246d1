"""Delivery to real sockets, built as a run builds it; only the waiting takes no time."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from faillog_otel.clock import Clock
from faillog_otel.config import SIGNALS, DeliveryConfig, NetworkProtocol, Signal, Target
from faillog_otel.otlp.delivery import Delivery, network_client
from faillog_otel.otlp.sender import Backoff
from faillog_otel.sandbox.collector import Receiver, Reply


class ScriptedReplies:
    """Answers the requests of each signal with these replies, then takes everything."""

    def __init__(self, **replies: Sequence[Reply]) -> None:
        self.replies = {signal: list(each) for signal, each in replies.items()}
        self.bodies: list[bytes] = []

    def __call__(self, signal: Signal, body: bytes) -> Reply | None:
        self.bodies.append(body)
        left = self.replies.get(signal)
        return left.pop(0) if left else None


def targets(endpoint: str, protocol: NetworkProtocol, **more: Any) -> dict[Signal, Target]:
    """The targets of both signals at an endpoint."""
    return {
        signal: Target(
            url=endpoint if protocol == "grpc" else f"{endpoint}/v1/{signal}", protocol=protocol, **more
        )
        for signal in SIGNALS
    }


def endpoint_of(receiver: Receiver, protocol: NetworkProtocol) -> str:
    """Where the receiver speaks the protocol."""
    return receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint


@contextmanager
def delivery_to(
    endpoint: str,
    clock: Clock,
    *,
    wait_seconds: float = 30.0,
    protocol: NetworkProtocol = "http/protobuf",
    in_flight: int = 1,
    **target: Any,
) -> Iterator[Delivery]:
    """A delivery with one request in flight, so that tests know the order of requests."""
    config = DeliveryConfig(targets=targets(endpoint, protocol, **target))
    delivery = Delivery(
        network_client(config, (), "tests"),
        Backoff(wait_seconds, clock, random.Random(1)),
        signals=SIGNALS,
        in_flight=in_flight,
    )
    try:
        yield delivery
    finally:
        delivery.close()
