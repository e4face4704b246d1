"""TCP between a client and a server: a relay that can fall silent, and an HTTP proxy."""

import re
import select
import socket
import ssl
import threading
from contextlib import suppress
from typing import Self

_PIECE_BYTES = 65536


class Relay:
    """A context manager: passes bytes on to a port of this machine, until it is to fall silent.

    Each connection has a thread, which closes its sockets: one that stays open is an error in whichever test
    runs when it is found. Leaving shuts all of them down and waits for the threads.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        """`host` is where it listens itself."""
        self._port = port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._server = socket.create_server((host, 0), family=family)
        self.port: int = self._server.getsockname()[1]
        self.connections = 0
        self._sockets: list[socket.socket] = [self._server]
        self._silent: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._is_ending = False

    def __enter__(self) -> Self:
        self._threads.append(threading.Thread(target=self._accept))
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._is_ending = True
            for each in self._sockets:
                with suppress(OSError):  # it is closed already
                    each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._server.close()

    def fall_silent(self) -> None:
        """From now on the connections that there are pass nothing on, and are not closed; new ones do."""
        with self._lock:
            self._silent |= set(self._sockets)

    def _accept(self) -> None:
        with suppress(OSError):  # the end of the relay
            while True:
                client, _ = self._server.accept()
                self.connections += 1
                self._threads.append(threading.Thread(target=self._serve, args=(client,)))
                self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):  # a peer that breaks a connection off ends it for both
            self._keep(client)
            self._answer(client)

    def _answer(self, client: socket.socket) -> None:
        with self._connected(self._port) as server:
            self._pass_on(client, server)

    def _keep(self, connection: socket.socket) -> None:
        """Lets the end of the relay end this connection too."""
        with self._lock:
            if self._is_ending:
                raise ConnectionAbortedError
            self._sockets.append(connection)

    def _connected(self, port: int) -> socket.socket:
        server = socket.create_connection(("127.0.0.1", port))
        try:
            self._keep(server)
        except OSError:
            server.close()
            raise
        return server

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        """Both ways, until both sides have ended: in one thread, for a TLS socket bears no two."""
        sinks = {client: server, server: client}
        while sinks:
            ready = [each for each in sinks if isinstance(each, ssl.SSLSocket) and each.pending()]
            for source in ready or select.select([*sinks], [], [])[0]:
                if not (piece := source.recv(_PIECE_BYTES)):
                    sinks.pop(source).shutdown(socket.SHUT_WR)
                elif source not in self._silent:
                    sinks[source].sendall(piece)


class HttpProxy(Relay):
    """A proxy that finds every host on this machine, whatever its name. `credentials`: `user:password`."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, authorization: str | None = None) -> None:
        super().__init__(0)
        self.asked: list[str] = []
        """The first line of each request's head."""
        self._tls = tls
        self._authorization = authorization

    def _answer(self, client: socket.socket) -> None:
        if self._tls is None:
            self._ask(client)
            return
        with self._tls.wrap_socket(client, server_side=True, do_handshake_on_connect=False) as secure:
            self._keep(secure)
            secure.do_handshake()
            self._ask(secure)

    def _ask(self, client: socket.socket) -> None:
        start = b""
        while b"\r\n\r\n" not in start:
            start += client.recv(_PIECE_BYTES) or b"\r\n\r\n"
        head = start.partition(b"\r\n\r\n")[0].decode("latin-1")
        if not head:  # the client hung up before it asked for anything
            return
        self.asked.append(head.partition("\r\n")[0])
        given = re.search(r"(?im)^proxy-authorization: (.*?)\r?$", head)
        if self._authorization is not None and (given is None or given[1] != self._authorization):
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        found = re.match(r"(?:CONNECT |\w+ http://)[^ /]*:(\d+)", head)
        assert found is not None, head
        with self._connected(int(found[1])) as server:
            if head.startswith("CONNECT"):
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                server.sendall(re.sub(rb"http://[^ /]*", b"", start, count=1))
            self._pass_on(client, server)
