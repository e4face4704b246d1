"""Asks a polling run in this container whether it is alive: exit code 0 when it says so, else 1.

Slim images have no curl. It asks where FAILLOG_HEALTH_ADDR says that the run listens, and nobody in between:
a proxy of the environment is not used.
"""

import os
import sys
from http.client import HTTPConnection, HTTPException

SLOWEST_SECONDS = 4.0
"""Shorter than the image's HEALTHCHECK --timeout, so that the answer is ours."""


def why_not(address: str) -> str:
    """Empty when the run at HOST:PORT, or at a port of this machine, is alive."""
    host = address if ":" in address else f"127.0.0.1:{address}"
    connection = HTTPConnection(host, timeout=SLOWEST_SECONDS)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        return "" if answer.status == 200 else answer.read(2048).decode(errors="replace")
    except (OSError, HTTPException) as error:
        return f"{host}: {error or type(error).__name__}"
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(why_not(os.environ["FAILLOG_HEALTH_ADDR"]) or 0)
