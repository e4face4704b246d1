"""What Tempo has of a message that could not be delivered, with the configuration that users get."""

import time
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from support.backends import TEMPO_CONFIG, Tempo, eventually, forward
from support.failing import FailingMessage

from faillog_otel.clock import HOUR_NS

SLACK = "      ingestion_time_range_slack: 48h\n"


@pytest.fixture
def message() -> FailingMessage:
    """One that failed 26 hours ago."""
    return FailingMessage("m", time.time_ns() - 26 * HOUR_NS)


def ids_of(span: dict[str, Any]) -> tuple[str, str]:
    return b64decode(span["traceId"]).hex(), b64decode(span["spanId"]).hex()


def found(tempo: Tempo, query: str, message: FailingMessage) -> set[str]:
    """What a search finds in the two hours around the message's failures."""
    return tempo.search(query, start=message.started_seconds - 3600, end=message.started_seconds + 3600)


def test_one_trace_has_the_attempts_and_their_links_to_the_exchanges(
    tempo_program: Path, message: FailingMessage, tmp_path: Path
) -> None:
    with Tempo(tempo_program, tmp_path) as tempo:
        forward(message.content(), tempo.otlp_endpoint, "traces", tmp_path)
        spans = sorted(tempo.spans(message.trace_id), key=lambda span: str(span["startTimeUnixNano"]))
        assert [span["name"] for span in spans] == ["deliver abc"] * message.attempts
        assert {span["status"]["code"] for span in spans} == {"STATUS_CODE_ERROR"}
        links = [ids_of(link) for span in spans for link in span["links"]]
        assert links == message.exchange_spans()
        for link in links:
            (exchange,) = tempo.spans(link[0])
            assert (ids_of(exchange), exchange["name"]) == (link, "HTTP abc")


def test_what_is_sent_again_later_is_there_once(
    tempo_program: Path, message: FailingMessage, tmp_path: Path
) -> None:
    with Tempo(tempo_program, tmp_path) as tempo:
        for _ in range(2):
            forward(message.content(), tempo.otlp_endpoint, "traces", tmp_path)
            tempo.flush()
        assert len(tempo.spans(message.trace_id)) == message.attempts


@pytest.mark.parametrize("with_our_slack", [True, False])
def test_a_failure_of_26_hours_ago_is_found_by_search_thanks_to_the_slack(
    tempo_program: Path, message: FailingMessage, tmp_path: Path, *, with_our_slack: bool
) -> None:
    """By attributes and time range, and the attempts of an exchange by their link."""
    config = TEMPO_CONFIG.read_text("utf-8")
    assert SLACK in config
    (tmp_path / "tempo.yaml").write_text(config if with_our_slack else config.replace(SLACK, ""), "utf-8")
    exchange_trace, _ = message.exchange_spans()[0]
    failed = '{span.segment.delivery.outcome = "failure" && span.segment.destination.id = "abc"}'
    with Tempo(tempo_program, tmp_path, tmp_path / "tempo.yaml") as tempo:
        forward(message.content(), tempo.otlp_endpoint, "traces", tmp_path)
        tempo.flush()
        assert eventually(tempo.blocks) == 1
        expected = {message.trace_id} if with_our_slack else set()
        assert found(tempo, failed, message) == expected
        assert found(tempo, f'{{link:traceID = "{exchange_trace}"}}', message) == expected
        assert len(tempo.spans(message.trace_id)) == message.attempts  # by its id, in either case
