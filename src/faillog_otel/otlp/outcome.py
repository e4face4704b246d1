"""Outcomes of requests: what a collector's answer means, and what to do next. Results of records. No I/O.

The tables are OTLP's ("Failures", opentelemetry.io/docs/specs/otlp). Status 200 acknowledges only with a
valid OTLP answer: a login page does not. The collector's text is redacted and truncated here.

protobuf is imported only for an answer that says something, which takes 20 ms of CPU; most collectors
acknowledge with an empty message.
"""

import re
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from msgspec import Struct

from faillog_otel.clock import retry_after
from faillog_otel.config import Signal
from faillog_otel.events.kept_record import Rejection
from faillog_otel.events.model import ReasonCode
from faillog_otel.redact import redact_text
from faillog_otel.text import peer_text, read_as

RETRYABLE = frozenset((429, 502, 503, 504))
DOUBTFUL = frozenset((400, 500))

READER_GONE = "the reader of the output closed it"


class Acknowledged(Struct, frozen=True):
    """The collector accepted all records. `message` is its warning, or empty."""

    message: str = ""


class PartlyRejected(Struct, frozen=True):
    """The collector accepted the request but rejected `rejected` of its records; it does not name them."""

    rejected: int
    message: str


class RetryLater(Struct, frozen=True):
    """Not accepted; the same request can be retried, after `after_seconds` if the collector asks for it."""

    why: str
    after_seconds: float | None = None
    may_be_size: bool = False
    """Whether the request may be too large; after repeated failures it is halved."""


class TooLarge(Struct, frozen=True):
    """Not accepted: the request is too large; a smaller one can succeed."""

    why: str


class Doubtful(Struct, frozen=True):
    """Not accepted, because of a record or because the collector accepts nothing.

    An empty request distinguishes the two: the Collector's receiver answers some permanent errors with 500.
    """

    why: str


class Refused(Struct, frozen=True):
    """Not accepted, and not because of a record: the cause must be fixed first."""

    why: str
    may_be_size: bool = False
    """As in `RetryLater`."""
    is_misconfigured: bool = False
    """Whether a setting is wrong; `why` names the value to use."""


NotAcked = RetryLater | TooLarge | Doubtful | Refused
Outcome = Acknowledged | PartlyRejected | NotAcked


class Acked(Struct, frozen=True):
    """The collector acknowledged the record."""


class Unacceptable(Struct, frozen=True):
    """The collector does not accept this record but accepts others. `reason` is a reason code."""

    reason: ReasonCode
    why: str


class Unsent(Struct, frozen=True):
    """Not acknowledged so far; a later request can succeed."""


class Suspected(Struct, frozen=True):
    """Refused alone, first in request number `since`; it is unknown whether the collector accepts others."""

    why: str
    since: int


SendResult = Acked | Rejection | Unacceptable | Unsent | Suspected
"""The result of one record."""

ACKED, UNSENT = Acked(), Unsent()

Mask = Callable[[str], str]
"""Masks our own header values, which a server can echo."""


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
    """Returns the outcome of one HTTP answer.

    A Retry-After date counts from `now_seconds` (since 1970) if the answer has no Date.
    """
    content_type = headers.get("content-type", "").lower()
    if 200 <= status < 300:
        return _read_success(signal, content_type, body, mask)
    why = f"HTTP {status}"
    if message := _status_message(content_type, body):
        why += f": {redacted_text(message, mask)}"
    if status in RETRYABLE:
        # A gateway also answers 502 if its upstream closes the connection during a large request.
        asked = retry_after(headers.get("retry-after"), now_seconds, headers.get("date"))
        return RetryLater(why, asked, may_be_size=status == 502 and asked is None)
    if status == 413 or (status in DOUBTFUL and is_about_size(why)):
        return TooLarge(why)
    if status in DOUBTFUL:
        return Doubtful(why)
    if 300 <= status < 400:
        why += "; redirects are not followed; check --endpoint"
    return Refused(why)


def is_about_size(text: str) -> bool:
    """Returns whether a server's text is about the size of a message; status codes alone do not show that."""
    return _TOO_LARGE.search(text) is not None and not is_about_other_limits(text)


def is_about_other_limits(text: str) -> bool:
    """Returns whether a server's text is about a limit that a smaller request does not avoid."""
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
    """Returns the message for a host without an address."""
    return f"host {urlsplit(url).hostname!r} not found; check --endpoint and the name server"


def untrusted_certificate(why: str) -> str:
    """Returns the message for a server whose certificate is not trusted."""
    return (
        f"its certificate is not trusted ({why}); "
        "name its authority's file: [otlp] certificate, OTEL_EXPORTER_OTLP_CERTIFICATE"
    )


def redacted_text(text: str, mask: Mask) -> str:
    """Returns a collector's text, redacted and truncated: collectors quote the records that they refuse."""
    return peer_text(mask(text), redact_text)


def read_message(signal: Signal, body: bytes, mask: Mask = str) -> Outcome:
    """Returns the outcome of a success whose body is a protobuf message; an empty one is full success."""
    if body in _FULL_SUCCESS:
        return Acknowledged()
    # Imported here: see the module's docstring.
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    try:
        if signal == "logs":
            logs = ExportLogsServiceResponse.FromString(body).partial_success
            rejected, message = logs.rejected_log_records, logs.error_message
        else:
            spans = ExportTraceServiceResponse.FromString(body).partial_success
            rejected, message = spans.rejected_spans, spans.error_message
    except DecodeError:
        return _NOT_OTLP
    return _success(rejected, message, mask)


_FULL_SUCCESS = (b"", b"\x0a\x00")
"""An empty message, and one whose `partial_success` is present and empty: the Collector sends the latter."""
_NOT_OTLP = Refused("the answer is not valid OTLP; check that --endpoint names a collector")


def _read_success(signal: Signal, content_type: str, body: bytes, mask: Mask) -> Outcome:
    if not body:
        return Acknowledged()
    if content_type.startswith("application/x-protobuf"):
        return read_message(signal, body, mask)
    if not content_type.startswith("application/json"):
        shown = redacted_text(content_type, mask) or "without a type"
        return Refused(f"the answer is {shown}, not OTLP; check that --endpoint names a collector")
    try:
        partial = read_as(_JsonAnswer, body).partial_success or _PartialSuccess()
        rejected = partial.rejected_log_records if signal == "logs" else partial.rejected_spans
        return _success(int(rejected or 0), partial.error_message or "", mask)
    except ValueError:
        return _NOT_OTLP


def _success(rejected: int, message: str, mask: Mask) -> Outcome:
    message = redacted_text(message, mask)
    return PartlyRejected(rejected, message) if rejected > 0 else Acknowledged(message)


class _Status(Struct):
    message: str | None = None


def _status_message(content_type: str, body: bytes) -> str:
    """Returns the message of the google.rpc.Status in an OTLP error; empty if there is none."""
    if content_type.startswith("application/json"):
        try:
            return read_as(_Status, body).message or ""
        except ValueError:
            return ""
    if body and content_type.startswith("application/x-protobuf"):
        # Imported here: see the module's docstring.
        from google.protobuf.message import DecodeError
        from google.rpc.status_pb2 import Status

        try:
            return str(Status.FromString(body).message)
        except DecodeError:
            return ""
    return body.decode(errors="replace").strip() if content_type.startswith("text/plain") else ""
