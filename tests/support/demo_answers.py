"""How many attempts carry the status of their exchange, in what the demo prints:
`faillog-otel demo --all | PYTHONPATH=tests .venv/bin/python -m support.demo_answers`.

An attempt counts if its exchange was listed by the time of its own poll. That is known from the simulated
Segment of the demo, which always has the same records.
"""

import json
import re
import sys
from collections.abc import Iterator

from msgspec import Struct

from faillog_otel.cli.sandbox import _demo_segment
from faillog_otel.clock import parse_rfc3339
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.objects import TrueRecord

_POLL = re.compile(r"^— run --once, .* simulated time: (\S+)$", re.MULTILINE)
_MESSAGE = re.compile(r"^message (\S+)  trace [0-9a-f]{32}$")
_ATTEMPT = re.compile(r"^[├└]─ \S+ \S+  deliver .*?  attempt (\d+)  \w+(?:  HTTP (\d+))?(?:  |$)")

Attempt = tuple[str, int]
"""A message, and the number of the attempt."""


class DemoShare(Struct, frozen=True):
    """What the demo showed; all three map an attempt to a status, None for none."""

    shown: dict[Attempt, int | None]
    true: dict[Attempt, int | None]
    due: dict[Attempt, int | None]
    """Those of `true` whose exchange was listed by then."""

    @property
    def carried(self) -> int:
        """The number of attempts in `due` that were shown with their status."""
        return sum(self.shown[attempt] == status for attempt, status in self.due.items())

    @property
    def share(self) -> float:
        """The share of them."""
        return self.carried / len(self.due)


def demo_share(printed: str) -> DemoShare:
    """Returns the share of attempts in the output of `faillog-otel demo --all`."""
    polls = [parse_rfc3339(text) or 0 for text in _POLL.findall(printed)]
    statuses: dict[str, tuple[int, int | None]] = {}
    attempts: dict[Attempt, tuple[int, str]] = {}
    with _demo_segment() as segment:
        for record in _records(segment):
            poll = sum(poll_ns < record.available_ns for poll_ns in polls)
            own = json.loads(record.raw)["properties"]
            if record.is_exchange:
                answer = own.get("responseFromDestination", {})
                statuses[own["destinationExchangeId"]] = (poll, answer.get("status"))
            elif record.exchange_id:
                attempts[own["messageId"], own["attempt"]] = (poll, record.exchange_id)
    true, due = {}, {}
    for attempt, (poll, exchange_id) in attempts.items():
        listed, status = statuses.get(exchange_id, (len(polls), None))
        true[attempt] = status
        if listed <= poll < len(polls):
            due[attempt] = status
    return DemoShare(dict(_shown(printed)), true, due)


def _records(segment: Simulator) -> Iterator[TrueRecord]:
    """The records of the hours that the demo polls, except the damaged ones."""
    for collection in segment.config.world.collections:
        for text in ("2025-05-07T22:00:00Z", "2025-05-07T23:00:00Z"):
            for record in segment.world.records(collection, (parse_rfc3339(text) or 0) // (3600 * 10**9)):
                if not record.damaged:
                    yield record


def _shown(printed: str) -> Iterator[tuple[Attempt, int | None]]:
    message = ""
    for line in printed.splitlines():
        if found := _MESSAGE.match(line):
            message = found[1]
        elif found := _ATTEMPT.match(line):
            yield (message, int(found[1])), int(found[2]) if found[2] else None


def main() -> None:
    """Prints the share."""
    found = demo_share(sys.stdin.read())
    print(
        f"{found.carried} of {len(found.due)} attempts carry the status of their exchange ({found.share:.2%})"
    )


if __name__ == "__main__":
    main()
