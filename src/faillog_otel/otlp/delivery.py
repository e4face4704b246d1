"""Delivers batches with a bounded number of requests in flight.

Threads send each batch, one request for each signal; the caller submits batches and collects the results in
order. No record is lost: a record without an acknowledgement has the result Unsent. `network_client` and
`writing_client` create the client that the settings name.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from typing import IO, Protocol, TextIO

from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.config import DeliveryConfig, Signal, Target
from faillog_otel.errors import Interrupted
from faillog_otel.otlp.outcome import (
    ACKED,
    UNSENT,
    Acknowledged,
    Outcome,
    PartlyRejected,
    Refused,
    SendResult,
    Suspected,
)
from faillog_otel.otlp.sender import Backoff, Client, Sender, Sent
from faillog_otel.otlp.wire import EncodedEvent, Envelope
from faillog_otel.text import is_unicode

MAX_IN_FLIGHT = 4
"""Requests in flight to a collector."""

MIN_CONNECT_SECONDS = 1.0
"""Time to connect in a run whose `--wait` is shorter."""

Resource = tuple[tuple[str, str], ...]

Flush = Callable[[], Acknowledged | Refused]
"""Writes what a client keeps. If that is refused, the records since the last flush are not written."""


class Writer(Client, Protocol):
    """A client that writes, and may keep what it acknowledged until it can write all of it."""

    @property
    def flush(self) -> Flush | None:
        """None if it keeps nothing."""


class PerSignal:
    """A client for each signal: signals can have different targets and protocols."""

    def __init__(self, clients: dict[Signal, Client], targets: dict[Signal, Target]) -> None:
        self._clients = clients
        self._targets = targets

    def send(self, signal: Signal, records: Sequence[bytes]) -> Outcome:
        """Sends with the signal's client; our header values are masked in the outcome's text."""
        return _masked(self._clients[signal].send(signal, records), self._targets[signal])

    def close(self) -> None:
        """Closes the clients."""
        for client in self._clients.values():
            client.close()


def network_client(config: DeliveryConfig, resource: Resource, user_agent: str) -> Client:
    """Returns the client for targets on the network. Raises ConfigError."""
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
    *,
    has_colours: bool,
) -> Writer:
    """Returns the client that writes OTLP JSON Lines to a file, or shows what failed on the terminal.

    `on_closed` is called when the reader of the output has closed it. `has_colours`: on the terminal.
    """
    if config.writes == "console":
        from faillog_otel.otlp.console import ConsoleClient  # imports protobuf

        return ConsoleClient(
            file,
            terminal,
            on_closed,
            has_logs="logs" in config.signals,
            shows_all=config.shows_all,
            has_colours=has_colours,
        )
    from faillog_otel.otlp.writers import FileClient, JsonEnvelope  # imports protobuf

    return FileClient(
        file,
        JsonEnvelope(resource),
        is_terminal=file.isatty(),
        is_ascii=not is_unicode(terminal.encoding),
        on_closed=on_closed,
    )


def in_flight(config: DeliveryConfig) -> int:
    """Returns the maximum number of requests in flight: 1 for a file or a terminal."""
    return 1 if config.writes else MAX_IN_FLIGHT


def _masked(outcome: Outcome, target: Target) -> Outcome:
    """Returns the outcome with our header values masked in its text."""
    name = "message" if isinstance(outcome, Acknowledged | PartlyRejected) else "why"
    text: str = getattr(outcome, name)
    masked = target.masked(text)
    return outcome if masked == text else replace(outcome, **{name: masked})


def _target_client(target: Target, resource: Resource, user_agent: str, wait_seconds: float) -> Client:
    connect_seconds = max(wait_seconds, MIN_CONNECT_SECONDS)
    if target.protocol == "grpc":
        from faillog_otel.otlp.grpc import GrpcClient

        return GrpcClient(target, Envelope(resource), user_agent, connect_seconds=connect_seconds)
    from faillog_otel.otlp.http import HttpClient

    if target.protocol == "http/protobuf":
        return HttpClient(target, Envelope(resource), user_agent, connect_seconds=connect_seconds)
    from faillog_otel.otlp.writers import JsonEnvelope  # imports protobuf

    return HttpClient(target, JsonEnvelope(resource), user_agent, connect_seconds=connect_seconds)


SIGNAL_CHECK_SECONDS = 0.2

SendResults = dict[Signal, SendResult]
"""The results of one event's records, by signal."""


class _Part:
    """A batch's records of one signal, and their results."""

    def __init__(self, signal: Signal, items: Sequence[EncodedEvent]) -> None:
        self.signal = signal
        every = [item.log for item in items] if signal == "logs" else [item.span for item in items]
        self.records = [record for record in every if record]
        self.positions: Sequence[int] = range(len(every))
        if len(self.records) < len(every):
            self.positions = [at for at, record in enumerate(every) if record]
        self.results: list[SendResult] = [UNSENT] * len(self.records)
        self.error: BaseException | None = None
        self.done = threading.Event()


class Ticket(Struct, frozen=True):
    """A batch that was submitted."""

    size: int
    parts: tuple[_Part, ...]


class Delivery:
    """Delivers batches until the backoff gives up."""

    def __init__(
        self,
        client: Client,
        backoff: Backoff,
        *,
        signals: Sequence[Signal],
        in_flight: int,
        waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
        flush: Flush | None = None,
    ) -> None:
        """`waiting` is the context of each wait for a result; it can end the wait by raising Interrupted.

        `flush` is that of a client that writes.
        """
        self.max_batches = 2 * (in_flight - 1)
        """Batches that may be in delivery: enough that a paused batch does not stop the others."""
        self._client = client
        self._backoff = backoff
        self._sender = Sender(client, backoff)
        self._signals = tuple(signals)
        self._waiting = waiting
        self._flush = flush
        self._written = Sent()  # what was sent before the last flush
        self._queue: queue.SimpleQueue[_Part | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(in_flight)]
        for thread in self._threads:
            thread.start()

    @property
    def sent(self) -> Sent:
        """The counts so far."""
        return self._sender.sent

    @property
    def gave_up_because(self) -> str:
        """Why nothing is sent any more; empty while sending goes on."""
        return self._backoff.gave_up_because or ""

    def end(self, why: str) -> None:
        """Stops all sending; pending results become available."""
        self._backoff.end(why)

    def submit(self, items: Sequence[EncodedEvent]) -> Ticket:
        """Queues a batch. The caller keeps at most `max_batches` of them in delivery."""
        parts = tuple(part for signal in self._signals if (part := _Part(signal, items)).records)
        for part in parts:
            self._queue.put(part)
        return Ticket(len(items), parts)

    def is_all_acked(self, ticket: Ticket) -> bool:
        """Waits for the results; returns whether all records were acknowledged in all signals."""
        self._wait(ticket)
        return all(part.results.count(ACKED) == len(part.results) for part in ticket.parts)

    def result(self, ticket: Ticket) -> list[SendResults]:
        """Waits for the results of each item and returns them. Suspected ones are left for `settle`."""
        self._wait(ticket)
        found: list[SendResults] = [{} for _ in range(ticket.size)]
        for part in ticket.parts:
            for position, result in zip(part.positions, part.results, strict=True):
                found[position][part.signal] = result
        return found

    def _wait(self, ticket: Ticket) -> None:
        for part in ticket.parts:
            if not part.done.is_set():
                try:
                    with self._waiting():
                        while not part.done.wait(SIGNAL_CHECK_SECONDS):
                            pass  # a signal that arrived just before the wait is noticed
                except Interrupted:
                    self._backoff.end("interrupted")
            if part.error is not None:
                raise part.error

    def can_settle(self, results: SendResults) -> bool:
        """Returns whether the collector has accepted other records than these suspected ones."""
        return all(
            self._sender.accepts_other_records(signal, result)
            for signal, result in results.items()
            if isinstance(result, Suspected)
        )

    def settle(self, item: EncodedEvent, results: SendResults) -> SendResults:
        """Returns the results without suspects: each is sent alone again once another record was accepted."""
        settled: SendResults = {}
        for signal, result in results.items():
            settled[signal] = result
            if isinstance(result, Suspected):
                try:
                    with self._waiting():
                        settled[signal] = self._sender.settle(signal, item.record(signal), result)
                except Interrupted:
                    self._backoff.end("interrupted")
                    settled[signal] = UNSENT
        return settled

    def flush(self) -> bool:
        """Writes what the client keeps, if it keeps anything; no batch may be in delivery.

        Returns False if that fails, or is interrupted: then nothing was sent since the last flush.
        """
        if self._flush is None:
            return True
        try:
            with self._waiting():
                outcome = self._flush()
        except Interrupted:
            outcome = Refused("interrupted")
        sent = self._sender.sent
        if isinstance(outcome, Acknowledged):
            self._written = copy(sent)
            return True
        sent.logs, sent.traces = self._written.logs, self._written.traces
        self._backoff.end(outcome.why)
        return False

    def close(self) -> None:
        """Closes the client and ends the threads; does not wait for requests in flight after giving up."""
        for _ in self._threads:
            self._queue.put(None)
        if self._backoff.gave_up_because is None:
            for thread in self._threads:
                thread.join()
        self._client.close()

    def _work(self) -> None:
        while (part := self._queue.get()) is not None:
            try:
                part.results = self._sender.send(part.signal, part.records)
            except BaseException as error:  # noqa: BLE001  # raised where the result is collected
                part.error = error
            part.done.set()
