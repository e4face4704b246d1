"""A run's workers: processes that forward partitions of its files and report the results.

Only the parent process commits results, in the order of the files. It holds a bounded number of bytes of
results that are ahead of their turn; then their workers wait. After a crash another worker, also from the
fork server, continues behind the last report; records that were in flight are sent again, with the same ids.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Self

from msgspec.structs import astuple

from faillog_otel.errors import InputError, Interrupted, LedgerBroken
from faillog_otel.events.failure_counts import BatchFailures
from faillog_otel.ledger.results import Accounted, BatchResult, Counts, FirstMet, ResultSink, note_first
from faillog_otel.otlp.sender import Say, Sent
from faillog_otel.pipeline.fork_server import ForkServer, kill
from faillog_otel.pipeline.partition import IndexTask, Partition, Source, WorkQueue
from faillog_otel.pipeline.worker import (
    BuildIndex,
    Drain,
    EndSending,
    Forward,
    Order,
    PartitionResult,
    Ready,
    Report,
    Start,
    Stop,
    UseIndex,
    Waits,
    encode,
    read_report,
)
from faillog_otel.telemetry import NO_TELEMETRY, Telemetry

_log = logging.getLogger(__name__)

MAX_CRASHES = 3
"""Crashes over one task, without a report between them, after which it is given up."""
MAX_FAILED_STARTS = 10
"""Consecutive workers that exit before any of them has reported anything."""
MAX_AHEAD_BYTES = 16 * 1024 * 1024
"""Bytes of kept records in results that are ahead of their turn."""
STOP_SECONDS = 7.5
"""How long the workers may take to end after a signal: longer than the grace of a request in flight."""
EXIT_SECONDS = 1.0
"""How long a worker may take to exit at the end of the run."""
POLL_INTERVAL_SECONDS = 0.5

Readable = Callable[[Sequence[int], float], list[int]]
"""Returns which descriptors can be read; none after the timeout in seconds, or on a signal."""


class _Worker:
    """A worker's process, and its tasks."""

    def __init__(self, server: ForkServer, stderr: int | None) -> None:
        self.process, self.channel = server.start_worker(stderr)
        self.sent = Sent()
        self.parts: deque[Partition] = deque()
        self.index_task: IndexTask | None = None
        self.has_index = False
        self.has_reported = False
        self.is_ready = False
        self.is_draining = True

    def order(self, order: Order, descriptors: Sequence[int] = ()) -> None:
        """Sends an order. A crash of the worker is noticed elsewhere."""
        with suppress(ConnectionError):
            self.channel.send(encode(order), descriptors)


class Workers:
    """A context manager; runs once. Afterwards it has the counts of all records, as a Forwarder has."""

    def __init__(
        self,
        number: int,
        server: ForkServer,
        start: Start,
        *,
        is_stopping: Callable[[], bool],
        readable: Readable,
        monotonic: Callable[[], float],
        stderr: int | None = None,
        say: Say,
    ) -> None:
        """`server` forks the workers. `say` receives why requests wait, and for how long.

        `monotonic`: seconds that never run backwards. `stderr`: the descriptor of the workers' standard
        error, by default that of this process.
        """
        self.counts = Counts()
        self.reasons: Counter[str] = Counter()
        """Records in the quarantine, by reason code."""
        self.first_met: FirstMet = {}
        self.broken: LedgerBroken | None = None
        """Why results can no longer be committed, which ends reading; None while they can."""
        self.over = ""
        """Why nothing more is sent; empty while records are sent."""
        self.problems: list[str] = []
        """Why files could not be read, for people."""
        self.stopped_at: dict[str, int | None] = {}
        """Path → where reading stopped, in bytes; None: at its end. Later ranges may have been read, too."""
        self._server = server
        self._stderr = stderr
        self._start = start
        self._is_stopping = is_stopping
        self._readable = readable
        self._monotonic = monotonic
        self._say = say
        self._sent_by_crashed = Sent()
        self._failed_starts = 0
        self._parts: deque[Partition] = deque()  # assigned, and not committed to their ends
        self._next_number = 0
        self._ahead_bytes = 0
        self._lengths: dict[str, int] = {}
        self._read_pieces: dict[str, dict[int, tuple[int, int | None]]] = {}
        """Path → start of an assigned piece → its end, and where reading it stopped."""
        self._until: float | None = None
        self._workers = [self._new() for _ in range(number)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.channel.close()
        for worker in self._workers:
            self._server.wait(worker.process, EXIT_SECONDS)

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def sent(self) -> Sent:
        """Sums over everything that was sent and reported so far."""
        every = [astuple(sent) for sent in (self._sent_by_crashed, *(each.sent for each in self._workers))]
        return Sent(*map(sum, zip(*every, strict=True)))

    def run(
        self,
        work: WorkQueue,
        sink: ResultSink,
        progress: Callable[[Accounted], object],
        telemetry: Telemetry = NO_TELEMETRY,
        take_failures: Callable[[BatchFailures], object] = lambda _: None,
    ) -> None:
        """Does all of the work; commits the results of records to `sink`."""
        self._take_failures = take_failures
        self._work, self._sink = work, sink
        self._progress, self._telemetry = progress, telemetry
        while True:
            if self._is_stopping() or self.broken is not None:
                self._stop()
            else:
                self._give_orders()
            is_indexing = any(worker.index_task for worker in self._workers)
            if not self._parts and (self._until is not None or (work.is_exhausted and not is_indexing)):
                break
            self._receive()
        self.problems = work.problems + self.problems
        self.stopped_at = {path: self._stopped_at(path) for path in self._lengths}

    def _stopped_at(self, path: str) -> int | None:
        """Returns the first byte of the file that was not read; None if it was read to its end."""
        read_to = 0
        for start, (end, stopped_at) in sorted(self._read_pieces[path].items()):
            if start > read_to:  # a piece that was not assigned
                break
            if stopped_at is not None:
                return max(start, stopped_at)
            read_to = end
        return None if read_to >= self._lengths[path] else read_to

    # -- orders ----------------------------------------------------------------------------------------

    def _new(self) -> _Worker:
        worker = _Worker(self._server, self._stderr)
        worker.order(self._start)
        if self.over:
            worker.order(EndSending(self.over))
        return worker

    def _give_orders(self) -> None:
        for worker in self._workers:
            if not worker.is_ready or any(part.crashes for part in worker.parts):
                continue
            try:
                task = self._work.next()
            except Interrupted:
                return
            if task is not None and task.crashes and worker.parts:
                self._work.put_back(task)
                self._drain(worker)
            elif task is not None:
                worker.is_ready = worker.is_draining = False
                self._assign(worker, task)
                if task.crashes:  # alone, so that the next crash is attributed to this task
                    self._drain(worker)
            else:
                self._drain(worker)

    @staticmethod
    def _drain(worker: _Worker) -> None:
        if not worker.is_draining:
            worker.is_draining = True
            worker.order(Drain())

    def _assign(self, worker: _Worker, task: Partition | IndexTask) -> None:
        if isinstance(task, IndexTask):
            worker.index_task = task
        elif task.number >= self._next_number:
            self._next_number = task.number + 1
            self._parts.append(task)
        try:
            descriptors = [each.file.fileno() for each in task.sources]
        except InputError as error:  # the file was replaced, and the worker that had it open crashed
            worker.is_ready = True
            self._give_up(task, str(error))
            return
        if isinstance(task, IndexTask):
            worker.order(BuildIndex(task.pieces), descriptors)
            self._work.mark_assigned(task)
            return
        worker.parts.append(task)
        for piece, each in zip(task.pieces, task.sources, strict=True):
            self._lengths[each.path] = each.file.length
            self._read_pieces.setdefault(each.path, {})[piece.start] = (piece.end, piece.start)
        if not worker.has_index and self._work.index is not None:
            worker.has_index = True
            worker.order(UseIndex(self._work.index[0]), self._work.index[1])
        order = Forward(task.number, task.pieces, task.position, carefully=task.crashes > 0)
        worker.order(order, descriptors)
        self._work.mark_assigned(task)

    def _stop(self) -> None:
        """Ends the workers: they read nothing more, and have `STOP_SECONDS` for what is in flight."""
        if self._until is None:
            self._until = self._monotonic() + STOP_SECONDS
            for worker in self._workers:
                worker.order(Stop())
        elif self._monotonic() > self._until:
            for worker in self._workers:
                kill(worker.process)
        assigned = {part.number for worker in self._workers for part in worker.parts}
        for part in self._parts:
            part.is_done = part.is_done or part.number not in assigned
        self._commit()

    # -- reports ---------------------------------------------------------------------------------------

    def _receive(self) -> None:
        """Receives the workers' reports, except from workers that are too far ahead."""
        is_full = self._ahead_bytes > MAX_AHEAD_BYTES and bool(self._parts)
        receiving = {
            worker.channel.fileno(): worker
            for worker in self._workers
            if not is_full or not worker.parts or worker.parts[0] is self._parts[0]
        }
        for descriptor in self._readable(list(receiving), POLL_INTERVAL_SECONDS):
            worker = receiving[descriptor]
            try:
                for message in worker.channel.receive_available():
                    self._on_report(worker, read_report(message))
            except EOFError:
                self._on_worker_exit(worker)

    def _on_report(self, worker: _Worker, report: Report) -> None:
        worker.has_reported, self._failed_starts = True, 0
        if isinstance(report, Waits):
            if not self._is_stopping():
                self._say(report.what, report.seconds)
        elif isinstance(report, Ready):
            worker.is_ready = True
        elif isinstance(report, PartitionResult):
            self._take_result(worker, report)
        elif worker.index_task is not None:
            task, worker.index_task = worker.index_task, None
            self._work.add_index(task, report.lines, report.index)

    def _take_result(self, worker: _Worker, report: PartitionResult) -> None:
        part = next(each for each in worker.parts if each.number == report.part)
        part.position += report.counts.records
        part.crashes = 0
        result = report.result()
        result.failures, failures = BatchFailures(), result.failures
        try:
            self._take_failures(failures)
        except InputError as error:  # a temporary file is not writable
            self.broken = self.broken or LedgerBroken(str(error))
        accounted = report.accounted.at_most(part.bytes_left)  # a crash repeats bytes
        part.bytes_left -= accounted.delivered + accounted.pending
        part.held.add(result)
        if part is not self._parts[0]:
            self._ahead_bytes += _kept_bytes(result)
        if report.is_last:
            part.is_done = True
            worker.parts.remove(part)
            self.problems += report.problems
            for piece, source, stopped_at in zip(part.pieces, part.sources, report.stopped_at, strict=False):
                self._read_pieces[source.path][piece.start] = (piece.end, stopped_at)
        worker.sent = report.sent
        for answer in report.answers:
            self._telemetry.record_request(*answer)
        self._progress(accounted)
        if part is self._parts[0]:
            self._commit()
        if report.over and not self.over:
            self.over = report.over
            for each in self._workers:
                each.order(EndSending(report.over))

    def _commit(self) -> None:
        """Commits the results that were reported, in the order of the partitions."""
        while self._parts:
            part = self._parts[0]
            result, part.held = part.held, BatchResult()
            if result.counts.lines or result.counts.records or result.counts.bytes_in:
                try:
                    self._sink.commit(result)
                except LedgerBroken as error:
                    self.broken = self.broken or error
                self.counts.add(result.counts)
                note_first(self.first_met, result)
                self.reasons.update(each.reason for each in result.kept if each.where == "quarantine")
                self._telemetry.record_outcomes(result.outcomes, result.reasons(), len(result.shifted))
            if not part.is_done:
                return
            self._parts.popleft()
            for source in part.sources:
                self._done(source)
            if self._parts:
                self._ahead_bytes -= _kept_bytes(self._parts[0].held)

    def _done(self, source: Source) -> None:
        if source.undone == 1 and (grown := source.file.grown_bytes()):
            what = "%s grew by %d bytes, which were not read; run it again when it is complete"
            _log.warning(what, source.file.name, grown)
        self._work.mark_done(source)

    # -- crashes ---------------------------------------------------------------------------------------

    def _on_worker_exit(self, worker: _Worker) -> None:
        """Puts the tasks of a worker back that exited, and starts another worker, unless the run ends."""
        worker.channel.close()
        code = self._server.wait(worker.process)
        self._workers.remove(worker)
        both = zip(astuple(self._sent_by_crashed), astuple(worker.sent), strict=True)
        self._sent_by_crashed = Sent(*map(sum, both))
        tasks: list[Partition | IndexTask] = [*worker.parts, *filter(None, [worker.index_task])]
        how = "exit code unknown" if code is None else f"exit code {code}"
        if code is not None and code < 0:
            how = f"signal {-code}"
        if self._until is not None:
            for part in worker.parts:
                part.is_done = True
            return
        self._failed_starts += not worker.has_reported
        if self._failed_starts >= MAX_FAILED_STARTS:
            raise RuntimeError(f"worker processes exit immediately after start ({how})")
        for task in reversed(tasks):
            task.crashes += 1
            if task.crashes < MAX_CRASHES:
                _log.warning("a worker crashed (%s) at %s; another one continues", how, task.name())
                self._work.put_back(task)
            else:
                self._give_up(task, f"{MAX_CRASHES} workers crashed at the same records ({how})")
        self._workers.append(self._new())

    def _give_up(self, task: Partition | IndexTask, why: str) -> None:
        if isinstance(task, IndexTask):
            self._work.give_up(task, f"{task.name()}: {why}; nothing of it was read")
            return
        self.problems.append(f"{task.name()}: {why}; only {task.position} of its records were read")
        task.is_done = True
        self._commit()


def _kept_bytes(result: BatchResult) -> int:
    return sum(len(each.entry) for each in result.kept)
