"""The groups and trees of the console, from records of the official protobuf classes."""

import io
import re
from collections.abc import Callable
from datetime import UTC
from pathlib import Path

import pytest
from msgspec.structs import astuple
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from faillog_otel.config import Signal
from faillog_otel.otlp.console import ConsoleClient
from faillog_otel.otlp.outcome import Acknowledged
from faillog_otel.otlp.trees import trace_trees

Show = Callable[..., str]


def attributes(**values: str | int | bool) -> list[KeyValue]:
    """Attributes; `_` in a name is a dot."""
    kinds = {str: "string_value", int: "int_value", bool: "bool_value"}
    return [
        KeyValue(key=name.replace("__", "."), value=AnyValue(**{kinds[type(value)]: value}))  # type: ignore[arg-type]  # the field's name is a variable
        for name, value in values.items()
    ]


def failed(message: str, **values: str | int | bool) -> bytes:
    """The log record of a failed attempt."""
    values = {
        "segment__event": "segment.attempt",
        "messaging__message__id": message,
        "messaging__destination__name": "Mixpanel",
        "segment__destination__id": "d",
        "error__type": "503",
        "http__response__status_code": 503,
        **values,
    }
    log = LogRecord(time_unix_nano=10**18, trace_id=message.encode() * 16, attributes=attributes(**values))
    return log.SerializeToString()


@pytest.fixture
def show(tmp_path: Path) -> Show:
    """Prints batches of log records to a file; returns its content."""

    def shown(*batches: list[bytes], signals: tuple[Signal, ...] = ("logs",)) -> str:
        path = tmp_path / "shown"
        with path.open("wb", buffering=0) as file:
            client = ConsoleClient(
                file,
                io.TextIOWrapper(io.BytesIO(), encoding="utf-8"),
                lambda: None,
                has_logs="logs" in signals,
                shows_all=True,
                has_colours=False,
            )
            for batch in batches:
                assert client.send("logs", batch) == Acknowledged()
            assert client.flush() == Acknowledged()
            client.close()
        return path.read_text("utf-8")

    return shown


def headlines(shown: str) -> list[str]:
    return re.findall("^— (.*)", shown, re.MULTILINE)


def test_the_groups_attribute_decides(show: Show) -> None:
    """One group has many reasons, and a code of an error beside the status of an attempt."""
    group = {"segment__failure__group": "0123456789abcdef", "segment__reason__class": "credentials"}
    other = {**group, "segment__failure__group": "f" * 16}
    shown = show(
        [failed("a", segment__reason="user 1", **group), failed("b", segment__reason="user 2", **group)],
        [failed("c", segment__reason="user 1", **other)],
    )
    assert headlines(shown) == [
        "Mixpanel  HTTP 503  credentials  2 messages, 2 failed attempts  user 1",
        "Mixpanel  HTTP 503  credentials  1 message, 1 failed attempt  user 1",
    ]


def test_without_it_destination_code_and_reason_do(show: Show) -> None:
    shown = show(
        [failed("a"), failed("b"), failed("c", error__type="ETIMEDOUT"), failed("d", segment__reason="no")],
        [failed("e", segment__destination__id="other", messaging__destination__name="Braze")],
    )
    assert sorted(headlines(shown)) == [
        "Braze  HTTP 503  1 message, 1 failed attempt",
        "Mixpanel  HTTP 503  1 message, 1 failed attempt  no",
        "Mixpanel  HTTP 503  2 messages, 2 failed attempts",
        "Mixpanel  HTTP 503  ETIMEDOUT  1 message, 1 failed attempt",
    ]


def test_a_later_batch_can_be_more_specific(show: Show) -> None:
    code = LogRecord(
        time_unix_nano=2 * 10**18,
        attributes=attributes(
            segment__event="segment.error",
            messaging__message__id="a",
            error__type="INVALID_SETTINGS",
            segment__discarded=True,
        ),
    ).SerializeToString()
    expected = ["Mixpanel  HTTP 401  1 message, 1 discarded, 1 failed attempt"]
    attempt = failed("a", error__type="401", http__response__status_code=401)
    assert headlines(show([code], [attempt])) == headlines(show([attempt], [code])) == expected


def test_nothing_is_printed_without_records(show: Show) -> None:
    assert show([]) == ""


def test_a_tree_has_a_style_for_each_line() -> None:
    span = Span(
        name="deliver Mixpanel",
        trace_id=b"t" * 16,
        span_id=b"s" * 8,
        attributes=attributes(
            segment__event="segment.attempt",
            messaging__message__id="m",
            segment__delivery__attempt=2,
            segment__delivery__outcome="success",
        ),
    )
    log = LogRecord(severity_number=17, severity_text="ERROR", attributes=span.attributes[1:2])  # type: ignore[arg-type]  # 17 is ERROR
    ((_, lines, styles),) = map(astuple, trace_trees([span, span], [log, log], UTC))
    assert lines == (
        f"message m  trace {'74' * 16}, -",
        "├─ 1970-01-01 00:00:00  deliver Mixpanel  attempt 2  success",
        "├─ 1970-01-01 00:00:00  log ERROR  ",
        "└─ 1970-01-01 00:00:00  log ERROR  ",
    )
    assert styles == ("title", "succeeded", "failed", "failed")
