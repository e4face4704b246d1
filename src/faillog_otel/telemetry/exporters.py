"""The OTLP exporters of the SDK as we use them: our connections and settings, and one warning about failures.

The SDK reads a missing argument from the environment, so each exporter gets all of them.
"""

import logging
import math
import os
import re
import threading
from collections.abc import Callable
from http.client import HTTPException
from typing import Any

import grpc
import requests
from opentelemetry.exporter.otlp.proto.http import Compression
from requests.adapters import BaseAdapter

from faillog_otel.config import Target
from faillog_otel.connections import Connections
from faillog_otel.network import channel_address, channel_options, proxy_to
from faillog_otel.redact import redact_text
from faillog_otel.text import MAX_SEARCHED_BYTES, peer_text, truncate
from faillog_otel.tls import channel_credentials, client_context

_log = logging.getLogger(__name__)

PORT_CHECK_SECONDS = 0.25
"""For each of the four probes of the endpoint's port, before the one warning."""
SETTINGS = "FAILLOG_SELF_OTLP_ENDPOINT={url} FAILLOG_SELF_OTLP_PROTOCOL={protocol}"
MAX_TIMEOUT_SECONDS = 60.0
CLOSE_SECONDS = 1.0
"""For an export to notice that its connection is closed."""

_FRAME = re.compile(
    r"^Transient error |^Failed to export \w+ (batch |to [^ ]*, )| encountered while exporting .*",
    re.DOTALL,
)

_WITHOUT_REPETITIONS = [
    f"opentelemetry.exporter.otlp.proto.{each}" for each in ("grpc.exporter", "http._log_exporter")
]
"""Loggers of the SDK that drop a message which is like the last one, even if it is about the other signal."""

ExplainFailure = Callable[[Target, float, str], str | None]
"""Returns what a target's port speaks and what to set instead; None if unknown.

Its arguments are the target, the seconds for each probe, and the format of the remedy.
"""


class SdkMessages(logging.Handler):
    """Gives the SDK's log messages to the exports that they are about, and logs one warning in all.

    The messages stay out of our log: they can quote a header, and repeat every minute.
    """

    def __init__(self, explain: ExplainFailure) -> None:
        """`explain` is called once, after the first failed export."""
        super().__init__()
        self._explain = explain
        self._of_thread = threading.local()
        self._warning = threading.Lock()
        self._has_warned = False
        logger = logging.getLogger("opentelemetry")
        logger.handlers = [self]
        logger.propagate = False
        for name in _WITHOUT_REPETITIONS:
            logging.getLogger(name).filters.clear()

    def give_to(self, exports: "Exports") -> None:
        """Gives the messages of this thread to these exports from now on."""
        self._of_thread.exports = exports

    def emit(self, record: logging.LogRecord) -> None:
        """Gives a message away."""
        exports: Exports | None = getattr(self._of_thread, "exports", None)
        if exports is not None:
            exports.note(record.getMessage())

    def warn(self, what: str, target: Target, why: str) -> None:
        """Logs why our own `what` cannot be sent: the first time as a warning."""
        with self._warning:  # held while logging: the end of the run must not precede the first warning
            has_warned, self._has_warned = self._has_warned, True
            if not has_warned and not target.proxy:  # a proxy's port is not probed
                why = self._explain(target, PORT_CHECK_SECONDS, SETTINGS) or why
            level = logging.DEBUG if has_warned else logging.WARNING
            message = "cannot send our own %s to %s: %s; the run goes on without them"
            _log.log(level, message, what, target.shown_url, why)


class Exports:
    """The exports of one signal: whether the last one succeeded, and what the SDK says of it."""

    def __init__(self, what: str, target: Target, messages: SdkMessages) -> None:
        """`what` names the signal in the warning."""
        self._what = what
        self._target = target
        self._messages = messages
        self._thread: threading.Thread | None = None
        self.is_delivered = True
        """Whether the last export succeeded; False during an export."""
        self.message = ""
        """The first message about the last export, without our header values: it says why, later ones how
        often."""

    def begin(self) -> None:
        """Begins an export in this thread."""
        self.is_delivered = False
        self.message = ""
        self._thread = threading.current_thread()
        self._messages.give_to(self)

    def end(self, *, is_delivered: bool) -> None:
        """Ends it; warns if it failed."""
        self.is_delivered = is_delivered
        if not is_delivered:
            self.warn()

    def close(self, why: str) -> None:
        """Warns if the last export is not over, and waits for its thread. Its connections are closed.

        The end of the interpreter aborts the process if a thread is in native code just then.
        """
        if not self.is_delivered:
            self.warn(why)
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    def note(self, message: str) -> None:
        """Keeps the first message of an export."""
        self.message = self.message or truncate(self._target.masked(message), MAX_SEARCHED_BYTES)

    def warn(self, why: str = "no reason given") -> None:
        """Warns with the SDK's message, redacted, without its prefix; with `why` if there is none."""
        found = peer_text(_FRAME.sub("", self.message), redact_text)
        self._messages.warn(self._what, self._target, found or why)


def timeout_of(target: Target) -> float:
    """Returns the seconds that an export may take."""
    seconds = target.timeout_seconds
    return min(seconds, MAX_TIMEOUT_SECONDS) if math.isfinite(seconds) else MAX_TIMEOUT_SECONDS


def http_arguments(target: Target) -> dict[str, Any]:
    """Returns the arguments of an exporter over HTTP."""
    session = requests.Session()
    session.trust_env = False
    session.mount(target.url, _Adapter(target))
    return {
        "endpoint": target.url,
        "headers": _headers(target),
        "timeout": timeout_of(target),
        "compression": Compression.Gzip if target.compression == "gzip" else Compression.NoCompression,
        "session": session,
    }


def grpc_arguments(target: Target) -> dict[str, Any]:
    """Returns the arguments of an exporter over gRPC."""
    is_tls = target.url.startswith("https:")
    is_gzip = target.compression == "gzip"
    return {
        "endpoint": f"{'https' if is_tls else 'http'}://{channel_address(target.url)}",
        "insecure": not is_tls,
        "credentials": channel_credentials(target),
        "headers": _headers(target),
        "timeout": timeout_of(target),
        "compression": grpc.Compression.Gzip if is_gzip else grpc.Compression.NoCompression,
        "channel_options": channel_options(target),
    }


def _headers(target: Target) -> dict[str, str]:
    return {name: value.reveal() for name, value in target.headers}


class _Adapter(BaseAdapter):
    """Sends an exporter's requests over our connections: one deadline for each, and bounded answers."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        files = (target.certificate, target.client_certificate, target.client_key)
        self._connections = Connections(
            target.url,
            timeout_seconds=timeout_of(target),
            context=lambda: client_context(*files),  # read each time: files can change
            proxy=proxy_to(target.url, target.proxy, os.environ),
            proxy_context=lambda: client_context(target.certificate),
        )

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        body = request.body if isinstance(request.body, bytes) else b""
        headers = {name: value for name, value in request.headers.items() if isinstance(value, str)}
        try:
            answer = self._connections.post(body, headers)
        except (OSError, HTTPException, ValueError) as error:
            raise requests.ConnectionError(str(error) or type(error).__name__) from None
        if 300 <= answer.status < 400:  # a success to the exporter
            raise requests.RequestException(f"HTTP {answer.status}: redirects are not followed")
        response = requests.Response()
        response.status_code = answer.status
        response.headers.update(answer.headers)
        response._content = answer.body or b""  # noqa: SLF001  # as other adapters without urllib3 do
        response.url, response.request = request.url or "", request
        return response

    def close(self) -> None:
        self._connections.close()
