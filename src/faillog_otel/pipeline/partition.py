"""Files → work for workers, in the order of the files: what is to be learned first, and the parts.

Of a file that is cut, all ranges are learned from before any of its parts is given out: an attempt may stand
in another range than its exchange. A file is open from when its length is learned until its last part is
given out; should a worker die, it is opened again.
"""

import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress

from msgspec import Struct, field

from faillog_otel.errors import InputError
from faillog_otel.events.model import JSON_LINES
from faillog_otel.inputs.exchange_index import ExchangeIndex, Index
from faillog_otel.inputs.files import InputFile, is_packed
from faillog_otel.inputs.formats import form_of
from faillog_otel.ledger.results import BatchResult
from faillog_otel.pipeline.worker_protocol import IndexBuilt, Piece

# -- parts ---------------------------------------------------------------------------------------------------
#
# What a worker does at a time: parts of the work, in the order of the files. No I/O.
#
# A large file of JSON Lines is cut behind newlines, so that the death of a worker costs little and all of
# them end at about the same time; small files are one part together.


MIN_BYTES = 1024 * 1024
MAX_BYTES = 16 * 1024 * 1024
PARTS_PER_WORKER = 16
"""So many parts of a file for each worker: while one does the last part, the others have nothing to do."""

MAX_FILES = 16
"""So many small files are one part at the most: all of them are open at once."""

RESERVED_DESCRIPTORS = 40
"""So many are left for everything but workers and input files: libraries, connections, kept files."""
DESCRIPTORS_PER_WORKER = 3
"""In the parent process: the socket, and what was learned from two files that are cut."""
MIN_OPEN_FILES = 4
MAX_OPEN_FILES = 256
"""Pipes are copied, and the copies stay open until they are read: of many pipes only so many at a time."""


def max_workers(descriptors: int) -> int:
    """How many workers a process may start that may open so many files; at least 1."""
    return max(1, (descriptors - RESERVED_DESCRIPTORS - MIN_OPEN_FILES) // DESCRIPTORS_PER_WORKER)


def max_open_files(descriptors: int, workers: int) -> int:
    """How many input files may be open at a time, with so many workers; at least `MIN_OPEN_FILES`."""
    left = descriptors - RESERVED_DESCRIPTORS - DESCRIPTORS_PER_WORKER * workers
    return max(MIN_OPEN_FILES, min(left, MAX_OPEN_FILES))


def part_bytes(length: int, workers: int) -> int:
    """How large the parts of a file of so many bytes are."""
    return min(max(length // (workers * PARTS_PER_WORKER), MIN_BYTES), MAX_BYTES)


def cuts(length: int, size: int, line_after: Callable[[int], int]) -> Iterator[tuple[int, int]]:
    """Start and end of parts of about `size` bytes; each starts where a line does.

    `line_after` gives the first position from its argument on where a line begins, or `length`.
    """
    start = 0
    while start < length:
        end = length if length - start < 2 * size else line_after(start + size)
        yield start, end
        start = end


# -- supply --------------------------------------------------------------------------------------------------


class Source:
    """A file, until all of its parts are done."""

    def __init__(self, path: str, file: InputFile) -> None:
        self.path = path
        self.file = file
        self.parts_left = 1
        self.parts_to_give = self.parts_to_read = 1
        """So many of its parts were given to no worker yet; so many no worker has read to the end yet."""
        self.index: tuple[Index, int] | None = None
        """What its exchanges say, and the descriptor of the file where that stands."""


class Partition(Struct, kw_only=True, eq=False):
    """What one worker does at a time, and how far it has come."""

    number: int
    pieces: list[Piece]
    sources: list[Source]
    position: int = 0
    """So many of its records were reported."""
    crashes: int = 0
    """So many workers died over it since something was reported."""
    held: BatchResult = field(default_factory=BatchResult)
    """What was reported, and is not written down yet."""
    is_done: bool = False
    bytes_left: int = 0
    """So many bytes of its pieces are not accounted for."""

    def __post_init__(self) -> None:
        self.bytes_left = sum(piece.end - piece.start for piece in self.pieces)

    def name(self) -> str:
        """For people."""
        piece = self.pieces[0]
        if len(self.pieces) > 1:
            return f"{piece.name} and {len(self.pieces) - 1} more"
        return piece.name if piece.lines is None else f"{piece.name}, bytes {piece.start} to {piece.end}"


class IndexTask(Struct, eq=False):
    """A range of a file that is cut: what its exchanges say is to be learned."""

    cut: "PartitionedFile"
    number: int
    crashes: int = 0

    def name(self) -> str:
        """For people."""
        return self.cut.source.file.name

    def piece(self) -> Piece:
        """The range."""
        return self.cut.lesson_piece(self.number)


class PartitionedFile:
    """A file that is cut: first its lessons, then its parts."""

    def __init__(self, source: Source, ranges: list[tuple[int, int]]) -> None:
        self.source = source
        self._ranges = ranges
        self._taken = 0
        self._early: dict[int, IndexBuilt] = {}
        self._lines = [0]
        self._file = tempfile.TemporaryFile(prefix="faillog-")  # noqa: SIM115  # until close()
        self._exchanges = ExchangeIndex(file=self._file)
        self.lessons = deque(IndexTask(self, number) for number in range(len(ranges)))

    def learned(self, lesson: IndexTask, learned: IndexBuilt) -> bool:
        """Takes what was learned, in the order of the file: the first exchange with an id counts.

        True when all of it is known.
        """
        self._early[lesson.number] = learned
        while (found := self._early.pop(self._taken, None)) is not None:
            self._exchanges.merge(found.lessons)
            self._lines.append(self._lines[-1] + found.lines)
            self._taken += 1
        if self._taken < len(self._ranges):
            return False
        self.source.index = self._exchanges.write_out(), self._file.fileno()
        return True

    def pieces(self) -> list[Piece]:
        """The ranges, when all is learned."""
        name = self.source.file.name
        return [Piece(name, *each, lines) for each, lines in zip(self._ranges, self._lines, strict=False)]

    def lesson_piece(self, number: int) -> Piece:
        """A range, to be learned from."""
        return Piece(self.source.file.name, *self._ranges[number], 0)

    def close(self) -> None:
        """Forgets what was learned."""
        self._exchanges.close()


class WorkQueue:
    """Gives work out, one task after the other."""

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
        """Files of `whole` are a part each. `size`: how large parts are, in bytes; by default it depends."""
        self.problems: list[str] = []
        """What could not be read, in sentences for people."""
        self.is_exhausted = False
        """Whether nothing more will come, but what is given back."""
        self._open_file = open_file
        self._workers = workers
        self._whole = whole
        self._size = size
        self._max_open_files = max_open_files
        self._max_group = min(MAX_FILES, max_open_files - 1)  # the next file is open already
        self._tasks: deque[Partition | IndexTask] = deque()
        self._cut: PartitionedFile | None = None
        self._cuts: dict[Source, PartitionedFile] = {}
        self._open: set[Source] = set()
        self._number = 0
        self._groups = self._grouped(iter(paths))

    def next(self) -> Partition | IndexTask | None:
        """The next task; None while there is none. Raises Interrupted."""
        while not self._tasks:
            if self._cut is not None:  # all lessons are given out, and not all are learned
                return None
            if self._open_files() + self._max_group > self._max_open_files:  # copies that are being read
                return None
            group = next(self._groups, None)
            if group is None:
                self.is_exhausted = True
                return None
            self._plan(group)
        return self._tasks.popleft()

    def learned(self, lesson: IndexTask, learned: IndexBuilt) -> None:
        """A lesson is learned."""
        cut = lesson.cut
        if cut is not self._cut:
            return
        try:
            if not cut.learned(lesson, learned):
                return
            pieces = cut.pieces()
        except OSError:  # there is no room for what is learned: one worker learns it for itself
            self._forget(cut)
            pieces = [Piece(cut.source.file.name, 0, cut.source.file.length)]
        self._cut = None
        source = cut.source
        source.parts_left = source.parts_to_give = source.parts_to_read = len(pieces)
        for piece in pieces:
            self._add_part([piece], [source])

    def give_back(self, task: Partition | IndexTask) -> None:
        """A task is to be done once more, before all others."""
        self._tasks.appendleft(task)

    def give_up(self, lesson: IndexTask, why: str) -> None:
        """Nothing is read of a file that nothing can be learned from."""
        if lesson.cut is self._cut:
            self.problems.append(why)
            self._forget(lesson.cut)
            self._cut = None
            self.done(lesson.cut.source)

    def given(self, part: Partition) -> None:
        """A worker was given the part, with descriptors of its own."""
        for source in part.sources:
            source.parts_to_give -= 1
            if source.parts_to_give <= 0:
                source.file.release()

    def read(self, part: Partition) -> None:
        """A worker has read the part to its end: nobody is given it again."""
        for source in part.sources:
            source.parts_to_read -= 1
            if source.parts_to_read <= 0 and (cut := self._cuts.pop(source, None)):
                cut.close()

    def done(self, source: Source) -> None:
        """A part of this file is done."""
        source.parts_left -= 1
        if source.parts_left <= 0:
            self._close(source)

    def close(self) -> None:
        """Closes all files, also those that are not done."""
        for source in tuple(self._open):
            self._close(source)

    def _open_files(self) -> int:
        return sum(source.file.is_open for source in self._open)

    def _close(self, source: Source) -> None:
        self._open.discard(source)
        source.file.close()
        if cut := self._cuts.pop(source, None):
            cut.close()

    def _forget(self, cut: PartitionedFile) -> None:
        """Nothing more is to be learned here."""
        self._tasks = deque(task for task in self._tasks if isinstance(task, Partition))
        del self._cuts[cut.source]
        cut.close()

    def _grouped(self, paths: Iterator[str]) -> Iterator[list[Source]]:
        """Files that are one part together, or one file."""
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
                self.done(source)
                return
            if len(ranges) > 1:
                with suppress(OSError):  # no room for what is to be learned
                    self._cut = self._cuts[source] = PartitionedFile(source, ranges)
                    self._tasks += self._cut.lessons
                    return
        self._add_part([Piece(each.file.name, 0, each.file.length) for each in group], group)

    def _ranges(self, file: InputFile) -> list[tuple[int, int]]:
        size = self._size or part_bytes(file.length, self._workers)
        if file.length < 2 * size or is_packed(next(file.chunks())) or form_of(file.chunks()) != JSON_LINES:
            return []
        return list(cuts(file.length, size, file.line_after))

    def _add_part(self, pieces: list[Piece], sources: list[Source]) -> None:
        self._tasks.append(Partition(number=self._number, pieces=pieces, sources=sources))
        self._number += 1
