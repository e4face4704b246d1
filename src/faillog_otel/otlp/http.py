"""OTLP/HTTP: one request for one portion of records of one signal, and what came of it as an Outcome.

Redirects are not followed, proxies of the environment are not used, an answer is read up to a bound and
within the timeout as a whole. httpx's errors are translated here and nowhere else.
"""

import gzip
import math
import ssl
import time
from collections.abc import Sequence

import httpx

from faillog_otel.config import Signal, Target
from faillog_otel.errors import ConfigError
from faillog_otel.otlp.encoding import Envelope
from faillog_otel.otlp.outcome import Outcome, Refused, RetryLater, read_http_answer

LARGEST_ANSWER_BYTES = 4 * 1024 * 1024


class HttpClient:
    """Sends protobuf requests to the targets of the signals. Raises ConfigError for unusable targets."""

    def __init__(self, targets: dict[Signal, Target], envelope: Envelope, user_agent: str) -> None:
        self._targets = targets
        self._envelope = envelope
        self._user_agent = user_agent
        self._clients = {signal: _client(target) for signal, target in targets.items()}

    def send(self, signal: Signal, records: Sequence[bytes]) -> Outcome:
        """Sends one request and reads its answer to the end."""
        target = self._targets[signal]
        body = self._envelope.request(records)
        headers = {name: value.reveal() for name, value in target.headers}
        headers |= {"content-type": "application/x-protobuf", "user-agent": self._user_agent}
        if target.compression == "gzip":
            headers["content-encoding"] = "gzip"
            body = gzip.compress(body, compresslevel=1, mtime=0)
        deadline = time.monotonic() + target.timeout_seconds
        try:
            with self._clients[signal].stream("POST", target.url, content=body, headers=headers) as response:
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
        except httpx.HTTPError as error:
            return RetryLater(f"{target.shown_url}: {error or type(error).__name__}")

    def close(self) -> None:
        """Closes the connections."""
        for client in self._clients.values():
            client.close()


def _client(target: Target) -> httpx.Client:
    return httpx.Client(
        verify=_tls(target) if target.url.startswith("https:") else False,
        timeout=target.timeout_seconds if math.isfinite(target.timeout_seconds) else None,
        trust_env=False,
        follow_redirects=False,
    )


def _tls(target: Target) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=target.certificate)
        if target.client_certificate:
            context.load_cert_chain(target.client_certificate, target.client_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"the certificates for {target.shown_url} cannot be used: {error}") from None
    return context
