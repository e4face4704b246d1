"""Detects a wrong scheme or protocol: probes the port of a failed request, because retries do not help.

The port is probed with HTTP/1.1 and HTTP/2, each with and without TLS. A setting counts as wrong only if
another combination succeeds and the configured one fails: a server that is down is not a wrong setting.
"""

import math
import re
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Literal
from urllib.parse import urlsplit

from faillog_otel.config import DEFAULT_GRPC_PORT, Target
from faillog_otel.connections import Connection
from faillog_otel.network import Deadline
from faillog_otel.otlp.outcome import Acknowledged, Outcome, PartlyRejected, Refused

Scheme = Literal["http", "https"]
Version = Literal["HTTP/1.1", "HTTP/2"]

CHECK_SECONDS = 2.0
"""For each probe: all of them run while a request waits for its outcome."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # and empty SETTINGS
_SETTINGS = re.compile(rb"\0..\x04", re.DOTALL)
_QUESTION = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
_ANSWER = re.compile(rb"HTTP/1\.[01] (?!400|426|505)\d{3}")
"""400 is also the answer of servers that expect TLS or HTTP/2."""


def wrong_port(
    target: Target,
    seconds: float = CHECK_SECONDS,
    settings: str = "--endpoint {url} --protocol {protocol}",
) -> str | None:
    """Returns what the target's port speaks and what to write instead; None if unknown.

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
        probe, answer, length = (_PREFACE, _SETTINGS, 9) if version == "HTTP/2" else (_QUESTION, _ANSWER, 12)
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


class PortCheck:
    """Probes a target's port when a request fails, until the first request succeeds."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._is_right = target.proxy is not None  # the proxy makes the connection
        self._found: str | None = None
        self._checked_at = -math.inf

    def explain(self, outcome: Outcome, *, may_be_wrong_port: bool) -> Outcome:
        """Returns the outcome, or Refused for wrong settings. `may_be_wrong_port`: the failure allows for a
        wrong port.
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
