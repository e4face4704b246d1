"""OTLP/gRPC: sends the same bytes as over HTTP and returns the Outcome of the call.

grpcio's errors are translated here and nowhere else. The table of codes is OTLP's ("OTLP/gRPC Response",
opentelemetry.io/docs/specs/otlp).
"""

import math
import os
import re
import threading
from collections.abc import Sequence
from typing import Any

import grpc

from faillog_otel.config import Signal, Target
from faillog_otel.connections import MAX_ANSWER_BYTES, ProxyDenied
from faillog_otel.errors import ConfigError
from faillog_otel.network import channel_address, channel_options, proxy_to
from faillog_otel.otlp.http import PortCheck
from faillog_otel.otlp.outcome import (
    Doubtful,
    Mask,
    Outcome,
    Refused,
    RetryLater,
    TooLarge,
    is_about_other_limits,
    is_about_size,
    read_message,
    redacted_text,
    unknown_host,
    untrusted_certificate,
)
from faillog_otel.otlp.wire import Envelope
from faillog_otel.text import truncate
from faillog_otel.tls import ReloadOnChange, channel_credentials, tls_context

MAX_METADATA_BYTES = 16 * 1024
"""Limit of all headers, or all trailers, of an answer: grpcio's own default."""

MAX_TIMEOUTS = 3
"""After this many consecutive time-outs, a new connection is made: the old one may be dead."""

GRPC_METHODS: dict[Signal, str] = {
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
}
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
)
_RETRYABLE = frozenset(
    (
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    )
)
_DOUBTFUL = frozenset((grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN))
_TOO_LARGE_BY_TEXT = _DOUBTFUL | {
    grpc.StatusCode.RESOURCE_EXHAUSTED,  # Go, C core, Java, .NET
    grpc.StatusCode.OUT_OF_RANGE,  # tonic
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.FAILED_PRECONDITION,
}
"""Codes of servers whose text shows that a message is too large."""
_TOO_LARGE_WITHOUT_TEXT = frozenset(
    (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.CANCELLED,  # grpc-java resets the stream without a message
    )
)
"""Codes of servers that refuse a large message without a known text."""
_BROKEN = re.compile(r"(?i)^(?!failed to connect).*\b(reset|closed|broken pipe|rst_stream|goaway)\b")
"""A connection that broke during the request, as when a server closes it because of the size."""
_MAY_BE_WRONG_PORT = _DOUBTFUL | {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED}
_NOT_CONNECTED = re.compile(r"(?i)connection refused|unreachable|no route|timed? ?out")
_OTHER_SERVER = re.compile(r"Received http2 header with status: 40[45]")
_NO_SUCH_HOST = re.compile(r"(?i)domain name not found|name or service not known|nodename nor servname")
_DENIED_BY_PROXY = "proxy returned response code 407"
_BEFORE_SERVER = re.compile(r"(?i)HTTP proxy returned|failed to connect to|dns|domain name|name or service")
"""grpcio's texts for a call through a proxy that does not reach the server."""
_NOT_TRUSTED = re.compile(r"CERTIFICATE_VERIFY_FAILED: (.*?)(: OK)?$")
_CLIENT_LIMIT = "CLIENT: "
"""grpcio's prefix if the answer is too large."""


class GrpcClient:
    """The client of one signal's target. Raises ConfigError for unusable certificates and proxies."""

    def __init__(
        self, target: Target, envelope: Envelope, user_agent: str, *, connect_seconds: float = math.inf
    ) -> None:
        """`connect_seconds`: for the look-up of the host's name, and for connecting."""
        self._target = target
        self._connect_seconds = connect_seconds
        self._envelope = envelope
        self._metadata = tuple((name, value.reveal()) for name, value in target.headers)
        self._user_agent = user_agent
        self._lock = threading.Lock()
        self._port = PortCheck(target)
        self._has_answered = False
        self._timeouts = 0  # consecutive calls
        self._channel = ReloadOnChange(target, self._connect)

    def send(self, signal: Signal, records: Sequence[bytes]) -> Outcome:
        """Makes one call and waits for its answer."""
        with self._lock:
            if self._timeouts >= MAX_TIMEOUTS:
                self._channel.renew()  # calls in flight keep the old one
                self._timeouts, self._has_answered = 0, False
            channel = self._channel.get()
            timeout = self._target.timeout_seconds
            if not self._has_answered:  # a call has no separate deadline for connecting
                timeout = min(timeout, self._connect_seconds)
        try:
            call: Any = channel.unary_unary(GRPC_METHODS[signal])  # no serialisers: the bytes are encoded
            answer: bytes = call(
                self._envelope.request(signal, records),
                timeout=timeout if math.isfinite(timeout) else None,
                metadata=self._metadata,
                compression=_compression(self._target),
            )
        except grpc.RpcError as error:
            failed: Any = error  # grpcio's types lack that it is also the call
            code, details = failed.code(), failed.details() or ""
            self._note(code)
            if outcome := _proxy_outcome(self._target, details):
                return outcome
            if code is grpc.StatusCode.UNAVAILABLE and (
                problem := _connection_problem(self._target, details)
            ):
                return RetryLater(problem)
            if code is grpc.StatusCode.UNIMPLEMENTED and _OTHER_SERVER.search(details):
                what = "an HTTP server without gRPC answered; name the gRPC port or --protocol http/protobuf"
                return Refused(f"{self._target.shown_url}: {what}", is_misconfigured=True)
            may_be_wrong_port = code in _MAY_BE_WRONG_PORT and not _NOT_CONNECTED.search(details)
            return self._port.explain(
                read_rpc_error(failed, self._target.masked), may_be_wrong_port=may_be_wrong_port
            )
        except ValueError:  # grpcio: a call on a closed channel
            return RetryLater("the connection was closed")
        self._note(grpc.StatusCode.OK)
        return self._port.explain(read_message(signal, answer, self._target.masked), may_be_wrong_port=False)

    def close(self) -> None:
        """Closes the connection; calls in flight are cancelled."""
        self._channel.get().close()

    def _note(self, code: grpc.StatusCode) -> None:
        with self._lock:
            is_late = code is grpc.StatusCode.DEADLINE_EXCEEDED
            self._timeouts = self._timeouts + 1 if is_late else 0
            if not is_late and code is not grpc.StatusCode.UNAVAILABLE:
                self._has_answered = True

    def _connect(self, target: Target) -> grpc.Channel:
        address = channel_address(target.url)
        options = (
            *channel_options(target, connect_seconds=self._connect_seconds),
            *_OPTIONS,
            ("grpc.primary_user_agent", self._user_agent),
        )
        credentials = _credentials(target)
        if credentials is None:
            return grpc.insecure_channel(address, options=options)
        return grpc.secure_channel(address, credentials, options=options)


def read_rpc_error(error: Any, mask: Mask = str) -> Outcome:
    """Returns the outcome of a failed call: `error` is grpcio's RpcError, which is also the call."""
    code, why, details = error.code(), f"gRPC {error.code().name}", error.details()
    if details:
        is_own = code is grpc.StatusCode.UNAVAILABLE  # grpcio's own text, with the address
        why += f": {truncate(mask(details)) if is_own else redacted_text(details, mask)}"
    if code in _TOO_LARGE_BY_TEXT and is_about_size(why):
        return Refused(why) if _CLIENT_LIMIT in why else TooLarge(why)
    delay = _retry_delay(error)
    is_broken = code is grpc.StatusCode.UNAVAILABLE and _BROKEN.match(details or "") is not None
    may_be_size = delay is None and (code in _TOO_LARGE_WITHOUT_TEXT or is_broken)
    may_be_size = may_be_size and not is_about_other_limits(why)
    if code in _RETRYABLE or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and delay is not None):
        return RetryLater(why, delay, may_be_size)
    return Doubtful(why) if code in _DOUBTFUL else Refused(why, may_be_size)


def _proxy_outcome(target: Target, details: str) -> Outcome | None:
    """Returns the outcome of a call that failed at the proxy; None for other calls."""
    proxy = proxy_to(target.url, target.proxy, os.environ)
    if proxy is None or not _BEFORE_SERVER.search(details) or _NOT_TRUSTED.search(details):
        return None
    if _DENIED_BY_PROXY in details:
        return Refused(f"{target.shown_url}: {ProxyDenied(proxy)}", is_misconfigured=True)
    return RetryLater(f"{target.shown_url}: the proxy {proxy.url}: {truncate(details)}")


def _connection_problem(target: Target, details: str) -> str | None:
    """Returns why no connection can be made, in the same words as for HTTP; None if unknown."""
    if _NO_SUCH_HOST.search(details):
        return f"{target.shown_url}: {unknown_host(target.url)}"
    if found := _NOT_TRUSTED.search(details):
        return f"{target.shown_url}: {untrusted_certificate(truncate(found[1]))}"
    return None


def _retry_delay(error: Any) -> float | None:
    """Returns the seconds of the RetryInfo in the error's details; None if there is none."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            # Imported only for such an answer: see outcome.py.
            from google.protobuf.message import DecodeError
            from google.rpc.error_details_pb2 import RetryInfo
            from google.rpc.status_pb2 import Status

            try:
                for detail in Status.FromString(value).details:
                    info = RetryInfo()
                    if detail.Unpack(info):
                        return max(0.0, float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9))
            except DecodeError:
                return None
    return None


def _credentials(target: Target) -> grpc.ChannelCredentials | None:
    if target.url.startswith("https:"):
        tls_context(target)  # its errors name the file, grpcio's do not
    try:
        return channel_credentials(target)
    except OSError as error:
        raise ConfigError(f"the certificates for {target.shown_url} cannot be used: {error}") from None


def _compression(target: Target) -> grpc.Compression:
    return grpc.Compression.Gzip if target.compression == "gzip" else grpc.Compression.NoCompression
