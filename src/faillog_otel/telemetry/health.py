"""`/healthz` and `/readyz`, for whoever watches over the program: two questions, answered in JSON.

An answer says nothing but our own words and numbers: no id, no address, no text of anybody else's.
"""

import json
import logging
import socket
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from faillog_otel.errors import ConfigError
from faillog_otel.telemetry.check import Checks

_log = logging.getLogger(__name__)

SLOWEST_SECONDS = 5.0
"""A client that takes longer to ask is not waited for."""


class HealthServer:
    """A context manager: answers from entering to leaving, on daemon threads. Raises ConfigError."""

    def __init__(self, host: str, port: int, *, alive: Checks, ready: Checks) -> None:
        paths = {"/healthz": alive, "/readyz": ready}
        handler = type("_Handler", (_HealthHandler,), {"checks": paths})
        server = type("_Server", (_Server,), {"address_family": _family(host)})
        try:
            self._server: _Server = server((host, port), handler)
        except OSError as error:
            raise ConfigError(f"--health-addr {host}:{port}: {error.strerror}") from None
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def port(self) -> int:
        """Where it listens; the system picked it when it was 0."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def server_bind(self) -> None:
        """Binds, without the look-up of our own name that http.server makes."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "", int(self.server_address[1])

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """One that asks and goes away is no news."""
        if not isinstance(sys.exception(), OSError):
            _log.exception("a question about our health could not be answered")


class _HealthHandler(BaseHTTPRequestHandler):
    """One connection; `checks` is set in a subclass for each server."""

    timeout = SLOWEST_SECONDS
    checks: Mapping[str, Checks]

    def do_GET(self) -> None:
        """Answers one question: 200, 503 or 404."""
        checks = self.checks.get(self.path.partition("?")[0])
        if checks is None:
            self._answer(404, {"error": "ask for /healthz or /readyz"})
            return
        found = checks()
        ok = all(check.ok for check in found.values())
        told = {name: {"ok": check.ok, "why": check.why} for name, check in found.items()}
        self._answer(200 if ok else 503, {"ok": ok, "checks": told})

    do_HEAD = do_GET  # noqa: N815  # http.server's name

    def _answer(self, status: int, told: dict[str, Any]) -> None:
        content = json.dumps(told).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.send_header("cache-control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def version_string(self) -> str:
        """Who answers; not which Python."""
        return "faillog-otel"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        """Says nothing: the standard library would write to standard error."""
