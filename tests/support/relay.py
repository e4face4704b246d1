"""TCP between a client and a server: a relay that can fall silent, and an HTTP proxy."""

import re
import socket
import ssl
import threading
from contextlib import suppress
from typing import Self

_PIECE_BYTES = 65536


class Relay:
    """A context manager: passes bytes on to a port of this machine, until it is to fall silent."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        """`host` is where it listens itself."""
        self._port = port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._server = socket.create_server((host, 0), family=family)
        self.port: int = self._server.getsockname()[1]
        self.connections = 0
        self._sockets: list[socket.socket] = []
        self._silent: set[socket.socket] = set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._server, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def fall_silent(self) -> None:
        """From now on the connections that there are pass nothing on, and are not closed; new ones do."""
        self._silent |= set(self._sockets)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self.connections += 1
                self._connected(client)

    def _connected(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._port))
        self._pass_on(client, server)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        self._sockets += [client, server]
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(_PIECE_BYTES):
                if source not in self._silent:
                    sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)


class HttpProxy(Relay):
    """A proxy that finds every host on this machine, whatever its name. `credentials`: `user:password`."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, authorization: str | None = None) -> None:
        super().__init__(0)
        self.asked: list[str] = []
        """The first line of each request's head."""
        self._tls = tls
        self._authorization = authorization

    def _connected(self, client: socket.socket) -> None:
        threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with suppress(OSError):
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
            start = b""
            while b"\r\n\r\n" not in start:
                start += client.recv(_PIECE_BYTES) or b"\r\n\r\n"
            head = start.partition(b"\r\n\r\n")[0].decode("latin-1")
            if not head:  # the client hung up before it asked for anything
                client.close()
                return
            self.asked.append(head.partition("\r\n")[0])
            given = re.search(r"(?im)^proxy-authorization: (.*?)\r?$", head)
            if self._authorization is not None and (given is None or given[1] != self._authorization):
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                client.close()
                return
            found = re.match(r"(?:CONNECT |\w+ http://)[^ /]*:(\d+)", head)
            assert found is not None, head
            server = socket.create_connection(("127.0.0.1", int(found[1])))
            if head.startswith("CONNECT"):
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                server.sendall(re.sub(rb"http://[^ /]*", b"", start, count=1))
            self._pass_on(client, server)
