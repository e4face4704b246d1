"""The installed program on a terminal: what is on the screen, now and before."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyte

from support.program import PROGRAM, environment


class Terminal:
    """A terminal whose program is `process`. The screen keeps what scrolled out of it."""

    def __init__(self, columns: int) -> None:
        self.process: subprocess.Popen[bytes]
        self.raw = b""
        self.lines_seen: list[str] = []
        """Every different state of every line, in the order in which they were drawn."""
        self._screen = pyte.HistoryScreen(columns, 40, history=10_000)
        self._stream = pyte.ByteStream(self._screen)
        self._news = threading.Condition()
        self.reader, self._writer = pty.openpty()
        self.resize(columns)

    def resize(self, columns: int) -> None:
        """Makes it so wide, as a user does who drags its window."""
        fcntl.ioctl(self._writer, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        with self._news:
            self._screen.resize(40, columns)

    def lines(self) -> list[str]:
        """All lines that are not empty, from the first one on."""
        with self._news:
            return self._lines()

    def wait_for(self, what: Callable[[list[str]], bool]) -> list[str]:
        """Waits until the lines are so; returns them."""
        with self._news:
            assert self._news.wait_for(lambda: what(self._lines()), 60), "\n".join(self._lines())
            return self._lines()

    def end(self) -> list[str]:
        """Waits for the program's end; returns the lines."""
        self.process.wait(60)
        os.close(self._writer)
        self._writer = -1
        self._listener.join(60)
        return self.lines()

    def start(self, args: list[str], folder: Path, stdin: int | None, env: dict[str, str]) -> None:
        """Starts the program; its standard error is this terminal."""
        self.process = subprocess.Popen(
            [PROGRAM, *args],
            cwd=folder,
            env=environment(**env),
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=self._writer,
        )
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def close(self) -> None:
        """Ends the program, should it go on."""
        self.process.kill()
        self.process.wait()
        if self._writer >= 0:
            os.close(self._writer)
        self._listener.join()
        os.close(self.reader)

    def _listen(self) -> None:
        with suppress(OSError):  # so Linux says that the other end is closed
            while piece := os.read(self.reader, 65536):
                with self._news:
                    self.raw += piece
                    self._stream.feed(piece)
                    self.lines_seen += [each for each in self._lines() if each not in self.lines_seen]
                    self._news.notify_all()

    def _lines(self) -> list[str]:
        width = self._screen.columns
        past = ["".join(row[at].data for at in range(width)) for row in self._screen.history.top]
        return [line.rstrip() for line in [*past, *self._screen.display] if line.strip()]


@contextmanager
def on_terminal(
    *args: str, cwd: Path, columns: int = 100, stdin: int | None = None, **env: str
) -> Iterator[Terminal]:
    """Starts `faillog-otel ARGS` with a terminal as its standard error; ends it.

    A request may take as long as a test holds it back.
    """
    terminal = Terminal(columns)
    held = {"OTEL_EXPORTER_OTLP_TIMEOUT": "100000"}  # milliseconds
    terminal.start(list(args), cwd, stdin, {"TERM": "xterm-256color", **held, **env})
    try:
        yield terminal
    finally:
        terminal.close()
