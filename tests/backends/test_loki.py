"""What Loki has of a message that could not be delivered, with the configuration that users get."""

import time
from pathlib import Path

from support.backends import LOKI_CONFIG, Loki, forward
from support.failing import FailingMessage

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS

OURS = '{service_name="segment"}'
SHARDING = "    time_sharding_enabled: true\n"


def lines_of(loki: Loki, message: FailingMessage) -> list[tuple[int, str, dict[str, str]]]:
    started_ns = message.started_seconds * SECOND_NS
    query = f'{OURS} | messaging_message_id="{message.message_id}"'
    return loki.lines(query, start_ns=started_ns - HOUR_NS, end_ns=started_ns + HOUR_NS)


def test_logs_of_26_hours_ago_are_taken_after_newer_ones_and_found_by_their_trace(
    loki_program: Path, tmp_path: Path
) -> None:
    late = FailingMessage("late", time.time_ns() - 26 * HOUR_NS)
    with Loki(loki_program, tmp_path) as loki:
        for message in (FailingMessage("new", time.time_ns() - HOUR_NS), late):
            done = forward(message.content(), loki.otlp_endpoint, "logs", tmp_path)
            assert done.summary["rejected"] == 0
        found = lines_of(loki, late)
        assert len(found) == late.attempts + 1
        assert {labels["trace_id"] for _, _, labels in found} == {late.trace_id}
        started_ns = late.started_seconds * SECOND_NS
        whole_trace = loki.lines(
            f'{OURS} | trace_id="{late.trace_id}" | segment_event="segment.attempt"',
            start_ns=started_ns - HOUR_NS,
            end_ns=started_ns + HOUR_NS,
        )
        assert sorted(line for _, line, _ in whole_trace) == [
            f"attempt {number}: failure (HTTP 418): message late to abc" for number in (1, 2, 3)
        ]


def test_without_time_sharding_late_logs_are_refused(loki_program: Path, tmp_path: Path) -> None:
    """Why the configuration has it."""
    config = LOKI_CONFIG.read_text("utf-8")
    assert SHARDING in config
    (tmp_path / "loki.yaml").write_text(config.replace(SHARDING, SHARDING.replace("true", "false")), "utf-8")
    late = FailingMessage("late", time.time_ns() - 26 * HOUR_NS)
    with Loki(loki_program, tmp_path, tmp_path / "loki.yaml") as loki:
        forward(FailingMessage("new", time.time_ns() - HOUR_NS).content(), loki.otlp_endpoint, "logs", tmp_path)
        done = forward(late.content(), loki.otlp_endpoint, "logs", tmp_path, "--wait", "1s", code=4)
        assert done.summary["exported"] == 0
        assert done.summary["pending"] == done.summary["records"]  # refused is not lost
        assert not lines_of(loki, late)


def test_logs_of_27_days_ago_are_taken_and_found(loki_program: Path, tmp_path: Path) -> None:
    """Segment keeps them for 28 days."""
    oldest = FailingMessage("oldest", time.time_ns() - 27 * DAY_NS)
    with Loki(loki_program, tmp_path) as loki:
        forward(oldest.content(), loki.otlp_endpoint, "logs", tmp_path)
        assert len(lines_of(loki, oldest)) == oldest.attempts + 1


def test_what_is_sent_twice_is_there_once(loki_program: Path, tmp_path: Path) -> None:
    message = FailingMessage("m", time.time_ns() - 26 * HOUR_NS)
    with Loki(loki_program, tmp_path) as loki:
        for _ in range(2):
            forward(message.content(), loki.otlp_endpoint, "logs", tmp_path)
        assert len(lines_of(loki, message)) == message.attempts + 1
