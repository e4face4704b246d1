"""OTLP/HTTP: sends one request with records of one signal and returns its Outcome.

The errors of connections are translated here and nowhere else.
"""

import math
import os
import socket
import ssl
import time
from collections.abc import Sequence
from functools import partial
from http.client import HTTPException, IncompleteRead
from urllib.parse import urlsplit

from msgspec.structs import replace

from faillog_otel.config import Signal, Target
from faillog_otel.connections import MAX_ANSWER_BYTES, Connections, NotConnected, ProxyDenied
from faillog_otel.network import proxy_to
from faillog_otel.otlp.envelope import Envelope, JsonEnvelope, gzip_body
from faillog_otel.otlp.outcome import (
    Outcome,
    Refused,
    RetryLater,
    read_http_answer,
    unknown_host,
    untrusted_certificate,
)
from faillog_otel.otlp.port_check import PortCheck
from faillog_otel.tls import ReloadOnChange, client_context, tls_context

WRONG_PORT_STATUSES = frozenset((400, 404, 405, 426, 505))
"""Answers of servers that expect TLS or HTTP/2 at this port, or do not know this path."""


class HttpClient:
    """The client of one signal's target, protobuf or JSON. Raises ConfigError for unusable certificates."""

    def __init__(
        self,
        target: Target,
        envelope: Envelope | JsonEnvelope,
        user_agent: str,
        *,
        connect_seconds: float = math.inf,
    ) -> None:
        """`connect_seconds`: for the look-up of the host's name, and for connecting."""
        self._target = target
        self._envelope = envelope
        is_json = isinstance(envelope, JsonEnvelope)
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
            is_ours = math.isfinite(target.timeout_seconds)
            no_answer = f"no answer within {target.timeout_seconds:g} s" if is_ours else "no answer"
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
