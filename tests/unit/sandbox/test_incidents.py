"""Injected incidents: nothing else fails, answers look real, and the truth is what the records say."""

import json
from collections import Counter, defaultdict
from typing import Any

import pytest
from support.tiers import swept

from faillog_otel.clock import HOUR_NS, parse_rfc3339
from faillog_otel.errors import ConfigError
from faillog_otel.sandbox.bookkeeping import Inbox, Manifest
from faillog_otel.sandbox.config import WorldConfig
from faillog_otel.sandbox.failures import Failures, FailureSums
from faillog_otel.sandbox.generator import DIALECTS, Dialect
from faillog_otel.sandbox.incidents import INCIDENT_KINDS, Incident, IncidentKind
from faillog_otel.sandbox.world import World

HOUR = 490_000
COLLECTIONS = ("mixpanel", "braze", "webhooks", "amplitude")
LATER_NS = (HOUR + 100) * HOUR_NS


def incident(kind: IncidentKind, hours: float = 3, collection: str = "mixpanel") -> Incident:
    return Incident(collection, kind, HOUR * HOUR_NS, int((HOUR + hours) * HOUR_NS))


def world(*incidents: Incident, **config: Any) -> World:
    given = WorldConfig(**{"collections": COLLECTIONS, "messages": 0, "incidents": incidents, **config})
    return World(given, Inbox(given.seed))


def logged(made: World, collection: str = "mixpanel") -> list[tuple[str, dict[str, Any]]]:
    """Each event's name and properties, in three days around the incident."""
    records = [each for hour in range(HOUR - 24, HOUR + 48) for each in made.records(collection, hour)]
    events = [json.loads(record.raw) for record in records]
    return [(event["event"].split()[0], event["properties"]) for event in events]


def truth(made: World, now_ns: int = LATER_NS) -> list[FailureSums]:
    failures = Failures()
    failures.add(made.incident_records(now_ns))
    return failures.sums(now_ns)


def statuses(made: World) -> Counter[int | None]:
    exchanges = [own for name, own in logged(made) if name == "Destination"]
    return Counter(own.get("responseFromDestination", {}).get("status") for own in exchanges)


@pytest.mark.parametrize("kind", INCIDENT_KINDS)
def test_outside_of_an_incident_nothing_fails(kind: IncidentKind) -> None:
    made = world(incident(kind))
    for collection in COLLECTIONS:
        begun = {hour for hour in range(HOUR - 24, HOUR + 48) if made.records(collection, hour)}
        assert begun == ({HOUR, HOUR + 1, HOUR + 2} if collection == "mixpanel" else set())


def test_an_incident_leaves_other_failures_unchanged() -> None:
    without = world(messages=9.0, damage=0.1, duplicates=0.1)
    beside = world(incident("down"), messages=9.0)
    for hour in range(HOUR, HOUR + 3):
        there = {record.raw for record in beside.records("mixpanel", hour)}
        assert {each.raw for each in without.records("mixpanel", hour) if not each.damaged} < there


@pytest.mark.parametrize("rate", swept([20, 2_000, 20_000], [20]))
def test_so_many_messages_fail_in_an_hour(rate: int) -> None:
    for kind in INCIDENT_KINDS:
        [sums] = truth(world(incident(kind, hours=1.5), incident_messages=rate))
        assert sums.messages == 1.5 * rate


def test_a_destination_that_is_up_again_in_time_gets_every_message() -> None:
    made = world(incident("down"))
    [sums] = truth(made)
    assert (sums.kind, sums.discarded, sums.recovered) == ("down", 0, 60)
    assert set(statuses(made)) == {200, 503}
    last = [own for name, own in logged(made) if name == "Delivery" and own["outcome"] == "success"]
    assert len(last) == 60


def test_messages_of_the_first_hours_of_a_long_outage_are_discarded() -> None:
    [sums] = truth(world(incident("down", hours=8)))
    assert sums.discarded == sums.lost
    assert 60 < sums.lost < 120
    assert sums.recovered == 160 - sums.lost
    assert sums.attempts > sums.exchanges > 0


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_wrong_key_discards_each_message_at_once(dialect: Dialect) -> None:
    made = world(incident("wrong-key"), dialect=dialect)
    [sums] = truth(made)
    assert (sums.attempts, sums.lost, sums.recovered) == (60, 60, 0)
    assert set(statuses(made)) == {401}
    reasons = {own["reason"] for name, own in logged(made) if name == "Error"}
    assert reasons <= {"INVALID_SETTINGS", "the destination answered 401: Invalid API key"}


def test_a_broken_mapping_names_one_field_and_many_values() -> None:
    made = world(incident("bad-mapping"), dialect="page")
    [sums] = truth(made)
    assert (sums.messages, sums.exchanges, sums.lost) == (60, 60, 60)
    errors = [own["reason"] for name, own in logged(made) if name == "Error"]
    assert len(errors) == len(set(errors)) == 60
    assert len({error.split(" for field ")[1].split()[0] for error in errors}) == 1
    bodies = [own["responseFromDestination"]["body"] for name, own in logged(made) if name == "Destination"]
    assert all(any(json.dumps(error)[1:-1] in body for error in errors) for body in bodies)


def test_a_rate_limit_refuses_whole_batches_and_most_messages_recover() -> None:
    made = world(incident("rate-limit"), incident_messages=400)
    [sums] = truth(made)
    assert sums.attempts > 20 * sums.exchanges
    assert sums.recovered > 0.9 * sums.messages
    attempts = defaultdict(set)
    for name, own in logged(made):
        if name == "Delivery":
            attempts[own["destinationExchangeId"]].add(own["outcome"])
    assert {len(outcomes) for outcomes in attempts.values()} == {1}, "a batch has one outcome"
    refused = [
        own["responseFromDestination"]["headers"]
        for name, own in logged(made)
        if name == "Destination" and own["responseFromDestination"]["status"] == 429
    ]
    assert all(int(headers["Retry-After"]) > 0 for headers in refused)


def test_on_a_slow_network_there_is_no_response_and_one_code() -> None:
    made = world(incident("slow-network"), incident_messages=200, dialect="page")
    [sums] = truth(made)
    assert sums.recovered > 0.9 * sums.messages
    failed = [
        own for name, own in logged(made) if name == "Destination" and "responseFromDestination" not in own
    ]
    assert {own["reason"] for own in failed} < {"ETIMEDOUT", "ECONNRESET"}
    assert len(failed) == sums.exchanges


def test_the_truth_has_one_row_for_each_incident() -> None:
    incidents = [
        incident("down"),
        incident("bad-mapping"),
        incident("wrong-key", collection="braze"),
        incident("slow-network", collection="webhooks"),
        incident("rate-limit", collection="amplitude"),
    ]
    made = world(*incidents)
    sums = truth(made)
    assert {each.incident for each in sums} == {str(each) for each in incidents}
    assert all(each.messages == 60 for each in sums)
    assert all(each.destination == made.destination(each.collection or "").id for each in sums)
    for each in sums:
        first_ns, last_ns = parse_rfc3339(each.first_failure), parse_rfc3339(each.last_failure)
        assert first_ns is not None
        assert last_ns is not None
        assert HOUR <= first_ns / HOUR_NS < HOUR + 1 < HOUR + 2 <= last_ns / HOUR_NS < HOUR + 3


def test_the_truth_of_what_was_listed_grows_to_the_whole_truth() -> None:
    made = world(incident("wrong-key"), incident("down", collection="braze"), growth=("rewrite",))
    manifest = Manifest(made)
    known = []
    for now_ns in ((HOUR + 3) * HOUR_NS, (HOUR + 5) * HOUR_NS, LATER_NS):
        for collection in COLLECTIONS:
            for hour in range(HOUR, HOUR + 3):
                for stored in made.objects(collection, hour, now_ns):
                    manifest.note_listed(stored, now_ns)
        known.append(manifest.failures().sums(now_ns))
    attempts = [sum(each.attempts for each in sums) for sums in known]
    assert 0 < attempts[0] < attempts[1] == attempts[2]
    assert known[-1] == truth(made)
    assert any(each.pending for each in known[0])


def test_a_message_whose_end_was_not_listed_is_pending_for_six_hours_and_then_lost() -> None:
    failures = Failures()
    made = world(incident("down", hours=1))
    failures.add(each for each in made.records("mixpanel", HOUR) if b'"success"' not in each.raw)
    for hours, pending, lost in ((5, 20, 0), (8, 0, 20)):
        [sums] = failures.sums((HOUR + hours) * HOUR_NS)
        assert (sums.pending, sums.lost, sums.discarded) == (pending, lost, 0)


def test_what_is_outside_of_all_incidents_is_counted_by_itself() -> None:
    failures = Failures()
    made = world(incident("wrong-key", hours=1), messages=30.0)
    for collection in ("mixpanel", "braze"):
        failures.add(made.records(collection, HOUR))
    of_incident, *others = failures.sums(LATER_NS)
    assert (of_incident.messages, of_incident.collection) == (20, "mixpanel")
    assert others
    assert {(each.incident, each.kind) for each in others} == {(None, None)}


def test_an_open_incident_goes_on_until_now() -> None:
    made = world(Incident("braze", "wrong-key", HOUR * HOUR_NS))
    assert [sums.messages for sums in truth(made, (HOUR + 5) * HOUR_NS)] == [100]
    assert made.records("braze", HOUR + 5)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"incidents": (incident("down", collection="shop"),)}, "unknown collection; use one of: mixpanel"),
        ({"incidents": (incident("down", hours=-1),)}, "ends before it starts"),
        ({"incident_messages": 0}, "incident_messages"),
    ],
)
def test_wrong_incidents_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        WorldConfig(collections=COLLECTIONS, **wrong)
