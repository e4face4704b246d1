"""What a collector's answer means: a value that says what to do next. No I/O.

The tables are OTLP's ("Failures", opentelemetry.io/docs/specs/otlp). A success acknowledges only if what
it says is an OTLP answer: a login page with status 200 is not one. What it says in words is redacted and cut
here, where it is read: an outcome holds no more of it than is kept.
"""

import re
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from msgspec import Struct
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from faillog_otel.clock import retry_after
from faillog_otel.config import Signal
from faillog_otel.json_syntax import read_as
from faillog_otel.redact.redactor import redact_text
from faillog_otel.text import peer_text

RETRYABLE = frozenset((429, 502, 503, 504))
DOUBTFUL = frozenset((400, 500))

READER_GONE = "the reader of the output closed it"


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
    may_be_size: bool = False
    """It may be too large all the same: when that happens again, half of it is tried."""


class TooLarge(Struct, frozen=True):
    """Not taken, for it is too large: less of it may be."""

    why: str


class Doubtful(Struct, frozen=True):
    """Not taken, because of one of its records or because nothing is taken at all.

    An empty request tells which: the Collector's own receiver answers some permanent errors with 500.
    """

    why: str


class Refused(Struct, frozen=True):
    """Not taken, and not because of a record: somebody has to mend something first."""

    why: str
    may_be_size: bool = False
    """As in `RetryLater`."""
    is_mistake: bool = False
    """The settings name a way that leads nowhere: `why` says what to write instead."""


Mask = Callable[[str], str]
"""Replaces our own header values, which a server may say back."""

NotTaken = RetryLater | TooLarge | Doubtful | Refused
Outcome = Acknowledged | PartlyRejected | NotTaken


class _PartialSuccess(Struct, rename="camel"):
    rejected_log_records: int | str | None = 0  # protobuf's JSON: an integer, a text, or null
    rejected_spans: int | str | None = 0
    error_message: str | None = None


class _JsonAnswer(Struct, rename="camel"):
    partial_success: _PartialSuccess | None = None


def read_http_answer(
    signal: Signal,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    now_seconds: float,
    *,
    mask: Mask = str,
) -> Outcome:
    """The outcome of one HTTP answer.

    `now_seconds` (since 1970) is what a Retry-After date counts from if the answer has no Date.
    """
    content_type = headers.get("content-type", "").lower()
    if 200 <= status < 300:
        return _read_success(signal, content_type, body, mask)
    why = f"HTTP {status}"
    if said := _status_message(content_type, body):
        why += f": {said_text(said, mask)}"
    if status in RETRYABLE:
        # A gateway also answers 502 when the server behind it hangs up in the middle of a large request.
        asked = retry_after(headers.get("retry-after"), now_seconds, headers.get("date"))
        return RetryLater(why, asked, may_be_size=status == 502 and asked is None)
    if status == 413 or (status in DOUBTFUL and speaks_of_size(why)):
        return TooLarge(why)
    if status in DOUBTFUL:
        return Doubtful(why)
    if 300 <= status < 400:
        why += " (redirects are not followed: is the endpoint right?)"
    return Refused(why)


def speaks_of_size(text: str) -> bool:
    """Whether a server says that a message is too large. Its words are all there is to tell by."""
    return _TOO_LARGE.search(text) is not None and not speaks_of_other_limits(text)


def speaks_of_other_limits(text: str) -> bool:
    """Whether a server says that there is too much of something else: sending less at once is of no use."""
    return _OTHER_LIMIT.search(text) is not None


_TOO_LARGE = re.compile(
    r"larger than (the )?max"  # grpc-go, gRPC's C core
    r"|\b(message|length|body|request|payload|entity|content|data)\b[^.,;]{0,30}\btoo (large|big|long)\b"
    r"|\b(message|body|request|payload|entity|content)\b[^.;]{0,40}\bexceed\w*\b.{0,40}\b(size|length|bytes)\b"
    r"|\b(message|body|request|payload|entity|content)( \w+)? (size|length)\b.{0,40}\bexceed",
    re.IGNORECASE,
)
"""grpc-java: "gRPC message exceeds maximum size"; .NET: "message exceeds the maximum configured message
size"; tonic: "decoded message length too large"; Go's net/http: "request body too large"."""
_OTHER_LIMIT = re.compile(r"\b(rate|quota|per second|headers?|memory)\b|/s(ec)?\b", re.IGNORECASE)


def unknown_host(url: str) -> str:
    """What is said of a host without an address: its name is wrong, or will be known later."""
    return f"no host is called {urlsplit(url).hostname!r}; is the name right?"


def not_trusted(why: str) -> str:
    """What is said of a server whose certificate is not trusted."""
    return (
        f"its certificate is not trusted ({why}); "
        "name its authority's file: [otlp] certificate, OTEL_EXPORTER_OTLP_CERTIFICATE"
    )


def said_text(text: str, mask: Mask) -> str:
    """What a collector said, without secrets, cut: collectors quote what they refuse."""
    return peer_text(mask(text), redact_text)


def read_message(signal: Signal, body: bytes, mask: Mask = str) -> Outcome:
    """The outcome of a successful answer that is a protobuf message (an empty one is full success)."""
    try:
        if signal == "logs":
            logs = ExportLogsServiceResponse.FromString(body).partial_success
            rejected, message = logs.rejected_log_records, logs.error_message
        else:
            spans = ExportTraceServiceResponse.FromString(body).partial_success
            rejected, message = spans.rejected_spans, spans.error_message
    except DecodeError:
        return _NO_OTLP
    return _success(rejected, message, mask)


_NO_OTLP = Refused("the answer cannot be read as OTLP: is it a collector?")


def _read_success(signal: Signal, content_type: str, body: bytes, mask: Mask) -> Outcome:
    if not body:
        return Acknowledged()
    if content_type.startswith("application/x-protobuf"):
        return read_message(signal, body, mask)
    if not content_type.startswith("application/json"):
        shown = said_text(content_type, mask) or "of no type"
        return Refused(f"the answer is {shown}, not OTLP: is it a collector?")
    try:
        partial = read_as(_JsonAnswer, body).partial_success or _PartialSuccess()
        rejected = partial.rejected_log_records if signal == "logs" else partial.rejected_spans
        return _success(int(rejected or 0), partial.error_message or "", mask)
    except ValueError:
        return _NO_OTLP


def _success(rejected: int, message: str, mask: Mask) -> Outcome:
    message = said_text(message, mask)
    return PartlyRejected(rejected, message) if rejected > 0 else Acknowledged(message)


class _Status(Struct):
    message: str | None = None


def _status_message(content_type: str, body: bytes) -> str:
    """The message of the google.rpc.Status that an OTLP error carries; empty where there is none."""
    try:
        if content_type.startswith("application/json"):
            return read_as(_Status, body).message or ""
        if content_type.startswith("application/x-protobuf"):
            return str(Status.FromString(body).message)
    except (ValueError, DecodeError):
        return ""
    return body.decode(errors="replace").strip() if content_type.startswith("text/plain") else ""
