"""Settings → the client that sends, for every protocol."""

from collections.abc import Callable, Sequence
from typing import IO, TextIO

from msgspec.structs import replace

from faillog_otel.config import DeliveryConfig, Signal, Target
from faillog_otel.otlp.encoding import Envelope
from faillog_otel.otlp.json import JsonEnvelope
from faillog_otel.otlp.outcome import Acknowledged, Outcome, PartlyRejected
from faillog_otel.otlp.sender import Client
from faillog_otel.text import is_unicode

IN_FLIGHT = 4
"""Requests in flight at once, as long as it is a collector that takes them."""

MIN_CONNECT_SECONDS = 1.0
"""A run that waits for the collector for less than that may still connect to it."""

Resource = tuple[tuple[str, str], ...]


class PerSignal:
    """A client for each signal: they may go to different targets, even by different protocols."""

    def __init__(self, clients: dict[Signal, Client], targets: dict[Signal, Target]) -> None:
        self._clients = clients
        self._targets = targets

    def send(self, signal: Signal, records: Sequence[bytes]) -> Outcome:
        """Sends by the signal's own client; what comes of it shows none of our header values."""
        return _masked(self._clients[signal].send(signal, records), self._targets[signal])

    def close(self) -> None:
        """Closes all of them."""
        for client in self._clients.values():
            client.close()


def network_client(config: DeliveryConfig, resource: Resource, user_agent: str) -> Client:
    """The client for targets on the network. Raises ConfigError."""
    targets = config.targets
    clients = {
        signal: _target_client(targets[signal], resource, user_agent, config.wait_seconds)
        for signal in config.signals
    }
    return PerSignal(clients, targets)


def writing_client(
    config: DeliveryConfig,
    resource: Resource,
    file: IO[bytes],
    terminal: TextIO,
    on_closed: Callable[[], object],
) -> Client:
    """The client that writes OTLP JSON Lines to a file, or trees to a terminal.

    `on_closed` is called when the reader of the output has closed it.
    """
    if config.writes == "console":
        from faillog_otel.otlp.console import ConsoleClient

        return ConsoleClient(terminal, on_closed, waits_for_logs="logs" in config.signals)
    from faillog_otel.otlp.file import FileClient

    return FileClient(
        file,
        JsonEnvelope(resource),
        is_terminal=file.isatty(),
        is_ascii=not is_unicode(terminal.encoding),
        on_closed=on_closed,
    )


def in_flight(config: DeliveryConfig) -> int:
    """How many requests may be in flight at once; a file and a terminal take one after the other."""
    return 1 if config.writes else IN_FLIGHT


def _masked(outcome: Outcome, target: Target) -> Outcome:
    """The outcome without our header values in its words."""
    name = "message" if isinstance(outcome, Acknowledged | PartlyRejected) else "why"
    said: str = getattr(outcome, name)
    shown = target.masked(said)
    return outcome if shown == said else replace(outcome, **{name: shown})


def _target_client(target: Target, resource: Resource, user_agent: str, wait_seconds: float) -> Client:
    connect_seconds = max(wait_seconds, MIN_CONNECT_SECONDS)
    if target.protocol == "grpc":
        from faillog_otel.otlp.grpc import GrpcClient

        return GrpcClient(target, Envelope(resource), user_agent, connect_seconds=connect_seconds)
    from faillog_otel.otlp.http import HttpClient

    envelope = Envelope(resource) if target.protocol == "http/protobuf" else JsonEnvelope(resource)
    return HttpClient(target, envelope, user_agent, connect_seconds=connect_seconds)
