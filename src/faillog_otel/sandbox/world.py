"""The objects of every collection and hour at any time, byte for byte the same for the same seed.

An hour's records depend on the seed, the collection and the hour only; how they are packed depends on the
collection's growth too. A record becomes available 1-2 hours after Segment logged it, in portions at each
half hour; an exchange and its attempts are usually in different portions. Only a few recently used hours are
cached. Tracked messages add records to the generated ones, and never change an object that was read already.
"""

import hashlib
import math
import random
import re
from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.clock import DAY_NS, HOUR_NS, MAX_NS, SECOND_NS, hour_of, hour_text
from faillog_otel.sandbox.config import Growth, WorldConfig
from faillog_otel.sandbox.destinations import (
    DESTINATIONS,
    Destination,
    DestinationAnswer,
    destination_of,
)
from faillog_otel.sandbox.generator import Logged, logged_events, logged_story
from faillog_otel.sandbox.incidents import Incident, incident_events
from faillog_otel.sandbox.objects import SUFFIXES, StoredObject, TrueRecord, packed, parse_hour, thirds
from faillog_otel.sandbox.outcomes import DOWN, Outcome, outcome_of

RETENTION_NS = 28 * DAY_NS
"""How long an hour is kept, from its start. [Segment's page]"""
URL_SECONDS = 7200
"""How long a presigned URL is valid. [Segment's page]"""
PORTION_NS = HOUR_NS // 2

_LAG_NS = HOUR_NS
"""The delay after logging; until the next portion, or the one after it, it becomes 1-2 hours."""
_APART = 0.9
"""The fraction of attempts that are in another portion than their exchange."""
_MAX_RETRY_HOURS = 5
"""Attempts are logged at most this many hours after the hour in which their message began to fail."""
_RETRY_SECONDS = (30, 90, 300, 900, 2700, 4200, 5400)
"""Delays between attempts: a little under four hours in all, as Segment's page says."""
_RATES = (1.0, 0.25, 1.75)
"""Failures per collection, relative to the average."""
_QUIET = 0.1
"""The fraction of hours without failures."""
_INCIDENT_A_DAY, _INCIDENT_HOURS, _INCIDENT_FACTOR = 1 / 7, (2, 5), 12
_OUTAGE = (DOWN, DestinationAnswer(1, 200, {"status": "ok"}))
_DEATHS = ("404", "500", "503", "html", "reset", "truncated", "expired", "302")
_CACHED_HOURS, _CACHED_GENERATIONS = 32, 16
_CACHED_MESSAGES, _MIN_CACHED_HOURS = 40_000, 4
"""Bounds on the memory where incidents have many messages."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class TrackedMessage(Struct, frozen=True):
    """One message; times are nanoseconds since 1970, by the simulator's clock."""

    id: str
    received_ns: int
    listed_until_ns: int
    """The latest time for which objects had been read when the message arrived."""
    event: dict[str, Any]
    """As it was sent, plus what Segment adds: receivedAt, and messageId and timestamp if they are missing."""
    rules: tuple[Outcome, ...] = ()
    """The rules of the time when it arrived."""


class TrackedMessages(Protocol):
    """The messages that applications sent, as the world reads them. Safe to use from several threads."""

    def count(self, hour: int) -> int:
        """The number of messages that arrived in an hour so far."""

    def messages_of(self, hour: int, count: int) -> list[TrackedMessage]:
        """The first `count` messages of an hour."""

    def note_listed(self, now_ns: int) -> None:
        """Notes that objects are read as they are at this time."""


class World:
    """All collections and hours, tracked messages included. Safe to use from several threads."""

    def __init__(self, config: WorldConfig, tracked: TrackedMessages) -> None:
        self.config = config
        self._tracked = tracked
        numbers = range(max(len(DESTINATIONS), len(config.collections)))
        self.destinations = [destination_of(number, config.sources) for number in numbers]
        """Of the workspace; the first ones are those of the collections."""
        cached = min(_CACHED_HOURS, max(_MIN_CACHED_HOURS, int(_CACHED_MESSAGES / config.incident_messages)))
        self._records_of = lru_cache(cached)(self._records)
        self._begun_in = lru_cache(cached)(self._begun)
        self._objects_of = lru_cache(_CACHED_GENERATIONS)(self._packed_objects)

    def death(self, stored: StoredObject) -> str | None:
        """The fault with which each download of an object fails (`--dead`); None for most objects.

        Dead objects are the first of their hour.
        """
        day, hour_of_day = divmod(stored.hour, 24)
        name = stored.key.rpartition("/")[2]
        if not name.startswith(("0000-", "events-")) and not re.match(r"\d{4}-0-", name, re.ASCII):
            return None
        for number in range(self.config.dead):
            rng = self._random("dead", day, str(number))
            where = rng.choice(self.config.collections), rng.randrange(24)
            if where == (stored.collection, hour_of_day):
                return rng.choice(_DEATHS)
        return None

    def records(self, collection: str, hour: int) -> tuple[TrueRecord, ...]:
        """All records of an hour, future ones included, in the order in which they become available."""
        return self._records_of(collection, hour, self._tracked.count(hour))

    def begun(self, collection: str, hour: int) -> list[TrueRecord]:
        """All records of the generated messages that began to fail in an hour, undamaged, each once."""
        return [record for _, record in self._begun_in(collection, hour)]

    def tracked(self, hour: int) -> list[TrackedMessage]:
        """The messages that arrived in an hour so far."""
        return self._tracked.messages_of(hour, self._tracked.count(hour))

    def incident_records(self, now_ns: int) -> Iterator[TrueRecord]:
        """All records of the messages that began to fail in incidents so far, future records included."""
        for incident in dict.fromkeys(self.config.incidents):
            end_ns = min(incident.end_ns or MAX_NS, now_ns)
            for hour in range(hour_of(incident.start_ns), -(-end_ns // HOUR_NS)):
                for _, record in self._begun_in(incident.collection, hour):
                    if record.incident == incident:
                        yield record

    def growth(self, collection: str) -> Growth:
        """How the collection's hours grow."""
        growths = self.config.growth
        return growths[self.config.collections.index(collection) % len(growths)]

    def destination(self, collection: str) -> Destination:
        """The destination whose failures the collection has."""
        return self.destinations[self.config.collections.index(collection)]

    def is_incident(self, collection: str, hour: int) -> bool:
        """Whether the collection's destination is down in this hour: about once a week, for 2-5 hours."""
        for day in (hour // 24 - 1, hour // 24):
            rng = self._random(collection, day, "incident")
            if rng.random() < _INCIDENT_A_DAY:
                begin = day * 24 + rng.randrange(24)
                if begin <= hour < begin + rng.randint(*_INCIDENT_HOURS):
                    return True
        return False

    def messages(self, collection: str, hour: int) -> int:
        """The number of messages that begin to fail in this hour: fewer at night, none in a quiet hour."""
        rng = self._random(collection, hour, "messages")
        rate = _RATES[self.config.collections.index(collection) % len(_RATES)]
        usual = self.config.messages * rate * (1.0 + 0.5 * math.sin(math.tau * (hour % 24 - 9) / 24))
        is_incident = self.is_incident(collection, hour)
        if rng.random() < _QUIET and not is_incident:
            return 0
        mean = usual * (_INCIDENT_FACTOR if is_incident else 1)
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))

    def objects(self, collection: str, hour: int, now_ns: int) -> tuple[StoredObject, ...]:
        """The objects of an hour at a time; none before its first portion and after 28 days."""
        if hour * HOUR_NS + RETENTION_NS <= now_ns:
            return ()
        self._tracked.note_listed(
            now_ns
        )  # before messages are counted: one that arrives now must not be in it
        generation = self.generation(collection, hour, now_ns)
        return self._of_generation(collection, hour, generation) if generation else ()

    def generation(self, collection: str, hour: int, now_ns: int) -> int:
        """The number of portions of an hour at a time."""
        if hour >= hour_of(now_ns):
            return 0  # no record can be available yet: skip the generator
        return bisect_right(_portions(self.records(collection, hour)), now_ns)

    def find(self, key: str, now_ns: int) -> StoredObject | None:
        """The object with a key at a time. A repacked object stays while URLs of it may be valid."""
        parts = key.split("/")
        if len(parts) != 3 or parts[0] not in self.config.collections:
            return None
        collection, hour = parts[0], parse_hour(f"{parts[1]}:00:00Z")
        if hour is None or hour * HOUR_NS + RETENTION_NS <= now_ns:
            return None
        self._tracked.note_listed(now_ns)
        latest = self.generation(collection, hour, now_ns)
        oldest = self.generation(collection, hour, now_ns - URL_SECONDS * SECOND_NS)
        for generation in range(latest, max(oldest, 1) - 1, -1):
            for found in self._of_generation(collection, hour, generation):
                if found.key == key:
                    return found
        return None

    def _of_generation(self, collection: str, hour: int, generation: int) -> tuple[StoredObject, ...]:
        return self._objects_of(collection, hour, generation, self._tracked.count(hour))

    def _records(self, collection: str, hour: int, tracked: int) -> tuple[TrueRecord, ...]:
        """The generated records, and those of the first `tracked` messages of the hour."""
        generated = self._damaged(self._failures(collection, hour), collection, hour)
        generated = self._repeated(generated, collection, hour)
        stories = [self._story(collection, message) for message in self._tracked.messages_of(hour, tracked)]
        return tuple(sorted(chain(generated, *stories), key=_available))

    def _story(self, collection: str, message: TrackedMessage) -> Iterator[TrueRecord]:
        """A tracked message's records, by its outcome.

        They are never damaged or repeated, because its sender looks for them.
        """
        rng = self._random(f"{collection}/{message.id}", 0, "lateness")
        not_before_ns = (message.listed_until_ns // PORTION_NS + 1) * PORTION_NS
        return (
            _record(each, max(_ready_ns(each, rng), not_before_ns))
            for each in self.story(collection, message)
        )

    def story(self, collection: str, message: TrackedMessage) -> Iterator[Logged]:
        """What Segment logs of a tracked message; nothing if it is delivered at once, or filtered."""
        destination = self.destination(collection)
        answers = outcome_of(message.rules, message.event, destination).answers()
        if not answers:
            return iter(())
        return logged_story(
            _number(self.config.seed, f"{collection}/{message.id}", 0, "story"),
            message.id,
            message.event,
            start=_EPOCH + timedelta(microseconds=message.received_ns // 1000),
            destination=replace(destination, answers=answers),
            retry_seconds=_RETRY_SECONDS,
            dialect=self.config.dialect,
        )

    def _failures(self, collection: str, hour: int) -> list[TrueRecord]:
        """The generated records of an hour, in the order in which they become available."""
        hours_before = _MAX_RETRY_HOURS if self.config.exchange_hour == "logged" else 0
        records = (
            record
            for begun in range(hour - hours_before, hour + 1)
            for stored_in, record in self._begun_in(collection, begun)
            if stored_in == hour
        )
        return sorted(records, key=_available)

    def _begun(self, collection: str, hour: int) -> list[tuple[int, TrueRecord]]:
        """The records of messages that begin to fail in an hour, each after the hour that stores it."""
        destination = self.destination(collection)
        if self.is_incident(collection, hour):
            destination = replace(destination, answers=_OUTAGE)
        rng = self._random(collection, hour, "lateness")
        logged = logged_events(
            _number(self.config.seed, collection, hour, "events"),
            self.messages(collection, hour),
            start=_EPOCH + timedelta(hours=hour),
            seconds=3600.0,
            destinations=(destination,),
            retry_seconds=_RETRY_SECONDS,
            dialect=self.config.dialect,
            none_later=True,
        )
        moves_exchanges = self.config.exchange_hour == "logged"
        tagged = chain(((each, None) for each in logged), self._of_incidents(collection, hour))
        return [
            (
                hour_of(each.at_ns) if each.is_exchange and moves_exchanges else hour,
                _record(each, _ready_ns(each, rng), incident),
            )
            for each, incident in tagged
        ]

    def _of_incidents(self, collection: str, hour: int) -> Iterator[tuple[Logged, Incident]]:
        """The events of messages that begin to fail in this hour of an incident."""
        for incident in self.config.incidents:
            from_ns = max(incident.start_ns, hour * HOUR_NS)
            to_ns = min(incident.end_ns or MAX_NS, (hour + 1) * HOUR_NS)
            if incident.collection == collection and from_ns < to_ns:
                for logged in incident_events(
                    _number(self.config.seed, str(incident), hour, "incident"),
                    incident,
                    self.config.incident_messages,
                    from_ns=from_ns,
                    to_ns=to_ns,
                    destination=self.destination(collection),
                    retry_seconds=_RETRY_SECONDS,
                    dialect=self.config.dialect,
                ):
                    yield logged, incident

    def _damaged(self, records: list[TrueRecord], collection: str, hour: int) -> list[TrueRecord]:
        """Truncates some records, but never the first of a portion and never two in a row.

        A reader could not tell JSON Lines with such damage from a stream of JSON values.
        """
        rng = self._random(collection, hour, "damage")
        result: list[TrueRecord] = []
        for record in records:
            cut = rng.randrange(20, len(record.raw) - 1)
            if (
                rng.random() < self.config.damage
                and result
                and not result[-1].damaged
                and result[-1].available_ns == record.available_ns
            ):
                result.append(replace(record, raw=record.raw[:cut].rstrip(), damaged=True))
            else:
                result.append(record)
        return result

    def _repeated(self, records: list[TrueRecord], collection: str, hour: int) -> list[TrueRecord]:
        """Adds some records again, in a later portion."""
        rng = self._random(collection, hour, "duplicates")
        portions = _portions(tuple(records))
        again = []
        for record in records:
            later = portions[bisect_right(portions, record.available_ns) :]
            if rng.random() < self.config.duplicates and later and not record.damaged:
                again.append(replace(record, available_ns=rng.choice(later)))
        return sorted(records + again, key=_available)

    def _packed_objects(
        self, collection: str, hour: int, generation: int, tracked: int
    ) -> tuple[StoredObject, ...]:
        records = self._records_of(collection, hour, tracked)
        portions = _portions(records)[:generation]
        available = [record for record in records if record.available_ns <= portions[-1]]
        has_damage = any(record.damaged for record in records)
        growth = self.growth(collection)
        if growth == "append":
            chunks = [
                (f"{n:04}", [each for each in available if each.available_ns == portion])
                for n, portion in enumerate(portions)
            ]
        elif growth == "rewrite":
            chunks = [("events", available)]
        else:
            chunks = [(f"{generation:04}-{n}", chunk) for n, chunk in enumerate(thirds(available))]
        folder = f"{collection}/{hour_text(hour)[:13]}"
        return tuple(
            self._object(collection, hour, f"{folder}/{name}", chunk, has_damage=has_damage)
            for name, chunk in chunks
        )

    def _object(
        self, collection: str, hour: int, name: str, records: list[TrueRecord], *, has_damage: bool
    ) -> StoredObject:
        number = _number(self.config.seed, name, 0, "name")
        form = self.config.formats[number % len(self.config.formats)]
        if form == "array" and has_damage:
            form = "jsonl"  # in an array the first broken record would make the rest unreadable
        key = f"{name}-{number % 2**32:08x}.{SUFFIXES[form]}"
        content = packed(form, records)
        return StoredObject(
            collection, hour, key, tuple(records), content, max(map(_available, records)), form
        )

    def _random(self, name: str, number: int, what: str) -> random.Random:
        return random.Random(_number(self.config.seed, name, number, what))


def _record(logged: Logged, available_ns: int, incident: Incident | None = None) -> TrueRecord:
    return TrueRecord(logged.event, available_ns, logged.exchange_id, logged.is_exchange, incident=incident)


def _ready_ns(logged: Logged, rng: random.Random) -> int:
    """When the first portion with this event becomes available: one of the two after the delay.

    Which one an exchange is in depends on its id.
    """
    if logged.exchange_id is None:
        is_later = rng.random() < 0.5
    else:
        is_apart = not logged.is_exchange and rng.random() < _APART
        is_later = (int(logged.exchange_id[1], 16) % 2 == 0) != is_apart
    return (-(-(logged.at_ns + _LAG_NS) // PORTION_NS) + is_later) * PORTION_NS


def _available(record: TrueRecord) -> int:
    return record.available_ns


def _portions(records: tuple[TrueRecord, ...]) -> list[int]:
    return sorted({record.available_ns for record in records})


def _number(seed: int, name: str, number: int, what: str) -> int:
    """A number for a random generator's seed, the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{name}/{number}/{what}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
