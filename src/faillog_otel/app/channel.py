"""Messages over a socket between two processes of one run, with open files beside them.

A message is its length, four bytes, and itself; descriptors travel with the length.
"""

import socket
import threading
from collections.abc import Sequence

_LENGTH_BYTES = 4
_MOST_DESCRIPTORS = 253  # Linux: SCM_MAX_FD
_PIECE_BYTES = 256 * 1024


class Channel:
    """One end. Several threads may send, one receives."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._sending = threading.Lock()
        self._come = bytearray()

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        """Sends a message; waits for room. Raises OSError where nobody listens any more."""
        length = len(message).to_bytes(_LENGTH_BYTES, "big")
        with self._sending:
            if descriptors:
                socket.send_fds(self._socket, [length], descriptors)
                self._socket.sendall(message)
            else:
                self._socket.sendall(length + message)

    def receive(self) -> tuple[bytes, list[int]] | None:
        """Waits for a message and the open files beside it; None when the other end is closed."""
        try:
            length, descriptors, _, _ = socket.recv_fds(self._socket, _LENGTH_BYTES, _MOST_DESCRIPTORS)
        except ConnectionError:  # the other end was closed, and had not read everything
            return None
        if len(length) < _LENGTH_BYTES:  # it was sent at once, and comes at once
            return None
        size = int.from_bytes(length, "big")
        message = bytearray()
        while len(message) < size:
            piece = self._socket.recv(size - len(message))
            if not piece:
                return None
            message += piece
        return bytes(message), descriptors

    def come(self) -> list[bytes]:
        """The messages that have come by now, without waiting. Raises EOFError when no more will."""
        try:
            data = self._socket.recv(_PIECE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except ConnectionError:
            data = b""
        if not data:
            raise EOFError
        self._come += data
        messages, at, come = [], 0, self._come
        while len(come) - at >= _LENGTH_BYTES:
            start = at + _LENGTH_BYTES
            end = start + int.from_bytes(come[at:start], "big")
            if end > len(come):
                break
            messages.append(bytes(come[start:end]))
            at = end
        del come[:at]
        return messages

    def close(self) -> None:
        """Closes this end: the other one notices."""
        self._socket.close()
