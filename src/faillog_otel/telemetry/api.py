"""What the parts tell of themselves, whoever listens; without a listener it costs next to nothing.

Nothing of OpenTelemetry's SDK is imported here: that is `otel.py`'s business, when metrics are wanted.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from msgspec import Struct

Became = tuple[str, str, str]
"""Event (`error`, `attempt`, `exchange`, `other`), outcome, destination id; empty where it is not known."""


class Gauge(Struct, frozen=True):
    """Something that is looked at whenever metrics are sent. Names and units are OpenTelemetry's (UCUM)."""

    name: str
    unit: str
    description: str
    read: Callable[[], Mapping[str, float]]
    """Value of the attribute → number. Is called on a thread of its own; what it raises is not sent."""
    attribute: str = ""
    """The attribute's name; without one, `read` has a single key, which says nothing."""
    only_grows: bool = False
    """Whether it is a counter that somebody else keeps."""


class Telemetry(Protocol):
    """Whoever counts. Safe to use from several threads; never raises, never waits."""

    def written(self, became: Mapping[Became, int], reasons: Mapping[str, int], shifted: int) -> None:
        """It was written down what became of so many records; `reasons` of those in quarantine.

        `shifted` of those that were exported carry another time than their own.
        """

    def answered(self, signal: str, outcome: str, seconds: float) -> None:
        """A request with forwarded data ended so, after so many seconds."""

    def watch(self, gauge: Gauge) -> None:
        """From now on the gauge is looked at."""

    def close(self) -> None:
        """Sends what was counted, within a bound, and ends."""


class NoTelemetry:
    """Nobody listens."""

    def written(self, became: Mapping[Became, int], reasons: Mapping[str, int], shifted: int) -> None:
        """Nothing."""

    def answered(self, signal: str, outcome: str, seconds: float) -> None:
        """Nothing."""

    def watch(self, gauge: Gauge) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


NO_TELEMETRY = NoTelemetry()
