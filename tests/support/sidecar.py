"""A sidecar as users start it, against a simulated Segment: started, listened to, ended by a signal."""

import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct, field

from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.collector import Receiver
from faillog_otel.sandbox.config import SimulatorConfig, WorldConfig
from support.program import start_program

TOKEN = "c4n4ryToken0123456789"  # noqa: S105  # made up, to be looked for


def segment_simulator(*collections: str, damage: float = 0.0, duplicates: float = 0.0) -> Simulator:
    """By the real clock."""
    world = WorldConfig(collections=collections, damage=damage, duplicates=duplicates, messages=5.0)
    return Simulator(SimulatorConfig(world=world, token=TOKEN))


def sidecar_options(segment: Simulator, receiver: Receiver, since: str = "-14h") -> list[str]:
    """The arguments of `run` for these; it remembers in the folder that it is started in."""
    collections = [f"--collection={name}" for name in segment.config.world.collections]
    hosts = ["--segment-url", segment.url, "--download-host", segment.download_host]
    return [
        "run",
        "--state-dir",
        "state",
        *hosts,
        *collections,
        "--endpoint",
        receiver.http_endpoint,
        "--since",
        since,
        "-v",
    ]


class Sidecar(Struct):
    """A running program: what it says on standard error, line by line."""

    process: "subprocess.Popen[bytes]"
    said: list[str] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)

    def wait_for(self, words: str) -> str:
        """The first line that has these words."""

        def found() -> str | None:
            return next((line for line in self.said if words in line), None)

        with self.news:
            assert self.news.wait_for(found, 60), self.said
            return found() or ""

    def end(self) -> int:
        """SIGTERM; it must be gone within the ten seconds that are promised."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)


@contextmanager
def sidecar(args: Sequence[str], folder: Path, **env: str) -> Iterator[Sidecar]:
    """Starts it; ends it, should the test not do so."""
    started = Sidecar(start_program(*args, cwd=folder, **{"SEGMENT_TOKEN": TOKEN, **env}))

    def listen() -> None:
        for line in started.process.stderr or ():
            with started.news:
                started.said.append(line.decode())
                started.news.notify_all()

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        yield started
    finally:
        started.process.kill()
        listener.join()
        started.process.communicate()
