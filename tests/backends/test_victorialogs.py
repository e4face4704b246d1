"""What VictoriaLogs has of a message that could not be delivered."""

import time
from pathlib import Path

from support.backends import VictoriaLogs, forward
from support.failed_message import FailedMessage

from faillog_otel.clock import DAY_NS, HOUR_NS


def test_logs_of_26_hours_ago_are_taken_after_newer_ones_and_found_by_their_trace(
    victorialogs: VictoriaLogs, tmp_path: Path
) -> None:
    late = FailedMessage("late", time.time_ns() - 26 * HOUR_NS)
    for message in (FailedMessage("new", time.time_ns() - HOUR_NS), late):
        forward(message.content(), victorialogs.otlp_endpoint, "logs", tmp_path)
    found = victorialogs.records(f"trace_id:={late.trace_id} | sort by (_time, _msg)")
    assert [record["_msg"] for record in found] == [
        "Delivery to abc failed: HTTP 418 (message late, attempt 1)",
        "Delivery to abc failed: HTTP 418 (message late, attempt 2)",
        "Delivery to abc failed: HTTP 418 (message late, attempt 3)",
        "Error in delivery to abc, message discarded (message late)",
    ]
    assert {record["messaging.message.id"] for record in found} == {"late"}


def test_an_attempt_leads_to_the_record_of_its_exchange(victorialogs: VictoriaLogs, tmp_path: Path) -> None:
    message = FailedMessage("linked", time.time_ns() - 26 * HOUR_NS)
    forward(message.content(), victorialogs.otlp_endpoint, "logs", tmp_path)
    attempts = victorialogs.records(f"trace_id:={message.trace_id} segment.event:=segment.attempt")
    assert len(attempts) == message.attempts
    for attempt in attempts:
        named = f"segment.destination_exchange.id:={attempt['segment.destination_exchange.id']}"
        (exchange,) = victorialogs.records(f"{named} segment.event:=segment.exchange")
        assert (exchange["trace_id"], exchange["span_id"]) in message.exchange_spans()


def test_severity_service_and_numbers_can_be_asked_for(victorialogs: VictoriaLogs, tmp_path: Path) -> None:
    message = FailedMessage("asked", time.time_ns() - HOUR_NS)
    forward(message.content(), victorialogs.otlp_endpoint, "logs", tmp_path)
    of_message = f"{{service.name=segment}} trace_id:={message.trace_id}"
    (discarded,) = victorialogs.records(f"{of_message} severity_text:=ERROR")
    assert discarded["segment.discarded"] == "true"
    late = victorialogs.records(f"{of_message} segment.delivery.attempt:>=2")
    assert sorted(record["segment.delivery.attempt"] for record in late) == ["2", "3"]


def test_logs_of_27_days_ago_are_taken_and_found(victorialogs: VictoriaLogs, tmp_path: Path) -> None:
    """Segment keeps them for 28 days."""
    oldest = FailedMessage("oldest", time.time_ns() - 27 * DAY_NS)
    forward(oldest.content(), victorialogs.otlp_endpoint, "logs", tmp_path)
    found = victorialogs.records(f"trace_id:={oldest.trace_id}")
    assert len(found) == oldest.attempts + 1


def test_log_record_uid_tells_what_was_sent_twice(victorialogs: VictoriaLogs, tmp_path: Path) -> None:
    """VictoriaLogs keeps both; the uid is how a query counts each record once."""
    message = FailedMessage("twice", time.time_ns() - 50 * HOUR_NS)
    for _ in range(2):
        forward(message.content(), victorialogs.otlp_endpoint, "logs", tmp_path)
    query = f"trace_id:={message.trace_id} | stats count() records, count_uniq(log.record.uid) different"
    (counted,) = victorialogs.records(query)
    once = message.attempts + 1
    assert counted == {"records": str(2 * once), "different": str(once)}
