"""The progress line at the bottom of the terminal: how much input is delivered. Messages go above it."""

import os
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from faillog_otel.clock import duration_text
from faillog_otel.config import RunConfig
from faillog_otel.inputs.files import STDIN
from faillog_otel.ledger.results import Accounted
from faillog_otel.pipeline.forwarder import Progress
from faillog_otel.telemetry.output import start_logging, takes_escapes

if TYPE_CHECKING:
    from rich.console import RenderableType


RECENT_SECONDS = 30.0
"""The time left is computed from what was delivered in this time."""
SAMPLE_SECONDS, MIN_MEASURED_SECONDS = 0.5, 2.0
REFRESH_SECONDS = 0.1
MIN_BAR, MAX_BAR = 10, 30
"""Characters. Where there are fewer, the numbers go without the bar."""


class Meter:
    """Progress in bytes of input; `monotonic` returns seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.total = 0
        self.has_unknown = False
        """Whether there is input of unknown size."""
        self.delivered = 0
        self.pending = 0
        self._monotonic = monotonic
        self._samples: deque[tuple[float, int]] = deque()  # seconds, bytes; one is older than RECENT_SECONDS

    def take(self, accounted: Accounted) -> None:
        """Adds what was accounted for."""
        now = self._monotonic()
        self.delivered += accounted.delivered
        self.pending += accounted.pending
        is_due = not self._samples or now - self._samples[-1][0] >= SAMPLE_SECONDS
        if accounted.delivered and is_due:
            self._samples.append((now, self.delivered))
        while len(self._samples) > 1 and self._samples[1][0] <= now - RECENT_SECONDS:
            self._samples.popleft()

    def percent(self) -> int | None:
        """Returns how much of all input is delivered, rounded down; None while its size is unknown."""
        return None if self.has_unknown or not self.total else min(100, 100 * self.delivered // self.total)

    def seconds_left(self) -> float | None:
        """Returns how long the rest takes at the recent speed; None if unknown.

        The time before the first acknowledgement, in which the input is indexed, does not count.
        """
        now, rest = self._monotonic(), self.total - self.delivered - self.pending
        samples = tuple(self._samples)
        if self.has_unknown or rest <= 0 or not samples:
            return None
        older = [sample for sample in samples if sample[0] <= now - RECENT_SECONDS]
        (first, before), (last, _) = older[-1] if older else samples[0], samples[-1]
        measured, recent = min(now - first, RECENT_SECONDS), self.delivered - before
        if measured < MIN_MEASURED_SECONDS or not recent or now - last > RECENT_SECONDS:
            return None
        return rest * measured / recent


class NoProgressLine:
    """No-op implementation."""

    stderr: int | None = None
    """The descriptor to which workers write their messages; None: standard error."""

    def expect(self, files: Sequence[str]) -> None:
        """Sets the files that will be read."""

    def opened(self, file: str, length: int) -> None:
        """Sets the size of a file that is opened: it may have grown since `expect`."""

    def take(self, accounted: Accounted) -> None:
        """Adds what was accounted for."""

    def to_download(self, objects: int) -> None:
        """Sets how many objects are still to be downloaded."""

    @contextmanager
    def forwarding(self, size: int) -> Iterator[Progress]:  # noqa: ARG002  # for the line that shows it
        """Shows how far the forwarding of one object has come, of `size` bytes."""
        yield self.take

    def write(self, text: str) -> int:
        """Writes messages above the line."""
        return len(text)


class ProgressLine(NoProgressLine):
    """The line, and the stream for messages above it. A context manager; safe to use from several threads."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        from rich.console import Console
        from rich.live import Live

        class Terminal(Console):
            def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002, FBT001, FBT002  # rich's
                return False  # a run that is killed would leave a terminal without a cursor

        self._monotonic = monotonic
        self._meter = Meter(monotonic)
        self._sizes: dict[str, int | None] = {}
        self._unknown = 0
        self._to_download = 0
        self._is_forwarding = False
        self._console = Terminal(
            file=sys.stderr,
            force_terminal=True,
            legacy_windows=False,
            markup=False,
            emoji=False,
            highlight=False,
            soft_wrap=True,
            _environ={"TERM": os.environ.get("TERM", "")},  # COLUMNS is not corrected when the size changes
        )
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            get_renderable=self._rendered,
        )
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._refresh, daemon=True)]
        self.encoding = sys.stderr.encoding

    def __enter__(self) -> Self:
        reader, self.stderr = os.pipe()
        self._threads.append(threading.Thread(target=self._pass_on, args=[reader], daemon=True))
        self._live.start()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        if self.stderr is not None:
            os.close(self.stderr)
        for thread in self._threads:
            thread.join()
        with suppress(OSError):  # the terminal is gone
            self._live.stop()

    def expect(self, files: Sequence[str]) -> None:
        """Sets the files that will be read."""
        self._sizes = {file: _size(file) for file in files}
        self._unknown = sum(self._sizes[file] is None for file in files)
        self._meter.total = sum(self._sizes[file] or 0 for file in files)
        self._meter.has_unknown = self._unknown > 0
        self._is_forwarding = True

    def opened(self, file: str, length: int) -> None:
        """Sets the size of a file that is opened: it may have grown since `expect`."""
        size = self._sizes[file]
        self._meter.total += length - (size or 0)
        self._unknown -= size is None
        self._meter.has_unknown = self._unknown > 0

    def take(self, accounted: Accounted) -> None:
        """Adds what was accounted for."""
        self._meter.take(accounted)

    def to_download(self, objects: int) -> None:
        """Sets how many objects are still to be downloaded."""
        self._to_download = objects

    @contextmanager
    def forwarding(self, size: int) -> Iterator[Progress]:
        """Shows how far the forwarding of one object has come, of `size` bytes."""
        self._meter = Meter(self._monotonic)
        self._meter.total = size
        self._is_forwarding = True
        try:
            yield self.take
        finally:
            self._is_forwarding = False

    def write(self, text: str) -> int:
        """Writes messages above the line."""
        from rich.text import Text

        self._console.print(Text(text), end="")
        return len(text)

    def flush(self) -> None:
        """Does nothing: `write` shows text at once."""

    def _pass_on(self, reader: int) -> None:
        """Shows the messages of the workers."""
        with os.fdopen(reader, encoding=self.encoding, errors="replace") as lines, suppress(OSError):
            for line in lines:
                self.write(line)

    def _refresh(self) -> None:
        with suppress(OSError):  # the terminal is gone
            while not self._ends.wait(REFRESH_SECONDS):
                self._live.refresh()

    def _rendered(self) -> "RenderableType":
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        meter, room = self._meter, max(1, self._console.width - 1)
        what, parts = self._what(), self._numbers()
        while len(parts) > 1 and len(", ".join(parts)) > room:
            del parts[1]
        numbers = ", ".join(parts)
        if numbers and len(what) + 1 + len(numbers) > room:
            what = ""
        cells: list[RenderableType] = [Text(what[:room])] if what else []
        bar = min(MAX_BAR, room - len(what) - len(numbers) - 3)
        if what and bar >= MIN_BAR and self._is_forwarding and meter.percent() is not None:
            cells.append(ProgressBar(meter.total, meter.delivered, width=bar))
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_row(*cells, Text(numbers[:room]))
        return line

    def _what(self) -> str:
        parts = []
        if self._to_download:
            parts.append(f"downloading, {self._to_download} left")
        if self._is_forwarding:
            parts.append("forwarding")
        return "; ".join(parts)

    def _numbers(self) -> list[str]:
        """Returns the parts of the text; a narrow terminal shows only the first ones."""
        from rich.filesize import decimal

        if not self._is_forwarding:
            return []
        meter, percent = self._meter, self._meter.percent()
        if percent is None:
            parts = [f"{decimal(meter.delivered)} delivered"]
        else:
            parts = [f"{percent} %", f"{decimal(meter.delivered)} of {decimal(meter.total)} delivered"]
        if meter.pending:
            parts.append(f"{decimal(meter.pending)} pending")
        if (seconds := meter.seconds_left()) is not None:
            parts.append(f"about {duration_text(seconds)} left")
        return parts


def _size(file: str) -> int | None:
    """Returns the size of a file; None if only reading it tells; 0 if it cannot be read."""
    if file == STDIN:
        return None
    try:
        found = Path(file).stat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def progress_line(
    config: RunConfig, monotonic: Callable[[], float], stack: ExitStack
) -> NoProgressLine | ProgressLine:
    """Returns the line, which the stack closes, if standard error is a terminal that can show it.

    No line with -q or JSON logs, or if records are written to the terminal. Log lines go above it.
    """
    writes = config.delivery.writes and config.delivery.output is None and sys.stdout.isatty()
    if config.verbosity < 0 or config.log_format == "json" or writes or not takes_escapes(sys.stderr):
        return NoProgressLine()
    line = stack.enter_context(ProgressLine(monotonic))
    start_logging(config.verbosity, config.log_format, line)
    stack.callback(start_logging, config.verbosity, config.log_format)
    return line
