"""Servers that misbehave on real sockets, with or without TLS: a test says how they treat a connection."""

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import trustme

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"


class RawServer:
    """A server that treats each of its connections, one after the other, as the test says."""

    def __init__(
        self,
        treat: Callable[[socket.socket], None],
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.connections = 0
        self.ending = threading.Event()
        self._treat = treat
        self._tls = tls
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._server = socket.create_server((host, 0), family=family)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self.port = int(self._server.getsockname()[1])
        self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.origin = f"{'https' if tls else 'http'}://{self.address}"
        self.url = f"{self.origin}/v1/logs"

    def _serve(self) -> None:
        while True:
            connection, _ = self._server.accept()
            with connection, suppress(OSError):
                if self.ending.is_set():
                    return
                self.connections += 1
                if self._tls is None:
                    self._treat(connection)
                else:
                    with self._tls.wrap_socket(connection, server_side=True) as secure:
                        self._treat(secure)

    def drip(self, connection: socket.socket, unit: bytes) -> None:
        """Sends the unit again and again, each time soon enough, until the client or the test ends it."""
        while not self.ending.wait(0.02):
            connection.sendall(unit)

    def close(self) -> None:
        """Ends the thread."""
        self.ending.set()
        socket.create_connection(self._server.getsockname()[:2]).close()
        self._thread.join()
        self._server.close()


@contextmanager
def raw_server(
    treat: Callable[[socket.socket], None], tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> Iterator[RawServer]:
    """Such a server, until the test ends."""
    peer = RawServer(treat, tls, host)
    try:
        yield peer
    finally:
        peer.close()


def read_request(connection: socket.socket) -> bytes:
    """Reads one request's head, and its body where that is short: closed with something unread, the peer's
    answer would be lost.
    """
    got = b""
    while b"\r\n\r\n" not in got:
        got += connection.recv(65536) or b"\r\n\r\n"
    head, _, body = got.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d{1,4})\r?$", head, re.MULTILINE)
    while length and len(body) < int(length[1]) and (more := connection.recv(65536)):
        body += more
        got += more
    return got


def identity_for_tls(folder: Path, host: str = "127.0.0.1") -> tuple[ssl.SSLContext, str]:
    """A server's TLS settings for a host, and the file of the authority that vouches for it."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    file = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    return context, str(file)
