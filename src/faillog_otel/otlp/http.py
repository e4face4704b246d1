"""OTLP/HTTP: one request for one portion of records of one signal, and what came of it as an Outcome.

The errors of connections are translated here and nowhere else.
"""

import threading
import time
from collections.abc import Sequence
from http.client import HTTPException

from faillog_otel.config import Signal, Target
from faillog_otel.otlp.connections import LARGEST_ANSWER_BYTES, Connections
from faillog_otel.otlp.encoding import Envelope
from faillog_otel.otlp.json import JsonEnvelope
from faillog_otel.otlp.outcome import Outcome, Refused, RetryLater, read_http_answer
from faillog_otel.otlp.packing import packed
from faillog_otel.otlp.tls import Rotating, tls_context

_LONGEST_SAID = 200
"""Characters of what a server said that is no HTTP."""


class HttpClient:
    """The way to one signal's target, as protobuf or JSON. Raises ConfigError for unusable certificates."""

    def __init__(self, target: Target, envelope: Envelope | JsonEnvelope, user_agent: str) -> None:
        self._target = target
        self._envelope = envelope
        is_json = isinstance(envelope, JsonEnvelope)
        self._headers = {name: value.reveal() for name, value in target.headers} | {
            "content-type": "application/json" if is_json else "application/x-protobuf",
            "user-agent": user_agent,
        }
        if target.compression == "gzip":
            self._headers["content-encoding"] = "gzip"
        self._lock = threading.Lock()
        self._rotating = Rotating(target, _connections)
        self._connections = self._rotating.get()

    def send(self, signal: Signal, records: Sequence[bytes]) -> Outcome:
        """Sends one request and reads its answer to the end."""
        target = self._target
        body = self._envelope.request(signal, records)
        if target.compression == "gzip":
            body = packed(body)
        try:
            answer = self._current().post(body, self._headers)
        except TimeoutError:
            return RetryLater(f"no answer within {target.timeout_seconds:g} s")
        except (OSError, HTTPException) as error:
            hint = " (does it speak OTLP/HTTP?)" if isinstance(error, HTTPException) else ""
            said = str(error)[:_LONGEST_SAID] or type(error).__name__
            return RetryLater(f"{target.shown_url}: {said}{hint}")
        except ValueError as error:  # a header that cannot be written
            return Refused(f"{target.shown_url}: {error}")
        if answer.body is None:
            return Refused(f"the answer is longer than {LARGEST_ANSWER_BYTES} bytes")
        return read_http_answer(signal, answer.status, answer.headers, answer.body, time.time())

    def close(self) -> None:
        """Closes the connections; a request that is under way fails."""
        self._connections.close()

    def _current(self) -> Connections:
        with self._lock:
            current = self._rotating.get()
            if current is not self._connections:
                self._connections.retire()
                self._connections = current
        return current


def _connections(target: Target) -> Connections:
    context = None
    if target.url.startswith("https:"):
        context = tls_context(target)
        context.set_alpn_protocols(["http/1.1"])
    return Connections(target.url, timeout_seconds=target.timeout_seconds, context=context)
