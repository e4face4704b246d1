"""Divides a run's files into partitions, and queues them for workers in the order of the files.

A large file of JSON Lines is partitioned at newlines, so that a crash of a worker costs little and all
workers end at about the same time. All of it is indexed before its first partition is forwarded: an attempt
and its exchange can be in different ranges. Small files together are one partition. A file is open until its
last partition is assigned, and is opened again if a worker crashes.
"""

import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress

from msgspec import Struct, field

from faillog_otel.errors import InputError
from faillog_otel.events.model import JSON_LINES
from faillog_otel.inputs.exchange_index import ExchangeIndex, Index, IndexPart
from faillog_otel.inputs.files import InputFile, is_packed
from faillog_otel.inputs.formats import form_of
from faillog_otel.ledger.results import BatchResult

# -- sizes ---------------------------------------------------------------------------------------------------

MIN_BYTES = 1024 * 1024
MAX_BYTES = 16 * 1024 * 1024
PARTS_PER_WORKER = 16
"""While one worker forwards the last partition of a run, the others are idle."""

MAX_FILES = 16
"""Small files in one partition: all of them are open at once."""

RESERVED_DESCRIPTORS = 40
"""File descriptors for everything but workers and input files: libraries, connections, kept files."""
DESCRIPTORS_PER_WORKER = 3
"""In the parent process: the socket, and the indexes of two partitioned files."""
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
        self.undone = self.unassigned = self.unread = 1
        """Partitions that are not done, not assigned to a worker, and not read to their end by a worker."""
        self.index: tuple[Index, int] | None = None
        """The index of its exchanges, and the descriptor of the file with its hash tables."""


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
    """The index of a range of a partitioned file, which a worker builds."""

    partitioned: "PartitionedFile"
    number: int
    crashes: int = 0

    def name(self) -> str:
        """Returns its name for messages."""
        return self.partitioned.source.file.name

    def piece(self) -> Piece:
        """Returns the range."""
        return self.partitioned.range(self.number)


class PartitionedFile:
    """A file in ranges: first each of them is indexed, then each is forwarded as a partition."""

    def __init__(self, source: Source, ranges: list[tuple[int, int]]) -> None:
        self.source = source
        self._ranges = ranges
        self._merged = 0
        self._early: dict[int, tuple[int, IndexPart]] = {}
        self._lines = [0]
        self._file = tempfile.TemporaryFile(prefix="faillog-")  # noqa: SIM115  # until close()
        self._exchanges = ExchangeIndex(file=self._file)
        self.tasks = deque(IndexTask(self, number) for number in range(len(ranges)))

    def add_index(self, number: int, lines: int, index: IndexPart) -> bool:
        """Adds the index of a range and its number of lines; returns whether the file's index is complete.

        Merges in the order of the file, because the first exchange with an id counts. Raises OSError.
        """
        self._early[number] = lines, index
        while (found := self._early.pop(self._merged, None)) is not None:
            self._exchanges.merge(found[1])
            self._lines.append(self._lines[-1] + found[0])
            self._merged += 1
        if self._merged < len(self._ranges):
            return False
        self.source.index = self._exchanges.write_out(), self._file.fileno()
        return True

    def pieces(self) -> list[Piece]:
        """Returns the ranges, once the index is complete."""
        name = self.source.file.name
        return [Piece(name, *each, lines) for each, lines in zip(self._ranges, self._lines, strict=False)]

    def range(self, number: int) -> Piece:
        """Returns a range that is to be indexed."""
        return Piece(self.source.file.name, *self._ranges[number], 0)

    def close(self) -> None:
        """Removes the index."""
        self._exchanges.close()


class WorkQueue:
    """The tasks of a run, in the order of the files."""

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
        self._open_file = open_file
        self._workers = workers
        self._whole = whole
        self._size = size
        self._max_open_files = max_open_files
        self._max_group = min(MAX_FILES, max_open_files - 1)  # the next file is open, too
        self._tasks: deque[Partition | IndexTask] = deque()
        self._indexing: PartitionedFile | None = None
        self._partitioned: dict[Source, PartitionedFile] = {}
        self._open: set[Source] = set()
        self._number = 0
        self._groups = self._grouped(iter(paths))

    def next(self) -> Partition | IndexTask | None:
        """Returns the next task; None while there is none. Raises Interrupted."""
        while not self._tasks:
            if self._indexing is not None:  # not all ranges are indexed
                return None
            if self._open_files() + self._max_group > self._max_open_files:  # copies of pipes
                return None
            group = next(self._groups, None)
            if group is None:
                self.is_exhausted = True
                return None
            self._plan(group)
        return self._tasks.popleft()

    def add_index(self, task: IndexTask, lines: int, index: IndexPart) -> None:
        """Adds the index that a worker built; the last one of a file makes its partitions available."""
        partitioned = task.partitioned
        if partitioned is not self._indexing:
            return
        try:
            if not partitioned.add_index(task.number, lines, index):
                return
            pieces = partitioned.pieces()
        except OSError:  # the disk is full: one worker indexes and forwards the whole file
            self._drop_index(partitioned)
            pieces = [Piece(partitioned.source.file.name, 0, partitioned.source.file.length)]
        self._indexing = None
        source = partitioned.source
        source.undone = source.unassigned = source.unread = len(pieces)
        for piece in pieces:
            self._add_partition([piece], [source])

    def put_back(self, task: Partition | IndexTask) -> None:
        """Makes a task the next one."""
        self._tasks.appendleft(task)

    def give_up(self, task: IndexTask, why: str) -> None:
        """Reads nothing of a file that could not be indexed."""
        if task.partitioned is self._indexing:
            self.problems.append(why)
            self._drop_index(task.partitioned)
            self._indexing = None
            self.mark_done(task.partitioned.source)

    def mark_assigned(self, partition: Partition) -> None:
        """Notes that a worker has the partition, with descriptors of its own."""
        for source in partition.sources:
            source.unassigned -= 1
            if source.unassigned <= 0:
                source.file.release()

    def mark_read(self, partition: Partition) -> None:
        """Notes that a worker has read the partition to its end: it is not assigned again."""
        for source in partition.sources:
            source.unread -= 1
            if source.unread <= 0 and (partitioned := self._partitioned.pop(source, None)):
                partitioned.close()

    def mark_done(self, source: Source) -> None:
        """Notes that a partition of this file is done."""
        source.undone -= 1
        if source.undone <= 0:
            self._close(source)

    def close(self) -> None:
        """Closes all files."""
        for source in tuple(self._open):
            self._close(source)

    def _open_files(self) -> int:
        return sum(source.file.is_open for source in self._open)

    def _close(self, source: Source) -> None:
        self._open.discard(source)
        source.file.close()
        if partitioned := self._partitioned.pop(source, None):
            partitioned.close()

    def _drop_index(self, partitioned: PartitionedFile) -> None:
        self._tasks = deque(task for task in self._tasks if isinstance(task, Partition))
        del self._partitioned[partitioned.source]
        partitioned.close()

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
        source, file = group[0], group[0].file
        if len(group) == 1 and source.path not in self._whole:
            try:
                ranges = self._ranges(file)
            except InputError as error:
                self.problems.append(str(error))
                self.mark_done(source)
                return
            if len(ranges) > 1:
                with suppress(OSError):  # there is no temporary file for the index
                    self._indexing = self._partitioned[source] = PartitionedFile(source, ranges)
                    self._tasks += self._indexing.tasks
                    return
        self._add_partition([Piece(each.file.name, 0, each.file.length) for each in group], group)

    def _ranges(self, file: InputFile) -> list[tuple[int, int]]:
        size = self._size or part_bytes(file.length, self._workers)
        if file.length < 2 * size or is_packed(next(file.chunks())) or form_of(file.chunks()) != JSON_LINES:
            return []
        return list(cuts(file.length, size, file.line_after))

    def _add_partition(self, pieces: list[Piece], sources: list[Source]) -> None:
        self._tasks.append(Partition(number=self._number, pieces=pieces, sources=sources))
        self._number += 1
