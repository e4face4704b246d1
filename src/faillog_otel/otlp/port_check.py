"""What a port speaks, found out when requests fail there: a wrong scheme or protocol does not mend itself.

The port is asked in four ways. Only a positive answer counts, and only where the way that the settings name
is not among them: a server that is down, or a balancer without servers, is no mistake.
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

# -- ports ---------------------------------------------------------------------------------------------------


Scheme = Literal["http", "https"]
Version = Literal["HTTP/1.1", "HTTP/2"]

CHECK_SECONDS = 2.0
"""For one way of asking: all of them are asked while a request waits for its outcome."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # and empty SETTINGS
_SETTINGS = re.compile(rb"\0..\x04", re.DOTALL)
_QUESTION = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
_ANSWER = re.compile(rb"HTTP/1\.[01] (?!400|426|505)\d{3}")
"""400 is also what servers answer that want TLS, or HTTP/2."""


def wrong_port(
    target: Target,
    seconds: float = CHECK_SECONDS,
    settings: str = "--endpoint {url} --protocol {protocol}",
) -> str | None:
    """What speaks at the target's port and what to write instead; None where that is not known.

    `seconds`: for each of the four ways to ask. `settings`: those of the target, as they are written.
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
    """Raises OSError and UnicodeError where it cannot be asked, or says no."""
    name = "h2" if version == "HTTP/2" else "http/1.1"
    connection = Connection(host, port, _any_server(name) if scheme == "https" else None)
    try:
        connection.ready(deadline)
        connected = connection.sock
        if isinstance(connected, ssl.SSLSocket) and connected.selected_alpn_protocol() == name:
            return True
        question, answer, length = (
            (_PREFACE, _SETTINGS, 9) if version == "HTTP/2" else (_QUESTION, _ANSWER, 12)
        )
        connection.send(question)
        start = b""
        while connected is not None and len(start) < length:
            connected.settimeout(deadline.left())
            start += connected.recv(length) or bytes(length)
        return answer.match(start) is not None
    finally:
        connection.close()


def _any_server(protocol: str) -> ssl.SSLContext:
    """TLS with whoever is there: nothing of ours is sent, and nothing is believed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    return context


# -- port check ----------------------------------------------------------------------------------------------
#
# Whether a failed request went to a port that speaks something else: that does not mend itself.


RECHECK_SECONDS = 30.0


class PortCheck:
    """Looks at a target's port when a request failed oddly, until the first one was taken."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._is_right = target.proxy is not None  # then it is the proxy that connects
        self._found: str | None = None
        self._checked_at = -math.inf

    def explained(self, outcome: Outcome, *, is_odd: bool) -> Outcome:
        """The outcome, or that the settings are wrong. `is_odd`: another protocol may be spoken there."""
        if isinstance(outcome, Acknowledged | PartlyRejected):
            self._is_right = True
        if not is_odd or self._is_right or isinstance(outcome, Acknowledged | PartlyRejected):
            return outcome
        if time.monotonic() - self._checked_at > RECHECK_SECONDS:
            self._found = wrong_port(self._target)
            self._checked_at = time.monotonic()
        return (
            Refused(f"{self._target.shown_url}: {self._found}", is_mistake=True) if self._found else outcome
        )
