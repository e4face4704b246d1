"""Messages between a run and a worker: whole, in order, with their open files, and never half of one."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from select import select

import pytest

from faillog_otel.pipeline.worker import Channel

LARGE = os.urandom(5_000_000)
"""Many times what a socket holds."""


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = map(Channel, socket.socketpair())
    yield ours, theirs
    ours.close()
    theirs.close()


def frame(message: bytes) -> bytes:
    """The bytes that a message is on the socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        Channel(ours).send(message)
        ours.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: theirs.recv(1 << 16), b""))


def received(channel: Channel) -> Iterator[bytes]:
    """Messages until the other end is closed, received as the run does."""
    while True:
        select([channel], [], [])
        try:
            yield from channel.receive_available()
        except EOFError:
            return


def test_messages_of_all_sizes_arrive_whole_and_in_order(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    sent = [b"", b"x", b"1234", LARGE, b"", LARGE[:70_000], b"last"]

    def send() -> None:
        for message in sent:
            theirs.send(message)
        theirs.close()

    sending = threading.Thread(target=send)
    sending.start()
    assert list(received(ours)) == sent
    sending.join()


def test_open_files_arrive_with_their_message(ends: tuple[Channel, Channel], tmp_path: Path) -> None:
    """A file that has no name any more can be read by who receives it."""
    ours, theirs = ends
    paths = [tmp_path / f"{n}" for n in range(16)]
    files = []
    for path in paths:
        path.write_text(path.name)
        files.append(path.open("rb"))
        path.unlink()
    ours.send(b"none")
    ours.send(b"all", [file.fileno() for file in files])
    ours.send(b"one", [files[7].fileno()])
    for file in files:
        file.close()
    found = []
    for _ in range(3):
        got = theirs.receive()
        assert got
        message, descriptors = got
        contents = []
        for descriptor in descriptors:
            with os.fdopen(descriptor, "rb") as file:
                contents.append(os.pread(file.fileno(), 10, 0).decode())
        found.append((message, contents))
    assert found == [(b"none", []), (b"all", [path.name for path in paths]), (b"one", ["7"])]


def test_half_a_message_blocks_nobody_and_is_completed_later() -> None:
    """Cut anywhere, also within the length."""
    first, second = frame(b"first"), frame(b"second")
    for cut in range(len(second)):
        ours, theirs = socket.socketpair()
        with theirs:
            channel = Channel(ours)
            theirs.sendall(first + second[:cut])
            assert channel.receive_available() == [b"first"]
            assert channel.receive_available() == []
            theirs.sendall(second[cut:] + first)
            assert channel.receive_available() == [b"second", b"first"]
            channel.close()


def test_a_message_that_breaks_off_is_no_message() -> None:
    """The messages before it count; then comes the end."""
    whole = frame(b"second")
    for cut in range(len(whole)):
        ours, theirs = socket.socketpair()
        channel = Channel(ours)
        theirs.sendall(frame(b"first") + whole[:cut])
        theirs.close()
        assert channel.receive_available() == [b"first"]
        with pytest.raises(EOFError):
            channel.receive_available()
        channel.close()


@pytest.mark.parametrize("is_unread", [False, True])
def test_a_message_that_breaks_off_ends_the_wait(*, is_unread: bool) -> None:
    """Also where the other end closed without having read everything: that resets the connection."""
    whole = frame(b"second")
    for cut in range(len(whole)):
        ours, theirs = socket.socketpair()
        channel = Channel(ours)
        if is_unread:
            channel.send(b"not read")
        theirs.sendall(frame(b"first") + whole[:cut])
        theirs.close()
        assert channel.receive() == (b"first", [])
        assert channel.receive() is None
        channel.close()


def test_threads_do_not_mix_their_messages(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends

    def send(n: int) -> None:
        for _ in range(20):
            theirs.send(bytes([n]) * 100_000)

    threads = [threading.Thread(target=send, args=[n]) for n in range(4)]
    for thread in threads:
        thread.start()

    def close() -> None:
        for thread in threads:
            thread.join()
        theirs.close()

    closing = threading.Thread(target=close)
    closing.start()
    found = list(received(ours))
    closing.join()
    assert sorted(found) == [bytes([n]) * 100_000 for n in range(4) for _ in range(20)]


def test_sending_to_a_closed_channel_raises(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    theirs.close()
    with pytest.raises(ConnectionError):
        ours.send(LARGE)
