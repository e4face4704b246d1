"""Files of different shapes: `PYTHONPATH=tests python -m benchmarks.shapes 400-routes FILE --events 9000`.

A figure from one friendly file says little: caches serve a file with three routes, and no file in which every
event has a reason of its own. Of 14 events, about 10 are attempts, 3 errors and 1 an exchange, except in the
shape with an exchange for each attempt.
"""

import argparse
import gzip
import random
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

ROUTES = "400-routes"
"""The shape that the targets are about."""
_START = datetime(2026, 5, 7, 23, tzinfo=UTC)
_ERRORS_PER_ATTEMPT = 0.3
_WORDS = (
    *("the", "request", "property", "value", "field", "was", "rejected", "because", "invalid", "missing"),
    *("expected", "string", "number", "batch", "index", "customer", "order", "checkout", "timeout", "remote"),
    *("server", "returned", "unexpected", "schema", "validation", "mapping", "audience", "limit", "größer"),
)


class Shape(Struct, frozen=True):
    """What varies between the events of a file. Lengths are in characters."""

    name: str
    about: str
    routes: int = 400
    attempts_per_exchange: int = 10
    is_joined: bool = False
    """Whether messageIds carry a trace context."""
    extras: int = 0
    """Unknown fields of each event."""
    answer_length: int = 120
    new_answers: bool = False
    """Whether no two exchanges have the same answer."""
    reason_length: int = 0
    """Of a reason that no other attempt or error has; 0 for none."""
    is_gzip: bool = False


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("1-route", "one route", routes=1),
        Shape(ROUTES, "400 routes"),
        Shape("gzip", "400 routes, compressed by gzip", is_gzip=True),
        Shape("10000-routes", "10,000 routes", routes=10_000),
        Shape("exchanges", "an exchange for each attempt", attempts_per_exchange=1),
        Shape("extras", "two unknown fields in each event", extras=2),
        Shape("answers", "a new answer of 3 KB for each exchange", answer_length=3_000, new_answers=True),
        Shape("joined", "messageIds that carry a trace context", is_joined=True),
        Shape("reasons", "a new reason of 400 characters for each attempt and error", reason_length=400),
    )
}


class Made(Struct, frozen=True):
    """A file of failure logs. It gives a log record for each event, and so many spans."""

    path: Path
    events: int
    spans: int
    bytes: int


class _Writer:
    """Writes events of one shape."""

    def __init__(self, shape: Shape, seed: int) -> None:
        self._shape = shape
        self._rng = rng = random.Random(seed)
        destinations = [f"{rng.getrandbits(96):024x}" for _ in range(max(1, min(50, shape.routes)))]
        sources = [_short_id(rng) for _ in range(max(1, min(200, shape.routes)))]
        pairs = [(to, source) for to in destinations for source in sources]
        self._routes = rng.sample(pairs, min(shape.routes, len(pairs)))
        self._answers = [self._text(shape.answer_length) for _ in range(300)]
        self._now = _START

    def events(self) -> Iterator[bytes]:
        rng, shape = self._rng, self._shape
        while True:
            route, exchange_id = rng.choice(self._routes), str(uuid.UUID(int=rng.getrandbits(128), version=4))
            status = rng.choice((200, 200, 400, 401, 429, 500, 503))
            yield self._event(route, "Destination Exchange Logged", self._exchange(exchange_id, status))
            for _ in range(shape.attempts_per_exchange):
                message, attempt = self._message_id(), rng.randint(1, 9)
                own: dict[str, Any] = {
                    "attempt": attempt,
                    "outcome": "success" if status < 400 else "failure",
                    "destinationExchangeId": exchange_id,
                    "messageId": message,
                }
                yield self._event(route, "Delivery Attempt Logged", own | self._reason())
                if rng.random() < _ERRORS_PER_ATTEMPT:
                    error = {"discarded": rng.random() < 0.5, "messageId": message}
                    yield self._event(route, "Error Logged", error | self._reason())

    def _event(self, route: tuple[str, str], name: str, own: dict[str, Any]) -> bytes:
        to, source = route
        rng = self._rng
        self._now += timedelta(milliseconds=rng.randint(0, 40))
        extras = {f"extra{each}": self._text(20) for each in range(self._shape.extras)}
        properties = {
            "routed": {"to": [{"type": "destination", "id": to}], "from": [{"type": "source", "id": source}]},
            **own,
            **extras,
            "occurredAt": _rfc3339(self._now),
            "loggedAt": _rfc3339(self._now + timedelta(milliseconds=rng.randint(200, 4_000))),
        }
        return msgspec.json.encode(
            {"type": "observability", "event": name, "version": "v1", "properties": properties}
        )

    def _exchange(self, exchange_id: str, status: int) -> dict[str, Any]:
        rng = self._rng
        new = self._shape.new_answers
        text = self._text(self._shape.answer_length) if new else rng.choice(self._answers)
        headers = {
            "Content-Type": "application/json",
            "Date": format(self._now, "%a, %d %b %Y %H:%M:%S GMT"),
            "X-Request-Id": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        }
        body = msgspec.json.encode({"code": status, "error": text}).decode()
        return {
            "destinationExchangeId": exchange_id,
            "requestToDestination": {"body": '{"batch":[]}'},
            "responseFromDestination": {"status": status, "headers": headers, "body": body},
        }

    def _reason(self) -> dict[str, str]:
        length = self._shape.reason_length
        return {"reason": self._text(length)} if length else {}

    def _message_id(self) -> str:
        rng = self._rng
        if self._shape.is_joined:
            return f"00-{rng.getrandbits(128):032x}-{rng.getrandbits(64):016x}-01-{rng.getrandbits(32):08x}"
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))

    def _text(self, length: int) -> str:
        words, size = [], 0
        while size < length:
            word = self._rng.choice(_WORDS) if self._rng.random() < 0.9 else str(self._rng.randrange(10**6))
            words.append(word)
            size += len(word) + 1
        return " ".join(words)[:length]


def events_of(shape: Shape, events: int, seed: int = 1) -> Iterator[bytes]:
    """Yields exactly so many events of a shape, JSON without a newline; the same for the same seed."""
    return islice(_Writer(shape, seed).events(), events)


def make_shape(path: Path, shape: Shape, events: int, seed: int = 1) -> Made:
    """Writes a file of so many events of a shape, one a line."""
    spans = 0
    with gzip.open(path, "wb", compresslevel=6) if shape.is_gzip else path.open("wb") as file:
        for event in events_of(shape, events, seed):
            spans += b'"event":"Error Logged"' not in event
            file.write(event + b"\n")
    return Made(path, events, spans, path.stat().st_size)


def _rfc3339(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _short_id(rng: random.Random) -> str:
    return "".join(rng.choices("abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789", k=22))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("file", type=Path)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    make_shape(chosen.file, SHAPES[chosen.shape], chosen.events, chosen.seed)


if __name__ == "__main__":
    main()
