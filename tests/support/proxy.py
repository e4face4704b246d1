"""An HTTP proxy on a real socket: CONNECT, plain http, user and password."""

import base64
import select
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Self

from support.raw_server import read_request

DENIED = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"


class HttpProxy:
    """A context manager. `asked` holds the request lines that came, `heads` all of what stood in them."""

    def __init__(
        self,
        names: Mapping[str, int],
        *,
        login: str = "",
        tls: ssl.SSLContext | None = None,
        treat: Callable[[socket.socket, threading.Event], None] | None = None,
    ) -> None:
        """`names`: HOST:PORT → the loopback port that it leads to. `login`: USER:PASSWORD that it wants.

        `treat` takes the place of all that: how it misbehaves with a connection until the test ends.
        """
        self.asked: list[str] = []
        self.heads: list[str] = []
        self._names = names
        self._expected = f"proxy-authorization: basic {base64.b64encode(login.encode()).decode()}".lower()
        self._wants_login = bool(login)
        self._tls = tls
        self._treat = treat
        self._ending = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.url = f"{'https' if tls else 'http'}://{self.address}"

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        socket.create_connection(self._server.getsockname()).close()
        for thread in self._threads:
            thread.join()
        self._server.close()

    def _accept(self) -> None:
        while True:
            connection, _ = self._server.accept()
            if self._ending.is_set():
                connection.close()
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection:
                if self._treat:
                    self._treat(connection, self._ending)
                else:
                    self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        head = read_request(connection)
        text = head.decode()
        if not text.strip():
            return
        self.heads.append(text)
        self.asked.append(text.partition("\r\n")[0])
        if self._wants_login and self._expected not in text.lower():
            connection.sendall(DENIED)
            return
        method, target = text.split(" ")[:2]
        name = target if method == "CONNECT" else target.split("/")[2]
        if name not in self._names:
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            return
        with socket.create_connection(("127.0.0.1", self._names[name])) as server:
            if method == "CONNECT":
                connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                server.sendall(head.replace(f"http://{name}".encode(), b"", 1))
            self._relay(connection, server)

    def _relay(self, one: socket.socket, other: socket.socket) -> None:
        """Bytes both ways, until one side ends or the test does."""
        while not self._ending.is_set():
            waits = isinstance(one, ssl.SSLSocket) and one.pending()
            for ready in [one] if waits else select.select([one, other], [], [], 0.1)[0]:
                if not (piece := ready.recv(65536)):
                    return
                (other if ready is one else one).sendall(piece)
