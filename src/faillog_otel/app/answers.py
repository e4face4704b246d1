"""What the collector answers, noted on the way: how long it takes, and whether it takes anything at all."""

import re
import threading
from collections.abc import Sequence

from faillog_otel.clock import Clock
from faillog_otel.config import Signal
from faillog_otel.otlp.outcome import Acknowledged, Outcome, PartlyRejected
from faillog_otel.otlp.sender import Client
from faillog_otel.telemetry.measuring import Telemetry


class Answers:
    """A client that sends by another one. Used from several threads at once."""

    def __init__(self, client: Client, telemetry: Telemetry, clock: Clock) -> None:
        self._client = client
        self._telemetry = telemetry
        self._clock = clock
        self._failing_since: float | None = None  # monotonic; None after an acknowledgement
        self._under_way: dict[int, float] = {}  # thread → when its request began

    def send(self, signal: Signal, records: Sequence[bytes]) -> Outcome:
        """Sends, and notes what came of it."""
        thread, began = threading.get_ident(), self._clock.monotonic()
        self._under_way[thread] = began
        try:
            outcome = self._client.send(signal, records)
        finally:
            del self._under_way[thread]
        self._telemetry.answered(signal, _name(outcome), self._clock.monotonic() - began)
        if isinstance(outcome, Acknowledged | PartlyRejected):
            self._failing_since = None
        elif self._failing_since is None:
            self._failing_since = began
        return outcome

    def close(self) -> None:
        """Closes the other one."""
        self._client.close()

    def missing_seconds(self) -> float:
        """For how long an acknowledgement has been asked for in vain; 0 where nothing is asked for."""
        waiting = [*self._under_way.copy().values(), *filter(None, [self._failing_since])]
        return max(0.0, self._clock.monotonic() - min(waiting)) if waiting else 0.0


def _name(outcome: Outcome) -> str:
    """`acknowledged`, `partly_rejected`, `retry_later`, `too_large`, `doubtful`, `refused`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(outcome).__name__).lower()
