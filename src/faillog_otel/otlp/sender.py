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
from msgspec.structs import replace

from faillog_otel.config import Signal
from faillog_otel.events.kept_record import Rejection
from faillog_otel.events.model import ReasonCode
from faillog_otel.otlp.backoff import Backoff
from faillog_otel.otlp.outcome import (
    Acknowledged,
    Doubtful,
    NotTaken,
    Outcome,
    PartlyRejected,
    Refused,
    RetryLater,
    TooLarge,
)

_log = logging.getLogger(__name__)


class Client(Protocol):
    """The way to one collector, file or terminal. Used from several threads at once."""

    def send(self, signal: Signal, records: Sequence[bytes]) -> Outcome:
        """Sends records of one signal as one request; none are an empty request."""

    def close(self) -> None:
        """Ends it; a request that is under way fails."""


class Acked(Struct, frozen=True):
    """The collector acknowledged the record."""


class Unacceptable(Struct, frozen=True):
    """The collector will not take this record, though it takes others. `reason` is a quarantine reason."""

    reason: ReasonCode
    why: str


class Unsent(Struct, frozen=True):
    """Not taken so far; nothing speaks against another time."""


class Suspected(Struct, frozen=True):
    """Refused alone; are others taken? The doubt began with the request of number `since`."""

    why: str
    since: int


Fate = Acked | Rejection | Unacceptable | Unsent | Suspected

TAKEN, UNTAKEN = Acked(), Unsent()

SHORT_PAUSES = 2
"""The backoff of a suspect stops growing here, at two seconds: all others wait for it."""

MAX_REFUSALS = 16
"""So many doubtful answers without a success between them are no longer looked into, but waited out. One
bad record among 512 costs ten."""


MIN_SIZE_DOUBTS = 3
"""Records that failed so often in a row, in a way that may be about their size, are halved."""
MAX_SIZE_DOUBTS = 6
"""A record that failed so often, first with others, then alone, is suspected itself."""


class Sent(Struct):
    """What was sent so far: acknowledged items by signal, and requests; `retries` are those of them that
    were not the first one of their batch and signal: tries again, halves, probes.
    """

    logs: int = 0
    traces: int = 0
    requests: int = 0
    retries: int = 0


class _Portion(Struct, frozen=True):
    """Records `start` to `stop` that travel in one request; `doubted` since the request of this number."""

    start: int
    stop: int
    doubted: int | None = None
    size_doubts: int = 0
    """So often in a row it, or what it is a part of, failed in a way that may be about its size."""
    is_part: bool = False
    """It is of a larger one that may have been too large."""

    def doubted_since(self, request: int | None) -> "_Portion":
        return replace(self, doubted=request)

    def halves(self) -> "tuple[_Portion, _Portion]":
        """The second and the first half: the last one in is the next one out."""
        middle = (self.start + self.stop) // 2
        return replace(self, start=middle), replace(self, stop=middle)

    def parts(self) -> "tuple[_Portion, _Portion]":
        """Its halves, where it may have been too large."""
        return replace(self, doubted=None, size_doubts=MIN_SIZE_DOUBTS - 1, is_part=True).halves()


class Sender:
    """Sends portions; safe to use from several threads, each with a portion of its own."""

    def __init__(self, client: Client, patience: Backoff) -> None:
        self.sent = Sent()
        self._is_size_limited = False
        """Smaller requests were taken where larger ones failed: no need to wait before halving the next."""
        self._client = client
        self._patience = patience
        self._lock = threading.Lock()

    def send(self, signal: Signal, records: Sequence[bytes]) -> list[Fate]:
        """The fate of each record, in their order."""
        fates: list[Fate] = [UNTAKEN] * len(records)
        portions = [_Portion(0, len(records))]
        is_retry, failures, refusals = False, 0, 0
        while portions:
            portion = portions.pop()
            inside = records[portion.start : portion.stop]
            outcome, request = self._request(signal, inside, is_retry=is_retry)
            is_retry = True
            portion = replace(portion, size_doubts=portion.size_doubts + 1 if _may_be_size(outcome) else 0)
            outcome = self._judged_by_size(outcome, portion)
            if isinstance(outcome, Doubtful):
                refusals += 1
                outcome, portion = self._examined(signal, outcome, portion, refusals)
            is_halved = portion.size_doubts >= MIN_SIZE_DOUBTS and len(inside) > 1
            fate: Fate | None = None
            if isinstance(outcome, Acknowledged | PartlyRejected):
                fate, failures, refusals = self._taken(signal, len(inside), outcome, request), 0, 0
                self._is_size_limited = self._is_size_limited or portion.is_part
            elif isinstance(outcome, TooLarge | Doubtful) and len(inside) > 1:
                portions += portion.halves()
            elif isinstance(outcome, TooLarge):
                fate = Unacceptable("too_large", outcome.why)
            elif isinstance(outcome, Doubtful):
                fate = Suspected(outcome.why, portion.doubted or request)
            elif outcome is not None and self._go_on(
                signal, outcome, min(failures, SHORT_PAUSES) if is_halved else failures
            ):
                portions += portion.parts() if is_halved else [portion.doubted_since(None)]
                failures += 1
            else:
                return fates
            if fate is not None:
                fates[portion.start : portion.stop] = [fate] * len(inside)
        return fates

    def _examined(
        self, signal: Signal, outcome: Doubtful, portion: _Portion, refusals: int
    ) -> tuple[Outcome | None, _Portion]:
        """Is it about these records, or is nothing taken at all? The first doubt asks."""
        if refusals % MAX_REFUSALS == 0:  # so many bad records in a row are no bad records
            return Refused(outcome.why), portion
        if portion.doubted is not None:
            return outcome, portion
        doubted = portion.doubted_since(self._patience.next_request())
        return self._doubt(signal, outcome), doubted

    def _judged_by_size(self, outcome: Outcome | None, portion: _Portion) -> Outcome | None:
        """The outcome, or what it means by what was seen before of sizes."""
        if isinstance(outcome, RetryLater) and outcome.may_be_size:
            is_alone = portion.stop - portion.start == 1
            if not is_alone and self._is_size_limited:
                return TooLarge(outcome.why)
            if is_alone and portion.size_doubts >= MAX_SIZE_DOUBTS:
                return Doubtful(outcome.why)
        return outcome

    def accepts_other_records(self, signal: Signal, suspect: Suspected) -> bool:
        """Whether it is known by now that the collector takes other records."""
        return self._patience.accepts_other_records(signal, suspect.since)

    def settle(self, signal: Signal, record: bytes, suspect: Suspected) -> Fate:
        """Clears up a suspicion: once another record was taken, this one is tried alone again."""
        failures = 0
        while True:
            is_proven = self.accepts_other_records(signal, suspect)
            outcome, request = self._request(signal, [record], is_retry=True)
            if isinstance(outcome, Acknowledged | PartlyRejected):
                return self._taken(signal, 1, outcome, request)
            if isinstance(outcome, TooLarge):
                return Unacceptable("too_large", outcome.why)
            if isinstance(outcome, Doubtful):
                doubt = self._doubt(signal, outcome)
                if is_proven and isinstance(doubt, Doubtful):
                    return Unacceptable("refused", outcome.why)
                outcome = RetryLater(f"{outcome.why}, and no other record was taken since")
            may_be_size = isinstance(outcome, RetryLater) and outcome.may_be_size
            if outcome is not None and is_proven and may_be_size and failures >= SHORT_PAUSES:
                return Unacceptable("too_large", outcome.why)
            if is_proven:  # the collector is there and takes others: no reason for long pauses
                failures = min(failures, SHORT_PAUSES)
            if outcome is None or not self._go_on(signal, outcome, failures):
                return UNTAKEN
            failures += 1

    def _doubt(self, signal: Signal, outcome: Doubtful) -> Outcome | None:
        """The outcome once more, when an empty request is taken: then it may be about the records."""
        probe, _ = self._request(signal, [], is_retry=True)
        if isinstance(probe, Acknowledged | PartlyRejected):
            return outcome
        return probe if probe is None or isinstance(probe, RetryLater) else Refused(outcome.why)

    def _taken(
        self, signal: Signal, count: int, outcome: Acknowledged | PartlyRejected, request: int
    ) -> Fate:
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
        self._patience.acknowledged(signal, request, took_some=taken > 0)
        with self._lock:
            setattr(self.sent, signal, getattr(self.sent, signal) + taken)
        return fate

    def _go_on(self, signal: Signal, outcome: NotTaken, failures: int) -> bool:
        """Waits until the same may be sent again; False when the wait is over.

        After a refusal that is when an empty request is taken: OTLP forbids to try the same before
        somebody mended something.
        """
        while True:
            if isinstance(outcome, Refused) and outcome.is_mistake:
                self._patience.give_up_early(f"{signal}: {outcome.why}")
            is_held = not isinstance(outcome, RetryLater)
            asked = outcome.after_seconds if isinstance(outcome, RetryLater) else None
            seconds = self._patience.pause(failures, f"{signal}: {outcome.why}", asked)
            if seconds is None:
                return False
            what = "holding everything back, next look" if is_held else "trying again"
            self._patience.say(f"{signal}: {outcome.why}; {what}", seconds)
            self._patience.sleep(seconds)
            if not is_held:
                return True
            probe, _ = self._request(signal, [], is_retry=True)
            if probe is None:
                return False
            if isinstance(probe, Acknowledged | PartlyRejected):
                return True
            outcome, failures = probe, failures + 1

    def _request(
        self, signal: Signal, records: Sequence[bytes], *, is_retry: bool
    ) -> tuple[Outcome | None, int]:
        """One request and its number; the outcome is None when nothing is sent any more."""
        if not self._patience.ready():
            return None, 0
        with self._lock:
            self.sent.requests += 1
            self.sent.retries += is_retry
        number = self._patience.next_request()
        try:
            return self._client.send(signal, records), number
        except Exception as error:  # noqa: BLE001  # a bug must not cost records: they are held, and pending in the end
            _log.exception("sending %s failed", signal)
            return Refused(f"{type(error).__name__}: {error}"), number


def _may_be_size(outcome: Outcome | None) -> bool:
    return isinstance(outcome, RetryLater | Refused) and outcome.may_be_size
