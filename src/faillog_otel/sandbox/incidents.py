"""Injected incidents: the destination of a collection fails, in a given way and for a given time.

A message that begins to fail in an incident is answered by that incident only. Answers contain ids, numbers,
addresses and quoted values that vary, as real ones do. The same seed gives the same messages and answers.
"""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Literal

from msgspec import Struct

from faillog_otel.clock import SECOND_NS, time_text
from faillog_otel.sandbox.destinations import Destination, DestinationAnswer
from faillog_otel.sandbox.generator import Dialect, Logged, logged_batches

IncidentKind = Literal["down", "wrong-key", "bad-mapping", "rate-limit", "slow-network"]
"""`down`: 503 to all attempts; `wrong-key`: 401, discarded at once; `bad-mapping`: 400 that names a field,
discarded at once; `rate-limit`: 429 to whole batches, and to half of their retries; `slow-network`: no
response to first attempts, and to half of their retries. Attempts after the end succeed."""
INCIDENT_KINDS: tuple[IncidentKind, ...] = ("down", "wrong-key", "bad-mapping", "rate-limit", "slow-network")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OK = DestinationAnswer(1, 200, {"status": "ok"})
_RETRY_SUCCEEDS = 0.5
_MAX_BATCH = 100
"""Messages in a batch that meets a rate limit."""
_FIELDS = ("order_total", "currency", "signup_date", "products.0.price", "phone_country")
_VALUES = ("EUR 12.50", "n/a", "12,50", "undefined", "1 199,00 kr", "-", "[object Object]")


class Incident(Struct, frozen=True):
    """One incident. Times are nanoseconds since 1970."""

    collection: str
    kind: IncidentKind
    start_ns: int
    end_ns: int | None = None
    """None: it does not end."""

    def __str__(self) -> str:
        """The incident as `simulate --incident` reads it."""
        end = "" if self.end_ns is None else time_text(self.end_ns)
        return f"{self.collection}={self.kind}:{time_text(self.start_ns)}..{end}"


def incident_events(
    seed: int,
    incident: Incident,
    per_hour: float,
    *,
    from_ns: int,
    to_ns: int,
    destination: Destination,
    retry_seconds: tuple[int, ...],
    dialect: Dialect,
) -> Iterator[Logged]:
    """Yields the events of messages that begin to fail in the incident, between two times within it.

    `per_hour`: messages an hour; there is at least one. `seed` is for these messages only. The code of
    `slow-network` and the field of `bad-mapping` are the same in all of an incident.
    """
    rng = random.Random(seed)
    count = max(1, round(per_hour * (to_ns - from_ns) / (3600 * SECOND_NS)))
    max_batch = destination.batch
    if incident.kind == "bad-mapping":
        max_batch = 1  # an answer names the field of one message
    elif incident.kind == "rate-limit":
        max_batch = min(_MAX_BATCH, max(2, count // 4))
    batches = []
    while count:
        size = min(count, rng.randint(1, max_batch))
        count -= size
        batches.append((_time(rng.randrange(from_ns, to_ns)), size))
    return logged_batches(
        rng,
        sorted(batches),
        partial(_answer, rng, incident, _FAILURES[incident.kind]),
        destination=destination,
        retry_seconds=retry_seconds,
        dialect=dialect,
    )


def _answer(
    rng: random.Random, incident: Incident, failure: "_Failure", at: datetime, attempt: int
) -> DestinationAnswer:
    is_over = incident.end_ns is not None and at >= _time(incident.end_ns)
    may_succeed = incident.kind in ("rate-limit", "slow-network")
    if is_over or (may_succeed and attempt > 1 and rng.random() < _RETRY_SUCCEEDS):
        return _OK
    return failure(rng, random.Random(str(incident)))


_Failure = Callable[[random.Random, random.Random], DestinationAnswer]
"""Returns an answer. The second generator gives what is the same in all of an incident."""


def _down(rng: random.Random, _incident: random.Random) -> DestinationAnswer:
    body = {"error": f"Service Unavailable (request {_hex(rng, 24)})", "upstream": f"10.0.{_n(rng, 256)}.7"}
    return DestinationAnswer(1, 503, body, retried=True, headers={"Retry-After": "120"})


def _wrong_key(rng: random.Random, _incident: random.Random) -> DestinationAnswer:
    body = {"message": "Invalid API key", "request_id": _hex(rng, 32), "contact": "support@shop.example"}
    return DestinationAnswer(1, 401, body, reason="INVALID_SETTINGS")


def _bad_mapping(rng: random.Random, incident: random.Random) -> DestinationAnswer:
    field, value, user = incident.choice(_FIELDS), rng.choice(_VALUES), _n(rng, 100_000)
    error = f'Invalid value "{value}" for field {field} (user jane.doe{user}@shop.example, row {user})'
    return DestinationAnswer(1, 400, {"error": error, "request_id": _hex(rng, 32), "status": "fail"})


def _rate_limit(rng: random.Random, _incident: random.Random) -> DestinationAnswer:
    seconds = rng.randint(5, 90)
    error = f"Rate limit exceeded: {_n(rng, 9_000) + 1_000} events in 1 s; retry in {seconds} s"
    headers = {"Retry-After": str(seconds), "X-RateLimit-Remaining": "0"}
    return DestinationAnswer(1, 429, {"error": error}, retried=True, headers=headers)


def _slow_network(_rng: random.Random, incident: random.Random) -> DestinationAnswer:
    return DestinationAnswer(1, None, {}, retried=True, reason=incident.choice(("ETIMEDOUT", "ECONNRESET")))


_FAILURES: dict[IncidentKind, _Failure] = {
    "down": _down,
    "wrong-key": _wrong_key,
    "bad-mapping": _bad_mapping,
    "rate-limit": _rate_limit,
    "slow-network": _slow_network,
}


def _time(at_ns: int) -> datetime:
    return _EPOCH + timedelta(microseconds=at_ns // 1000)


def _hex(rng: random.Random, characters: int) -> str:
    return f"{rng.getrandbits(4 * characters):0{characters}x}"


def _n(rng: random.Random, below: int) -> int:
    return rng.randrange(below)
