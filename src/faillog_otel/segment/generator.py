"""Failure logs as Segment would write them: made up, realistic, and the same for the same seed.

Messages are delivered in batches; a failed one is tried again in another batch, with growing delays over
four hours, until the destination takes it or Segment gives it up. The lines are in the order in which
Segment logged them. Source of the shapes: Segment's page "Failure Log Collection".
"""

import heapq
import random
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct

SOURCE_ID = "qL9vTgNcd3xW2b5Yp8RkZm"
RETRY_SECONDS = (30, 90, 300, 900, 2700, 5400, 9000)
"""Delays between attempts: about four hours and a half in all, then the message is discarded."""
_LATEST_SECONDS = 4 * 3600
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Answer(Struct, frozen=True):
    """How a destination may answer: `retried` when Segment tries again, `weight` how often it is given.

    Without a status there is no answer at all: the request timed out.
    """

    weight: int
    status: int | None
    body: dict[str, Any]
    retried: bool = False
    headers: dict[str, str] = {}
    reason: str | None = None


class Destination(Struct, frozen=True):
    """One destination: what people call it, where it listens, and how it fails."""

    id: str
    name: str
    url: str
    answers: tuple[Answer, ...]
    batch: int = 1
    """At most so many messages travel in one exchange."""
    passes_through: bool = False
    """It gets an event that was tracked as it is, and not a mapping of it."""


_OK = {"status": "ok"}
DESTINATIONS: tuple[Destination, ...] = (
    Destination(
        "5f7dd6d21ad74f3842b1fc47",
        "Mixpanel (Actions)",
        "https://api.mixpanel.com/import?strict=1",
        (
            Answer(3, 200, _OK),
            Answer(6, 400, {"code": 400, "error": "some data points in the request failed validation"}),
            Answer(
                3,
                429,
                {"error": "rate limit exceeded"},
                retried=True,
                headers={"Retry-After": "30", "X-RateLimit-Remaining": "0"},
            ),
        ),
        batch=8,
    ),
    Destination(
        "60f9d0d048950c356be2e4da",
        "Braze Cloud Mode (Actions)",
        "https://rest.iad-01.braze.com/users/track",
        (Answer(1, 401, {"message": "Invalid API key"}, reason="INVALID_SETTINGS"),),
        batch=5,
    ),
    Destination(
        "614a3c7d791c91c41bae7599",
        "Webhooks (Actions)",
        "https://hooks.shop.example/segment",
        (
            Answer(4, 200, _OK),
            Answer(5, 500, {"error": "Internal Server Error"}, retried=True),
            Answer(4, None, {}, retried=True, reason="ETIMEDOUT"),
        ),
        passes_through=True,
    ),
    Destination(
        "62e184d4fa0e3c4a1f0d4b11",
        "Amplitude (Actions)",
        "https://api2.amplitude.com/2/httpapi",
        (
            Answer(3, 200, _OK),
            Answer(
                5,
                429,
                {"code": 429, "error": "Too many requests for some devices and users", "eps_threshold": 30},
                retried=True,
                headers={"Retry-After": "60"},
            ),
        ),
        batch=10,
    ),
    Destination(
        "65f0c2ab9d3e4b0012ab34cd",
        "Teapot Function",
        "https://fn.shop.example/brew",
        (Answer(1, 418, {"error": "I'm a teapot", "contact": "barista@shop.example"}),),
        passes_through=True,
    ),
)


class Logged(Struct, frozen=True):
    """One event, and when Segment logged it (nanoseconds since 1970)."""

    at_ns: int
    event: bytes


class _Message(Struct):
    id: str
    destination: Destination
    occurred: datetime
    attempt: int = 1
    tracked: dict[str, Any] | None = None
    """The event, where somebody tracked it; else it is made up."""


def failure_events(
    seed: int,
    messages: int,
    *,
    start: datetime = datetime(2025, 5, 7, 23, tzinfo=UTC),
    seconds: float = 3600.0,
    destinations: Sequence[Destination] = DESTINATIONS,
) -> Iterator[bytes]:
    """The events of so many failing messages, begun within `seconds` after `start`: JSON, no newline."""
    for logged in logged_events(seed, messages, start=start, seconds=seconds, destinations=destinations):
        yield logged.event


def logged_events(
    seed: int,
    messages: int,
    *,
    start: datetime,
    seconds: float,
    destinations: Sequence[Destination],
    retry_seconds: Sequence[int] = RETRY_SECONDS,
    none_later: bool = False,
) -> Iterator[Logged]:
    """The same events, with the times at which they were logged.

    Messages begin at random, so that the last may begin a little after `seconds`, unless `none_later`:
    then there may be fewer than `messages`.
    """
    rng = random.Random(seed)
    queue: list[tuple[datetime, int, list[_Message]]] = []
    left, serial, now = messages, 0, start
    end = start + timedelta(seconds=seconds)
    while left or queue:
        if left and (not queue or now <= queue[0][0]):
            destination = rng.choice(destinations)
            size = min(left, rng.randint(1, destination.batch))
            left -= size
            batch = [_Message(_uuid(rng), destination, now) for _ in range(size)]
            now += timedelta(seconds=rng.expovariate(messages / seconds / size))
            if none_later and now >= end:
                left = 0
            at = batch[0].occurred
        else:
            at, _, batch = heapq.heappop(queue)
        again, lag, events = _deliver(rng, at, batch, retries=len(retry_seconds))
        at_ns = _nanoseconds(at + timedelta(seconds=lag))
        for event in events:
            yield Logged(at_ns, event)
        for message in again:  # each comes back by itself or with others: never surely in the same batch
            delay = retry_seconds[message.attempt - 2] * rng.uniform(0.8, 1.2)
            serial += 1
            heapq.heappush(queue, (at + timedelta(seconds=delay), serial, [message]))


def logged_story(
    seed: int,
    message_id: str,
    tracked: dict[str, Any],
    *,
    start: datetime,
    destination: Destination,
    retry_seconds: Sequence[int] = RETRY_SECONDS,
) -> Iterator[Logged]:
    """The events of one message that was tracked at `start`, in the order in which they were logged."""
    rng = random.Random(seed)
    at, left = start, [_Message(message_id, destination, start, tracked=tracked)]
    while left:
        left, lag, events = _deliver(rng, at, left, retries=len(retry_seconds))
        at_ns = _nanoseconds(at + timedelta(seconds=lag))
        for event in events:
            yield Logged(at_ns, event)
        for message in left:
            at += timedelta(seconds=retry_seconds[message.attempt - 2] * rng.uniform(0.8, 1.2))


def _deliver(
    rng: random.Random, at: datetime, batch: list[_Message], *, retries: int
) -> tuple[list[_Message], float, list[bytes]]:
    """One exchange: the messages to try again, how many seconds later it was logged, its events."""
    destination = batch[0].destination
    answer = rng.choices(destination.answers, [each.weight for each in destination.answers])[0]
    exchange_id, lag = _uuid(rng), rng.uniform(0.2, 4.0)
    again: list[_Message] = []
    events = [_exchange(rng, at, lag, exchange_id, batch=batch, answer=answer)]
    for message in batch:
        is_ok = answer.status is not None and answer.status < 400
        may_retry = answer.retried and message.attempt <= retries
        in_time = (at - message.occurred).total_seconds() < _LATEST_SECONDS
        own = {"messageId": message.id}
        outcome = {
            "attempt": message.attempt,
            "outcome": "success" if is_ok else "failure",
            "destinationExchangeId": exchange_id,
        }
        events.append(_event("Delivery Attempt Logged", at, lag, destination, outcome | own))
        if is_ok:
            continue
        if may_retry and in_time:
            if message.attempt == 1:
                events.append(_event("Error Logged", at, lag, destination, {"discarded": False} | own))
            message.attempt += 1
            again.append(message)
        else:
            why = {"discarded": True, "reason": answer.reason or _reason(answer)} | own
            events.append(_event("Error Logged", at, lag, destination, why))
    if rng.random() < 0.5:  # what belongs together is not always written together
        events.append(events.pop(0))
    return again, lag, events


def _exchange(
    rng: random.Random, at: datetime, lag: float, exchange_id: str, *, batch: list[_Message], answer: Answer
) -> bytes:
    destination = batch[0].destination
    own: dict[str, Any] = {
        "destinationExchangeId": exchange_id,
        "requestToDestination": {
            "method": "POST",
            "url": destination.url,
            "headers": {"Content-Type": "application/json", "Authorization": "Basic c2VjcmV0OnNlY3JldA=="},
            "body": msgspec.json.encode(_sent(rng, batch)).decode()[:4096],
        },
    }
    if answer.status is not None:
        own["responseFromDestination"] = {
            "status": answer.status,
            "headers": {"Content-Type": "application/json", **answer.headers},
            "body": msgspec.json.encode(answer.body).decode(),
        }
    elif answer.reason:
        own["reason"] = answer.reason
    return _event("Destination Exchange Logged", at, lag, destination, own)


def _sent(rng: random.Random, batch: list[_Message]) -> dict[str, Any]:
    """What the destination gets."""
    if batch[0].tracked is not None:
        return _mapped(batch[0].tracked, passes_through=batch[0].destination.passes_through)
    sent = [
        {
            "event": rng.choice(("Order Completed", "Cart Viewed", "Signed Up")),
            "messageId": message.id,
            "userId": f"user-{rng.randrange(10_000)}",
            "context": {"ip": "203.0.113.7", "traits": {"email": "jane@shop.example"}},
        }
        for message in batch
    ]
    return {"batch": sent}


def _mapped(tracked: dict[str, Any], *, passes_through: bool) -> dict[str, Any]:
    """The event as it is, or the little that a destination with a mapping of its own takes of it."""
    if passes_through:
        return tracked
    taken = ("type", "event", "messageId", "userId", "anonymousId")
    return {"batch": [{name: tracked[name] for name in taken if tracked.get(name) is not None}]}


def _event(name: str, at: datetime, lag: float, destination: Destination, own: dict[str, Any]) -> bytes:
    routed = {
        "to": [{"type": "destination", "id": destination.id}],
        "from": [{"type": "source", "id": SOURCE_ID}],
    }
    times = {"occurredAt": _rfc3339(at), "loggedAt": _rfc3339(at + timedelta(seconds=lag))}
    properties = {"routed": routed, **own, **times}
    return msgspec.json.encode(
        {"type": "observability", "event": name, "version": "v1", "properties": properties}
    )


def _reason(answer: Answer) -> str:
    return str(answer.body.get("error") or answer.body.get("message") or f"HTTP {answer.status}")


def _nanoseconds(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1) * 1000


def _rfc3339(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))
