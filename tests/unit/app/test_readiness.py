"""Ready or not: by a real ledger, and by what a real collector answers."""

from typing import get_args

from support.clock import MovedClock
from support.delivery import ScriptedReplies, targets

from faillog_otel.app.readiness import (
    ANSWERS_LATELY_SECONDS,
    OUTCOMES,
    InstrumentedClient,
    Readiness,
    collector,
)
from faillog_otel.clock import DAY_NS, HOUR_NS, hour_of
from faillog_otel.config import DeliveryConfig, SegmentConfig
from faillog_otel.events.model import JSON_LINES, Survey
from faillog_otel.ledger import Content, Ledger
from faillog_otel.ledger.results import BatchResult
from faillog_otel.otlp.delivery import network_client
from faillog_otel.otlp.outcome import Outcome
from faillog_otel.sandbox.collector import Receiver, Reply
from faillog_otel.segment.hours import ObjectVersion, ScheduleConfig
from faillog_otel.segment.quota import RateLimit
from faillog_otel.telemetry import NO_TELEMETRY


def standing(ledger: Ledger, clock: MovedClock, days: int) -> Readiness:
    config = ScheduleConfig(("a", "b"), since_ns=clock.now_ns() - days * DAY_NS)
    return Readiness(ledger, lambda: config, clock)


def read_gauges(found: Readiness) -> dict[str, dict[tuple[str, ...], float]]:
    return {gauge.name: dict(gauge.read()) for gauge in found.gauges(SegmentConfig())}


def test_an_empty_ledger_has_gaps_and_is_ready_until_they_are_about_to_leave(ledger: Ledger) -> None:
    """A first start reads 28 days under a quota: it must not be restarted for having read little yet."""
    clock = MovedClock()
    clock.wait(60 * 86_400)
    found = standing(ledger, clock, days=7)
    assert found.ledger().ok
    assert found.hours().ok
    gauges = read_gauges(found)
    assert set(gauges["faillog.coverage.gap.hours"]) == {("a",), ("b",)}
    assert min(gauges["faillog.coverage.gap.hours"].values()) > 7 * 24 - 10
    assert gauges["faillog.budget.remaining"] == {(): 120}
    assert gauges["faillog.lag.seconds"] == gauges["faillog.last_logged_at"] == {}
    clock.wait(19 * 86_400)
    assert found.hours().ok
    clock.wait(2 * 86_400)
    assert not found.hours().ok
    assert "unread" in found.hours().why


def test_what_was_read_and_exported_shows(ledger: Ledger) -> None:
    clock = MovedClock()
    clock.wait(60 * 86_400)
    now_ns = clock.now_ns()
    hour = hour_of(now_ns) - 12
    before = read_gauges(standing(ledger, clock, days=1))
    request = ledger.debit("a", hour, "fresh", now_ns)
    said = RateLimit(now_ns, remaining=90)
    ledger.listed(request, "a", hour, ["https://h/x?sig=1"], now_ns, rate_limit=said)
    assert ledger.unfinished_objects().to_download == 1
    listed = ledger.next_listed(now_ns)
    assert listed is not None
    ledger.spooled(
        listed, ObjectVersion("e", None, 9), Content(3, 0, 3, "", Survey(JSON_LINES, None)), now_ns
    )
    spooled = ledger.next_spooled()
    assert spooled
    for position, newest_ns in enumerate((5 * HOUR_NS, 9 * HOUR_NS, 7 * HOUR_NS)):
        result = BatchResult(newest_ns=newest_ns)
        result.counts.records = result.counts.exported = 1
        if newest_ns != 7 * HOUR_NS:
            ledger.advance(spooled, position, result, now_ns)
    found = read_gauges(standing(ledger, clock, days=1))
    gap = "faillog.coverage.gap.hours"
    assert tuple(before[gap][each,] - found[gap][each,] for each in "ab") == (1, 0)
    assert found["faillog.pending"] == {(): 1}
    assert found["faillog.budget.remaining"] == {(): 90}
    assert found["faillog.last_logged_at"] == {("a",): 9 * 3600}
    assert found["faillog.lag.seconds"] == {("a",): clock.monotonic() - 9 * 3600}
    assert standing(ledger, clock, days=1).ledger().why == "1 record pending"


def test_a_collector_that_stays_away_is_told_from_a_hiccup() -> None:
    """One failed request must not take a pod out of service."""
    clock = MovedClock()
    with Receiver(ScriptedReplies(logs=[Reply(503), Reply(401)])) as receiver:
        config = DeliveryConfig(targets=targets(receiver.http_endpoint, "http/protobuf"))
        answers = InstrumentedClient(network_client(config, (), "tests"), NO_TELEMETRY, clock)
        assert collector(answers).ok, "nothing was sent so far"
        answers.send("logs", [])
        clock.wait(ANSWERS_LATELY_SECONDS - 1)
        answers.send("logs", [])
        assert collector(answers).ok
        clock.wait(2)
        assert not collector(answers).ok
        assert "127.0.0.1" not in collector(answers).why
        answers.send("logs", [])
        assert collector(answers).ok
        clock.wait(86_400)
        assert collector(answers).ok, "nothing is asked for"
        answers.close()


def test_every_outcome_of_a_request_has_a_value_of_the_metric_attribute() -> None:
    assert set(OUTCOMES) == set(get_args(Outcome))
