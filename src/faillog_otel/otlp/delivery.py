"""Delivers batches: a bounded number of requests in flight, the results in the order of the batches.

Each batch is sent in all its signals by threads of this room; who submitted it asks for the result when it
is its turn. Nothing is dropped here: what was not taken is said to be so.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from msgspec import Struct

from faillog_otel.config import Signal
from faillog_otel.errors import Interrupted
from faillog_otel.otlp.encoding import Item
from faillog_otel.otlp.patience import Patience
from faillog_otel.otlp.sender import TAKEN, UNTAKEN, Client, Fate, Sender, Sent, Suspect

LOOK_UP_SECONDS = 0.2

Fates = dict[Signal, Fate]
"""What became of one item, in each signal that it has a record of."""


class _Part:
    """A batch's records of one signal, on their way."""

    def __init__(self, signal: Signal, items: Sequence[Item]) -> None:
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
        patience: Patience,
        *,
        signals: Sequence[Signal],
        in_flight: int,
        waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """`waiting` surrounds each wait for a result; it may end it by raising Interrupted."""
        self.most_batches = 2 * (in_flight - 1)
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

    def submit(self, items: Sequence[Item]) -> Ticket:
        """Sends a batch on its way. The caller keeps no more than `most_batches` of them under way."""
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

    def is_ripe(self, fates: Fates) -> bool:
        """Whether it is known by now that the collector takes others than these suspects."""
        return all(
            self._sender.takes_others(signal, fate)
            for signal, fate in fates.items()
            if isinstance(fate, Suspect)
        )

    def settle(self, item: Item, fates: Fates) -> Fates:
        """The fates without suspects: each is tried once more, after another record was taken."""
        settled: Fates = {}
        for signal, fate in fates.items():
            settled[signal] = fate
            if isinstance(fate, Suspect):
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
