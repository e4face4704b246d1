"""What Loki has of a message that could not be delivered, with the configuration that users get."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.backends import LOKI_CONFIG, Loki, forward
from support.failing import FailingMessage

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS

SHARDING = "    time_sharding_enabled: true\n"


def lines_of(loki: Loki, message: FailingMessage, having: str) -> list[tuple[int, str, dict[str, str]]]:
    """What has this structured metadata in the two hours around the message's failures."""
    started_ns = message.started_seconds * SECOND_NS
    query = f'{{service_name="segment"}} | {having}'
    return loki.lines(query, start_ns=started_ns - HOUR_NS, end_ns=started_ns + HOUR_NS)


@pytest.fixture(scope="module")
def loki(loki_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loki]:
    """A running Loki. It takes ten seconds until it answers."""
    with Loki(loki_program, tmp_path_factory.mktemp("loki")) as loki:
        yield loki


def test_logs_of_26_hours_ago_are_taken_after_newer_ones_and_found_by_their_trace(
    loki: Loki, tmp_path: Path
) -> None:
    late = FailingMessage("late", time.time_ns() - 26 * HOUR_NS)
    for message in (FailingMessage("new", time.time_ns() - HOUR_NS), late):
        forward(message.content(), loki.otlp_endpoint, "logs", tmp_path)
    found = lines_of(loki, late, f'trace_id="{late.trace_id}"')
    assert sorted(line for _, line, _ in found) == [
        "attempt 1: failure (HTTP 418): message late to abc",
        "attempt 2: failure (HTTP 418): message late to abc",
        "attempt 3: failure (HTTP 418): message late to abc",
        "discarded: message late to abc",
    ]
    assert {labels["messaging_message_id"] for _, _, labels in found} == {"late"}
    assert len(lines_of(loki, late, 'segment_event="segment.exchange"')) == late.attempts


def test_without_time_sharding_late_logs_are_refused(loki_program: Path, tmp_path: Path) -> None:
    """Why the configuration has it."""
    config = LOKI_CONFIG.read_text("utf-8")
    assert SHARDING in config
    (tmp_path / "loki.yaml").write_text(config.replace(SHARDING, SHARDING.replace("true", "false")), "utf-8")
    late = FailingMessage("late", time.time_ns() - 26 * HOUR_NS)
    with Loki(loki_program, tmp_path, tmp_path / "loki.yaml") as loki:
        forward(
            FailingMessage("new", time.time_ns() - HOUR_NS).content(), loki.otlp_endpoint, "logs", tmp_path
        )
        done = forward(late.content(), loki.otlp_endpoint, "logs", tmp_path, "--wait", "1s", code=4)
        assert done.summary["exported"] == 0
        assert done.summary["pending"] == done.summary["records"]  # refused is not lost
        assert not lines_of(loki, late, f'trace_id="{late.trace_id}"')


def test_logs_of_27_days_ago_are_taken_and_found(loki: Loki, tmp_path: Path) -> None:
    """Segment keeps them for 28 days."""
    oldest = FailingMessage("oldest", time.time_ns() - 27 * DAY_NS)
    forward(oldest.content(), loki.otlp_endpoint, "logs", tmp_path)
    assert len(lines_of(loki, oldest, f'trace_id="{oldest.trace_id}"')) == oldest.attempts + 1


def test_what_is_sent_twice_is_there_once(loki: Loki, tmp_path: Path) -> None:
    message = FailingMessage("twice", time.time_ns() - 50 * HOUR_NS)
    for _ in range(2):
        forward(message.content(), loki.otlp_endpoint, "logs", tmp_path)
    assert len(lines_of(loki, message, f'trace_id="{message.trace_id}"')) == message.attempts + 1
