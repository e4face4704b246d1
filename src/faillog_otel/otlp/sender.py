"""Sends the records of one batch and signal until each has a result: retries, backoff, splits.

All senders of a run share one backoff, so that they pause together. `--wait` counts from the first request
after the last acknowledgement of records. A Retry-After pauses all senders; one that is longer than the rest
of the wait makes them give up at once.

The invariant: a record is Acked only by an acknowledgement of a request that contained it, and Unacceptable
only after the collector refused it alone while it accepted others. In all other cases it stays Unsent: a
later run can send it.
"""

import logging
import math
import random
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.clock import Clock
from faillog_otel.config import Signal
from faillog_otel.events.kept_record import Rejection
from faillog_otel.otlp.outcome import (
    ACKED,
    UNSENT,
    Acknowledged,
    Doubtful,
    NotAcked,
    Outcome,
    PartlyRejected,
    Refused,
    RetryLater,
    SendResult,
    Suspected,
    TooLarge,
    Unacceptable,
)

_log = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 30.0
SLACK_SECONDS = 1.0
"""Tolerance for a Retry-After: the requests in flight receive the same one at slightly different times."""

Say = Callable[[str, float], object]
"""Reports why a request is paused, and for how many seconds."""


class WaitNotices:
    """Logs pauses, once for all requests that pause for one reason. Safe for use from several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}

    def say(self, what: str, seconds: float) -> None:
        """Logs the pause, unless a pause with the same reason has not ended yet."""
        with self._lock:
            now = self._clock.monotonic()
            self._until = {each: until for each, until in self._until.items() if until > now}
            if what in self._until:
                return
            self._until[what] = now + seconds
        _log.warning("%s in %.1f s", what, seconds)


class Backoff:
    """The backoff of all requests of a run. Safe for use from several threads."""

    def __init__(
        self, wait_seconds: float, clock: Clock, jitter: random.Random, say: Say | None = None
    ) -> None:
        """`say` reports pauses; by default they are logged."""
        self.say = say or WaitNotices(clock).say
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._jitter = jitter
        self._lock = threading.Lock()
        self._waiting_since: float | None = None  # monotonic; None after an acknowledgement
        self._not_before = 0.0  # monotonic
        self._requests = 0
        self._latest_acked: dict[Signal, int] = {"logs": 0, "traces": 0}
        self._gave_up_because: str | None = None
        self._has_acknowledged = False

    @property
    def gave_up_because(self) -> str | None:
        """Why nothing is sent any more; None while sending goes on."""
        return self._gave_up_because

    def next_request(self) -> int:
        """Returns the number of a request that starts now; numbers ascend."""
        with self._lock:
            if self._waiting_since is None:
                self._waiting_since = self._clock.monotonic()
            self._requests += 1
            return self._requests

    def acknowledged(self, signal: Signal, request: int, *, acked_some: bool) -> None:
        """Notes a successful answer of the collector: the wait starts again with the next request."""
        with self._lock:
            self._waiting_since = None
            self._has_acknowledged = True
            if acked_some:
                self._latest_acked[signal] = max(self._latest_acked[signal], request)

    def accepts_other_records(self, signal: Signal, since: int) -> bool:
        """Returns whether the collector accepted records of a request with a number above `since`."""
        return self._latest_acked[signal] > since

    def end(self, why: str) -> None:
        """Stops all sending; the first reason is kept."""
        with self._lock:
            self._gave_up_because = self._gave_up_because or why

    def give_up_early(self, why: str) -> None:
        """Gives up at once because a setting is wrong.

        An infinite wait continues, because the cause can be fixed meanwhile; so does a wait for a collector
        that has acknowledged before.
        """
        if not self._has_acknowledged and math.isfinite(self._wait_seconds):
            self.end(why)

    def pause(self, tries: int, why: str, asked_seconds: float | None = None) -> float | None:
        """Notes a failure; returns the seconds to pause, or None after giving up.

        `tries` counts earlier failures of this request; `asked_seconds` is the collector's Retry-After.
        """
        with self._lock:
            now = self._clock.monotonic()
            if self._waiting_since is None:
                self._waiting_since = now
            left = self._waiting_since + self._wait_seconds - now
            if left <= 0:
                waited = f"; gave up after {self._wait_seconds:g} s (--wait)" if self._wait_seconds else ""
                self._gave_up_because = self._gave_up_because or why + waited
            elif asked_seconds is not None and asked_seconds > left + SLACK_SECONDS:
                asked = f"it asks for a pause of {asked_seconds:.0f} s, longer than --wait"
                self._gave_up_because = self._gave_up_because or f"{why}; {asked}"
            if self._gave_up_because is not None:
                return None
            longest = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(tries, 16))
            seconds = float(min(longest * self._jitter.uniform(0.5, 1.0), left))
            if asked_seconds is not None:
                seconds = max(seconds, asked_seconds)  # a Retry-After of 0 must not cause a busy loop
                self._not_before = max(self._not_before, now + seconds)
            return seconds

    def ready(self) -> bool:
        """Waits until sending is allowed again; returns False after giving up."""
        while self._gave_up_because is None:
            left = self._not_before - self._clock.monotonic()
            if self._clock.wait(max(left, 0.0)):
                self.end("interrupted")
            elif left <= 0:
                return True
        return False

    def sleep(self, seconds: float) -> None:
        """Waits; a stop of the run ends the wait and all sending."""
        if self._clock.wait(seconds):
            self.end("interrupted")


class Client(Protocol):
    """Sends requests to one collector, file or terminal. Safe for use from several threads."""

    def send(self, signal: Signal, records: Sequence[bytes]) -> Outcome:
        """Sends records of one signal as one request; without records, an empty request."""

    def close(self) -> None:
        """Closes the connections; a request in flight fails."""


MAX_SUSPECT_BACKOFF = 2
"""The backoff of a suspected record grows up to this many failures (two seconds): other records wait."""

MAX_DOUBTFUL = 16
"""After this many consecutive ambiguous errors, stop bisecting and back off. One bad record among 512 causes
ten."""

MIN_SIZE_FAILURES = 3
"""After this many consecutive failures that may be about the size, the request is halved."""
MAX_SIZE_FAILURES = 6
"""After this many such failures, the last ones alone, a record is suspected."""


class Sent(Struct):
    """Counts of acknowledged records by signal, and of requests.

    `retries` counts the requests after the first one of a batch and signal: retries, halves and probes.
    """

    logs: int = 0
    traces: int = 0
    requests: int = 0
    retries: int = 0


class _Portion(Struct, frozen=True):
    """Records `start` to `stop`, sent in one request; suspected since request number `suspected`, if any."""

    start: int
    stop: int
    suspected: int | None = None
    size_failures: int = 0
    """Consecutive failures that may be about the size, including those of the portion it was split from."""
    is_part: bool = False
    """Whether it was split from a portion that may have been too large."""

    def suspected_since(self, request: int | None) -> "_Portion":
        return replace(self, suspected=request)

    def halves(self) -> "tuple[_Portion, _Portion]":
        """Returns the second and the first half: the caller's stack is last in, first out."""
        middle = (self.start + self.stop) // 2
        return replace(self, start=middle), replace(self, stop=middle)

    def parts(self) -> "tuple[_Portion, _Portion]":
        """Returns its halves, for a portion that may be too large."""
        return replace(self, suspected=None, size_failures=MIN_SIZE_FAILURES - 1, is_part=True).halves()


class Sender:
    """Sends batches; safe for use from several threads, each with a batch of its own."""

    def __init__(self, client: Client, backoff: Backoff) -> None:
        self.sent = Sent()
        self._is_size_limited = False
        """Whether a half succeeded after its request failed: the next one is halved without backoff."""
        self._client = client
        self._backoff = backoff
        self._lock = threading.Lock()

    def send(self, signal: Signal, records: Sequence[bytes]) -> list[SendResult]:
        """Returns the results of the records, in their order."""
        results: list[SendResult] = [UNSENT] * len(records)
        portions = [_Portion(0, len(records))]
        is_retry, failures, doubtful = False, 0, 0
        while portions:
            portion = portions.pop()
            part = records[portion.start : portion.stop]
            outcome, request = self._request(signal, part, is_retry=is_retry)
            is_retry = True
            size_failures = portion.size_failures + 1 if _may_be_size(outcome) else 0
            portion = replace(portion, size_failures=size_failures)
            outcome = self._interpret_size(outcome, portion)
            if isinstance(outcome, Doubtful):
                doubtful += 1
                outcome, portion = self._check_collector(signal, outcome, portion, doubtful)
            is_halved = portion.size_failures >= MIN_SIZE_FAILURES and len(part) > 1
            result: SendResult | None = None
            if isinstance(outcome, Acknowledged | PartlyRejected):
                result = self._on_success(signal, len(part), outcome, request)
                failures = doubtful = 0
                self._is_size_limited = self._is_size_limited or portion.is_part
            elif isinstance(outcome, TooLarge | Doubtful) and len(part) > 1:
                portions += portion.halves()
            elif isinstance(outcome, TooLarge):
                result = Unacceptable("too_large", outcome.why)
            elif isinstance(outcome, Doubtful):
                result = Suspected(outcome.why, portion.suspected or request)
            elif outcome is not None and self._wait_for_retry(
                signal, outcome, min(failures, MAX_SUSPECT_BACKOFF) if is_halved else failures
            ):
                portions += portion.parts() if is_halved else [portion.suspected_since(None)]
                failures += 1
            else:
                return results
            if result is not None:
                results[portion.start : portion.stop] = [result] * len(part)
        return results

    def _check_collector(
        self, signal: Signal, outcome: Doubtful, portion: _Portion, doubtful: int
    ) -> tuple[Outcome | None, _Portion]:
        """Probes, at a portion's first ambiguous error, whether the collector accepts requests at all."""
        if doubtful % MAX_DOUBTFUL == 0:  # not a few bad records: the collector fails
            return Refused(outcome.why), portion
        if portion.suspected is not None:
            return outcome, portion
        suspected = portion.suspected_since(self._backoff.next_request())
        return self._probe_doubtful(signal, outcome), suspected

    def _interpret_size(self, outcome: Outcome | None, portion: _Portion) -> Outcome | None:
        """Returns the outcome; TooLarge or Doubtful if earlier requests point to the size."""
        if isinstance(outcome, RetryLater) and outcome.may_be_size:
            is_single = portion.stop - portion.start == 1
            if not is_single and self._is_size_limited:
                return TooLarge(outcome.why)
            if is_single and portion.size_failures >= MAX_SIZE_FAILURES:
                return Doubtful(outcome.why)
        return outcome

    def accepts_other_records(self, signal: Signal, suspect: Suspected) -> bool:
        """Returns whether the collector has accepted other records since."""
        return self._backoff.accepts_other_records(signal, suspect.since)

    def settle(self, signal: Signal, record: bytes, suspect: Suspected) -> SendResult:
        """Returns the final result: sends the record alone again after another record was accepted."""
        failures = 0
        while True:
            is_proven = self.accepts_other_records(signal, suspect)
            outcome, request = self._request(signal, [record], is_retry=True)
            if isinstance(outcome, Acknowledged | PartlyRejected):
                return self._on_success(signal, 1, outcome, request)
            if isinstance(outcome, TooLarge):
                return Unacceptable("too_large", outcome.why)
            if isinstance(outcome, Doubtful):
                probed = self._probe_doubtful(signal, outcome)
                if is_proven and isinstance(probed, Doubtful):
                    return Unacceptable("refused", outcome.why)
                outcome = RetryLater(f"{outcome.why}; no other record was accepted since")
            may_be_size = isinstance(outcome, RetryLater) and outcome.may_be_size
            if outcome is not None and is_proven and may_be_size and failures >= MAX_SUSPECT_BACKOFF:
                return Unacceptable("too_large", outcome.why)
            if is_proven:  # the collector works and accepts others: no reason for a long backoff
                failures = min(failures, MAX_SUSPECT_BACKOFF)
            if outcome is None or not self._wait_for_retry(signal, outcome, failures):
                return UNSENT
            failures += 1

    def _probe_doubtful(self, signal: Signal, outcome: Doubtful) -> Outcome | None:
        """Returns the outcome if the collector accepts an empty request: the records can be the cause."""
        probe, _ = self._request(signal, [], is_retry=True)
        if isinstance(probe, Acknowledged | PartlyRejected):
            return outcome
        return probe if probe is None or isinstance(probe, RetryLater) else Refused(outcome.why)

    def _on_success(
        self, signal: Signal, count: int, outcome: Acknowledged | PartlyRejected, request: int
    ) -> SendResult:
        result: SendResult = ACKED
        acked = count
        if isinstance(outcome, PartlyRejected):
            result = Rejection(signal, outcome.rejected, count, outcome.message)
            acked -= min(outcome.rejected, count)
            _log.error(
                "the collector rejected %d of %d %s and does not name them; all are quarantined: %s",
                *(outcome.rejected, count, signal, outcome.message or "-"),
            )
        elif outcome.message:
            _log.warning("the collector accepted %s with a warning: %s", signal, outcome.message)
        self._backoff.acknowledged(signal, request, acked_some=acked > 0)
        with self._lock:
            setattr(self.sent, signal, getattr(self.sent, signal) + acked)
        return result

    def _wait_for_retry(self, signal: Signal, outcome: NotAcked, failures: int) -> bool:
        """Waits until the same records may be sent again; returns False when the sender gave up.

        After a refusal it probes with empty requests: OTLP forbids to retry before the cause is fixed.
        """
        while True:
            if isinstance(outcome, Refused) and outcome.is_misconfigured:
                self._backoff.give_up_early(f"{signal}: {outcome.why}")
            is_paused = not isinstance(outcome, RetryLater)
            asked = outcome.after_seconds if isinstance(outcome, RetryLater) else None
            seconds = self._backoff.pause(failures, f"{signal}: {outcome.why}", asked)
            if seconds is None:
                return False
            what = "paused; next probe" if is_paused else "retrying"
            self._backoff.say(f"{signal}: {outcome.why}; {what}", seconds)
            self._backoff.sleep(seconds)
            if not is_paused:
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
        """Sends one request; returns its outcome (None: the sender gave up) and its number."""
        if not self._backoff.ready():
            return None, 0
        with self._lock:
            self.sent.requests += 1
            self.sent.retries += is_retry
        number = self._backoff.next_request()
        try:
            return self._client.send(signal, records), number
        except Exception as error:  # noqa: BLE001  # a bug must not lose records: they become pending
            _log.exception(
                "a bug in faillog-otel: sending %s failed; report it with the traceback below", signal
            )
            return Refused(f"{type(error).__name__}: {error}"), number


def _may_be_size(outcome: Outcome | None) -> bool:
    return isinstance(outcome, RetryLater | Refused) and outcome.may_be_size
