"""What a collector's answer means: a value that says what to do next. No I/O.

The retry table is OTLP's ("Failures", opentelemetry.io/docs/specs/otlp): 429, 502, 503 and 504 are tried
again, nothing else is. A 2xx acknowledges only if what it says is an OTLP answer: a login page with
status 200 is none.
"""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import msgspec
from google.protobuf.message import DecodeError
from msgspec import Struct
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from faillog_otel.config import Signal

RETRYABLE = frozenset((429, 502, 503, 504))


class Acknowledged(Struct, frozen=True):
    """The collector took all records. `message` is a warning it gave along, or empty."""

    message: str = ""


class PartlyRejected(Struct, frozen=True):
    """The collector took the request and rejected `rejected` of its records; it does not say which."""

    rejected: int
    message: str


class RetryLater(Struct, frozen=True):
    """Not taken, and the same request may be tried again, not before `after_seconds` where it says so."""

    why: str
    after_seconds: float | None = None


class Refused(Struct, frozen=True):
    """Not taken, and OTLP forbids to try the same again."""

    why: str


Outcome = Acknowledged | PartlyRejected | RetryLater | Refused


class _PartialSuccess(Struct, rename="camel"):
    rejected_log_records: int | str = 0
    rejected_spans: int | str = 0
    error_message: str = ""


class _JsonAnswer(Struct, rename="camel"):
    partial_success: _PartialSuccess | None = None


def read_http_answer(
    signal: Signal, status: int, headers: Mapping[str, str], body: bytes, now_seconds: float
) -> Outcome:
    """The outcome of one HTTP answer. `now_seconds` (since 1970) is what a Retry-After date counts from."""
    if 200 <= status < 300:
        return _read_success(signal, headers.get("content-type", ""), body)
    why = f"HTTP {status}"
    if (said := _status_message(headers.get("content-type", ""), body)) is not None:
        why += f": {said}"
    if status in RETRYABLE:
        return RetryLater(why, retry_after(headers.get("retry-after"), now_seconds))
    if 300 <= status < 400:
        why += " (redirects are not followed: is the endpoint right?)"
    return Refused(why)


def retry_after(header: str | None, now_seconds: float) -> float | None:
    """Seconds to wait from a Retry-After header, a number or a date (RFC 9110); None where it is neither."""
    if header is None:
        return None
    if header.strip().isascii() and header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now_seconds)
    except (ValueError, OverflowError):
        return None


def _read_success(signal: Signal, content_type: str, body: bytes) -> Outcome:
    if not body:
        return Acknowledged()  # an empty message: full success
    try:
        if content_type.startswith("application/json"):
            partial = msgspec.json.decode(body, type=_JsonAnswer).partial_success
            rejected, message = _rejected(signal, partial) if partial else (0, "")
        elif content_type.startswith("application/x-protobuf"):
            rejected, message = _read_protobuf(signal, body)
        else:
            return Refused(f"the answer is {content_type or 'of no type'}, not OTLP: is it a collector?")
    except (DecodeError, msgspec.DecodeError, ValueError):
        return Refused("the answer cannot be read as OTLP: is it a collector?")
    return PartlyRejected(rejected, message) if rejected else Acknowledged(message)


def _rejected(signal: Signal, partial: _PartialSuccess) -> tuple[int, str]:
    count = partial.rejected_log_records if signal == "logs" else partial.rejected_spans
    return int(count), partial.error_message


def _read_protobuf(signal: Signal, body: bytes) -> tuple[int, str]:
    if signal == "logs":
        logs = ExportLogsServiceResponse.FromString(body).partial_success
        return logs.rejected_log_records, logs.error_message
    spans = ExportTraceServiceResponse.FromString(body).partial_success
    return spans.rejected_spans, spans.error_message


class _Status(Struct):
    message: str = ""


def _status_message(content_type: str, body: bytes) -> str | None:
    """The message of the google.rpc.Status that an OTLP error carries; None where there is none."""
    if content_type.startswith("application/json"):
        try:
            return msgspec.json.decode(body, type=_Status).message or None
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
    if content_type.startswith("application/x-protobuf"):
        from google.rpc.status_pb2 import Status

        try:
            return Status.FromString(body).message or None
        except DecodeError:
            return None
    if content_type.startswith("text/plain"):
        return body[:200].decode(errors="replace").strip() or None
    return None
