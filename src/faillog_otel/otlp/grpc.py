"""OTLP/gRPC: the same records as over HTTP, byte for byte, and what came of a request as an Outcome.

grpcio's errors are translated here and nowhere else. The table of codes is OTLP's ("OTLP/gRPC Response",
opentelemetry.io/docs/specs/otlp).
"""

import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from faillog_otel.config import Signal, Target
from faillog_otel.connections import MAX_ANSWER_BYTES
from faillog_otel.errors import ConfigError
from faillog_otel.otlp.encoding import Envelope
from faillog_otel.otlp.outcome import (
    Doubtful,
    Mask,
    Outcome,
    Refused,
    RetryLater,
    TooLarge,
    read_message,
    said_text,
)
from faillog_otel.otlp.requests import GRPC_METHODS
from faillog_otel.otlp.tls import Rotating, tls_context
from faillog_otel.text import cut

MAX_METADATA_BYTES = 16 * 1024
"""All headers, or all trailers, of an answer: grpcio's own default."""

_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # when to try again is decided by Patience, not by the channel
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
_TOO_LARGE = "larger than max"
"""What both gRPC implementations say of a message that is too large, with code RESOURCE_EXHAUSTED."""
_OUR_END = "CLIENT: "
"""What grpcio writes before it where it is the answer that is too large."""


class GrpcClient:
    """The way to one signal's target. Raises ConfigError for unusable certificates."""

    def __init__(self, target: Target, envelope: Envelope, user_agent: str) -> None:
        self._target = target
        self._envelope = envelope
        self._metadata = tuple((name, value.reveal()) for name, value in target.headers)
        self._user_agent = user_agent
        self._lock = threading.Lock()
        self._channel = Rotating(target, self._connect)

    def send(self, signal: Signal, records: Sequence[bytes]) -> Outcome:
        """Makes one call and waits for its answer."""
        timeout = self._target.timeout_seconds
        with self._lock:
            channel = self._channel.get()
        try:
            call: Any = channel.unary_unary(GRPC_METHODS[signal])  # no serialisers: bytes go as they are
            answer: bytes = call(
                self._envelope.request(signal, records),
                timeout=timeout if math.isfinite(timeout) else None,
                metadata=self._metadata,
                compression=_compression(self._target),
            )
        except grpc.RpcError as error:
            return read_rpc_error(error, self._target.masked)
        except ValueError:  # grpcio: a call on a closed channel
            return RetryLater("the connection was closed")
        return read_message(signal, answer, self._target.masked)

    def close(self) -> None:
        """Closes the connection; a call that is under way is cancelled."""
        self._channel.get().close()

    def _connect(self, target: Target) -> grpc.Channel:
        parts = urlsplit(target.url)
        address = f"{parts.hostname if ':' not in (parts.hostname or '') else f'[{parts.hostname}]'}"
        options = (*_OPTIONS, ("grpc.primary_user_agent", self._user_agent))
        if parts.scheme == "http":
            return grpc.insecure_channel(f"{address}:{parts.port or 4317}", options=options)
        return grpc.secure_channel(f"{address}:{parts.port or 4317}", _credentials(target), options=options)


def read_rpc_error(error: Any, mask: Mask = str) -> Outcome:
    """The outcome of a call that failed: `error` is grpcio's RpcError, which is the call as well."""
    code, why = error.code(), f"gRPC {error.code().name}"
    if details := error.details():
        is_own = code is grpc.StatusCode.UNAVAILABLE  # it names the address that cannot be reached
        why += f": {cut(mask(details)) if is_own else said_text(details, mask)}"
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in why:
        return Refused(why) if _OUR_END in why else TooLarge(why)
    delay = _retry_delay(error)
    if code in _RETRYABLE or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and delay is not None):
        return RetryLater(why, delay)
    return Doubtful(why) if code in _DOUBTFUL else Refused(why)


def _retry_delay(error: Any) -> float | None:
    """Seconds from the RetryInfo in the error's details; None where there is none."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            try:
                for detail in Status.FromString(value).details:
                    info = RetryInfo()
                    if detail.Unpack(info):
                        return max(0.0, float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9))
            except DecodeError:
                return None
    return None


def _credentials(target: Target) -> grpc.ChannelCredentials:
    tls_context(target)  # says what is wrong with the files, which grpcio does not
    try:
        return grpc.ssl_channel_credentials(
            _read(target.certificate), _read(target.client_key), _read(target.client_certificate)
        )
    except OSError as error:
        raise ConfigError(f"the certificates for {target.shown_url} cannot be used: {error}") from None


def _read(name: str | None) -> bytes | None:
    return Path(name).read_bytes() if name else None


def _compression(target: Target) -> grpc.Compression:
    return grpc.Compression.Gzip if target.compression == "gzip" else grpc.Compression.NoCompression
