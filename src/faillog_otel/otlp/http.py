"""OTLP/HTTP: one request for one portion of records of one signal, and what came of it as an Outcome.

Redirects are not followed, proxies of the environment are not used, an answer's body is read up to a
bound and within the timeout as a whole. httpx's errors are translated here and nowhere else.
"""

import math
import threading
import time
from collections.abc import Sequence

import httpx

from faillog_otel.config import Signal, Target
from faillog_otel.otlp.encoding import Envelope
from faillog_otel.otlp.json import JsonEnvelope
from faillog_otel.otlp.outcome import Outcome, Refused, RetryLater, read_http_answer
from faillog_otel.otlp.packing import packed
from faillog_otel.otlp.tls import Rotating, tls_context

LARGEST_ANSWER_BYTES = 4 * 1024 * 1024


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
        self._client = Rotating(target, _client)

    def send(self, signal: Signal, records: Sequence[bytes]) -> Outcome:
        """Sends one request and reads its answer to the end."""
        target = self._target
        body = self._envelope.request(signal, records)
        if target.compression == "gzip":
            body = packed(body)
        with self._lock:
            client = self._client.get()
        deadline = time.monotonic() + target.timeout_seconds
        try:
            with client.stream("POST", target.url, content=body, headers=self._headers) as response:
                answer = bytearray()
                for piece in response.iter_bytes():
                    answer += piece
                    if len(answer) > LARGEST_ANSWER_BYTES:
                        return Refused(f"the answer is longer than {LARGEST_ANSWER_BYTES} bytes")
                    if time.monotonic() > deadline:
                        return RetryLater(f"no whole answer within {target.timeout_seconds:g} s")
                return read_http_answer(
                    signal, response.status_code, response.headers, bytes(answer), time.time()
                )
        except httpx.TimeoutException:
            return RetryLater(f"no answer within {target.timeout_seconds:g} s")
        except (httpx.InvalidURL, UnicodeError) as error:
            return Refused(f"{target.shown_url}: {error}")
        except (httpx.HTTPError, RuntimeError) as error:  # httpx: RuntimeError once the client is closed
            hint = " (does it speak OTLP/HTTP?)" if isinstance(error, httpx.RemoteProtocolError) else ""
            return RetryLater(f"{target.shown_url}: {error or type(error).__name__}{hint}")

    def close(self) -> None:
        """Closes the connections."""
        self._client.get().close()


def _client(target: Target) -> httpx.Client:
    return httpx.Client(
        verify=tls_context(target) if target.url.startswith("https:") else False,
        timeout=target.timeout_seconds if math.isfinite(target.timeout_seconds) else None,
        trust_env=False,
        follow_redirects=False,
    )
