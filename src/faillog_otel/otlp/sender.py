"""Sends one portion of records of one signal until the fate of each is known.

The invariant: a record is Taken only by an acknowledgement of a request that held it, and it is Unfit only
after the collector refused it alone while it took others. Everything else leaves it Untaken: to be sent
again another time.
"""

import logging
import threading
from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from faillog_otel.config import Signal
from faillog_otel.events.entry import Rejection
from faillog_otel.otlp.outcome import (
    Acknowledged,
    Doubtful,
    Outcome,
    PartlyRejected,
    Refused,
    RetryLater,
    TooLarge,
)
from faillog_otel.otlp.patience import Patience

_log = logging.getLogger(__name__)


class Client(Protocol):
    """The way to one collector, file or terminal. Used from several threads at once."""

    def send(self, signal: Signal, records: Sequence[bytes]) -> Outcome:
        """Sends records of one signal as one request; none are an empty request."""

    def close(self) -> None:
        """Ends it; a request that is under way fails."""


class Taken(Struct, frozen=True):
    """The collector acknowledged the record."""


class Unfit(Struct, frozen=True):
    """The collector will not take this record, though it takes others. `reason` is a quarantine reason."""

    reason: str
    why: str


class Untaken(Struct, frozen=True):
    """Not taken so far; nothing speaks against another time."""


class Suspect(Struct, frozen=True):
    """Refused alone; are others taken? When the doubt began there were so many `acknowledgements`."""

    why: str
    acknowledgements: int


Fate = Taken | Rejection | Unfit | Untaken | Suspect

TAKEN, UNTAKEN = Taken(), Untaken()


class Sent(Struct):
    """What was sent so far: acknowledged items by signal, and requests; `retries` are those of them that
    were not the first one of their batch and signal: tries again, halves, probes.
    """

    logs: int = 0
    traces: int = 0
    requests: int = 0
    retries: int = 0


class _Portion(Struct, frozen=True):
    """Records `start` to `stop` that travel in one request; `doubted` since so many acknowledgements."""

    start: int
    stop: int
    doubted: int | None = None

    def doubted_at(self, acknowledgements: int | None) -> "_Portion":
        return _Portion(self.start, self.stop, acknowledgements)

    def halves(self) -> "tuple[_Portion, _Portion]":
        """The second and the first half: the last one in is the next one out."""
        middle = (self.start + self.stop) // 2
        return _Portion(middle, self.stop, self.doubted), _Portion(self.start, middle, self.doubted)


class Sender:
    """Sends portions; safe to use from several threads, each with a portion of its own."""

    def __init__(self, client: Client, patience: Patience) -> None:
        self.sent = Sent()
        self._client = client
        self._patience = patience
        self._lock = threading.Lock()

    def send(self, signal: Signal, records: Sequence[bytes]) -> list[Fate]:
        """The fate of each record, in their order."""
        fates: list[Fate] = [UNTAKEN] * len(records)
        portions = [_Portion(0, len(records))]
        is_retry, failures = False, 0
        while portions:
            portion = portions.pop()
            inside = records[portion.start : portion.stop]
            acknowledgements = self._patience.acknowledgements(signal)
            outcome = self._request(signal, inside, is_retry=is_retry)
            is_retry = True
            if isinstance(outcome, Doubtful) and portion.doubted is None:
                # The first doubt: is it about these records, or is nothing taken at all?
                portion = portion.doubted_at(acknowledgements)
                probe = self._request(signal, [], is_retry=True)
                if not isinstance(probe, Acknowledged):
                    portion = portion.doubted_at(None)
                    outcome = Refused(outcome.why) if isinstance(probe, Doubtful) else probe
            fate: Fate | None = None
            if isinstance(outcome, Acknowledged | PartlyRejected):
                fate, failures = self._taken(signal, len(inside), outcome), 0
            elif isinstance(outcome, TooLarge | Doubtful) and len(inside) > 1:
                portions += portion.halves()
            elif isinstance(outcome, TooLarge):
                fate = Unfit("too_large", outcome.why)
            elif isinstance(outcome, Doubtful):
                fate = Suspect(outcome.why, portion.doubted or 0)
            elif outcome is not None and self._go_on(signal, outcome, failures):
                portions.append(portion)
                failures += 1
            else:
                return fates
            if fate is not None:
                fates[portion.start : portion.stop] = [fate] * len(inside)
        return fates

    def settle(self, signal: Signal, record: bytes, suspect: Suspect) -> Fate:
        """Clears up a suspicion: once another record was taken, this one is tried alone again."""
        failures = 0
        while True:
            is_proven = self._patience.acknowledgements(signal) > suspect.acknowledgements
            outcome = self._request(signal, [record], is_retry=True)
            if isinstance(outcome, Acknowledged | PartlyRejected):
                return self._taken(signal, 1, outcome)
            if isinstance(outcome, TooLarge):
                return Unfit("too_large", outcome.why)
            if isinstance(outcome, Doubtful):
                probe = self._request(signal, [], is_retry=True)
                if is_proven and isinstance(probe, Acknowledged):
                    return Unfit("refused", outcome.why)
                outcome = RetryLater(f"{outcome.why}, as the only record that was sent since")
            if outcome is None or not self._go_on(signal, outcome, failures):
                return UNTAKEN
            failures += 1

    def _taken(self, signal: Signal, count: int, outcome: Acknowledged | PartlyRejected) -> Fate:
        self._patience.acknowledged(signal)
        fate: Fate = TAKEN
        taken = count
        if isinstance(outcome, PartlyRejected):
            fate = Rejection(signal, outcome.rejected, count, outcome.message)
            taken -= min(outcome.rejected, count)
            _log.error(
                "the collector rejected %d of %d %s and does not say which: %s",
                *(outcome.rejected, count, signal, outcome.message or "-"),
            )
        elif outcome.message:
            _log.warning("the collector took %s with a warning: %s", signal, outcome.message)
        with self._lock:
            setattr(self.sent, signal, getattr(self.sent, signal) + taken)
        return fate

    def _go_on(self, signal: Signal, outcome: Outcome, failures: int) -> bool:
        """Waits until the same may be sent again; False when the wait is over.

        After a refusal that is when an empty request is taken: OTLP forbids to try the same before
        somebody mended something.
        """
        while True:
            is_held = not isinstance(outcome, RetryLater)
            asked = outcome.after_seconds if isinstance(outcome, RetryLater) else None
            why = outcome.why if not isinstance(outcome, Acknowledged | PartlyRejected) else ""
            seconds = self._patience.pause(failures, f"{signal}: {why}", asked)
            if seconds is None:
                return False
            what = "holding everything back, next look" if is_held else "trying again"
            _log.warning("%s: %s; %s in %.1f s", signal, why, what, seconds)
            self._patience.sleep(seconds)
            if not is_held:
                return True
            probe = self._request(signal, [], is_retry=True)
            if probe is None:
                return False
            if isinstance(probe, Acknowledged):
                return True
            outcome, failures = probe, failures + 1

    def _request(self, signal: Signal, records: Sequence[bytes], *, is_retry: bool) -> Outcome | None:
        """One request; None when nothing is sent any more."""
        if not self._patience.ready():
            return None
        with self._lock:
            self.sent.requests += 1
            self.sent.retries += is_retry
        return self._client.send(signal, records)
