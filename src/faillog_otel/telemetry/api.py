"""The interface of the program's own metrics, and its no-op implementation.

It does not import OpenTelemetry's SDK; `metrics` does, if an endpoint for metrics is set.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from msgspec import Struct

OutcomeKey = tuple[str, str, str]
"""Event (`error`, `attempt`, `exchange`, `other`), outcome, destination id; empty if unknown."""


class Gauge(Struct, frozen=True):
    """A value that is read for each export of metrics. Names and units follow OpenTelemetry (UCUM)."""

    name: str
    unit: str
    description: str
    read: Callable[[], Mapping[str, float]]
    """Returns value of the attribute → number. Called from the export thread; an error skips the gauge."""
    attribute: str = ""
    """Name of the attribute; without one, `read` returns a single key, which is ignored."""
    is_counter: bool = False
    """Whether it is exported as an observable counter."""


class Telemetry(Protocol):
    """Counts for metrics. Safe for use from several threads; never raises, never blocks."""

    def record_outcomes(
        self, outcomes: Mapping[OutcomeKey, int], reasons: Mapping[str, int], shifted: int
    ) -> None:
        """Counts committed records by outcome, and the quarantined ones by reason code.

        `shifted` is the number of exported records with a time that the time policy changed.
        """

    def record_request(self, signal: str, outcome: str, seconds: float) -> None:
        """Records the outcome and the duration of a request with forwarded data."""

    def observe(self, gauge: Gauge) -> None:
        """Exports the gauge from now on."""

    def close(self) -> None:
        """Exports once more, within a bounded time, and ends."""


class NoTelemetry:
    """No-op implementation."""

    def record_outcomes(
        self, outcomes: Mapping[OutcomeKey, int], reasons: Mapping[str, int], shifted: int
    ) -> None:
        """Does nothing."""

    def record_request(self, signal: str, outcome: str, seconds: float) -> None:
        """Does nothing."""

    def observe(self, gauge: Gauge) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


NO_TELEMETRY = NoTelemetry()
