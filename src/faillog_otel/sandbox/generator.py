"""Generated failure logs, realistic and the same for the same seed.

Messages are delivered in batches. A failed message is retried in another batch, with growing delays over four
hours, until the destination accepts it or Segment discards it. The events are in the order in which Segment
logged them. Source of the format: Segment's page "Failure Log Collection".
"""

import heapq
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain, repeat
from typing import Any, Literal

import msgspec
from msgspec import Struct

from faillog_otel.sandbox.destinations import DESTINATIONS, Destination, DestinationAnswer

RETRY_SECONDS = (30, 90, 300, 900, 2700, 5400, 9000)
"""Delays between attempts: about four and a half hours in all, then the message is discarded."""
_MAX_RETRY_AGE_SECONDS = 4 * 3600
_MAX_SENT = 25
"""Messages in a request's body: these exceed the 4 KB of it that Segment logs."""

Dialect = Literal["draft", "page", "mixed"]
"""How records are written: `draft`, as in the first draft of Segment's page (a numeric version, a
subscription beside the destination, `featureName`, a reason in words, an error's attempt); `page`, as in the
page now; or `mixed`, some deliveries in each. It is not documented which of them Segment writes."""
DIALECTS: tuple[Dialect, ...] = ("draft", "page", "mixed")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Logged(Struct, frozen=True, gc=False):
    """One event, and when Segment logged it, in nanoseconds since 1970."""

    at_ns: int
    event: bytes
    exchange_id: str | None
    """The id of an exchange, or of an attempt's exchange."""
    is_exchange: bool


class _Message(Struct):
    id: str
    destination: Destination
    occurred: datetime
    attempt: int = 1
    tracked: dict[str, Any] | None = None
    """The event, if an application sent it; None if it is generated."""


def failure_events(
    seed: int,
    messages: int,
    *,
    start: datetime = datetime(2025, 5, 7, 23, tzinfo=UTC),
    seconds: float = 3600.0,
    destinations: Sequence[Destination] = DESTINATIONS,
    dialect: Dialect = "mixed",
) -> Iterator[bytes]:
    """Yields the events of failing messages that begin within `seconds` after `start`: JSON, no newline."""
    for logged in logged_events(
        seed, messages, start=start, seconds=seconds, destinations=destinations, dialect=dialect
    ):
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
    dialect: Dialect = "mixed",
) -> Iterator[Logged]:
    """Yields the same events, with the times at which they were logged.

    Messages begin at random times; the last may begin a little after `seconds`. With `none_later` it does
    not, and there may be fewer than `messages`.
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
        answer = _any_answer(rng, batch[0].destination)
        again, logged = _deliver(rng, at, batch, answer, retries=len(retry_seconds), dialect=dialect)
        yield from logged
        for message in again:  # retries are not batched again
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
    dialect: Dialect = "mixed",
) -> Iterator[Logged]:
    """Yields the events of one message that was tracked at `start`, in the order of logging.

    The destination gives its answers in turn, and then the last one again and again.
    """
    rng = random.Random(seed)
    at, left = start, [_Message(message_id, destination, start, tracked=tracked)]
    answers = chain(destination.answers, repeat(destination.answers[-1]))
    while left:
        rng.random()  # the ids of earlier versions
        answer = next(answers)
        left, logged = _deliver(rng, at, left, answer, retries=len(retry_seconds), dialect=dialect)
        yield from logged
        for message in left:
            at += timedelta(seconds=retry_seconds[message.attempt - 2] * rng.uniform(0.8, 1.2))


def logged_batches(
    rng: random.Random,
    sizes_at: Sequence[tuple[datetime, int]],
    answer_at: Callable[[datetime, int], DestinationAnswer],
    *,
    destination: Destination,
    retry_seconds: Sequence[int] = RETRY_SECONDS,
    dialect: Dialect = "mixed",
) -> Iterator[Logged]:
    """Yields the events of batches that stay together when they are retried, a batch at a time.

    `sizes_at`: when each batch is first sent, and its number of messages. `answer_at` returns the answer to
    an attempt, from its time and its number.
    """
    for start, size in sizes_at:
        at = start
        left = [_Message(_uuid(rng), destination, start) for _ in range(size)]
        while left:
            answer = answer_at(at, left[0].attempt)
            left, logged = _deliver(rng, at, left, answer, retries=len(retry_seconds), dialect=dialect)
            yield from logged
            if left:
                at += timedelta(seconds=retry_seconds[left[0].attempt - 2] * rng.uniform(0.8, 1.2))


def _any_answer(rng: random.Random, destination: Destination) -> DestinationAnswer:
    return rng.choices(destination.answers, [each.weight for each in destination.answers])[0]


def _deliver(
    rng: random.Random,
    at: datetime,
    batch: list[_Message],
    answer: DestinationAnswer,
    *,
    retries: int,
    dialect: Dialect,
) -> tuple[list[_Message], list[Logged]]:
    """Delivers a batch in one exchange. Returns the messages to retry, and the events."""
    destination = batch[0].destination
    exchange_id, lag = _uuid(rng), rng.uniform(0.2, 4.0)
    is_draft = dialect == "draft" or (dialect == "mixed" and int(exchange_id[0], 16) % 2 == 0)
    write = partial(_logged, at=at, lag=lag, destination=destination, is_draft=is_draft)
    again: list[_Message] = []
    events = [write("Destination Exchange Logged", _exchange(rng, exchange_id, batch=batch, answer=answer))]
    for message in batch:
        number = {"attempt": message.attempt} if is_draft else {}
        is_ok = answer.status is not None and answer.status < 400
        may_retry = answer.retried and message.attempt <= retries
        in_time = (at - message.occurred).total_seconds() < _MAX_RETRY_AGE_SECONDS
        own = {"messageId": message.id}
        outcome = {
            "attempt": message.attempt,
            "outcome": "success" if is_ok else "failure",
            "destinationExchangeId": exchange_id,
        }
        feature = {"featureName": destination.feature} if is_draft else {}
        drafted = feature if is_ok or not is_draft else {"reason": _prose(answer), **feature}
        events.append(write("Delivery Attempt Logged", outcome | drafted | own))
        if is_ok:
            continue
        if may_retry and in_time:
            if message.attempt == 1:
                events.append(write("Error Logged", {"discarded": False} | number | drafted | own))
            message.attempt += 1
            again.append(message)
        else:
            why = {"discarded": True, "reason": answer.reason or _reason(answer)}
            events.append(write("Error Logged", why | number | drafted | own))
    if rng.random() < 0.5:  # an exchange may be logged before or after its attempts
        events.append(events.pop(0))
    return again, events


def _exchange(
    rng: random.Random, exchange_id: str, *, batch: list[_Message], answer: DestinationAnswer
) -> dict[str, Any]:
    """The properties of an exchange, without those that all events have."""
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
    return own


def _sent(rng: random.Random, batch: list[_Message]) -> dict[str, Any]:
    """The request body that the destination receives."""
    if batch[0].tracked is not None:
        return _mapped(batch[0].tracked, passes_through=batch[0].destination.passes_through)
    sent = [
        {
            "event": rng.choice(("Order Completed", "Cart Viewed", "Signed Up")),
            "messageId": message.id,
            "userId": f"user-{rng.randrange(10_000)}",
            "context": {"ip": "203.0.113.7", "traits": {"email": "jane@shop.example"}},
        }
        for message in batch[:_MAX_SENT]
    ]
    return {"batch": sent}


def _mapped(tracked: dict[str, Any], *, passes_through: bool) -> dict[str, Any]:
    """The tracked event unchanged, or the few fields that a destination's mapping keeps."""
    if passes_through:
        return tracked
    taken = ("type", "event", "messageId", "userId", "anonymousId")
    return {"batch": [{name: tracked[name] for name in taken if tracked.get(name) is not None}]}


def _logged(
    name: str, own: dict[str, Any], *, at: datetime, lag: float, destination: Destination, is_draft: bool
) -> Logged:
    to = [{"type": "destination", "id": destination.id}]
    if is_draft and destination.subscription_id:
        to.append({"type": "subscription", "id": destination.subscription_id})
    routed = {"to": to, "from": [{"type": "source", "id": destination.source}]}
    times = {"occurredAt": _rfc3339(at), "loggedAt": _rfc3339(at + timedelta(seconds=lag))}
    properties = {"routed": routed, **own, **times}
    version = 1 if is_draft else "v1"
    return Logged(
        _nanoseconds(at + timedelta(seconds=lag)),
        msgspec.json.encode(
            {"type": "observability", "event": name, "version": version, "properties": properties}
        ),
        own.get("destinationExchangeId"),
        is_exchange=name == "Destination Exchange Logged",
    )


def _reason(answer: DestinationAnswer) -> str:
    return str(answer.body.get("error") or answer.body.get("message") or f"HTTP {answer.status}")


def _prose(answer: DestinationAnswer) -> str:
    """The draft's reason: words, and no code."""
    if answer.status is None:
        return "the destination did not answer in time"
    return f"the destination answered {answer.status}: {_reason(answer)}"


def _nanoseconds(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1) * 1000


def _rfc3339(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))
