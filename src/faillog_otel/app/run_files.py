"""Runs over PATHs: in this process, or shared among worker processes."""

import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.app.build import Runtime, descriptors
from faillog_otel.app.summary import Files, RunResult, log_result, reasons_text
from faillog_otel.app.worker_process import work
from faillog_otel.clock import DAY_NS
from faillog_otel.config import RunConfig, SegmentConfig, TelemetryConfig
from faillog_otel.errors import ConfigError, InputError, Interrupted, LedgerBroken
from faillog_otel.events.failure_counts import LOST, RECOVERED, BatchFailures
from faillog_otel.inputs.exchange_index import ExchangeIndex
from faillog_otel.inputs.files import STDIN, FoundPaths, InputFile
from faillog_otel.ledger.failures import Changes
from faillog_otel.ledger.kept_files import SET_ASIDE, FileSink, NothingKept, Replayed, is_kept_file
from faillog_otel.ledger.results import Counts, FirstMet, ResultSink
from faillog_otel.otlp.failure_notes import PackedNotes
from faillog_otel.otlp.sender import Sent, WaitNotices
from faillog_otel.pipeline.batch import failure_changes
from faillog_otel.pipeline.failure_tally import FailureTally
from faillog_otel.pipeline.fork_server import ForkServer
from faillog_otel.pipeline.partition import MIN_BYTES, WorkQueue, max_open_files, max_workers, number_of_parts
from faillog_otel.pipeline.worker import Start
from faillog_otel.pipeline.workers import Workers
from faillog_otel.reports.failures import Failures, Names, View, Window, failures_report
from faillog_otel.telemetry import Telemetry
from faillog_otel.text import counted

_log = logging.getLogger(__name__)

LARGE_BYTES = 8 * MIN_BYTES
"""Smaller input is forwarded before a second process has started."""


def run_paths(paths: Sequence[str], config: RunConfig, *, sends_rejected: bool = False) -> RunResult:
    """Forwards the files. Raises ConfigError before it reads anything.

    Replays a PATH that is the run's own pending or quarantine file: sets it aside, keeps what fails again in
    a new file, and removes the set-aside file once all of it is accounted for. Console and file output only
    show such a file, and do not change it.
    """
    started = time.monotonic()
    with Runtime(config) as runtime:
        stop = runtime.stop
        start = Start(_only_forwarding(config), stop.now_ns(), sends_rejected)
        number = number_of_workers(paths, config)
        server = _fork_server(runtime) if number > 1 else None  # before there are threads
        runtime.start_progress()
        workers = None if server is None else _start_workers(number, server, start, runtime)
        runtime.prepare_client()  # certificates are read before any file is touched
        own = _kept_files_among(paths, config)
        shown = own if config.delivery.writes else []
        replayed = {path: runtime.stack.enter_context(Replayed(path)) for path in own if path not in shown}
        found = _found(paths, replayed, shown, config)
        runtime.start_telemetry()
        kept = _sink(runtime, start.reference_ns, shows_kept=bool(shown))
        kept.check()
        runtime.progress.expect(found.files)
        tally = runtime.stack.enter_context(closing(FailureTally()))
        if workers is None:
            forwarded = _forward_here(found.files, start, kept, tally, runtime)
        else:
            runtime.drop_client()
            aside = {each.aside for each in replayed.values()}
            forwarded = _forward_by(workers, found.files, aside, kept, tally, runtime)
        failures = _failures(tally, start.reference_ns, config, runtime.telemetry)
        broken = _close(kept, forwarded.broken)
        if broken is None:
            for each in replayed.values():
                each.read_to = forwarded.stopped_at.get(each.aside, 0)
        problems = found.problems + forwarded.problems
        for problem in [*problems, *filter(None, [broken])]:
            _log.error("%s", problem)
        not_kept = kept.lost + Counter(pending=forwarded.not_shown)
        if broken is not None and len(replayed) == len(found.files):
            not_kept = Counter()  # all of it goes back into the file that was replayed
        if stop.requested != signal.SIGPIPE:
            _log_kept(forwarded, kept.places(), not_kept)
            if broken is not None or stop.is_requested():
                _log_unread(found.files, forwarded.stopped_at)
    result = RunResult(
        counts=forwarded.counts,
        sent=forwarded.sent,
        seconds=time.monotonic() - started,
        not_kept=not_kept,
        files=Files(len(found.files), sum(each is None for each in forwarded.stopped_at.values())),
        fail_on=config.fail_on,
        limits=config.failure_limits,
        first_met=forwarded.first_met,
        failures=failures,
        unreadable=bool(problems),
        ledger_broken=broken is not None,
        signal=stop.requested,
    )
    log_result(result, config)
    return result


def _failures(tally: FailureTally, now_ns: int, config: RunConfig, telemetry: Telemetry) -> Failures | None:
    """Returns and records what failed; None if the temporary file of the counts cannot be read."""
    try:
        sums = tally.sums(now_ns)
    except OSError as error:
        _log.warning("failures cannot be counted: a temporary file: %s", error.strerror)
        return None
    changes = Changes()
    for each in sums.groups:
        changes.add_attempts(each.group, each.attempts)
        changes.add_messages(each.group, LOST, each.lost)
        changes.add_messages(each.group, RECOVERED, each.recovered)
    telemetry.record_failures(failure_changes(changes))
    first_ns = min((each.first_ns for each in sums.groups), default=now_ns)
    window = Window(since_ns=first_ns, until_ns=now_ns, now_ns=now_ns, new_within_ns=DAY_NS)
    names = Names(config.mapping.destination_names)
    return failures_report(sums, View(names=names, links=config.links, join=config.mapping.join), window)


def number_of_workers(paths: Sequence[str], config: RunConfig) -> int:
    """Returns how many processes share the work; 1: this process does it.

    At most one per part: a compressed file, an array and a small file are one part each. Output to a file
    keeps the order of the records, and the terminal shows all of them together: in one process.
    """
    if config.delivery.writes or config.workers == 1:
        return 1
    asked = config.workers or _cores()
    parts, size = 0, 0
    replayed = {os.path.realpath(config.quarantine), os.path.realpath(config.pending)}
    for name in FoundPaths(paths, ()).files:
        more, length = (1, 0) if os.path.realpath(name) in replayed else number_of_parts(name)
        parts, size = parts + (more or asked), size + length
    if config.workers is None and size < LARGE_BYTES:
        return 1
    possible = max_workers(descriptors())
    if possible < min(config.workers or 1, parts):
        _log.warning(
            "only %d files may be open at a time: starting %d of %d workers; raise the limit (ulimit -n)",
            descriptors(),
            possible,
            asked,
        )
    return min(asked, parts, possible)


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _only_forwarding(config: RunConfig) -> RunConfig:
    """Returns the settings that workers need, without secrets that they do not need."""
    return replace(config, segment=SegmentConfig(), telemetry=TelemetryConfig())


def _fork_server(runtime: Runtime) -> ForkServer:
    """Forks the process from which workers are forked."""
    import faillog_otel.reason_text  # noqa: F401  # its patterns: compiled once for all workers

    # -P: imports nothing from the working directory.
    command = [sys.executable, "-P", "-m", "faillog_otel.app.worker_process"]
    return runtime.stack.enter_context(ForkServer(command, work))


def _start_workers(number: int, server: ForkServer, start: Start, runtime: Runtime) -> Workers:
    """Starts worker processes that end with the run."""
    stop = runtime.stop
    return runtime.stack.enter_context(
        Workers(
            number,
            server,
            start,
            is_stopping=stop.is_requested,
            readable=stop.readable,
            monotonic=stop.monotonic,
            stderr=runtime.progress.stderr,
            say=WaitNotices(stop).say,
        )
    )


def _sink(runtime: Runtime, reference_ns: int, *, shows_kept: bool) -> FileSink | NothingKept:
    """Returns where records are kept: nowhere if they are only shown, or kept already."""
    config, stop = runtime.config, runtime.stop
    if shows_kept or config.delivery.writes == "console":
        return NothingKept(reference_ns)
    return FileSink(
        config.quarantine,
        config.pending,
        reference_ns,
        keeps_pending=lambda: stop.requested != signal.SIGPIPE,
    )


def _close(kept: FileSink | NothingKept, broken: LedgerBroken | None) -> LedgerBroken | None:
    """Makes the kept records durable; returns the first error, that of the run or its own."""
    try:
        kept.close()
    except LedgerBroken as error:
        return broken or error
    return broken


class _Forwarded(Struct, frozen=True, kw_only=True):
    """The outcome of a run over files, in this process or by workers."""

    counts: Counts
    reasons: Counter[str]
    first_met: FirstMet
    sent: Sent
    over: str
    """Why delivery was given up; empty if it was not."""
    broken: LedgerBroken | None
    stopped_at: dict[str, int | None]
    """How far each file was read."""
    problems: list[str]
    """Why files could not be read."""
    not_shown: int = 0
    """Records that were to be shown, and could not be."""


def _forward_here(
    files: Sequence[str], start: Start, kept: ResultSink, tally: FailureTally, runtime: Runtime
) -> _Forwarded:
    """Indexes all files, then forwards one after the other, in this process."""
    stop, delivery = runtime.stop, runtime.deliver()
    notes = PackedNotes(runtime.config.mapping)
    forwarder = runtime.forwarder(
        delivery,
        runtime.telemetry,
        sends_rejected=start.sends_rejected,
        notes=notes,
        take_failures=tally.add,
    )
    runtime.watch_pending(forwarder.counts)
    stopped_at: dict[str, int | None] = {}
    problems: list[str] = []
    with closing(ExchangeIndex()) as exchanges, ExitStack() as opened:
        found = []
        try:
            for name, file in _opened(files, problems, runtime):
                found.append((name, opened.enter_context(file)))
                forwarder.index(file, exchanges)
                file.release()
        except InputError as error:  # the index is not writable
            problems.append(str(error))
            found.clear()
        except Interrupted:
            pass
        for name, file in found:
            if stop.is_requested() or forwarder.broken:
                break
            try:
                forwarder.forward(file, kept, exchanges, progress=runtime.progress.take)
                stopped_at[name] = forwarder.stopped_at
            except InputError as error:
                problems.append(str(error))
            if grown := file.grown_bytes():
                _log.warning(
                    "%s grew by %d bytes that were not read; run it again when it is complete",
                    file.name,
                    grown,
                )
            file.close()
        forwarder.finish()
    tally.add(BatchFailures(times=notes.times()))
    not_shown = forwarder.show()
    return _Forwarded(
        counts=forwarder.counts,
        reasons=forwarder.reasons,
        first_met=forwarder.first_met,
        sent=delivery.sent,
        over=delivery.gave_up_because,
        broken=forwarder.broken,
        stopped_at=stopped_at,
        problems=problems,
        not_shown=not_shown,
    )


def _opened(files: Sequence[str], problems: list[str], runtime: Runtime) -> Iterator[tuple[str, InputFile]]:
    """Yields the files, opened, with their names. Raises Interrupted."""
    for name in files:
        if runtime.stop.is_requested():
            return
        try:
            yield name, _open(name, runtime)
        except InputError as error:
            problems.append(str(error))


def _open(name: str, runtime: Runtime) -> InputFile:
    _log.info("reading %s", name)
    file = InputFile(name, sys.stdin.buffer, runtime.stop.interruptible)
    runtime.progress.opened(name, file.length)
    return file


def _forward_by(  # noqa: PLR0917  # called once
    workers: Workers,
    files: Sequence[str],
    whole: Collection[str],
    kept: ResultSink,
    tally: FailureTally,
    runtime: Runtime,
) -> _Forwarded:
    """Lets workers forward partitions of the files; those in `whole` are not split."""
    runtime.watch_retries(workers)
    runtime.watch_pending(workers.counts)

    opened = partial(_open, runtime=runtime)
    most = max_open_files(descriptors(), len(workers))
    with closing(WorkQueue(files, opened, workers=len(workers), whole=whole, max_open_files=most)) as queue:
        workers.run(queue, kept, runtime.progress.take, runtime.telemetry, tally.add)
    return _Forwarded(
        counts=workers.counts,
        reasons=workers.reasons,
        first_met=workers.first_met,
        sent=workers.sent,
        over=workers.over,
        broken=workers.broken,
        stopped_at=workers.stopped_at,
        problems=workers.problems,
    )


def _log_kept(forwarded: _Forwarded, places: Mapping[str, str], not_kept: Counter[str]) -> None:
    """Logs what was not delivered, and what to do. `places`: `quarantine` or `pending` → its file."""
    counts = forwarded.counts

    def remedy(kind: str, before: str) -> str:
        kept = [f"{before}: faillog-otel replay {places[kind]}"] if kind in places else []
        lost = [f"{not_kept[kind]} of them not kept" if kept else "not kept"] if not_kept[kind] else []
        return "; ".join(lost + kept) or "they stay in the file that was replayed"

    if number := counts.quarantined + counts.rejected:
        what = "quarantined" if "quarantine" in places else "not understood or refused"
        fix = f"fix {'it' if number == 1 else 'them'} in {places.get('quarantine')}, then"
        what = f"{counted(number, 'record')} {what} ({reasons_text(forwarded.reasons)})"
        _log.warning("%s; %s", what, remedy("quarantine", fix))
    if counts.pending:
        reason = f" ({forwarded.over})" if forwarded.over else ""
        what = f"{counted(counts.pending, 'record')} not delivered{reason}"
        _log.error("%s; %s", what, remedy("pending", "when the cause is gone"))


def _log_unread(files: Sequence[str], stopped_at: Mapping[str, int | None]) -> None:
    """Logs which input was not read because the run ended early."""
    left = [name for name in files if stopped_at.get(name, 0) is not None]
    if not left:
        return
    first, *others = left
    offset = stopped_at.get(first)
    how_far = f"read to byte {offset} of its content" if offset else "not read"
    more = f"; {counted(len(others), 'more file')} not read to the end" if others else ""
    shown = "standard input" if first == STDIN else first.removesuffix(SET_ASIDE)
    _log.warning("the run ended early: %s: %s%s", shown, how_far, more)


def _kept_files_among(paths: Sequence[str], config: RunConfig) -> list[str]:
    """Returns the PATHs that are kept files of this run, each once."""
    own = {os.path.realpath(config.quarantine), os.path.realpath(config.pending)}
    found = {os.path.realpath(path): path for path in paths if path != STDIN and is_kept_file(path)}
    return [path for real, path in found.items() if real in own]


def _found(
    paths: Sequence[str], replayed: dict[str, Replayed], shown: Sequence[str], config: RunConfig
) -> FoundPaths:
    kept = [config.quarantine, config.pending]
    own_files = [*kept, *(name + SET_ASIDE for name in kept), *filter(None, [config.config_file])]
    own = {os.path.realpath(path) for path in (*replayed, *shown)}
    others = [path for path in paths if path == STDIN or os.path.realpath(path) not in own]
    found = FoundPaths(others, own_files)
    found.files += [each.aside for each in replayed.values()]
    found.files += [name for path in shown for name in (path + SET_ASIDE, path) if Path(name).is_file()]
    for path in shown:
        _log.warning("%s is only shown and not changed; replay it to a collector", path)
    for warning in found.warnings:
        _log.warning("%s", warning)
    output = config.delivery.output
    if output is not None and Path(output).exists():
        for file in found.files:
            if Path(output).samefile("/dev/stdin" if file == STDIN else file):
                raise ConfigError(f"--output {output} is one of the files to read; name another file")
    return found
