"""How many attempts carry the status and reason of their exchange: days of polling in simulated time.

The real program polls a simulated Segment and forwards to a receiver, with restarts and times without a
collector. What it sent is judged by the simulator's truth. Positions count Segment's requests: an object is
downloaded before a record is exported if its request is in the journal when the record arrives.
"""

import json
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from faillog_otel.app.run_sidecar import poll
from faillog_otel.clock import DAY_NS, HOUR_NS, parse_rfc3339, time_text
from faillog_otel.config import RunConfig, Signal
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.bookkeeping import MAX_JOURNAL_ENTRIES, JournalEntry
from faillog_otel.sandbox.collector import REQUESTS, Receiver, Reply, records_of
from faillog_otel.sandbox.config import ExchangeHour, Growth, SimulatedClock, SimulatorConfig, WorldConfig
from faillog_otel.sandbox.objects import TrueRecord
from faillog_otel.settings import BY_PATH
from faillog_otel.sources import Layer, resolve
from support.quota_run import START_NS, record_uid

COLLECTIONS = ("shop", "app", "web")
"""Their destinations: one answers some batches, one refuses each message, one does not answer at times."""
STEP_SECONDS = 600.0
STATUS, REASON, ERROR = "http.response.status_code", "segment.reason", "error.type"
MESSAGE_COUNT = "messaging.batch.message_count"

Said = tuple[int | None, str | None]
"""A status and a reason."""


class Arrived(Struct, frozen=True):
    """A request to the receiver, and how many requests Segment had answered before."""

    position: int
    signal: Signal
    body: bytes


class Answer(Struct, frozen=True):
    """What an exchange says, and where it was first downloaded."""

    position: int
    status: int | None
    reason: str | None


class Origin(Struct, frozen=True):
    """Where a record was first downloaded; `known_until`: the last download of the same listing."""

    raw: dict[str, Any]
    position: int
    known_until: int


class Shares(Struct):
    """What was found. Attempts that would say the same without their exchange are not counted."""

    attempts: int = 0
    due: int = 0
    """Attempts whose exchange was downloaded by the end of their own listing, and before they were sent."""
    carried: int = 0
    """Those of them that carry its status and reason."""
    due_when_sent: int = 0
    """Attempts whose exchange was downloaded before they were sent, from any listing."""
    carried_when_sent: int = 0
    due_counts: int = 0
    """Exchanges whose own listing, or an earlier one, has attempts of theirs."""
    counts: int = 0
    """Those of them with a message count."""
    sent_again: int = 0
    """Records that arrived more than once."""
    wrong: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """The share of attempts that carry what their exchange says, of those that could."""
        return self.carried / self.due

    @property
    def count_share(self) -> float:
        """The share of exchanges with a message count, of those whose attempts were known."""
        return self.counts / self.due_counts

    def __str__(self) -> str:
        return (
            f"{self.carried} of {self.due} attempts carry what their exchange says ({self.share:.2%}); "
            f"{self.carried_when_sent} of {self.due_when_sent} if objects count until an attempt is sent; "
            f"{self.attempts} attempts in all; {self.counts} of {self.due_counts} exchanges have a message "
            f"count; {self.sent_again} records sent again; {len(self.wrong)} wrong"
        )


class RunClock:
    """Segment's clock, which stands still but for what is waited. After `end_ns` a wait ends the run."""

    def __init__(self, clock: SimulatedClock, end_ns: int) -> None:
        self._clock = clock
        self._end_ns = end_ns

    def now_ns(self) -> int:
        return self._clock.now_ns()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def wait(self, seconds: float) -> bool:
        if self.now_ns() >= self._end_ns:
            return True
        time.sleep(0.0005)  # other threads get a turn, as they would while an hour passes
        return self._clock.wait(min(seconds, STEP_SECONDS))


class AnswersRun:
    """The program, Segment and a collector that is away now and then.

    While it is away, it takes half of the requests without an answer, so the program sends them again.
    """

    def __init__(self, folder: Path, world: WorldConfig) -> None:
        self.segment = Simulator(SimulatorConfig(world=world), SimulatedClock(START_NS, standing=True))
        self.receiver = Receiver(self._answer)
        self.arrived: list[Arrived] = []
        self._state = folder / "state"
        self._rng = random.Random(world.seed)
        self._away_from_ns = 0

    def poll(self, days: float) -> None:
        """Polls for so long; restarts every 3 to 15 hours, and the collector is away in the hour before."""
        config, clock = self._config(), self.segment.clock
        end_ns = clock.now_ns() + int(days * DAY_NS)
        while clock.now_ns() < end_ns:
            stop_ns = clock.now_ns() + int(self._rng.uniform(3, 15) * HOUR_NS)
            self._away_from_ns = stop_ns - HOUR_NS
            poll(config, once=False, clock=RunClock(clock, min(stop_ns, end_ns)))

    def _answer(self, signal: Signal, body: bytes) -> Reply | None:
        is_away = self._away_from_ns <= self.segment.clock.now_ns()
        if is_away and self._rng.random() < 0.5:
            return Reply(503)
        self.arrived.append(Arrived(len(self.segment.requests()), signal, body))
        return Reply(hangs_up=True) if is_away else None

    def _config(self) -> RunConfig:
        values = {
            "otlp.endpoint": self.receiver.http_endpoint,
            "segment.url": self.segment.url,
            "segment.token": self.segment.token,
            "segment.collections": list(self.segment.config.world.collections),
            "segment.since": time_text(START_NS - 4 * HOUR_NS),
            "segment.download_hosts": [self.segment.download_host],
            "run.state_dir": str(self._state),
            "run.wait": "100ms",
        }
        parsed = {path: BY_PATH[path].parse(value, path) for path, value in values.items()}
        return resolve([Layer("test", parsed)])


@contextmanager
def answers_run(
    folder: Path,
    *,
    exchange_hour: ExchangeHour = "message",
    growth: tuple[Growth, ...] = ("append", "append", "repack"),
    messages: float = 4.0,
    seed: int = 5,
) -> Iterator[AnswersRun]:
    """Starts Segment and a collector."""
    world = WorldConfig(
        collections=COLLECTIONS, messages=messages, growth=growth, exchange_hour=exchange_hour, seed=seed
    )
    run = AnswersRun(folder, world)
    with run.segment, run.receiver:
        yield run


def judge(run: AnswersRun) -> Shares:
    """Compares what arrived with what Segment had."""
    truth, found = Truth(run.segment), Shares()
    logs: dict[str, tuple[int, Any, bytes]] = {}
    spans: dict[tuple[bytes, bytes], dict[str, Any]] = {}
    for arrived in run.arrived:
        for record in records_of(REQUESTS[arrived.signal].FromString(arrived.body)):
            attributes = attributes_of(record)
            if arrived.signal == "traces":
                spans[record.trace_id, record.span_id] = attributes
                continue
            uid, content = attributes["log.record.uid"], record.SerializeToString(deterministic=True)
            if uid not in logs:
                logs[uid] = arrived.position, record, content
                continue
            found.sent_again += 1
            if logs[uid][2] != content:
                found.wrong.append(f"{uid}: sent again with other content")
    for uid, (position, log, _) in logs.items():
        attributes = attributes_of(log)
        if log.event_name not in ("segment.attempt", "segment.exchange"):
            continue
        span = spans.get((log.trace_id, log.span_id))
        if span is not None and span != {name: attributes.get(name) for name in span}:
            found.wrong.append(f"{uid}: its span has other attributes: {span}, {attributes}")
        if log.event_name == "segment.attempt":
            truth.judge_attempt(uid, position, attributes, found)
        else:
            truth.judge_exchange(uid, position, attributes, found)
    return found


def attributes_of(record: Any) -> dict[str, Any]:
    """The attributes of a log record or span as plain values; arrays stay messages."""
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value")
        for pair in record.attributes
    }


class Truth:
    """What Segment had, as far as the program downloaded it."""

    def __init__(self, segment: Simulator) -> None:
        self._segment = segment
        self._answers: dict[str, Answer] = {}
        self._origins: dict[str, Origin] = {}
        self._attempts: defaultdict[str, list[int]] = defaultdict(list)
        """Exchange → where each of its attempts was first downloaded."""
        requests = segment.requests()
        assert len(requests) < MAX_JOURNAL_ENTRIES, "the journal has forgotten requests"
        listing, last_of = self._listings(requests)
        for position, entry in enumerate(requests):
            for record in self._downloaded(entry):
                self._add(record, position, last_of[listing[position]])

    def judge_attempt(self, uid: str, sent_at: int, attributes: dict[str, Any], found: Shares) -> None:
        """Adds an attempt to what was found."""
        found.attempts += 1
        origin = self._origins[uid]
        properties = origin.raw["properties"]
        answer = self._answers.get(properties["destinationExchangeId"])
        alone: Said = (None, properties.get("reason"))
        says: Said = (attributes.get(STATUS), attributes.get(REASON))
        has_arrived = answer is not None and answer.position < sent_at
        together = (answer.status, alone[1] or answer.reason) if answer and has_arrived else alone
        if says not in (alone, together):
            found.wrong.append(f"{uid}: says {says}; true: {together}, or {alone} without its exchange")
        if says[0] is not None and properties["outcome"] == "failure" and attributes[ERROR] != str(says[0]):
            found.wrong.append(f"{uid}: {ERROR} is {attributes[ERROR]!r}, the status {says[0]}")
        if answer is None or together == alone:
            return
        found.due_when_sent += 1
        found.carried_when_sent += says == together
        if answer.position <= origin.known_until:
            found.due += 1
            found.carried += says == together

    def judge_exchange(self, uid: str, sent_at: int, attributes: dict[str, Any], found: Shares) -> None:
        """Adds an exchange to what was found."""
        origin = self._origins[uid]
        attempts = self._attempts[origin.raw["properties"]["destinationExchangeId"]]
        most = sum(position < sent_at for position in attempts)
        least = sum(position < sent_at and position <= origin.known_until for position in attempts)
        count = attributes.get(MESSAGE_COUNT)
        if count is not None and not least <= count <= most:
            found.wrong.append(f"{uid}: {MESSAGE_COUNT} is {count}; true: {least} to {most}")
        if least:
            found.due_counts += 1
            found.counts += count is not None

    def _listings(self, requests: list[JournalEntry]) -> tuple[dict[int, int], dict[int, int]]:
        """The listing of each download, and the last download of each listing; all by their positions."""
        latest: dict[tuple[str | None, str | None], int] = {}
        listing: dict[int, int] = {}
        for position, entry in enumerate(requests):
            if entry.origin == "api" and entry.counted:
                latest[entry.collection, entry.hour] = position
            elif entry.origin == "downloads":
                listing[position] = latest[entry.collection, entry.hour]
        return listing, {of: position for position, of in listing.items()}

    def _downloaded(self, entry: JournalEntry) -> tuple[TrueRecord, ...]:
        """The records of an object that a request got."""
        if entry.origin != "downloads" or entry.status != 200 or entry.fault is not None:
            return ()
        at_ns = parse_rfc3339(entry.at)
        assert at_ns is not None
        stored = self._segment.world.find(entry.path.removeprefix("/"), at_ns)
        assert stored is not None
        return stored.records

    def _add(self, record: TrueRecord, position: int, known_until: int) -> None:
        uid = record_uid(record.raw)
        if uid in self._origins:
            return
        raw = json.loads(record.raw)
        self._origins[uid] = Origin(raw, position, known_until)
        if record.exchange_id is None:
            return
        if not record.is_exchange:
            self._attempts[record.exchange_id].append(position)
            return
        properties = raw["properties"]
        status = properties.get("responseFromDestination", {}).get("status")
        self._answers.setdefault(record.exchange_id, Answer(position, status, properties.get("reason")))
