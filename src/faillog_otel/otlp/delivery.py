"""Delivers batches: a bounded number of requests in flight, the results in the order of the batches.

Each batch is sent in all its signals by threads of this room; who submitted it asks for the result when it
is its turn. Nothing is dropped here: what was not taken is said to be so.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import IO, TextIO

from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.config import DeliveryConfig, Signal, Target
from faillog_otel.errors import Interrupted
from faillog_otel.otlp.backoff import Backoff
from faillog_otel.otlp.envelope import EncodedEvent, Envelope, JsonEnvelope
from faillog_otel.otlp.outcome import Acknowledged, Outcome, PartlyRejected
from faillog_otel.otlp.sender import TAKEN, UNTAKEN, Client, Fate, Sender, Sent, Suspected
from faillog_otel.text import is_unicode

# -- clients -------------------------------------------------------------------------------------------------
#
# Settings → the client that sends, for every protocol.


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
        from faillog_otel.otlp.writers import ConsoleClient

        return ConsoleClient(terminal, on_closed, waits_for_logs="logs" in config.signals)
    from faillog_otel.otlp.writers import FileClient

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


# -- delivery ------------------------------------------------------------------------------------------------


LOOK_UP_SECONDS = 0.2

Fates = dict[Signal, Fate]
"""What became of one item, in each signal that it has a record of."""


class _Part:
    """A batch's records of one signal, on their way."""

    def __init__(self, signal: Signal, items: Sequence[EncodedEvent]) -> None:
        self.signal = signal
        every = [item.log for item in items] if signal == "logs" else [item.span for item in items]
        self.records = [record for record in every if record]
        self.positions: Sequence[int] = range(len(every))
        if len(self.records) < len(every):
            self.positions = [at for at, record in enumerate(every) if record]
        self.fates: list[Fate] = [UNTAKEN] * len(self.records)
        self.error: BaseException | None = None
        self.done = threading.Event()


class Ticket(Struct, frozen=True):
    """A batch that was submitted."""

    size: int
    parts: tuple[_Part, ...]


class Delivery:
    """Delivers batches, until the collector refuses or stays away for longer than patience lasts."""

    def __init__(
        self,
        client: Client,
        patience: Backoff,
        *,
        signals: Sequence[Signal],
        in_flight: int,
        waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """`waiting` surrounds each wait for a result; it may end it by raising Interrupted."""
        self.max_batches = 2 * (in_flight - 1)
        """How many batches may be under way: enough that one which waits does not stop the others."""
        self._client = client
        self._patience = patience
        self._sender = Sender(client, patience)
        self._signals = tuple(signals)
        self._waiting = waiting
        self._queue: queue.SimpleQueue[_Part | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(in_flight)]
        for thread in self._threads:
            thread.start()

    @property
    def sent(self) -> Sent:
        """What was sent so far."""
        return self._sender.sent

    @property
    def over(self) -> str:
        """Why nothing is sent any more; empty while things go on."""
        return self._patience.over or ""

    def end(self, why: str) -> None:
        """Nothing is sent any more; who waits for a result gets it."""
        self._patience.end(why)

    def submit(self, items: Sequence[EncodedEvent]) -> Ticket:
        """Sends a batch on its way. The caller keeps no more than `max_batches` of them under way."""
        parts = tuple(part for signal in self._signals if (part := _Part(signal, items)).records)
        for part in parts:
            self._queue.put(part)
        return Ticket(len(items), parts)

    def took_all(self, ticket: Ticket) -> bool:
        """Whether all items were taken in all signals; waits until that is known."""
        self._wait(ticket)
        return all(part.fates.count(TAKEN) == len(part.fates) for part in ticket.parts)

    def result(self, ticket: Ticket) -> list[Fates]:
        """What became of each item; waits until that is known. Suspects are left for `settle`."""
        self._wait(ticket)
        found: list[Fates] = [{} for _ in range(ticket.size)]
        for part in ticket.parts:
            for position, fate in zip(part.positions, part.fates, strict=True):
                found[position][part.signal] = fate
        return found

    def _wait(self, ticket: Ticket) -> None:
        for part in ticket.parts:
            if not part.done.is_set():
                try:
                    with self._waiting():
                        while not part.done.wait(LOOK_UP_SECONDS):
                            pass  # a signal that came just before the wait is seen now
                except Interrupted:
                    self._patience.end("interrupted")
            if part.error is not None:
                raise part.error

    def can_settle(self, fates: Fates) -> bool:
        """Whether it is known by now that the collector takes others than these suspects."""
        return all(
            self._sender.accepts_other_records(signal, fate)
            for signal, fate in fates.items()
            if isinstance(fate, Suspected)
        )

    def settle(self, item: EncodedEvent, fates: Fates) -> Fates:
        """The fates without suspects: each is tried once more, after another record was taken."""
        settled: Fates = {}
        for signal, fate in fates.items():
            settled[signal] = fate
            if isinstance(fate, Suspected):
                try:
                    with self._waiting():
                        settled[signal] = self._sender.settle(signal, item.record(signal), fate)
                except Interrupted:
                    self._patience.end("interrupted")
                    settled[signal] = UNTAKEN
        return settled

    def close(self) -> None:
        """Closes the client and ends the threads; one that hangs in a request is left behind."""
        for _ in self._threads:
            self._queue.put(None)
        if self._patience.over is None:
            for thread in self._threads:
                thread.join()
        self._client.close()

    def _work(self) -> None:
        while (part := self._queue.get()) is not None:
            try:
                part.fates = self._sender.send(part.signal, part.records)
            except BaseException as error:  # noqa: BLE001  # it is raised where the result is asked for
                part.error = error
            part.done.set()
