"""A collector that fails three times in ten, in every way at once, under a hundred thousand events."""

import hashlib
import json
import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.delivery import endpoint_of
from support.events import error
from support.program import run_program
from support.tiers import slow

from faillog_otel.config import Signal
from faillog_otel.sandbox.collector import Received, Receiver, Reply, records_of
from faillog_otel.sandbox.generator import failure_events

pytestmark = slow

HTTP = [
    Reply(429),
    Reply(429, headers={"retry-after": "0"}),
    Reply(429, headers={"retry-after": "in a while"}),
    Reply(502),
    Reply(503),
    Reply(503, headers={"retry-after": "Fri, 01 Jan 2021 00:00:00 GMT"}),
    Reply(504),
    Reply(hangs_up=True),
    Reply(hangs_up=True, taken=True),
    Reply(503, delay_seconds=0.2),
    Reply(delay_seconds=4.0, taken=True),
]
GRPC = [
    Reply(code="UNAVAILABLE"),
    Reply(code="UNAVAILABLE", retry_seconds=0.1),
    Reply(code="RESOURCE_EXHAUSTED", retry_seconds=0.1),
    Reply(code="ABORTED"),
    Reply(code="DATA_LOSS", taken=True),
    Reply(code="CANCELLED"),
    Reply(delay_seconds=4.0, taken=True),
]
POISON = [error(messageId=f"poison-{n}") for n in range(2)]


class Failing:
    """Answers badly three times in ten, in all ways by turns; refuses poison always."""

    def __init__(self, faults: list[Reply], poison: Reply, seed: int) -> None:
        self.seen: Counter[int] = Counter()
        self._faults = faults
        self._turn = 0
        self._ten: list[bool] = []
        self._poison = poison
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def __call__(self, _signal: Signal, body: bytes) -> Reply | None:
        is_poisoned = b"poison-" in body
        with self._lock:
            if self._fails_now():
                chosen = self._turn % len(self._faults)
                self._turn += 1
                if not (is_poisoned and self._faults[chosen].taken):
                    self.seen[chosen] += 1
                    return self._faults[chosen]
        return self._poison if is_poisoned else None

    def _fails_now(self) -> bool:
        """Three of each ten requests, in any order."""
        if not self._ten:
            self._ten = [True] * 3 + [False] * 7
            self._random.shuffle(self._ten)
        return self._ten.pop()


def identity(signal: Signal, record: Any) -> str:
    if signal == "traces":
        return str(record.span_id.hex())
    return next(str(pair.value.string_value) for pair in record.attributes if pair.key == "log.record.uid")


def by_identity(received: list[Received], wanted: Callable[[Received], bool]) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = defaultdict(list)
    for request in received:
        if wanted(request):
            for record in records_of(request.request()):
                found[request.signal + identity(request.signal, record)].append(record.SerializeToString())
    return found


@pytest.mark.timeout(800)
@pytest.mark.parametrize(
    ("protocol", "faults", "poison", "messages"),
    [
        ("http/protobuf", HTTP, Reply(400), 27_000),
        ("grpc", GRPC, Reply(code="INTERNAL"), 10_000),
    ],
)
def test_nothing_is_lost_nothing_is_invented_and_every_resend_is_byte_identical(
    tmp_path: Path, protocol: Any, faults: list[Reply], poison: Reply, messages: int
) -> None:
    events = list(failure_events(7, messages))
    for at, bad in enumerate(POISON):
        events.insert(len(events) * (at + 1) // 6, bad)
    tmp_path.joinpath("events").write_bytes(b"\n".join(events))
    script = Failing(faults, poison, seed=1)
    with Receiver(script) as receiver:
        done = run_program(
            *("run", "events", "--endpoint", endpoint_of(receiver, protocol), "--protocol", protocol),
            *("--summary", "json", "--wait", "300s", "-q"),
            cwd=tmp_path,
            timeout=700,
            OTEL_EXPORTER_OTLP_TIMEOUT="2000",
        )
    summary = done.summary
    assert set(script.seen) == set(range(len(faults))), "each fault was seen"
    assert done.code == 3, done.stderr
    assert summary["records"] == len(events)
    assert (summary["quarantined"], summary["exported"]) == (len(POISON), len(events) - len(POISON))
    kept = tmp_path.joinpath("faillog-quarantine.jsonl").read_text("utf-8").splitlines()
    assert sorted(json.loads(entry)["raw"].encode() for entry in kept) == sorted(POISON)

    taken = by_identity(receiver.received, lambda request: request.taken)
    sent = by_identity(receiver.received, lambda _: True)
    logs = {key for key in taken if key.startswith("logs")}
    names = {"Error": "error", "Delivery": "attempt", "Destination": "exchange"}
    expected = {
        "logs" + hashlib.sha256(f"segment.{names[kind(raw)]}\n".encode() + raw).hexdigest()[:32]
        for raw in events
        if raw not in POISON
    }
    assert logs == expected, "exactly the good events arrived"
    assert len(taken) - len(logs) == summary["events"]["attempt"] + summary["events"]["exchange"]
    assert all(len(set(copies)) == 1 for copies in sent.values()), "a record is the same bytes each time"
    assert summary["sent"] == {"logs": len(logs), "spans": len(taken) - len(logs)}
    sends = sum(map(len, sent.values()))
    assert sends <= 1.6 * len(taken)


def kind(raw: bytes) -> str:
    return str(json.loads(raw)["event"]).split()[0]
