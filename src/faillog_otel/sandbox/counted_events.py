"""The events that the simulated Segment counts: received, filtered, failed and delivered, from its own truth.

Every message that fails is received once by its source; the other destinations of the source get it at the
first attempt. A message is counted as failed when Segment discards it, by the time of its last attempt.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from faillog_otel.clock import HOUR_NS, hour_of, parse_rfc3339
from faillog_otel.sandbox.config import WorldConfig
from faillog_otel.sandbox.destinations import Destination, source_of
from faillog_otel.sandbox.outcomes import outcome_of
from faillog_otel.sandbox.world import TrackedMessage, World

Stage = Literal[
    "successfully-received",
    "failed-on-ingest",
    "filtered-at-source",
    "filtered-at-destination",
    "failed-delivery",
    "successful-delivery",
]
FILTERED = "FILTERED_BY_RULES"
"""The reason of messages that a filter at the destination stops."""

_RETRY_HOURS = 6
"""A message is retried for less."""
_CACHED_HOURS = 16 * 1024
_MINUTES = 60
_EVENTS, _VERSIONS = ("Order Completed", "Cart Viewed", "Signed Up"), ("2.3.1", "2.4.0")
TRAFFIC = "Page Viewed"
"""The event of the messages of `WorldConfig.traffic`."""


class CountedEvent(Struct, frozen=True, gc=False):
    """Events of one kind at one time."""

    at_ns: int
    event: str | None
    event_type: str
    version: str | None
    reason: str | None = None
    """Of the discard or the filter; of a delivery, `successes.attempt.N`."""
    retried: bool = False
    subscription: str | None = None
    count: int = 1


class _Ended(Struct, frozen=True, gc=False):
    """A message that failed at least once, at its own destination."""

    id: str
    began_ns: int
    ended_ns: int
    attempt: int
    """The last one."""
    discarded: str | None
    """Why; None if it was delivered."""


class CountedEvents:
    """All events that are counted. Safe to use from several threads."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._collections = {world.destination(each).id: each for each in world.config.collections}
        self._destinations = {each.id: each for each in world.destinations}
        self.sources = [source_of(number) for number in range(world.config.sources)]

    def destination(self, id_: str) -> Destination | None:
        """The destination with this id; one whose failures no collection has gets everything at once."""
        return self._destinations.get(id_)

    def of_source(self, source: str, stage: Stage, start_ns: int, end_ns: int) -> Iterator[CountedEvent]:
        """Yields what a source received in a time; no source fails on ingest or filters."""
        if stage != "successfully-received":
            return
        found = self._received(source, range(hour_of(start_ns), hour_of(end_ns - 1) + 1))
        yield from (each for each in found if start_ns <= each.at_ns < end_ns)

    def of_destination(
        self, destination: Destination, stage: Stage, start_ns: int, end_ns: int
    ) -> Iterator[CountedEvent]:
        """Yields what a destination received, refused, or filtered in a time."""
        collection = self._collections.get(destination.id, "")
        hours = range(hour_of(start_ns) - _RETRY_HOURS, hour_of(end_ns - 1) + 1)
        found: list[Iterable[CountedEvent]] = []
        mapping = destination.subscription_id
        if collection and stage != "filtered-at-destination":
            found.append(
                _of_message(each, None, mapping)
                for hour in hours
                for each in _ended_in(self._world.config, collection, hour)
                if (each.discarded is None) == (stage == "successful-delivery")
            )
        if stage == "successful-delivery":
            found.append(
                msgspec.structs.replace(each, reason="successes.attempt.1", subscription=mapping)
                for each in self._received(destination.source, hours, but=collection, tracked=False)
            )
        for hour in hours:
            for message in self._world.tracked(hour):
                found.append(self._of_tracked(collection, destination, message, stage))  # noqa: PERF401  # plainer
        for events in found:
            yield from (each for each in events if start_ns <= each.at_ns < end_ns)

    def _of_tracked(
        self, collection: str, destination: Destination, message: TrackedMessage, stage: Stage
    ) -> Iterator[CountedEvent]:
        mapping = destination.subscription_id
        kind = outcome_of(message.rules, message.event, destination).outcome
        if not collection and kind != "filter":
            kind = "deliver"
        if kind in ("deliver", "filter"):
            reason = "successes.attempt.1" if kind == "deliver" else FILTERED
            if stage == ("successful-delivery" if kind == "deliver" else "filtered-at-destination"):
                yield _counted(message.received_ns, message.event, reason, mapping)
            return
        for ended in _ended_messages(each.event for each in self._world.story(collection, message)):
            if stage == ("successful-delivery" if ended.discarded is None else "failed-delivery"):
                yield _of_message(ended, message.event, mapping)

    def _received(
        self, source: str, hours: range, *, but: str = "", tracked: bool = True
    ) -> Iterator[CountedEvent]:
        """Yields what a source received: without the generated failures of the collection `but`."""
        if source not in self.sources:
            return
        world = self._world
        for hour in hours:
            for collection in world.config.collections:
                if collection != but and world.destination(collection).source == source:
                    for each in _ended_in(self._world.config, collection, hour):
                        yield _of_message(each, None, None, began=True)
            if tracked:
                yield from (_counted(each.received_ns, each.event) for each in world.tracked(hour))
            traffic = world.config.traffic
            for minute in range(_MINUTES if traffic else 0):
                number = traffic * (minute + 1) // _MINUTES - traffic * minute // _MINUTES
                at_ns = hour * HOUR_NS + minute * HOUR_NS // _MINUTES
                yield CountedEvent(at_ns, TRAFFIC, "track", _VERSIONS[-1], count=number)


@lru_cache(_CACHED_HOURS)
def _ended_in(config: WorldConfig, collection: str, hour: int) -> tuple[_Ended, ...]:
    """The generated messages that began to fail in an hour. All simulators of a process share them."""
    return tuple(_ended_messages(each.raw for each in _world_of(config).begun(collection, hour)))


class _NothingTracked:
    """No application has sent anything."""

    def count(self, _hour: int) -> int:
        return 0

    def messages_of(self, _hour: int, _count: int) -> list[TrackedMessage]:
        return []

    def note_listed(self, _now_ns: int) -> None:
        pass


@lru_cache(4)
def _world_of(config: WorldConfig) -> World:
    return World(config, _NothingTracked())


def _counted(
    at_ns: int,
    event: dict[str, Any],
    reason: str | None = None,
    mapping: str | None = None,
    *,
    retried: bool = False,
) -> CountedEvent:
    context = event.get("context")
    app = context.get("app") if isinstance(context, dict) else None
    version = app.get("version") if isinstance(app, dict) else None
    name = event.get("event")
    return CountedEvent(
        at_ns,
        name if isinstance(name, str) else None,
        str(event.get("type", "track")),
        version if isinstance(version, str) else None,
        reason,
        retried,
        mapping,
    )


def _of_message(
    each: _Ended, event: dict[str, Any] | None, mapping: str | None, *, began: bool = False
) -> CountedEvent:
    """A message as received, or as it ended. `event`: of a tracked one."""
    at_ns, reason, retried = each.began_ns, None, False
    if not began:
        at_ns, retried = each.ended_ns, each.discarded is None and each.attempt > 1
        reason = each.discarded or f"successes.attempt.{each.attempt}"
    if event is None:
        number = int(each.id[:6], 16)
        name, version = _EVENTS[number % len(_EVENTS)], _VERSIONS[number % len(_VERSIONS)]
        event = {"type": "track", "event": name, "context": {"app": {"version": version}}}
    return _counted(at_ns, event, reason, mapping, retried=retried)


class _Answer(Struct):
    status: int


class _Properties(Struct, rename="camel"):
    occurred_at: str
    message_id: str = ""
    attempt: int = 0
    outcome: str = ""
    discarded: bool = False
    reason: str = ""
    exchange_id: str = field(default="", name="destinationExchangeId")
    response: _Answer | None = field(default=None, name="responseFromDestination")


class _Logged(Struct):
    properties: _Properties


_decode = msgspec.json.Decoder(_Logged).decode


def _ended_messages(records: Iterable[bytes]) -> Iterator[_Ended]:
    """Yields the messages of records, which must have all that is logged of each."""
    answers: dict[str, str] = {}
    attempts: dict[str, list[_Properties]] = {}
    for raw in records:
        own = _decode(raw).properties
        if not own.message_id:
            answers[own.exchange_id] = str(own.response.status) if own.response else own.reason
        elif own.outcome:
            attempts.setdefault(own.message_id, []).append(own)
    for id_, tries in attempts.items():
        last = max(tries, key=lambda each: each.attempt)
        is_failed = last.outcome != "success"
        yield _Ended(
            id_,
            min(parse_rfc3339(each.occurred_at) or 0 for each in tries),
            parse_rfc3339(last.occurred_at) or 0,
            last.attempt,
            answers.get(last.exchange_id, "") if is_failed else None,
        )
