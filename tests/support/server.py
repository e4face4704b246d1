"""A server program: started, listened to until it is ready, ended by its own process id."""

import socket
import subprocess
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Self

from support.program import environment


def unused_port() -> int:
    """For programs that cannot say which port the system gave them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Server:
    """A context manager. `said` holds the lines of its output; an unread pipe would block it."""

    def __init__(self, command: Sequence[str | Path], ready: str, **env: str) -> None:
        self.said: list[str] = []
        self._command = command
        self._ready_line = ready
        self._env = environment(**env)

    def __enter__(self) -> Self:
        self.said.clear()
        self._ready = threading.Event()
        self._process = subprocess.Popen(
            self._command, env=self._env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()
        self._ready.wait(60)
        if not any(self._ready_line in line for line in self.said):
            self.__exit__()
            raise AssertionError(f"{self._command[0]} did not start:\n" + "".join(self.said))
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._listener.join()

    def kill(self) -> None:
        """Ends it at once, without a chance to save anything."""
        self._process.kill()
        self._process.wait()
        self._listener.join()

    def _listen(self) -> None:
        with self._process.stdout or nullcontext(()) as lines:
            for line in lines:
                self.said.append(line)
                if self._ready_line in line:
                    self._ready.set()
        self._ready.set()
