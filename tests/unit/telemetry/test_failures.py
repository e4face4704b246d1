"""Metrics and log events about failures, as an operator's backend gets them from a run's telemetry."""

import logging
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support.canaries import CANARIES, CANARY
from support.clock import MovedClock
from support.collector import Collector, attributes_of
from support.metrics import MetricsReceiver, plain_attributes
from support.own_failures import CHANGE, CHANGES, FIRST_NS, GROUP, own_telemetry
from support.tiers import slow, slow_case

from faillog_otel.app.readiness import failure_gauges
from faillog_otel.config import NetworkProtocol, Secret
from faillog_otel.telemetry import FailureChanges, NewGroup, NewGroupLog, NoTelemetry

PROTOCOLS = pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
NAMES = {GROUP.destination: "Mixpanel (prod)"}
SENTENCE = (
    "new failure group 3fe2a81c0d4b5e6f: Mixpanel (prod) fails with HTTP 401 INVALID_API_KEY (credentials), "
    '"Key <id> is not valid"; first at 2026-09-21T14:13:20Z'
)


def endpoint_of(receiver: MetricsReceiver, protocol: NetworkProtocol) -> str:
    return receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint


def numbers(receiver: MetricsReceiver, name: str, *names: str) -> dict[tuple[str, ...], float]:
    """A metric's numbers by the values of these attributes, which are all that it has."""
    found = {}
    for attributes, number in receiver.numbers(name).items():
        values = dict(attributes)
        found[tuple(values.pop(each, "") for each in names)] = number
        assert values == {}
    return found


def new_groups(count: int) -> list[NewGroup]:
    return [replace(GROUP, id=f"{number:016x}") for number in range(count)]


def lines(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


# -- metrics -----------------------------------------------------------------------------------------------


@PROTOCOLS
def test_messages_attempts_and_new_groups_are_counted(protocol: NetworkProtocol) -> None:
    with MetricsReceiver() as receiver:
        with own_telemetry(endpoint_of(receiver, protocol), protocol, NAMES) as telemetry:
            telemetry.record_failures(CHANGES)
            telemetry.record_failures(CHANGES)
        assert numbers(receiver, "faillog.messages", "destination", "state", "reason_class") == {
            ("", "lost", ""): 0,
            ("", "recovered", ""): 0,
            ("Mixpanel (prod)", "lost", "credentials"): 6,
            ("Mixpanel (prod)", "recovered", "credentials"): 0,
            ("Mixpanel (prod)", "lost", "destination_down"): 0,
            ("Mixpanel (prod)", "recovered", "destination_down"): 4,
        }
        assert numbers(receiver, "faillog.failures", "destination", "code", "reason_class") == {
            ("Mixpanel (prod)", "INVALID_API_KEY", "credentials"): 54,
            ("Mixpanel (prod)", "503", "destination_down"): 10,
        }
        assert numbers(receiver, "faillog.failure_groups.new", "destination", "reason_class") == {
            ("Mixpanel (prod)", "credentials"): 2
        }


def test_an_alert_sees_the_first_lost_message_of_a_destination_whose_attempts_fail() -> None:
    """`increase()` sees nothing of a series that begins with its first message."""
    attempts = {("d", "503", "destination_down"): 1}
    with MetricsReceiver() as receiver:
        with own_telemetry(receiver.http_endpoint) as telemetry:
            telemetry.record_failures(FailureChanges(attempts=attempts))
        found = numbers(receiver, "faillog.messages", "destination", "state", "reason_class")
    assert found["d", "lost", "destination_down"] == found["d", "recovered", "destination_down"] == 0


def test_pending_messages_are_a_gauge_that_is_read_for_each_export() -> None:
    pending = {(GROUP.destination, "destination_down"): 7, ("", "unknown"): 2}
    with MetricsReceiver() as receiver:
        with own_telemetry(receiver.http_endpoint, names=NAMES) as telemetry:
            for gauge in failure_gauges(lambda: pending):
                telemetry.observe(gauge)
            del pending["", "unknown"]
        found = numbers(receiver, "faillog.messages.pending", "destination", "reason_class")
    assert found == {("Mixpanel (prod)", "destination_down"): 7}


def test_pending_messages_of_too_many_destinations_are_summed_up() -> None:
    with MetricsReceiver() as receiver:
        with own_telemetry(receiver.http_endpoint) as telemetry:
            for gauge in failure_gauges(lambda: {(f"d{number}", "network"): 1 for number in range(80)}):
                telemetry.observe(gauge)
        found = numbers(receiver, "faillog.messages.pending", "destination", "reason_class")
    assert (len(found), found["other", "network"]) == (51, 30)


TEXTS = st.integers(0, 1000).map(str) | st.text(max_size=120)
COUNTS = st.integers(1, 1000)


@settings(max_examples=10)
@given(
    st.lists(st.dictionaries(st.tuples(TEXTS, TEXTS, TEXTS), COUNTS, max_size=120), min_size=1, max_size=2)
)
def test_no_texts_from_outside_make_more_than_51_values_of_an_attribute(
    commits: list[dict[tuple[str, str, str], int]],
) -> None:
    with MetricsReceiver() as receiver:
        with own_telemetry(receiver.http_endpoint) as telemetry:
            for attempts in commits:
                telemetry.record_failures(FailureChanges(attempts=attempts))
        if not any(commits):
            return
        found = receiver.numbers("faillog.failures")
    assert sum(found.values()) == sum(sum(attempts.values()) for attempts in commits)
    values: dict[str, set[str]] = {}
    for name, value in (pair for attributes in found for pair in attributes):
        values.setdefault(name, set()).add(value)
    assert values.keys() <= {"destination", "code", "reason_class", "otel.metric.overflow"}
    for each in values.values():
        assert len(each) <= 51
        assert all(text.isprintable() and len(text) <= 1000 for text in each)


# -- log events --------------------------------------------------------------------------------------------


@PROTOCOLS
def test_a_new_group_is_a_log_event_at_a_collector(
    collector_program: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, protocol: NetworkProtocol
) -> None:
    with Collector(collector_program, tmp_path) as collector:
        endpoint = collector.grpc_endpoint if protocol == "grpc" else collector.http_endpoint
        with (
            caplog.at_level(logging.INFO, "faillog_otel"),
            own_telemetry(endpoint, protocol, NAMES) as telemetry,
        ):
            telemetry.record_failures(CHANGES)
        arrived = collector.stop()
    (event,) = arrived.logs
    assert (event["eventName"], event["severityText"], event["severityNumber"]) == (
        *("faillog.failure_group.new", "WARN", 13),
    )
    assert attributes_of(event) == {
        "segment.failure.group": "3fe2a81c0d4b5e6f",
        "segment.destination.id": GROUP.destination,
        "messaging.destination.name": "Mixpanel (prod)",
        "error.type": "INVALID_API_KEY",
        "segment.reason.class": "credentials",
        "http.response.status_code": "401",
        "segment.reason": "Key <id> is not valid",
    }
    assert event["body"] == {"stringValue": SENTENCE}
    assert int(event["timeUnixNano"]) > FIRST_NS, "stamped at arrival: an alert looks at what is new"
    (envelope,) = arrived.envelopes
    assert attributes_of(envelope["resource"])["service.name"] == "faillog-otel"
    assert lines(caplog, logging.INFO) == [SENTENCE]
    assert lines(caplog, logging.WARNING) == []


def test_what_is_not_known_of_a_group_is_not_said() -> None:
    nothing = replace(GROUP, destination="", code=None, status=None, reason=None, reason_class="unknown")
    with MetricsReceiver() as receiver:
        with own_telemetry(receiver.http_endpoint) as telemetry:
            telemetry.record_failures(FailureChanges(new_groups=[nothing]))
        (event,) = receiver.events()
    assert plain_attributes(event) == {
        "segment.failure.group": "3fe2a81c0d4b5e6f",
        "segment.reason.class": "unknown",
    }
    assert "an unknown destination fails with no code (unknown); first at" in event.body.string_value


def test_of_many_new_groups_fifty_are_events_and_all_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with MetricsReceiver() as receiver, caplog.at_level(logging.INFO, "faillog_otel"):
        with own_telemetry(receiver.http_endpoint) as telemetry:
            for _ in range(10):
                telemetry.record_failures(FailureChanges(new_groups=new_groups(50)))
        assert len(receiver.events()) == 50
        found = numbers(receiver, "faillog.failure_groups.new", "destination", "reason_class")
    assert found == {(GROUP.destination, "credentials"): 500}
    said = lines(caplog, logging.INFO)
    assert len(said) == 51
    assert said[-1].startswith("more than 50 new failure groups in an hour")


@PROTOCOLS
def test_each_change_of_a_page_is_a_log_event(protocol: NetworkProtocol) -> None:
    changes = [replace(CHANGE, id=f"{number}") for number in range(1000)]
    with MetricsReceiver() as receiver:
        endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
        with own_telemetry(endpoint, protocol) as telemetry:
            telemetry.record_changes(changes)
        events = receiver.events()
    assert [plain_attributes(each)["log.record.uid"] for each in events] == [each.id for each in changes]
    assert {each.event_name for each in events} == {"faillog.workspace.change"}
    assert {each.time_unix_nano for each in events} == {CHANGE.at_ns}


def test_what_is_not_known_of_a_change_is_not_said() -> None:
    nothing = replace(CHANGE, resource_type="", resource_name="", actor="", actor_email="")
    with MetricsReceiver() as receiver:
        with own_telemetry(receiver.http_endpoint) as telemetry:
            telemetry.record_changes([nothing])
        (event,) = receiver.events()
    assert plain_attributes(event).keys() == {"log.record.uid", "segment.change.kind", "segment.resource.id"}
    assert event.body.string_value == f"Destination Modified: {GROUP.destination}"


def test_an_hour_later_new_groups_are_named_again(caplog: pytest.LogCaptureFixture) -> None:
    clock = MovedClock()
    log, named = NewGroupLog(NAMES, clock.monotonic), []
    with caplog.at_level(logging.INFO, "faillog_otel"):
        for seconds in (0, 3599, 1, 1):
            clock.wait(seconds)
            caplog.clear()
            named.append((len(log.write(new_groups(60))), len(caplog.records)))
    assert named == [(50, 51), (0, 0), (50, 51), (0, 0)]


def test_without_an_endpoint_new_groups_are_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "faillog_otel"):
        NoTelemetry(NAMES).record_failures(CHANGES)
    assert lines(caplog, logging.INFO) == [SENTENCE]


def test_no_secret_is_in_metrics_events_or_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Callers give redacted reasons; a code can be any text of a vendor."""
    sent = b""
    canaries = [*CANARIES.values()]
    for part in (canaries[start : start + 25] for start in range(0, len(canaries), 25)):
        groups = [replace(GROUP, code=text, reason=text) for text, _ in part]
        groups += [replace(GROUP, code=None, reason=f"{'x' * 150} {text}") for text, _ in part]
        attempts = {("d", text, "unknown"): 1 for text, _ in part}
        with MetricsReceiver() as receiver, caplog.at_level(logging.DEBUG, "faillog_otel"):
            with own_telemetry(receiver.http_endpoint) as telemetry:
                telemetry.record_failures(FailureChanges(attempts=attempts, new_groups=groups))
            assert len(receiver.events()) == len(groups)
            sent += b"".join(each.body for each in [*receiver.sent, *receiver.logs_sent])
    whole = f"{sent!r}{caplog.text}"
    assert [kind for kind, (_, secret) in CANARIES.items() if secret in whole] == []


# -- an endpoint that does not take them --------------------------------------------------------------------


@PROTOCOLS
def test_an_endpoint_for_metrics_alone_causes_no_warning(
    caplog: pytest.LogCaptureFixture, protocol: NetworkProtocol
) -> None:
    with MetricsReceiver(takes_logs=False) as receiver, caplog.at_level(logging.INFO, "faillog_otel"):
        with own_telemetry(endpoint_of(receiver, protocol), protocol) as telemetry:
            telemetry.record_failures(CHANGES)
        assert numbers(receiver, "faillog.failure_groups.new", "destination", "reason_class")
    assert lines(caplog, logging.WARNING) == []
    assert "takes no logs, only metrics" in caplog.text


def test_an_endpoint_for_metrics_alone_is_asked_once() -> None:
    with MetricsReceiver(takes_logs=False) as receiver:
        with own_telemetry(receiver.http_endpoint) as telemetry:
            telemetry.record_failures(CHANGES)
            receiver.wait_for(log_requests=1)
            telemetry.record_failures(CHANGES)
        assert len(receiver.logs_sent) == 1


@pytest.mark.parametrize("protocol", ["http/protobuf", slow_case("grpc")])
def test_a_dead_endpoint_gives_one_warning_for_metrics_and_events(
    caplog: pytest.LogCaptureFixture, protocol: NetworkProtocol
) -> None:
    with socket.socket() as nobody, caplog.at_level(logging.INFO, "faillog_otel"):
        nobody.bind(("127.0.0.1", 0))
        with own_telemetry(f"http://127.0.0.1:{nobody.getsockname()[1]}", protocol) as telemetry:
            telemetry.record_failures(CHANGES)
    (warning,) = lines(caplog, logging.WARNING)
    assert warning.startswith("cannot send our own ")
    assert SENTENCE.partition(":")[0] in caplog.text


@pytest.mark.parametrize("status", [302, 401])
def test_refused_events_give_one_warning_without_our_key(
    caplog: pytest.LogCaptureFixture, status: int
) -> None:
    with MetricsReceiver(status) as receiver, caplog.at_level(logging.DEBUG, "faillog_otel"):
        receiver.headers = {"reason": f"no {CANARY} here", "location": f"{receiver.http_endpoint}/login"}
        key = (("authorization", Secret(f"Bearer {CANARY}")),)
        with own_telemetry(receiver.http_endpoint, headers=key) as telemetry:
            telemetry.record_failures(CHANGES)
        assert {each.headers["path"] for each in receiver.logs_sent} == {"/v1/logs"}
        assert {each.headers["authorization"] for each in receiver.logs_sent} == {f"Bearer {CANARY}"}
    assert len(lines(caplog, logging.WARNING)) == 1
    assert CANARY not in caplog.text


@slow
def test_a_silent_endpoint_delays_neither_the_run_nor_its_end(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        too_late = threading.Event()
        alarm = threading.Timer(30, too_late.set)
        alarm.start()
        with own_telemetry(endpoint, timeout_seconds=60.0) as telemetry:
            for group in new_groups(1000):
                telemetry.record_failures(replace(CHANGES, new_groups=[group]))
        alarm.cancel()
        assert not too_late.is_set(), "it waited for the answers, for a minute"
    assert len(lines(caplog, logging.WARNING)) == 1


def test_otel_variables_do_not_affect_events(monkeypatch: pytest.MonkeyPatch) -> None:
    with MetricsReceiver() as receiver, MetricsReceiver() as elsewhere:
        for name, value in {
            "OTEL_SDK_DISABLED": "true",
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": f"{elsewhere.http_endpoint}/v1/logs",
            "OTEL_EXPORTER_OTLP_LOGS_HEADERS": f"api-key={CANARY}",
            "OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE": "/nowhere",
            "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION": "deflate",
            "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT": "nonsense",
            "OTEL_PYTHON_EXPORTER_OTLP_HTTP_LOGS_CREDENTIAL_PROVIDER": "nowhere",
            "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": "true",
            "OTEL_BLRP_MAX_QUEUE_SIZE": "1",
            "OTEL_BLRP_SCHEDULE_DELAY": "nonsense",
            "OTEL_ATTRIBUTE_COUNT_LIMIT": "1",
            "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "1",
            "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT": "1",
            "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT": "1",
            "OTEL_RESOURCE_ATTRIBUTES": f"secret={CANARY}",
            "OTEL_SERVICE_NAME": "segment-prod",
            "HTTP_PROXY": elsewhere.http_endpoint,
            "http_proxy": elsewhere.http_endpoint,
        }.items():
            monkeypatch.setenv(name, value)
        with own_telemetry(receiver.http_endpoint, names=NAMES) as telemetry:
            telemetry.record_failures(FailureChanges(new_groups=new_groups(3)))
        assert elsewhere.sent == elsewhere.logs_sent == []
        (sent,) = receiver.logs_sent
        assert CANARY not in str(sent.headers)
        assert CANARY.encode() not in sent.body
        assert sent.headers["content-encoding"] == "gzip"
        assert [len(plain_attributes(event)) for event in receiver.events()] == [7, 7, 7]
