"""`--backend`, as users say it: what arrives, what is counted, what `doctor` says of it, and wrong names."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.events import attempt, error, exchange, lines
from support.metrics import MetricsReceiver
from support.polled_folder import AWAY, PolledFolder, polled_folder
from support.program import Done, run_program

from faillog_otel.sandbox.collector import Receiver, Reply

PARTIAL = bytes.fromhex("0a020801")  # ExportLogsServiceResponse: 1 record rejected
LONG = "b" * 20_000


def fresh(**properties: Any) -> bytes:
    """An event of two hours ago."""
    at = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
    return error(occurredAt=at, loggedAt=at, **properties)


def run(folder: Path, endpoint: str, *args: str, **env: Any) -> Done:
    return run_program("run", "events", "--endpoint", endpoint, "--summary", "json", *args, cwd=folder, **env)


def attributes(record: Any) -> dict[str, Any]:
    return {pair.key: pair.value for pair in record.attributes}


def findings(folder: Path, *args: str, **env: Any) -> tuple[int, list[dict[str, str]]]:
    """What `doctor` says of backends; the collector is away."""
    done = run_program("doctor", "--json", "--endpoint", AWAY, *args, cwd=folder, **env)
    return done.code, [each for each in json.loads(done.stdout)["findings"] if each["check"] == "backend"]


def test_what_is_too_old_is_shifted_marked_and_counted_and_what_is_not_stays(
    tmp_path: Path, receiver: Receiver
) -> None:
    (tmp_path / "events").write_bytes(lines(exchange(), attempt(), fresh(messageId="new")))
    with MetricsReceiver() as metrics:
        env = {"FAILLOG_SELF_OTLP_ENDPOINT": metrics.http_endpoint}
        done = run(tmp_path, receiver.http_endpoint, "--backend", "datadog", **env)
        assert metrics.numbers("faillog.time_shifted") == {frozenset(): 2}
    assert (done.code, done.summary["exported"]) == (0, 3)
    assert not [key for key in done.summary if "shift" in key], "the keys are a contract"
    assert "2 records sent with another time (time policy clamp:17h of --backend datadog)" in done.stderr
    old, also_old, new = receiver.logs()
    assert old.time_unix_nano == also_old.time_unix_nano == receiver.spans()[0].start_time_unix_nano
    assert new.time_unix_nano - old.time_unix_nano > 14 * 3600 * 1e9
    for record in (old, also_old, *receiver.spans()):
        assert attributes(record)["segment.time_shifted"].bool_value
        assert attributes(record)["segment.occurred_at"].string_value == "2025-03-23T20:00:00Z"
    assert "segment.time_shifted" not in attributes(new)


def test_without_a_backend_no_time_is_shifted(tmp_path: Path, receiver: Receiver) -> None:
    (tmp_path / "events").write_bytes(lines(exchange(), attempt()))
    with MetricsReceiver() as metrics:
        done = run(tmp_path, receiver.http_endpoint, FAILLOG_SELF_OTLP_ENDPOINT=metrics.http_endpoint)
        assert metrics.numbers("faillog.time_shifted") == {frozenset(): 0}
    assert (done.code, "another time" in done.stderr) == (0, False)
    assert all("segment.time_shifted" not in attributes(record) for record in receiver.logs())


def test_an_explicit_time_policy_overrides_the_backends(tmp_path: Path, receiver: Receiver) -> None:
    body = {"status": 500, "body": LONG}
    (tmp_path / "events").write_bytes(lines(exchange(responseFromDestination=body)))
    (tmp_path / "faillog-otel.toml").write_text('[mapping]\ntime_policy = "occurred"\n')
    run(tmp_path, receiver.http_endpoint, "--backend", "loki")
    done = run(tmp_path, receiver.http_endpoint, FAILLOG_BACKEND="loki", FAILLOG_TIME_POLICY="arrival")
    assert "1 record sent with another time (time policy arrival);" in done.stderr, "it is not the backend's"
    kept, shifted = receiver.logs()
    assert "segment.time_shifted" not in attributes(kept)
    assert "segment.time_shifted" in attributes(shifted)
    for log in (kept, shifted):
        assert attributes(log)["segment.response.body"].string_value == LONG[:8192], "the limits stay"
        assert attributes(log)["segment.body_truncated"].bool_value


def test_lines_of_one_time_differ_so_that_loki_keeps_both(tmp_path: Path, receiver: Receiver) -> None:
    """The same message failed twice, alike; both are older than a week."""
    times = ("2025-03-23T20:00:00Z", "2025-03-23T20:00:31Z")
    (tmp_path / "events").write_bytes(lines(*(error(occurredAt=time, loggedAt=time) for time in times)))
    run(tmp_path, receiver.http_endpoint, "--backend", "loki")
    first, second = receiver.logs()
    assert first.time_unix_nano == second.time_unix_nano
    assert first.body.string_value.endswith(f", occurred {times[0]}")
    assert second.body.string_value.endswith(f", occurred {times[1]}")


def test_a_resend_under_a_backend_has_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(lines(attempt(more=LONG), fresh()))
    backend = ("--backend", "dynatrace")
    seen = []

    def refuse(signal: str, body: bytes) -> Reply:
        seen.append((signal, body))
        return Reply(503)

    with Receiver(refuse) as refusing:
        assert run(tmp_path, refusing.http_endpoint, "--wait", "0s", *backend).code == 4
    with Receiver() as receiver:
        args = ("replay", "faillog-pending.jsonl", "--endpoint", receiver.http_endpoint, *backend)
        done = run_program(*args, cwd=tmp_path)
        assert (done.code, "2 records sent with another time" in done.stderr) == (0, True)
        assert {(each.signal, each.body) for each in receiver.received} == set(seen)


@pytest.fixture
def polled(tmp_path: Path) -> Any:
    with polled_folder(tmp_path) as polled:
        yield polled


def test_status_counts_what_was_shifted_when_it_is_acknowledged(polled: PolledFolder) -> None:
    """First the collector rejects what it got, then that is sent again."""
    backend = ("--backend", "dynatrace")
    with Receiver(lambda signal, _: Reply(200, PARTIAL) if signal == "logs" else None) as receiver:
        rejected = polled.run(receiver.http_endpoint, *backend).summary["rejected"]
    found = polled.report("status")[1]
    assert (found["time_shifted"], found["records"]["rejected"]) == (0, rejected)
    assert rejected > 0
    with Receiver() as receiver:
        args = ("--state-dir", polled.state, "--rejected", "--endpoint", receiver.http_endpoint, *backend)
        done = run_program("replay", *args, cwd=polled.folder)
    assert f"{rejected} records sent with another time (time policy arrival" in done.stderr
    assert polled.report("status")[1]["time_shifted"] == rejected
    text = run_program("status", "--state-dir", polled.state, cwd=polled.folder).stdout.decode()
    assert f"time shifted  {rejected} records exported with another time" in text
    assert polled.report("audit")[1]["holds"]


def test_status_and_the_end_of_a_polling_run_say_how_many(polled: PolledFolder, receiver: Receiver) -> None:
    done = polled.run(receiver.http_endpoint, "--backend", "dynatrace")
    exported = done.summary["exported"]
    assert polled.report("status")[1]["time_shifted"] == exported > 0
    assert f"{exported} records sent with another time" in done.stderr


def test_doctor_says_what_the_backend_needs_and_what_is_set_for_it(tmp_path: Path) -> None:
    for name, words in (
        ("tempo", ("Grafana Tempo", "ingestion_time_range_slack: 48h", "time policy occurred")),
        ("loki", ("Grafana Loki", "time_sharding_enabled: true", "clamp:144h", "8192")),
        ("jaeger", ("Jaeger", "max_span_age", "clamp:24h")),
        ("honeycomb", ("Honeycomb", "COUNT_DISTINCT(messaging.message.id)", "16384")),
        ("datadog", ("Datadog", "18 hours", "clamp:17h")),
        ("newrelic", ("New Relic", "24 hours", "clamp:23h")),
        ("dynatrace", ("Dynatrace", "last hour", "arrival")),
    ):
        _, [found, collector] = findings(tmp_path, FAILLOG_BACKEND=name)
        assert (found["state"], found["do"]) == ("ok", "")
        assert all(word in found["says"] for word in words), found
        assert "sending_queue" in collector["says"]


@pytest.mark.parametrize(
    ("policy", "state"), [("occurred", "warn"), ("clamp:18h", "warn"), ("clamp:3h", "ok")]
)
def test_doctor_warns_of_a_time_policy_that_loses_records_there(
    tmp_path: Path, policy: str, state: str
) -> None:
    _, [found, _] = findings(tmp_path, "--backend", "datadog", "--time-policy", policy)
    assert found["state"] == state
    assert ("set --backend datadog (time policy clamp:17h)" in found["do"]) == (state == "warn")
    assert (f"lost with the time policy {policy}" in found["says"]) == (state == "warn")


def test_doctor_does_not_warn_of_true_times_in_jaeger_which_it_recommends(tmp_path: Path) -> None:
    _, [found, _] = findings(tmp_path, "--backend", "jaeger", "--time-policy", "occurred")
    assert (found["state"], found["do"]) == ("ok", "")
    assert found["says"].endswith("older records are not found there unless max_span_age is raised")
    _, [found, _] = findings(tmp_path, "--backend", "jaeger")
    assert "unless" not in found["says"]


@pytest.mark.parametrize("command", ["run", "replay", "doctor"])
def test_an_unknown_backend_is_a_usage_error_that_names_the_known_ones(tmp_path: Path, command: str) -> None:
    args = () if command == "doctor" else ("events",)
    done = run_program(command, *args, "--backend", "grafana", cwd=tmp_path)
    assert (done.code, done.stdout) == (2, b"")
    for name in ("grafana", "tempo", "loki", "jaeger", "honeycomb", "datadog", "newrelic", "dynatrace"):
        assert f"'{name}'" in done.stderr


def test_an_unknown_backend_in_the_environment_or_the_file_is_exit_2(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(error() + b"\n")
    done = run(tmp_path, AWAY, FAILLOG_BACKEND="grafana")
    assert (done.code, done.stdout) == (2, b"")
    assert "FAILLOG_BACKEND: must be tempo, loki, jaeger, honeycomb" in done.stderr
    (tmp_path / "faillog-otel.toml").write_text('[mapping]\nbackend = "Datadog"\n')
    done = run(tmp_path, AWAY)
    assert (done.code, done.stdout) == (2, b"")
    assert "[mapping] backend: must be tempo, loki" in done.stderr
