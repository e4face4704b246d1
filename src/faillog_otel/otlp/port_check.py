"""Whether a failed request went to a port that speaks something else: that does not mend itself."""

import math
import time

from faillog_otel.config import Target
from faillog_otel.otlp.outcome import Acknowledged, Outcome, PartlyRejected, Refused
from faillog_otel.ports import wrong_port

RECHECK_SECONDS = 30.0


class PortCheck:
    """Looks at a target's port when a request failed oddly, until the first one was taken."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._is_right = target.proxy is not None  # then it is the proxy that connects
        self._found: str | None = None
        self._checked_at = -math.inf

    def explained(self, outcome: Outcome, *, is_odd: bool) -> Outcome:
        """The outcome, or that the settings are wrong. `is_odd`: another protocol may be spoken there."""
        if isinstance(outcome, Acknowledged | PartlyRejected):
            self._is_right = True
        if not is_odd or self._is_right or isinstance(outcome, Acknowledged | PartlyRejected):
            return outcome
        if time.monotonic() - self._checked_at > RECHECK_SECONDS:
            self._found = wrong_port(self._target)
            self._checked_at = time.monotonic()
        return (
            Refused(f"{self._target.shown_url}: {self._found}", is_mistake=True) if self._found else outcome
        )
