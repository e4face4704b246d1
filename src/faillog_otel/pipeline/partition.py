"""Divides a run's files into partitions, and queues them for workers in the order of the files.

A large file of JSON Lines is partitioned at newlines, so that a crash of a worker costs little and all
workers end at about the same time. Small files together are one partition. All partitions are indexed before
the first one is forwarded: an attempt and its exchange can be in different files. A file is closed while no
worker needs it, and opened again.
"""

import os
import stat
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from faillog_otel.errors import InputError
from faillog_otel.events.model import JSON_LINES
from faillog_otel.inputs.exchange_index import ExchangeIndex, Index, IndexPart
from faillog_otel.inputs.files import STDIN, InputFile, is_packed
from faillog_otel.inputs.formats import form_of
from faillog_otel.ledger.results import BatchResult

# -- sizes ---------------------------------------------------------------------------------------------------

MIN_BYTES = 1024 * 1024
MAX_BYTES = 16 * 1024 * 1024
PARTS_PER_WORKER = 16
"""While one worker forwards the last partition of a run, the others are idle."""

MAX_FILES = 16
"""Small files in one partition: all of them are open at once."""

_START_BYTES = 16
"""Of a file: enough to tell whether it is compressed."""

RESERVED_DESCRIPTORS = 40
"""File descriptors for everything but workers and input files: libraries, connections, kept files."""
DESCRIPTORS_PER_WORKER = 1
"""In the parent process: the socket."""
MIN_OPEN_FILES = 4
MAX_OPEN_FILES = 256
"""Pipes are copied, and the copies stay open until they are read."""


def max_workers(descriptors: int) -> int:
    """Returns how many workers a process with this many file descriptors may start; at least 1."""
    return max(1, (descriptors - RESERVED_DESCRIPTORS - MIN_OPEN_FILES) // DESCRIPTORS_PER_WORKER)


def max_open_files(descriptors: int, workers: int) -> int:
    """Returns how many input files may be open at a time; at least `MIN_OPEN_FILES`."""
    left = descriptors - RESERVED_DESCRIPTORS - DESCRIPTORS_PER_WORKER * workers
    return max(MIN_OPEN_FILES, min(left, MAX_OPEN_FILES))


def part_bytes(length: int, workers: int) -> int:
    """Returns the size of the partitions of a file, in bytes."""
    return min(max(length // (workers * PARTS_PER_WORKER), MIN_BYTES), MAX_BYTES)


def number_of_parts(path: str) -> tuple[int, int]:
    """Returns the maximum number of partitions of a file, and its bytes; (0, 0) if they are unknown."""
    if path == STDIN:
        return 0, 0
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  # PATHs are texts as typed
            return 0, 0
        with Path(path).open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            return (1 if is_packed(file.read(_START_BYTES)) else max(1, length // MIN_BYTES)), length
    except OSError:
        return 1, 0  # reading it reports the error


def cuts(length: int, size: int, line_after: Callable[[int], int]) -> Iterator[tuple[int, int]]:
    """Yields start and end of ranges of about `size` bytes; each starts where a line does.

    `line_after` returns the first position from its argument on where a line begins, or `length`.
    """
    start = 0
    while start < length:
        end = length if length - start < 2 * size else line_after(start + size)
        yield start, end
        start = end


# -- work ----------------------------------------------------------------------------------------------------


class Piece(Struct, frozen=True):
    """A file, or the lines from byte `start` to byte `end` of one."""

    name: str
    start: int
    end: int
    lines: int | None = None
    """The number of lines before it in its file; None if it is a whole file, in any form."""


class Source:
    """A file with partitions that are not done."""

    def __init__(self, path: str, file: InputFile) -> None:
        self.path = path
        self.file = file
        self.undone = self.unassigned = 0
        """Partitions that are not done, and not assigned to a worker."""


class Partition(Struct, kw_only=True, eq=False):
    """What one worker forwards at a time, and its progress."""

    number: int
    pieces: list[Piece]
    sources: list[Source]
    position: int = 0
    """Its records that were reported."""
    crashes: int = 0
    """Workers that crashed while they forwarded it, since the last report."""
    held: BatchResult = field(default_factory=BatchResult)
    """Results that were reported and are not committed yet."""
    is_done: bool = False
    bytes_left: int = 0
    """Bytes of its pieces that are not accounted for."""

    def __post_init__(self) -> None:
        self.bytes_left = sum(piece.end - piece.start for piece in self.pieces)

    def name(self) -> str:
        """Returns its name for messages."""
        piece = self.pieces[0]
        if len(self.pieces) > 1:
            return f"{piece.name} and {len(self.pieces) - 1} more"
        return piece.name if piece.lines is None else f"{piece.name}, bytes {piece.start} to {piece.end}"


class IndexTask(Struct, eq=False):
    """The index of one or more pieces, which a worker builds; they are a partition afterwards."""

    number: int
    pieces: list[Piece]
    sources: list[Source]
    lines: list[int] = field(default_factory=list)
    """The number of lines of each piece, once they are indexed."""
    crashes: int = 0

    def name(self) -> str:
        """Returns its name for messages."""
        return self.pieces[0].name


class RunIndex:
    """The exchange index of all files of a run."""

    def __init__(self) -> None:
        self._exchanges = ExchangeIndex()
        self._early: dict[int, IndexPart | None] = {}
        self._merged = 0

    def add(self, number: int, part: IndexPart | None) -> None:
        """Adds a part; None if its files could not be read. Raises TemporaryFileError.

        Merges the parts in the order of their numbers, because the first answer of an exchange counts.
        """
        self._early[number] = part
        while self._merged in self._early:
            if found := self._early.pop(self._merged):
                self._exchanges.merge(found)
            self._merged += 1

    def shared(self) -> tuple[Index, list[int]]:
        """Returns the index, and the descriptor of its file if it has one."""
        index, file = self._exchanges.shared(), self._exchanges.file
        return index, [file.fileno()] if file else []

    def close(self) -> None:
        """Removes the file."""
        self._exchanges.close()


class WorkQueue:
    """The tasks of a run, in the order of the files: first its index, then its partitions."""

    def __init__(
        self,
        paths: Iterable[str],
        open_file: Callable[[str], InputFile],
        *,
        workers: int,
        whole: Collection[str] = (),
        size: int | None = None,
        max_open_files: int = MAX_OPEN_FILES,
    ) -> None:
        """Each file of `whole` is one partition. `size`: bytes of a partition, instead of `part_bytes`."""
        self.problems: list[str] = []
        """Why files could not be read, for people."""
        self.is_exhausted = False
        """Whether only tasks that were put back are left."""
        self.index: tuple[Index, list[int]] | None = None
        """The index of all files, and the descriptor of its file if it has one; None until it is complete."""
        self._open_file = open_file
        self._workers = workers
        self._whole = whole
        self._size = size
        self._max_group = max(1, min(MAX_FILES, max_open_files - 1))  # the next file is open, too
        self._tasks: deque[Partition | IndexTask] = deque()
        self._has_partitions = False
        """Whether all files are indexed, or given up."""
        self._planned: list[IndexTask] = []
        self._open: set[Source] = set()
        self._run_index = RunIndex()
        self._indexed = 0
        """Index tasks that are done or given up."""
        self._groups = self._grouped(iter(paths))

    def next(self) -> Partition | IndexTask | None:
        """Returns the next task; None while there is none. Raises Interrupted."""
        while not self._tasks and not self._has_partitions:
            group = next(self._groups, None)
            if group is not None:
                self._plan(group)
            elif self._indexed == len(self._planned):
                self._add_partitions()
            else:  # workers still index
                return None
        self.is_exhausted = self._has_partitions and not self._tasks
        return self._tasks.popleft() if self._tasks else None

    def add_index(self, task: IndexTask, lines: list[int], part: IndexPart) -> None:
        """Adds the index that a worker built, and the number of lines of each piece."""
        task.lines = lines
        self._add_part(task, part)

    def _add_part(self, task: IndexTask, part: IndexPart | None) -> None:
        if self._has_partitions:  # abandoned
            return
        self._indexed += 1
        try:
            self._run_index.add(task.number, part)
        except InputError as error:
            self._abandon(error)

    def _abandon(self, error: InputError) -> None:
        """Reads nothing of all files: the index cannot be written."""
        self.problems.append(str(error))
        self.close()
        self._tasks.clear()
        self._planned.clear()
        self._groups = iter(())
        self._has_partitions = True

    def put_back(self, task: Partition | IndexTask) -> None:
        """Makes a task the next one."""
        self._tasks.appendleft(task)

    def give_up(self, task: IndexTask, why: str) -> None:
        """Reads nothing of files that could not be indexed; says so once for each file."""
        if self._open.issuperset(task.sources):
            self.problems.append(why)
        for source in task.sources:
            self._close(source)
        others = [
            each for each in self._tasks if isinstance(each, IndexTask) and each.sources == task.sources
        ]
        for each in (task, *others):
            self._add_part(each, None)
        self._tasks = deque(each for each in self._tasks if each not in others)

    def mark_assigned(self, task: Partition | IndexTask) -> None:
        """Notes that a worker has the task, with descriptors of its own."""
        for source in task.sources:
            source.unassigned -= isinstance(task, Partition)
            if isinstance(task, IndexTask) or source.unassigned <= 0:
                source.file.release()

    def mark_done(self, source: Source) -> None:
        """Notes that a partition of this file is done."""
        source.undone -= 1
        if source.undone <= 0:
            self._close(source)

    def close(self) -> None:
        """Closes all files."""
        for source in tuple(self._open):
            self._close(source)
        self._run_index.close()

    def _close(self, source: Source) -> None:
        self._open.discard(source)
        source.file.close()

    def _grouped(self, paths: Iterator[str]) -> Iterator[list[Source]]:
        """Yields the files that are one partition together, or one large file."""
        group: list[Source] = []
        size = 0
        for path in paths:
            try:
                source = Source(path, self._open_file(path))
            except InputError as error:
                self.problems.append(str(error))
                continue
            self._open.add(source)
            length, small = source.file.length, self._size or MIN_BYTES
            if length >= small or path in self._whole:
                if group:
                    yield group
                yield [source]
                group, size = [], 0
                continue
            group.append(source)
            size += length
            if size >= small or len(group) == self._max_group:
                yield group
                group, size = [], 0
        if group:
            yield group

    def _plan(self, group: list[Source]) -> None:
        """Adds the tasks that index these files."""
        source, file = group[0], group[0].file
        ranges: list[tuple[int, int]] = []
        if len(group) == 1 and source.path not in self._whole:
            try:
                ranges = self._ranges(file)
            except InputError as error:
                self.problems.append(str(error))
                self._close(source)
                return
        if len(ranges) > 1:
            for start, end in ranges:
                self._add_index_task([Piece(file.name, start, end, 0)], group)
        else:
            self._add_index_task([Piece(each.file.name, 0, each.file.length) for each in group], group)

    def _add_index_task(self, pieces: list[Piece], sources: list[Source]) -> None:
        task = IndexTask(len(self._planned), pieces, sources)
        self._planned.append(task)
        self._tasks.append(task)

    def _ranges(self, file: InputFile) -> list[tuple[int, int]]:
        size = self._size or part_bytes(file.length, self._workers)
        if file.length < 2 * size or is_packed(next(file.chunks())) or form_of(file.chunks()) != JSON_LINES:
            return []
        return list(cuts(file.length, size, file.line_after))

    def _add_partitions(self) -> None:
        """Makes the partitions available: the pieces that were indexed, with the lines before each."""
        self._has_partitions = True
        self.index = self._run_index.shared()
        lines: Counter[Source] = Counter()
        for task in self._planned:
            if not self._open.issuperset(task.sources):  # given up
                continue
            first = task.sources[0]
            pieces = [
                piece if piece.lines is None else replace(piece, lines=lines[first]) for piece in task.pieces
            ]
            lines[first] += sum(task.lines)
            for source in task.sources:
                source.undone += 1
                source.unassigned += 1
            number = len(self._tasks)
            self._tasks.append(Partition(number=number, pieces=pieces, sources=task.sources))
        self._planned.clear()
