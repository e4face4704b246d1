"""A simulated week with incidents, polled by the real program; `failures --json` against the truth.

The program runs in this process, once a simulated day as cron starts it; its waits move the simulator's
clock. `differences` and `counts_differ` know nothing of the program's code: they read its JSON.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from click.testing import CliRunner, Result
from msgspec import Struct
from msgspec.structs import astuple

from faillog_otel.cli import cli
from faillog_otel.clock import HOUR_NS, parse_rfc3339, time_text
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.collector import Receiver
from faillog_otel.sandbox.config import SimulatedClock, SimulatorConfig, WorldConfig
from faillog_otel.sandbox.failures import FailureSums
from faillog_otel.sandbox.generator import Dialect
from faillog_otel.sandbox.incidents import Incident, IncidentKind

MONDAY_NS = (parse_rfc3339("2026-11-02T00:00:00Z") or 0) + 7 * 60 * 10**9
"""When the week begins, and the program starts."""
COLLECTIONS = ("shop-mixpanel", "shop-braze", "shop-webhooks", "shop-amplitude")
POLL_EVERY_HOURS = 24


class Cause(Struct, frozen=True):
    """What `failures` has to say of an incident's group."""

    codes: frozenset[str | None]
    status: int | None
    classes: frozenset[str]
    retryable: bool
    reason: str
    """A part of it, if records say one."""
    remedy: frozenset[str]
    """Words, one of which has to be in it."""
    says_reason: bool = False
    """Whether records of every dialect say a reason in words."""


CAUSES: dict[str | None, Cause] = {
    "down": Cause(
        frozenset(("503",)),
        503,
        frozenset(("destination_down",)),
        True,
        "Service Unavailable",
        frozenset(("status page", "replay")),
    ),
    "wrong-key": Cause(
        frozenset(("INVALID_SETTINGS", "401")),
        401,
        frozenset(("credentials", "settings")),
        False,
        "",
        frozenset(("key", "setting")),
    ),
    "bad-mapping": Cause(
        frozenset(("400", "PAYLOAD_VALIDATION_FAILED")),
        400,
        frozenset(("payload",)),
        False,
        "Invalid value",
        frozenset(("mapping",)),
        says_reason=True,
    ),
    "rate-limit": Cause(
        frozenset(("429",)),
        429,
        frozenset(("rate_limit",)),
        True,
        "Rate limit exceeded",
        frozenset(("higher limit", "batch")),
    ),
    "slow-network": Cause(
        frozenset(("ETIMEDOUT", "ECONNRESET")),
        None,
        frozenset(("network",)),
        True,
        "",
        frozenset(("batch size", "endpoint", "retries")),
    ),
}


def hour_ns(text: str) -> int:
    """A time of that week, such as `2026-11-03T09:00`."""
    at_ns = parse_rfc3339(f"{text}:00Z")
    assert at_ns is not None
    return at_ns


WEEK = (
    Incident("shop-mixpanel", "down", hour_ns("2026-11-04T14:00"), hour_ns("2026-11-04T17:00")),
    Incident("shop-braze", "wrong-key", hour_ns("2026-11-03T09:00")),  # Tuesday
    Incident("shop-webhooks", "bad-mapping", hour_ns("2026-11-05T15:30"), hour_ns("2026-11-06T09:40")),
    Incident("shop-amplitude", "rate-limit", hour_ns("2026-11-06T19:00"), hour_ns("2026-11-06T22:00")),
    Incident("shop-webhooks", "slow-network", hour_ns("2026-11-02T10:00"), hour_ns("2026-11-02T14:00")),
)
"""Five incidents: a destination down for three hours; a wrong key from Tuesday 09:00; a mapping broken by a
deploy, and mended the next morning; a rate limit; a slow network."""

_OF_DAY: tuple[tuple[str, IncidentKind, int], ...] = (
    ("shop-mixpanel", "down", 6),
    ("shop-braze", "wrong-key", 7),
    ("shop-webhooks", "bad-mapping", 8),
    ("shop-amplitude", "rate-limit", 9),
    ("shop-webhooks", "slow-network", 3),
)
DAY = tuple(
    Incident(collection, kind, hour_ns(f"2026-11-02T{hour:02}:00"), hour_ns(f"2026-11-02T{hour + 1:02}:00"))
    for collection, kind, hour in _OF_DAY
)
"""The same five, an hour each."""


class Counts(Struct, frozen=True):
    """Messages by state, attempts and requests."""

    lost: int = 0
    pending: int = 0
    recovered: int = 0
    attempts: int = 0
    requests: int = 0

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Self:
        """Those of a group, or the totals."""
        return cls(**found["messages"], attempts=found["attempts"], requests=found["requests"])

    def __add__(self, other: Self) -> Self:
        return type(self)(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))


class PolledWeek:
    """Segment, a collector, and the program's state folder."""

    def __init__(self, segment: Simulator, receiver: Receiver, folder: Path) -> None:
        self.segment = segment
        self._receiver = receiver
        self._env = {
            "FAILLOG_STATE_DIR": str(folder / "state"),
            "SEGMENT_TOKEN": segment.token,
            "FAILLOG_SEGMENT_COUNTS": "false",  # the simulator would count millions of messages
        }

    def run(self, command: str, *args: str) -> Result:
        """Runs a command in this process, at Segment's time."""
        done = CliRunner().invoke(cli, [command, *args], obj=self.segment.clock, env=self._env)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.output
        return done

    def poll_until(self, end_ns: int) -> None:
        """Runs `run --once` once a day until then, and at the end."""
        clock = self.segment.clock
        while True:
            done = self.run("run", "--once", "-q", "--since", time_text(MONDAY_NS), *self._hosts)
            assert done.exit_code in (0, 6), done.output  # 6: hours wait for the quota
            self._receiver.received.clear()  # they are many
            if clock.now_ns() >= end_ns:
                return
            clock.move_to(min(clock.now_ns() + POLL_EVERY_HOURS * HOUR_NS, end_ns))

    def failures(self) -> dict[str, Any]:
        """What `failures --json` prints."""
        done = self.run("failures", "--json", "--all")
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    @property
    def _hosts(self) -> list[str]:
        hosts = ["--segment-url", self.segment.url, "--download-host", self.segment.download_host]
        collections = [f"--collection={name}" for name in COLLECTIONS]
        return [*hosts, *collections, "--endpoint", self._receiver.http_endpoint]


@contextmanager
def polled_week(
    folder: Path, incidents: Sequence[Incident], per_hour: float, dialect: Dialect
) -> Iterator[PolledWeek]:
    """Starts Segment, where nothing fails but in the incidents, and a collector."""
    world = WorldConfig(
        collections=COLLECTIONS,
        messages=0,
        incidents=tuple(incidents),
        incident_messages=per_hour,
        dialect=dialect,
        growth=("rewrite",),
    )
    clock = SimulatedClock(MONDAY_NS, standing=True)
    with Simulator(SimulatorConfig(world=world), clock) as segment, Receiver() as receiver:
        yield PolledWeek(segment, receiver, folder)


def differences(found: Mapping[str, Any], truth: Iterable[FailureSums]) -> list[str]:
    """What `failures --json` says otherwise than the simulator, where each incident is a group."""
    wrong = []
    left = list(found["groups"])
    for sums in truth:
        cause = CAUSES[sums.kind]
        own = [
            group
            for group in left
            if group["destination"]["id"] == sums.destination
            and group["code"] in cause.codes
            and group["status"] == cause.status
        ]
        if len(own) != 1:
            wrong.append(f"{sums.incident}: {len(own)} groups instead of one: {own}")
            continue
        left.remove(own[0])
        wrong += [f"{sums.incident}: {each}" for each in _group_differences(own[0], sums, cause)]
    wrong += [f"a group of no incident: {group}" for group in left]
    if found["left_out"]:
        wrong.append(f"{found['left_out']} left out")
    return wrong + counts_differ(found, truth)


def _group_differences(group: Mapping[str, Any], sums: FailureSums, cause: Cause) -> Iterator[str]:
    expected = {
        "messages": {"lost": sums.lost, "pending": sums.pending, "recovered": sums.recovered},
        "attempts": sums.attempts,
        "requests": sums.exchanges,
        "retryable": cause.retryable,
    }
    for key, value in expected.items():
        if group[key] != value:
            yield f"{key} {group[key]} instead of {value}"
    if group["class"] not in cause.classes:
        yield f"class {group['class']}"
    if cause.reason not in (group["reason"] or ("" if cause.says_reason else cause.reason)):
        yield f"reason {group['reason']!r} without {cause.reason!r}"
    if not any(word in group["remedy"] for word in cause.remedy):
        yield f"remedy {group['remedy']!r} with none of {sorted(cause.remedy)}"
    for key, at in (("first_seen", sums.first_failure), ("last_seen", sums.last_failure)):
        said_ns, true_ns = parse_rfc3339(group[key]), parse_rfc3339(at)
        if said_ns is None or true_ns is None or abs(said_ns - true_ns) > HOUR_NS:
            yield f"{key} {group[key]} instead of {at}"
    if sum(group["by_hour"].values()) != sums.messages:
        yield f"by_hour adds up to {sum(group['by_hour'].values())} instead of {sums.messages} messages"
    if not group["sample"]["message_id"]:
        yield "no sample"


def counts_differ(found: Mapping[str, Any], truth: Iterable[FailureSums]) -> list[str]:
    """Counts by destination that `failures --json` says otherwise than the simulator, whatever the groups."""
    said, true = defaultdict[str, Counts](Counts), defaultdict[str, Counts](Counts)
    for group in found["groups"]:
        said[group["destination"]["id"]] += Counts.of(group)
    for each in truth:
        true[each.destination] += Counts(
            each.lost, each.pending, each.recovered, each.attempts, each.exchanges
        )
    said["in all"], true["in all"] = Counts.of(found["totals"]), sum(true.values(), Counts())
    return [
        f"{destination}: {said[destination]} instead of {true[destination]}"
        for destination in sorted({*said, *true})
        if said[destination] != true[destination]
    ]
