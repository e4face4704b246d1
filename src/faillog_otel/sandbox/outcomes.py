"""How tracked messages end at a destination: by rules that a test sets, by event and destination.

Without a rule, all attempts of a message fail, and Segment discards it four hours later.
"""

from typing import Any

from msgspec import Struct

from faillog_otel.errors import ConfigError
from faillog_otel.sandbox.destinations import Destination, DestinationAnswer

DOWN = DestinationAnswer(
    19, 503, {"error": "Service Unavailable"}, retried=True, headers={"Retry-After": "120"}
)
_OK = DestinationAnswer(1, 200, {"status": "ok"})
_FORMS = "deliver, filter, lose, discard:STATUS (such as discard:401) or recover:ATTEMPTS (such as recover:3)"
_MAX_FAILURES = 7
"""Segment discards a message after the eighth attempt."""


class Outcome(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule for messages that arrive later. Raises ConfigError for an unknown outcome."""

    outcome: str
    """`deliver`: at the first attempt; `filter`: a filter stops it; `lose`: all attempts fail with 503;
    `discard:401`: one attempt fails with this status, and it is discarded at once; `recover:3`: three
    attempts fail with 503, the fourth succeeds."""
    event: str | None = None
    """The name of a track event; None: of all."""
    destination: str | None = None
    """The id of a destination; None: of all."""

    def __post_init__(self) -> None:
        kind, _, number = self.outcome.partition(":")
        is_number = number.isascii() and number.isdigit() and len(number) <= 3
        is_valid = (
            (kind in ("deliver", "filter", "lose") and kind == self.outcome)
            or (kind == "discard" and is_number and 400 <= int(number) <= 599)
            or (kind == "recover" and is_number and 1 <= int(number) <= _MAX_FAILURES)
        )
        if not is_valid:
            raise ConfigError(f"unknown outcome {self.outcome!r}; use {_FORMS}")

    def answers(self) -> tuple[DestinationAnswer, ...]:
        """The destination's answers in turn, the last one again and again; none if nothing fails."""
        kind, _, number = self.outcome.partition(":")
        if kind == "discard":
            return (DestinationAnswer(1, int(number), {"error": f"HTTP {number}"}),)
        if kind == "recover":
            return (*[DOWN] * int(number), _OK)
        return (DOWN,) if kind == "lose" else ()


LOST = Outcome(outcome="lose")


def outcome_of(rules: tuple[Outcome, ...], event: dict[str, Any], destination: Destination) -> Outcome:
    """The outcome of an event at a destination: that of the last rule that matches."""
    for rule in reversed(rules):
        if rule.event in (None, event.get("event")) and rule.destination in (None, destination.id):
            return rule
    return LOST
