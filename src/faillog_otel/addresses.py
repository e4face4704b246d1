"""Addresses of hosts, looked up and tried within a deadline.

A `Deadline` bounds a whole exchange. Every call that waits for the peer (the look-up of its name, connecting,
the TLS handshake, each send and each receive) gets only the time that is left, so that a peer which drips
single bytes gains nothing by it.
"""

import math
import queue
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

Address = tuple[Any, ...]
"""One row of `socket.getaddrinfo`: family, type, protocol, name, socket address."""


class Deadline:
    """The moment when an exchange must be over."""

    def __init__(self, seconds: float, max_seconds: float = math.inf) -> None:
        """`seconds` from now. It can be moved, but not beyond `max_seconds` from now."""
        now = time.monotonic()
        self._latest = now + max_seconds
        self._ends = min(now + seconds, self._latest)

    def move_to(self, seconds: float) -> None:
        """Ends that many seconds from now instead."""
        self._ends = min(time.monotonic() + seconds, self._latest)

    def within(self, seconds: float) -> "Deadline":
        """A deadline that many seconds from now, or this one where it is earlier."""
        return Deadline(seconds, self._ends - time.monotonic())

    def left(self) -> float | None:
        """Seconds until then; None: forever. Raises TimeoutError when it is past."""
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left if math.isfinite(left) else None


def loopback_host() -> str:
    """The address of this machine as URLs write it: `127.0.0.1`, or `[::1]` where there is no IPv4."""
    try:
        socket.create_server(("127.0.0.1", 0)).close()
    except OSError:
        return "[::1]"
    return "127.0.0.1"


def family_of(host: str) -> socket.AddressFamily:
    """Of an address as URLs write it."""
    return socket.AF_INET6 if host.startswith("[") else socket.AF_INET


def resolve(host: str, port: int, deadline: Deadline) -> Sequence[Address]:
    """The addresses of a host. Raises TimeoutError, OSError, UnicodeError.

    A look-up cannot be interrupted. One that takes too long goes on in its own thread until the system's
    resolver gives up.
    """
    found: queue.SimpleQueue[Sequence[Address] | OSError | UnicodeError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            found.put(error)

    threading.Thread(target=look_up, daemon=True).start()
    try:
        result = found.get(timeout=deadline.left())
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(result, Exception):
        raise result
    return result


MAX_TRY_SECONDS = 5.0
"""How long one address is tried while there are others."""


def addresses_in_turn(
    addresses: Sequence[Address], deadline: Deadline
) -> Iterator[tuple[Address, float | None]]:
    """Yields each address and how many seconds it may be tried: a silent one leaves time for the others.

    IPv6 and IPv4 take turns, so that a family that leads nowhere costs one address's time (RFC 8305,
    section 4). Raises TimeoutError once the deadline is past.
    """
    families = [family for family, *_ in addresses]
    turns = sorted(
        range(len(addresses)),
        key=lambda at: (families[:at].count(families[at]), families.index(families[at])),
    )
    for others, at in zip(reversed(range(len(turns))), turns, strict=True):
        left = deadline.left()
        share = (
            left if not others else min(MAX_TRY_SECONDS, math.inf if left is None else left / (others + 1))
        )
        yield addresses[at], share
