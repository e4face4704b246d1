"""Asks a polling run in this container whether it is alive: exit code 0 when it says so, else 1.

Slim images have no curl. It asks where FAILLOG_HEALTH_ADDR says that the run listens, and nobody in between:
a proxy of the environment is not used.
"""

import os
import sys
from contextlib import closing
from http.client import HTTPException

from faillog_otel.connections import Connections

TIMEOUT_SECONDS = 4.0
"""Shorter than the image's HEALTHCHECK --timeout, so that the answer is ours."""


def why_not(address: str) -> str:
    """Empty when the run at HOST:PORT, or at a port of this machine, is alive."""
    if not address:
        return "FAILLOG_HEALTH_ADDR does not say where the run listens"
    host = address if ":" in address else f"127.0.0.1:{address}"
    try:
        with closing(Connections(f"http://{host}/healthz", timeout_seconds=TIMEOUT_SECONDS)) as connections:
            answer = connections.request("GET", None, {})
    except (OSError, HTTPException, ValueError) as error:  # the last one: no host, no port
        return f"FAILLOG_HEALTH_ADDR {host}: {str(error) or type(error).__name__}"
    said = (answer.body or b"")[:2048].decode(errors="replace")
    return "" if answer.status == 200 else f"HTTP {answer.status} {said}"


if __name__ == "__main__":
    sys.exit(why_not(os.environ.get("FAILLOG_HEALTH_ADDR", "")) or 0)
