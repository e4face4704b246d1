"""OTLP/HTTP: sends one request with records of one signal and returns its Outcome.

The errors of connections are translated here and nowhere else. `PortCheck`, also used over gRPC, detects a
wrong scheme or protocol: it probes the port of a failed request with HTTP/1.1 and HTTP/2, each with and
without TLS. A setting counts as wrong only if another combination succeeds and the configured one fails: a
server that is down is not a wrong setting.
"""

import gzip
import math
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from http.client import HTTPException, IncompleteRead
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from msgspec.structs import replace

from faillog_otel.config import DEFAULT_GRPC_PORT, Signal, Target
from faillog_otel.connections import MAX_ANSWER_BYTES, Connection, Connections, NotConnected, ProxyDenied
from faillog_otel.network import Deadline, proxy_to
from faillog_otel.otlp.outcome import (
    Acknowledged,
    Outcome,
    PartlyRejected,
    Refused,
    RetryLater,
    read_http_answer,
    unknown_host,
    untrusted_certificate,
)
from faillog_otel.otlp.wire import Envelope
from faillog_otel.tls import ReloadOnChange, client_context, tls_context

if TYPE_CHECKING:
    from faillog_otel.otlp.writers import JsonEnvelope  # which imports protobuf

# isal if it is installed (`faillog-otel[isal]`), else zlib, both at level 1.
try:
    from isal import igzip
except ImportError:  # an optional dependency, without wheels for some machines
    igzip = None  # type: ignore[assignment]  # there is no module then

_LEVEL = 1


def gzip_body(body: bytes) -> bytes:
    """Returns the body as one gzip member without a time, so that equal bodies give equal bytes."""
    return _compress(body, compresslevel=_LEVEL, mtime=0)


_compress: Callable[..., bytes] = igzip.compress if igzip is not None else gzip.compress


WRONG_PORT_STATUSES = frozenset((400, 404, 405, 426, 505))
"""Answers of servers that expect TLS or HTTP/2 at this port, or do not know this path."""


class HttpClient:
    """The client of one signal's target, protobuf or JSON. Raises ConfigError for unusable certificates."""

    def __init__(
        self,
        target: Target,
        envelope: "Envelope | JsonEnvelope",
        user_agent: str,
        *,
        connect_seconds: float = math.inf,
    ) -> None:
        """`connect_seconds`: for the look-up of the host's name, and for connecting."""
        self._target = target
        self._envelope = envelope
        is_json = target.protocol == "http/json"
        self._headers = {name: value.reveal() for name, value in target.headers} | {
            "content-type": "application/json" if is_json else "application/x-protobuf",
            "user-agent": user_agent,
        }
        if target.compression == "gzip":
            self._headers["content-encoding"] = "gzip"
        self._port = PortCheck(target)
        context = ReloadOnChange(target, _context)
        self._connections = Connections(
            target.url,
            timeout_seconds=target.timeout_seconds,
            connect_seconds=connect_seconds,
            context=context.get,
            proxy=proxy_to(target.url, target.proxy, os.environ),
            proxy_context=partial(client_context, target.certificate),
        )

    def send(self, signal: Signal, records: Sequence[bytes]) -> Outcome:
        """Sends one request and reads its answer to the end."""
        target = self._target
        body = self._envelope.request(signal, records)
        if target.compression == "gzip":
            body = gzip_body(body)
        try:
            answer = self._connections.post(body, self._headers)
        except (OSError, HTTPException, ValueError) as error:
            may_be_wrong_port = isinstance(error, ConnectionError | ssl.SSLError | HTTPException)
            may_be_wrong_port = may_be_wrong_port and not isinstance(
                error, ConnectionRefusedError | ssl.SSLCertVerificationError
            )
            return self._port.explain(self._failed(error), may_be_wrong_port=may_be_wrong_port)
        if answer.body is None:
            return Refused(f"the answer is longer than {MAX_ANSWER_BYTES} bytes; check --endpoint")
        outcome = read_http_answer(
            signal, answer.status, answer.headers, answer.body, time.time(), mask=target.masked
        )
        if answer.status == 404 and isinstance(outcome, Refused) and not urlsplit(target.url).path.strip("/"):
            hint = f"the endpoint has no path; write {target.shown_url.rstrip('/')}/v1/{signal}"
            outcome = replace(outcome, why=f"{outcome.why}; {hint}")
        return self._port.explain(outcome, may_be_wrong_port=answer.status in WRONG_PORT_STATUSES)

    def _failed(self, error: Exception) -> Outcome:
        target = self._target
        if isinstance(error, TimeoutError):
            is_limited = math.isfinite(target.timeout_seconds)
            no_answer = f"no answer within {target.timeout_seconds:g} s" if is_limited else "no answer"
            return RetryLater(str(error) if isinstance(error, NotConnected) else no_answer)
        if isinstance(error, ProxyDenied):
            return Refused(f"{target.shown_url}: {error}", is_misconfigured=True)
        if not isinstance(error, OSError | HTTPException):  # a header that cannot be written
            return Refused(f"{target.shown_url}: {error}")
        problem = str(error) or type(error).__name__
        if isinstance(error, ssl.SSLCertVerificationError):
            problem = untrusted_certificate(error.verify_message)
        elif isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME:
            problem = unknown_host(target.url)
        elif isinstance(error, HTTPException) and not isinstance(error, ConnectionError | IncompleteRead):
            problem = "the answer is not HTTP; check --endpoint and --protocol"
        # A server can close the connection during a request that is too large for it.
        is_broken = isinstance(error, ConnectionResetError | BrokenPipeError | ssl.SSLEOFError)
        return RetryLater(f"{target.shown_url}: {problem}", may_be_size=is_broken)

    def close(self) -> None:
        """Closes the connections; a request in flight fails."""
        self._connections.close()


def _context(target: Target) -> ssl.SSLContext | None:
    return tls_context(target) if target.url.startswith("https:") else None


Scheme = Literal["http", "https"]
Version = Literal["HTTP/1.1", "HTTP/2"]

CHECK_SECONDS = 2.0
"""Time for each probe: all four run while a request waits for its outcome."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # and empty SETTINGS
_SETTINGS = re.compile(rb"\0..\x04", re.DOTALL)
_REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
_ANSWER = re.compile(rb"HTTP/1\.[01] (?!400|426|505)\d{3}")
"""Servers that expect TLS or HTTP/2 also answer 400."""


def wrong_port(
    target: Target,
    seconds: float = CHECK_SECONDS,
    settings: str = "--endpoint {url} --protocol {protocol}",
) -> str | None:
    """Returns which protocol the target's port speaks, and the setting for it; None if it is unknown or set.

    `seconds`: for each of the four probes. `settings`: the format of the remedy.
    """
    parts = urlsplit(target.url)
    scheme: Scheme = "https" if parts.scheme == "https" else "http"
    version: Version = "HTTP/2" if target.protocol == "grpc" else "HTTP/1.1"
    host = parts.hostname or ""
    port = parts.port or (DEFAULT_GRPC_PORT if version == "HTTP/2" else 443 if scheme == "https" else 80)
    found: tuple[Scheme, Version] | None = None
    for spoken in _spoken(host, port, seconds):
        if spoken == (scheme, version):
            return None
        found = found or spoken
    if found is None:
        return None
    is_grpc = found[1] == "HTTP/2"
    what = f"{'gRPC' if is_grpc else 'HTTP/1.1'} {'with' if found[0] == 'https' else 'without'} TLS"
    url = f"{found[0]}://{f'[{host}]' if ':' in host else host}:{port}"
    protocol = "grpc" if is_grpc else target.protocol if version == "HTTP/1.1" else "http/protobuf"
    return f"the port speaks {what}; write {settings.format(url=url, protocol=protocol)}"


def _spoken(host: str, port: int, seconds: float) -> Iterator[tuple[Scheme, Version]]:
    for scheme in ("http", "https"):
        for version in ("HTTP/1.1", "HTTP/2"):
            with suppress(OSError, UnicodeError):
                if _speaks(host, port, scheme, version, Deadline(seconds)):
                    yield scheme, version


def _speaks(host: str, port: int, scheme: Scheme, version: Version, deadline: Deadline) -> bool:
    """Returns whether the port speaks this; raises OSError or UnicodeError if the probe fails."""
    name = "h2" if version == "HTTP/2" else "http/1.1"
    connection = Connection(host, port, _unverified_tls(name) if scheme == "https" else None)
    try:
        connection.ready(deadline)
        connected = connection.sock
        if isinstance(connected, ssl.SSLSocket) and connected.selected_alpn_protocol() == name:
            return True
        probe, answer, length = (_PREFACE, _SETTINGS, 9) if version == "HTTP/2" else (_REQUEST, _ANSWER, 12)
        connection.send(probe)
        start = b""
        while connected is not None and len(start) < length:
            connected.settimeout(deadline.left())
            start += connected.recv(length) or bytes(length)
        return answer.match(start) is not None
    finally:
        connection.close()


def _unverified_tls(protocol: str) -> ssl.SSLContext:
    """Returns TLS settings without verification: the probe sends no data and trusts no answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    return context


RECHECK_SECONDS = 30.0
"""Time between two probes of one target."""


class PortCheck:
    """Probes a target's port when a request fails, until the first request succeeds."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._is_right = target.proxy is not None  # the proxy makes the connection
        self._found: str | None = None
        self._checked_at = -math.inf

    def explain(self, outcome: Outcome, *, may_be_wrong_port: bool) -> Outcome:
        """Returns the outcome; Refused if a probe shows that a setting is wrong.

        `may_be_wrong_port`: whether such a failure can have this cause.
        """
        if isinstance(outcome, Acknowledged | PartlyRejected):
            self._is_right = True
        if not may_be_wrong_port or self._is_right or isinstance(outcome, Acknowledged | PartlyRejected):
            return outcome
        if time.monotonic() - self._checked_at > RECHECK_SECONDS:
            self._found = wrong_port(self._target)
            self._checked_at = time.monotonic()
        return (
            Refused(f"{self._target.shown_url}: {self._found}", is_misconfigured=True)
            if self._found
            else outcome
        )
