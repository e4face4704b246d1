"""Starts the program again and again, each time as a child of a process that has its modules already."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from support.program import environment

from crashes.tripwire import library

PROGRAM = Path(__file__).with_name("program.py")


class Process(Protocol):
    """A started program: what `subprocess.Popen` has of it."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """The exit code; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end; the exit code. Raises subprocess.TimeoutExpired."""

    def kill(self) -> None:
        """Ends it at once."""

    def send_signal(self, sig: int, /) -> None:
        """Sends it a signal."""


class Child:
    """A program that a launcher started. `is_stopped`: whether it was, by a signal."""

    def __init__(self, launcher: "Launcher", pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.is_stopped = False
        self._launcher = launcher

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        self._listen(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end; the exit code. Raises subprocess.TimeoutExpired."""
        until = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired(str(PROGRAM), timeout or 0)
            self._listen(left)
        return self.returncode

    def wait_for_stop(self, timeout: float) -> bool:
        """Waits until it is stopped, or ended; whether it is stopped."""
        until = time.monotonic() + timeout
        while self.returncode is None and not self.is_stopped:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(str(PROGRAM), timeout)
            self._listen(1.0)
        return self.is_stopped

    def go_on(self) -> None:
        """Lets it run on after a stop."""
        self.is_stopped = False
        self.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it at once."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, sig: int) -> None:
        """Sends it a signal."""
        if self.returncode is None:
            os.kill(self.pid, sig)

    def _listen(self, timeout: float | None) -> None:
        words = self._launcher.read_line(timeout)
        if words == "stopped":
            self.is_stopped = True
        elif words:
            self.returncode = int(words.removeprefix("ended "))


class Launcher:
    """A context manager. One child at a time; the next one waits for its end.

    `package`: a folder with another build of the program, to be run in its place.
    """

    def __init__(self, package: Path | None = None) -> None:
        self._path = [*([str(package)] if package else []), *sys.path]
        self._child: Child | None = None
        self._left = b""

    def __enter__(self) -> Self:
        self._server = subprocess.Popen(
            [sys.executable, str(PROGRAM), "serve"],
            env=environment(PYTHONPATH=os.pathsep.join(self._path), LD_PRELOAD=str(library())),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._child is not None and self._child.returncode is None:
            self._child.kill()
        self._server.communicate()

    def start(
        self, arguments: Sequence[str], env: Mapping[str, str], folder: Path, said: Path, cpu_seconds: int = 0
    ) -> Child:
        """Starts the program in a folder; its output is added to `said`. `cpu_seconds` end it."""
        if self._child is not None:
            self._child.wait()
        order = {
            "arguments": list(arguments),
            "environment": dict(env),
            "cwd": str(folder),
            "said": str(said),
            "cpu_seconds": cpu_seconds,
        }
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(order).encode() + b"\n")
        words = self.read_line(None)
        assert words, "the launcher ended"
        self._child = Child(self, int(words))
        return self._child

    def read_line(self, timeout: float | None) -> str:
        """The next line that the server says; empty after the time, and at its end."""
        assert self._server.stdout is not None
        file = self._server.stdout.fileno()
        while b"\n" not in self._left:
            if not select.select([file], [], [], timeout)[0]:
                return ""
            piece = os.read(file, 4096)
            if not piece:
                raise AssertionError("the launcher ended")
            self._left += piece
        line, _, self._left = self._left.partition(b"\n")
        return line.decode()
