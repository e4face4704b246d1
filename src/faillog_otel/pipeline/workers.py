"""A run's workers: processes that forward parts of its files, and what becomes of the records, put together.

Only this process commits results, in the order of the files; of parts that are ahead of
their turn a bounded number of bytes is held, then their workers wait. A worker that dies loses nothing:
another one goes on with its parts behind what was reported; what was under way is sent again, with the same
ids.
"""

import logging
import signal
import socket
import subprocess
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Self

from msgspec.structs import astuple

from faillog_otel.errors import InputError, Interrupted, LedgerBroken
from faillog_otel.ledger.results import Accounted, BatchResult, Counts, FirstMet, ResultSink, note_first
from faillog_otel.otlp.sender import Say, Sent
from faillog_otel.pipeline.partition import IndexTask, Partition, Source, WorkQueue
from faillog_otel.pipeline.worker_protocol import (
    BuildIndex,
    Channel,
    Drain,
    EndSending,
    Forward,
    Order,
    Ready,
    Report,
    Start,
    Stop,
    UseIndex,
    Waits,
    Written,
    encode,
    read_report,
)
from faillog_otel.telemetry.api import NO_TELEMETRY, Telemetry

_log = logging.getLogger(__name__)

MAX_CRASHES = 3
"""So many workers may die over a task, one after the other, before it is given up."""
MAX_FAILED_STARTS = 10
"""So many workers may die one after the other before any of them has reported anything."""
MAX_AHEAD_BYTES = 16 * 1024 * 1024
"""So much may be held of parts that are ahead of their turn."""
STOP_SECONDS = 7.5
"""How long after a signal the workers may take to end: longer than the grace of a request in flight."""
LOOK_UP_SECONDS = 0.5

Readable = Callable[[Sequence[int], float], list[int]]
"""Which of these descriptors can be read; none after so many seconds, or when a signal comes."""


class _Worker:
    """One process, and what it was ordered to do."""

    def __init__(self, command: Sequence[str], stderr: int | None) -> None:
        ours, theirs = socket.socketpair()
        # The run alone hears SIGINT and SIGTERM, also those that a terminal or a supervisor sends to all.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            with theirs:
                self.process = subprocess.Popen(  # noqa: S603  # ourselves
                    [*command, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.channel = Channel(ours)
        self.sent = Sent()
        self.parts: deque[Partition] = deque()
        self.lesson: IndexTask | None = None
        self.source: Source | None = None
        self.has_reported = False
        self.wants = False
        self.is_settled = True

    def order(self, order: Order, descriptors: Sequence[int] = ()) -> None:
        """Sends an order; where it is dead, that will be noticed."""
        with suppress(ConnectionError):
            self.channel.send(encode(order), descriptors)


class Workers:
    """A context manager; runs once. Afterwards it has the outcomes of all records, as a Forwarder does."""

    def __init__(
        self,
        number: int,
        command: Sequence[str],
        start: Start,
        *,
        is_stopping: Callable[[], bool],
        readable: Readable,
        monotonic: Callable[[], float],
        stderr: int | None = None,
        say: Say,
    ) -> None:
        """`command` starts a worker, with a socket's descriptor as its last argument.

        `monotonic`: seconds that never run backwards. `stderr`: the descriptor of the workers' standard
        error, by default that of this process. `say` takes what requests wait for.
        """
        self.counts = Counts()
        self.reasons: Counter[str] = Counter()
        """How many records are in quarantine, by reason code."""
        self.first_met: FirstMet = {}
        self.broken: LedgerBroken | None = None
        """Why it cannot be written down what becomes of records; nothing more is taken in then."""
        self.over = ""
        """Why nothing is sent any more."""
        self.problems: list[str] = []
        """What could not be read, in sentences for people."""
        self.stopped_at: dict[str, int | None] = {}
        """Path → where reading stopped, in bytes; None: at its end. Of a file that was cut, some of what
        follows may have been read, too."""
        self._command = command
        self._stderr = stderr
        self._start = start
        self._is_stopping = is_stopping
        self._readable = readable
        self._monotonic = monotonic
        self._say = say
        self._sent_by_the_dead = Sent()
        self._failed_starts = 0
        self._parts: deque[Partition] = deque()  # given out, and not written down to their ends
        self._next_number = 0
        self._ahead_bytes = 0
        self._lengths: dict[str, int] = {}
        self._read_pieces: dict[str, dict[int, tuple[int, int | None]]] = {}
        """Path → start of a piece that was given out → its end, and where reading it stopped."""
        self._until: float | None = None
        self._workers = [self._new() for _ in range(number)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.channel.close()
        for worker in self._workers:
            try:
                worker.process.wait(1.0)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def sent(self) -> Sent:
        """What was sent so far, as far as it was reported."""
        every = [astuple(sent) for sent in (self._sent_by_the_dead, *(each.sent for each in self._workers))]
        return Sent(*map(sum, zip(*every, strict=True)))

    def run(
        self,
        supply: WorkQueue,
        book: ResultSink,
        progress: Callable[[Accounted], object],
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        """Does all of the work. What becomes of records is written into the book."""
        self._supply, self._book = supply, book
        self._progress, self._telemetry = progress, telemetry
        while True:
            if self._is_stopping() or self.broken is not None:
                self._stop()
            else:
                self._give_orders()
            has_lessons = any(worker.lesson for worker in self._workers)
            if not self._parts and (self._until is not None or (supply.is_exhausted and not has_lessons)):
                break
            self._listen()
        self.problems = supply.problems + self.problems
        self.stopped_at = {path: self._stopped_at(path) for path in self._lengths}

    def _stopped_at(self, path: str) -> int | None:
        """How far the file was read without a gap; None: to its end."""
        read_to = 0
        for start, (end, stopped_at) in sorted(self._read_pieces[path].items()):
            if start > read_to:  # a piece that was not given out
                break
            if stopped_at is not None:
                return max(start, stopped_at)
            read_to = end
        return None if read_to >= self._lengths[path] else read_to

    # -- orders ----------------------------------------------------------------------------------------

    def _new(self) -> _Worker:
        worker = _Worker(self._command, self._stderr)
        worker.order(self._start)
        if self.over:
            worker.order(EndSending(self.over))
        return worker

    def _give_orders(self) -> None:
        for worker in self._workers:
            if not worker.wants or any(part.crashes for part in worker.parts):
                continue
            try:
                task = self._supply.next()
            except Interrupted:
                return
            if task is not None and task.crashes and worker.parts:
                self._supply.give_back(task)
                self._settle(worker)
            elif task is not None:
                worker.wants = worker.is_settled = False
                self._give(worker, task)
                if task.crashes:  # it is done alone: no other one is to be blamed for the next death
                    self._settle(worker)
            else:
                self._settle(worker)

    @staticmethod
    def _settle(worker: _Worker) -> None:
        if not worker.is_settled:
            worker.is_settled = True
            worker.order(Drain())

    def _give(self, worker: _Worker, task: Partition | IndexTask) -> None:
        if isinstance(task, IndexTask):
            worker.lesson = task
            worker.order(BuildIndex(task.piece()), [task.cut.source.file.fileno()])
            return
        if task.number >= self._next_number:
            self._next_number = task.number + 1
            self._parts.append(task)
        try:
            descriptors = [each.file.fileno() for each in task.sources]
        except InputError as error:  # the file was replaced, and the worker that had it open is dead
            worker.wants = True
            self._give_up(task, str(error))
            return
        worker.parts.append(task)
        for piece, each in zip(task.pieces, task.sources, strict=True):
            self._lengths[each.path] = each.file.length
            self._read_pieces.setdefault(each.path, {})[piece.start] = (piece.end, piece.start)
        source = task.sources[0]
        if source.index is not None and worker.source is not source:
            worker.source = source
            worker.order(UseIndex(source.index[0]), [source.index[1]])
        order = Forward(task.number, task.pieces, task.position, carefully=task.crashes > 0)
        worker.order(order, descriptors)
        self._supply.given(task)

    def _stop(self) -> None:
        """Nothing more is taken in; what is under way may end."""
        if self._until is None:
            self._until = self._monotonic() + STOP_SECONDS
            for worker in self._workers:
                worker.order(Stop())
        elif self._monotonic() > self._until:
            for worker in self._workers:
                worker.process.kill()
        given = {part.number for worker in self._workers for part in worker.parts}
        for part in self._parts:
            part.is_done = part.is_done or part.number not in given
        self._write_down()

    # -- reports ---------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Takes what the workers report, but of those that are too far ahead."""
        is_full = self._ahead_bytes > MAX_AHEAD_BYTES and bool(self._parts)
        listened_to = {
            worker.channel.fileno(): worker
            for worker in self._workers
            if not is_full or not worker.parts or worker.parts[0] is self._parts[0]
        }
        for descriptor in self._readable(list(listened_to), LOOK_UP_SECONDS):
            worker = listened_to[descriptor]
            try:
                for message in worker.channel.receive_available():
                    self._take(worker, read_report(message))
            except EOFError:
                self._on_worker_exit(worker)

    def _take(self, worker: _Worker, report: Report) -> None:
        worker.has_reported, self._failed_starts = True, 0
        if isinstance(report, Waits):
            if not self._is_stopping():
                self._say(report.what, report.seconds)
        elif isinstance(report, Ready):
            worker.wants = True
        elif isinstance(report, Written):
            self._take_written(worker, report)
        elif worker.lesson is not None:
            lesson, worker.lesson = worker.lesson, None
            self._supply.learned(lesson, report)

    def _take_written(self, worker: _Worker, report: Written) -> None:
        part = next(each for each in worker.parts if each.number == report.part)
        part.position += report.counts.records
        part.crashes = 0
        stretch = report.stretch()
        accounted = report.accounted.at_most(part.bytes_left)  # a dead worker's last bytes come once more
        part.bytes_left -= accounted.delivered + accounted.pending
        part.held.add(stretch)
        if part is not self._parts[0]:
            self._ahead_bytes += _kept_bytes(stretch)
        if report.is_last:
            part.is_done = True
            worker.parts.remove(part)
            self._supply.read(part)
            self.problems += report.problems
            for piece, source, stopped_at in zip(part.pieces, part.sources, report.stopped_at, strict=False):
                self._read_pieces[source.path][piece.start] = (piece.end, stopped_at)
        worker.sent = report.sent
        for answer in report.answers:
            self._telemetry.record_request(*answer)
        self._progress(accounted)
        if part is self._parts[0]:
            self._write_down()
        if report.over and not self.over:
            self.over = report.over
            for each in self._workers:
                each.order(EndSending(report.over))

    def _write_down(self) -> None:
        """Writes down what was reported, in the order of the parts."""
        while self._parts:
            part = self._parts[0]
            stretch, part.held = part.held, BatchResult()
            if stretch.counts.lines or stretch.counts.records or stretch.counts.bytes_in:
                try:
                    self._book.commit(stretch)
                except LedgerBroken as error:
                    self.broken = self.broken or error
                self.counts.add(stretch.counts)
                note_first(self.first_met, stretch)
                self.reasons.update(each.reason for each in stretch.kept if each.where == "quarantine")
                self._telemetry.record_outcomes(stretch.became, stretch.reasons(), len(stretch.shifted))
            if not part.is_done:
                return
            self._parts.popleft()
            for source in part.sources:
                self._done(source)
            if self._parts:
                self._ahead_bytes -= _kept_bytes(self._parts[0].held)

    def _done(self, source: Source) -> None:
        if source.parts_left == 1 and (grown := source.file.grown_bytes()):
            what = "%s grew by %d bytes that were not read: run it again when it is whole"
            _log.warning(what, source.file.name, grown)
        self._supply.done(source)

    # -- crashes ---------------------------------------------------------------------------------------

    def _on_worker_exit(self, worker: _Worker) -> None:
        """A worker is dead: its tasks are done by others, unless the run is to end."""
        worker.channel.close()
        code = worker.process.wait()
        self._workers.remove(worker)
        both = zip(astuple(self._sent_by_the_dead), astuple(worker.sent), strict=True)
        self._sent_by_the_dead = Sent(*map(sum, both))
        tasks: list[Partition | IndexTask] = [*worker.parts, *filter(None, [worker.lesson])]
        how = f"signal {-code}" if code < 0 else f"code {code}"
        if self._until is not None:
            for part in worker.parts:
                part.is_done = True
            return
        self._failed_starts += not worker.has_reported
        if self._failed_starts >= MAX_FAILED_STARTS:
            raise RuntimeError(f"workers end as soon as they are started ({how})")
        for task in reversed(tasks):
            task.crashes += 1
            if task.crashes < MAX_CRASHES:
                _log.warning("a worker died (%s) over %s: another one goes on with it", how, task.name())
                self._supply.give_back(task)
            else:
                self._give_up(task, f"{MAX_CRASHES} workers died over the same records ({how})")
        self._workers.append(self._new())

    def _give_up(self, task: Partition | IndexTask, why: str) -> None:
        if isinstance(task, IndexTask):
            self._supply.give_up(task, f"{task.name()}: {why}: nothing of it was read")
            return
        read = f"{task.position} records of it were read, the others were not"
        self.problems.append(f"{task.name()}: {why}: {read}")
        task.is_done = True
        self._write_down()


def _kept_bytes(stretch: BatchResult) -> int:
    return sum(len(each.entry) for each in stretch.kept)
