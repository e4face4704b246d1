"""Sends batches in all their signals, tries again what may be tried again, says what became of each.

The invariant: a record counts as exported only when the collector acknowledged every record of every
request that carried it. Nothing is dropped here; what was not taken is named in the verdict.
"""

import logging
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from msgspec import Struct

from faillog_otel.clock import Clock
from faillog_otel.config import Signal
from faillog_otel.errors import Interrupted
from faillog_otel.otlp.encoding import Item
from faillog_otel.otlp.outcome import Acknowledged, Outcome, PartlyRejected, Refused, RetryLater

_log = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0


class Client(Protocol):
    """The way to one collector, file or terminal."""

    def send(self, signal: Signal, records: Sequence[bytes]) -> Outcome:
        """Sends records of one signal as one request."""

    def close(self) -> None:
        """Ends it; what was acknowledged stays so."""


class Verdict(Struct, frozen=True):
    """What became of a batch. `pending` are the signals that nobody took, and `why` in that case.

    `rejected` says, for each signal that was taken partly, how many of how many records and the
    collector's message. With both empty the batch is exported.
    """

    pending: tuple[Signal, ...] = ()
    why: str = ""
    rejected: tuple["Rejection", ...] = ()


class Rejection(Struct, frozen=True):
    """A collector's partial success: it took `records` - `rejected` and does not say which."""

    signal: Signal
    rejected: int
    records: int
    message: str


class Sent(Struct):
    """What was sent so far: acknowledged items by signal, requests, and how many of those were retries."""

    logs: int = 0
    traces: int = 0
    requests: int = 0
    retries: int = 0


class Delivery:
    """Delivers batches one after the other, until the collector refuses or stays away too long."""

    def __init__(
        self,
        client: Client,
        *,
        signals: Sequence[Signal],
        wait_seconds: float,
        clock: Clock,
        jitter: random.Random,
        in_flight: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """`in_flight` surrounds each request; it may end it by raising Interrupted."""
        self.sent = Sent()
        self._in_flight = in_flight
        self._client = client
        self._signals = tuple(signals)
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._jitter = jitter
        self._failing_since: float | None = None  # monotonic; None after an acknowledgement
        self._given_up: str | None = None

    def deliver(self, items: Sequence[Item]) -> Verdict:
        """Sends the items in every signal; returns when each was taken, refused or given up.

        After the first refusal nothing more is sent: all later batches are pending at once.
        """
        pending: list[Signal] = []
        rejected: list[Rejection] = []
        for signal in self._signals:
            records = [record for item in items if (record := item.record(signal))]
            if not records:
                continue
            outcome = self._send(signal, records)
            if outcome is None:
                pending.append(signal)
                continue
            taken = len(records)
            if isinstance(outcome, PartlyRejected):
                taken -= min(outcome.rejected, taken)
                rejection = Rejection(signal, outcome.rejected, len(records), outcome.message)
                _log.error(
                    "the collector rejected %d of %d %s and does not say which: %s",
                    *(rejection.rejected, rejection.records, signal, rejection.message or "-"),
                )
                rejected.append(rejection)
            elif outcome.message:
                _log.warning("the collector took %s with a warning: %s", signal, outcome.message)
            setattr(self.sent, signal, getattr(self.sent, signal) + taken)
        return Verdict(tuple(pending), self._given_up or "", tuple(rejected))

    def close(self) -> None:
        """Closes the client."""
        self._client.close()

    def _send(self, signal: Signal, records: Sequence[bytes]) -> Acknowledged | PartlyRejected | None:
        """Sends one portion until it is taken; None when it was given up."""
        tries = 0
        while self._given_up is None:
            if self._clock.wait(0):
                self._give_up("interrupted")
                break
            self.sent.requests += 1
            self.sent.retries += tries > 0
            try:
                with self._in_flight():
                    outcome = self._client.send(signal, records)
            except Interrupted:
                self._give_up("interrupted")
                break
            if isinstance(outcome, Acknowledged | PartlyRejected):
                self._failing_since = None
                return outcome
            if isinstance(outcome, Refused):
                self._give_up(f"{signal} refused: {outcome.why}")
            else:
                self._wait(signal, outcome, tries)
            tries += 1
        return None

    def _wait(self, signal: Signal, outcome: RetryLater, tries: int) -> None:
        now = self._clock.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        left = self._failing_since + self._wait_seconds - now
        asked = outcome.after_seconds
        if left <= 0:
            self._give_up(f"{signal}: {outcome.why}; waited {self._wait_seconds:g} s")
        elif asked is not None and asked > left:
            self._give_up(f"{signal}: {outcome.why}; it asks to wait {asked:.0f} s")
        else:
            seconds = min(self._backoff(tries), left) if asked is None else asked
            _log.warning("%s: %s; trying again in %.1f s", signal, outcome.why, seconds)
            if self._clock.wait(seconds):
                self._give_up("interrupted")

    def _backoff(self, tries: int) -> float:
        longest = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(tries, 16))
        return longest * self._jitter.uniform(0.5, 1.0)

    def _give_up(self, why: str) -> None:
        self._given_up = why
        _log.error("giving up on the collector: %s", why)
