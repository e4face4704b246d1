"""OTLP/HTTP: one request for one portion of records of one signal, and what came of it as an Outcome.

The errors of connections are translated here and nowhere else.
"""

import math
import ssl
import time
from collections.abc import Sequence
from http.client import HTTPException, IncompleteRead

from faillog_otel.config import Signal, Target
from faillog_otel.connections import MAX_ANSWER_BYTES, Connections
from faillog_otel.otlp.encoding import Envelope
from faillog_otel.otlp.json import JsonEnvelope
from faillog_otel.otlp.outcome import Outcome, Refused, RetryLater, read_http_answer
from faillog_otel.otlp.packing import packed
from faillog_otel.otlp.tls import Rotating, tls_context


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
        context = Rotating(target, _context)
        self._connections = Connections(
            target.url, timeout_seconds=target.timeout_seconds, context=context.get
        )

    def send(self, signal: Signal, records: Sequence[bytes]) -> Outcome:
        """Sends one request and reads its answer to the end."""
        target = self._target
        body = self._envelope.request(signal, records)
        if target.compression == "gzip":
            body = packed(body)
        try:
            answer = self._connections.post(body, self._headers)
        except TimeoutError:
            is_ours = math.isfinite(target.timeout_seconds)
            return RetryLater(f"no answer within {target.timeout_seconds:g} s" if is_ours else "no answer")
        except OSError as error:
            return RetryLater(f"{target.shown_url}: {error or type(error).__name__}")
        except HTTPException as error:
            said = error if isinstance(error, IncompleteRead) else "the answer is no HTTP"
            return RetryLater(f"{target.shown_url}: {said} (does it speak OTLP/HTTP?)")
        except ValueError as error:  # a header that cannot be written
            return Refused(f"{target.shown_url}: {error}")
        if answer.body is None:
            return Refused(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
        return read_http_answer(
            signal, answer.status, answer.headers, answer.body, time.time(), mask=target.masked
        )

    def close(self) -> None:
        """Closes the connections; a request that is under way fails."""
        self._connections.close()


def _context(target: Target) -> ssl.SSLContext | None:
    return tls_context(target) if target.url.startswith("https:") else None
