"""Simulated hours: records come late, hours grow, nothing disappears, and a seed gives the same bytes."""

import gzip
import json
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faillog_otel.clock import HOUR_NS, hour_text, parse_rfc3339
from faillog_otel.errors import ConfigError
from faillog_otel.events.decode import decode
from faillog_otel.events.model import BadRecord, Event, OtherProperties
from faillog_otel.inputs.files import unpack
from faillog_otel.inputs.formats import form_of, read_records
from faillog_otel.inputs.json_stream import Record
from faillog_otel.sandbox.bookkeeping import Inbox
from faillog_otel.sandbox.config import FORMATS, GROWTHS, Growth, WorldConfig
from faillog_otel.sandbox.destinations import DESTINATIONS
from faillog_otel.sandbox.generator import DIALECTS, Dialect, failure_events, logged_events
from faillog_otel.sandbox.objects import StoredObject, parse_hour
from faillog_otel.sandbox.world import RETENTION_NS, World

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

HOUR = 480_000
COLLECTIONS = ("one", "two", "three")


def world(**config: Any) -> World:
    given = WorldConfig(**{"collections": COLLECTIONS, "messages": 6.0, **config})
    return World(given, Inbox(given.seed))


WORLDS = {growth: world(growth=(growth,), damage=0.1, duplicates=0.1) for growth in GROWTHS}
hours = st.integers(HOUR, HOUR + 40)
minutes = st.integers(0, 15 * 60)


def raws(objects: tuple[StoredObject, ...]) -> list[bytes]:
    return sorted(record.raw for each in objects for record in each.records)


@given(st.sampled_from(GROWTHS), st.sampled_from(COLLECTIONS), hours, minutes, minutes)
def test_what_is_available_never_shrinks(
    growth: Growth, collection: str, hour: int, one: int, two: int
) -> None:
    early, late = (
        raws(WORLDS[growth].objects(collection, hour, hour * HOUR_NS + each * HOUR_NS // 60))
        for each in sorted((one, two))
    )
    assert {*early} <= {*late}


@given(st.sampled_from(COLLECTIONS), hours, minutes)
def test_however_an_hour_grows_it_holds_the_same_records(collection: str, hour: int, at: int) -> None:
    now_ns = hour * HOUR_NS + at * HOUR_NS // 60
    there = [raws(WORLDS[growth].objects(collection, hour, now_ns)) for growth in GROWTHS]
    assert there[0] == there[1] == there[2]


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_a_record_is_available_one_to_two_hours_after_it_was_logged(collection: str) -> None:
    """An hour has the messages that began in it, and no others."""
    for hour in range(HOUR, HOUR + 48):
        for record in world().records(collection, hour):
            logged_ns = parse_rfc3339(json.loads(record.raw)["properties"]["loggedAt"])
            assert logged_ns is not None
            assert HOUR_NS <= record.available_ns - logged_ns <= 2 * HOUR_NS
            assert hour * HOUR_NS <= logged_ns < (hour + 6) * HOUR_NS


def homes(
    made: World, collection: str, hours: range
) -> tuple[dict[str, tuple[int, str]], list[tuple[int, str, str]]]:
    """Exchange → its hour and object; of each attempt its hour, its object and its exchange."""
    exchanges, attempts = {}, []
    for hour in hours:
        for stored in made.objects(collection, hour, (hour + 12) * HOUR_NS):
            for record in stored.records:
                if record.is_exchange:
                    exchanges[record.exchange_id or ""] = (hour, stored.key)
                elif record.exchange_id:
                    attempts.append((hour, stored.key, record.exchange_id))
    return exchanges, attempts


@pytest.mark.parametrize(("growth", "share"), [("append", 0.8), ("repack", 0.5)])
def test_an_attempts_exchange_is_usually_in_another_object_of_its_hour(growth: Any, share: float) -> None:
    made = world(collections=("a",), growth=(growth,), messages=30.0)
    exchanges, attempts = homes(made, "a", range(HOUR, HOUR + 24))
    assert {exchanges[exchange_id][0] == hour for hour, _, exchange_id in attempts} == {True}
    apart = sum(exchanges[exchange_id][1] != key for _, key, exchange_id in attempts)
    assert share < apart / len(attempts) < 0.95


def test_an_exchange_may_be_in_the_hour_in_which_it_was_logged() -> None:
    """An attempt at 13:59:59 can have its exchange in the next hour, a retry in a later one."""
    made = world(collections=("a",), growth=("append",), messages=30.0, exchange_hour="logged")
    exchanges, attempts = homes(made, "a", range(HOUR, HOUR + 24 * 7))
    later = [exchanges[x][0] - hour for hour, _, x in attempts if x in exchanges and hour < HOUR + 24 * 6]
    assert set(later) >= {0, 1, 2, 3, 4}
    assert set(later) <= {*range(6)}
    assert len(later) == sum(hour < HOUR + 24 * 6 for hour, _, _ in attempts)
    for hour in range(HOUR, HOUR + 24):
        for record in made.records("a", hour):
            own = json.loads(record.raw)["properties"]
            if record.is_exchange:
                assert (parse_rfc3339(own["loggedAt"]) or 0) // HOUR_NS == hour
            assert own.get("destinationExchangeId") == record.exchange_id


def test_an_hour_grows_for_hours() -> None:
    latest = max(r.available_ns for hour in range(HOUR, HOUR + 24) for r in world().records("three", hour))
    first = min(r.available_ns for r in world().records("three", HOUR))
    assert first < (HOUR + 3) * HOUR_NS
    assert latest > (HOUR + 5) * HOUR_NS


@given(st.integers(0, 2**63), st.sampled_from(COLLECTIONS), hours, minutes)
def test_the_same_seed_gives_the_same_bytes(seed: int, collection: str, hour: int, at: int) -> None:
    now_ns = hour * HOUR_NS + at * HOUR_NS // 60
    first, again = (world(seed=seed, damage=0.2).objects(collection, hour, now_ns) for _ in range(2))
    assert first == again


def test_another_seed_gives_other_records() -> None:
    assert world(seed=1).records("one", HOUR) != world(seed=2).records("one", HOUR)


def test_each_growth_changes_keys_and_etags_in_its_own_way() -> None:
    hour = next(h for h in range(HOUR, HOUR + 99) if len({r.available_ns for r in records_of(h)}) >= 4)
    portions = sorted({record.available_ns for record in records_of(hour)})
    seen = {
        growth: [{each.key: each.etag for each in WORLDS[growth].objects("one", hour, at)} for at in portions]
        for growth in GROWTHS
    }
    for n in range(len(portions) - 1):
        appended, later = seen["append"][n], seen["append"][n + 1]
        assert appended.items() < later.items()
        assert len(later) == n + 2
        rewritten, later = seen["rewrite"][n], seen["rewrite"][n + 1]
        assert rewritten.keys() == later.keys()
        assert {*rewritten.values()}.isdisjoint(later.values())
        assert seen["repack"][n].keys().isdisjoint(seen["repack"][n + 1])


def records_of(hour: int) -> tuple[Any, ...]:
    return WORLDS["append"].records("one", hour)


@pytest.mark.parametrize("growth", GROWTHS)
@pytest.mark.parametrize("form", FORMATS)
def test_a_reader_finds_the_records_and_the_damaged_ones(growth: Any, form: Any) -> None:
    """The forwarder reads each damaged line as one bad record, and all other records unchanged."""
    made = world(growth=(growth,), formats=(form,), damage=0.3, duplicates=0.2, messages=12.0)
    damaged = 0
    for hour in range(HOUR, HOUR + 12):
        for at in range(1, 9):
            for each in made.objects("three", hour, (hour + at) * HOUR_NS):
                found = [
                    record
                    for record in read_records(form_of(unpack([each.content])), unpack([each.content]))
                    if isinstance(record, Record)
                ]
                assert [record.raw for record in found] == [record.raw for record in each.records]
                bad = [isinstance(record.bad or decode(record.raw), BadRecord) for record in found]
                assert bad == [record.damaged for record in each.records]
                damaged += sum(bad)
    assert damaged


def test_objects_look_as_their_format_says() -> None:
    def content(form: Any) -> bytes:
        objects = world(formats=(form,), growth=("rewrite",)).objects("three", HOUR, (HOUR + 9) * HOUR_NS)
        return objects[0].content

    plain = content("jsonl")
    assert gzip.decompress(content("gzip")) == zstd.decompress(content("zstd")) == plain
    assert json.loads(content("array")) == [json.loads(line) for line in plain.splitlines()]


def test_duplicates_are_the_same_bytes_in_a_later_portion() -> None:
    made = world(duplicates=0.5)
    plain = {record.raw: record.available_ns for record in world().records("three", HOUR)}
    records = made.records("three", HOUR)
    assert {record.raw for record in records} == plain.keys()
    again = [record for record in records if record.available_ns != plain[record.raw]]
    assert len(again) == len(records) - len(plain) > 0
    assert all(record.available_ns > plain[record.raw] for record in again)


def test_an_hour_is_empty_before_its_first_record_and_after_28_days() -> None:
    made = world(growth=("append",))
    hour = next(h for h in range(HOUR, HOUR + 99) if made.records("one", h))
    end_ns = hour * HOUR_NS + RETENTION_NS
    (key, *_) = [each.key for each in made.objects("one", hour, end_ns - 1)]
    assert made.find(key, end_ns - 1) is not None
    for now_ns in (0, hour * HOUR_NS, (hour + 1) * HOUR_NS - 1, end_ns):
        assert made.objects("one", hour, now_ns) == ()
        assert made.find(key, now_ns) is None


@pytest.mark.parametrize("key", ["", "/", "one", "one/2024-10-04T00/", "one/now/x", "four/2024-10-04T00/x"])
def test_an_unknown_key_has_no_object(key: str) -> None:
    assert world().find(key, (HOUR + 9) * HOUR_NS) is None


def test_collections_fail_differently_with_quiet_hours_and_incidents() -> None:
    made = world(messages=40.0)
    counts = {c: [made.messages(c, h) for h in range(HOUR, HOUR + 28 * 24)] for c in COLLECTIONS}
    medians = [sorted(counts[c])[14 * 24] for c in COLLECTIONS]
    assert medians[1] * 2 < medians[0] < medians[2]
    for collection, found in counts.items():
        assert found.count(0) > 20
        incidents = [made.is_incident(collection, HOUR + n) for n in range(len(found))]
        assert 0 < sum(incidents) < 100
        assert max(found) == max(n for n, is_one in zip(found, incidents, strict=True) if is_one)


def test_no_messages_is_a_world_without_failures() -> None:
    assert not any(world(messages=0.0).records("one", hour) for hour in range(HOUR, HOUR + 99))


@pytest.mark.parametrize(
    "config",
    [
        {"collections": ()},
        {"collections": ("one", "one")},
        {"collections": ("a/b",)},
        {"collections": ("..",)},
        {"messages": -1.0},
        {"messages": float("nan")},
        {"damage": 1.5},
        {"duplicates": -0.1},
        {"formats": ()},
    ],
)
def test_invalid_settings_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        world(**config)


@given(st.integers(0, 10**6))
def test_an_hours_text_is_read_back(hour: int) -> None:
    assert parse_hour(hour_text(hour)) == hour


@pytest.mark.parametrize(
    "text", ["", "2024-10-04T00:30:00Z", "2024-10-4T0:00:00Z", "2024-10-04", "1969-12-31T23:00:00Z"]
)
def test_a_text_that_is_not_a_whole_hour_is_refused(text: str) -> None:
    assert parse_hour(text) is None


def written(dialect: Dialect) -> list[dict[str, Any]]:
    return [json.loads(record.raw) for record in world(dialect=dialect, messages=90.0).records("one", HOUR)]


def test_the_draft_has_a_number_as_version_and_fields_that_the_page_has_not() -> None:
    draft, page = written("draft"), written("page")
    assert [each["event"] for each in draft] == [each["event"] for each in page]
    assert {each["version"] for each in draft} == {1}
    assert {each["version"] for each in page} == {"v1"}
    for each, shown in zip(draft, page, strict=True):
        own, known = each["properties"], shown["properties"]
        assert [party["type"] for party in own["routed"]["to"]] == ["destination", "subscription"]
        assert known["routed"]["to"] == own["routed"]["to"][:1]
        more = own.keys() - known.keys()
        if each["event"] == "Destination Exchange Logged":
            assert not more
        elif own.get("outcome") == "success":
            assert more == {"featureName"}
        elif each["event"] == "Delivery Attempt Logged":
            assert more == {"featureName", "reason"}
        else:
            assert more | {"reason"} == {"featureName", "reason", "attempt"}
            assert own["attempt"] >= 1
        assert own.get("featureName", "delivery") == "delivery"
        assert {name: own[name] for name in known if name not in ("routed", "reason")} == {
            name: known[name] for name in known if name not in ("routed", "reason")
        }


def test_mixed_is_some_deliveries_in_one_dialect_and_some_in_the_other() -> None:
    by_exchange: dict[str, set[Any]] = {}
    for each in written("mixed"):
        if exchange_id := each["properties"].get("destinationExchangeId"):
            by_exchange.setdefault(exchange_id, set()).add(each["version"])
    assert {len(versions) for versions in by_exchange.values()} == {1}
    drafts = sum(1 in versions for versions in by_exchange.values())
    assert len(by_exchange) / 4 < drafts < len(by_exchange) * 3 / 4
    assert world(messages=9.0).records("one", HOUR) == world(messages=9.0, dialect="mixed").records(
        "one", HOUR
    )


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_is_understood_without_an_extra(dialect: Dialect) -> None:
    for record in world(dialect=dialect, messages=9.0).records("two", HOUR):
        found = decode(record.raw)
        assert isinstance(found, Event)
        assert found.extras == {}
        assert not isinstance(found.properties, OtherProperties)


def test_logged_events_are_the_failure_events() -> None:
    start = datetime(2025, 5, 7, 23, tzinfo=UTC)
    from_log = failure_events(3, 50, start=start)
    logged = list(logged_events(3, 50, start=start, seconds=3600.0, destinations=DESTINATIONS))
    assert [each.event for each in logged] == list(from_log)
    for each in logged:
        told = parse_rfc3339(json.loads(each.event)["properties"]["loggedAt"])
        assert told is not None
        assert 0 <= each.at_ns - told < 1_000_000


@pytest.mark.parametrize("growth", ["append", "rewrite", "repack"])
def test_dead_objects_are_few_the_same_in_every_listing_and_in_one_hour_each(growth: Any) -> None:
    segment = world(collections=("a",), growth=(growth,), dead=2, messages=30)
    first = HOUR
    dead: dict[int, int] = {}
    for hour in range(first - first % 24, first - first % 24 + 5 * 24):
        objects = segment.objects("a", hour, (hour + 12) * HOUR_NS)
        found = [segment.death(each) for each in objects]
        assert found == [segment.death(each) for each in objects]
        if count := sum(each is not None for each in found):
            dead[hour] = count
    assert 4 <= len(dead) <= 10
    assert set(dead.values()) == {1}
