"""Builds the parts of a run over PATHs, runs them, and says how it ended."""

import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from msgspec import Struct

from faillog_otel.app.build import (
    delivering,
    descriptors,
    number_of_workers,
    only_forwarding,
    pending_of,
    sending_client,
    telemetry_of,
    watch_delivery,
    working,
    writing,
)
from faillog_otel.app.progress import NoProgressLine, progress_line
from faillog_otel.app.readiness import InstrumentedClient
from faillog_otel.app.signals import Shutdown
from faillog_otel.app.summary import (
    Files,
    RunResult,
    exit_code,
    records,
    say_what_was_met,
    summary,
    warn_not_judged,
    warn_time_shifted,
)
from faillog_otel.config import RunConfig
from faillog_otel.errors import ConfigError, InputError, Interrupted, LedgerBroken
from faillog_otel.inputs.files import STDIN, FoundPaths, InputFile
from faillog_otel.ledger.kept_files import SET_ASIDE, FileSink, NothingKept, Replayed, is_kept_file
from faillog_otel.ledger.results import Counts, FirstMet, ResultSink
from faillog_otel.otlp.delivery import Delivery
from faillog_otel.otlp.encoder import WireEncoder
from faillog_otel.otlp.sender import Sent
from faillog_otel.pipeline.forwarder import Forwarder
from faillog_otel.pipeline.partition import WorkQueue, max_open_files
from faillog_otel.pipeline.worker_protocol import Start
from faillog_otel.pipeline.workers import Workers
from faillog_otel.telemetry.api import Telemetry

_log = logging.getLogger(__name__)


def run_paths(paths: Sequence[str], config: RunConfig, *, sends_rejected: bool = False) -> dict[str, Any]:
    """Forwards the files; returns the summary. Raises ConfigError before anything was read.

    A PATH that is the run's own pending or quarantine file is replayed: it is set aside first, what fails
    again is kept anew, and the set-aside file goes when all of it is accounted for. Console and file output
    only show it: it stays as it is.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        shutdown = stack.enter_context(Shutdown())
        start = Start(only_forwarding(config), shutdown.now_ns(), sends_rejected)
        line = progress_line(config, shutdown.monotonic, stack)
        workers = working(number_of_workers(paths, config), start, shutdown, stack, line.stderr)
        # Certificates are looked at before any file is touched.
        client = None if config.delivery.writes else sending_client(config)
        own = _kept_files_among(paths, config)
        shown = own if config.delivery.writes else []
        replayed = {path: stack.enter_context(Replayed(path)) for path in own if path not in shown}
        found = _found(paths, replayed, shown, config)
        telemetry = telemetry_of(config, stack)
        kept = _book(config, start.reference_ns, shutdown, shows_kept=bool(shown))
        kept.check()
        line.expect(found.files)
        if workers is None:
            answers = InstrumentedClient(client or writing(config, shutdown, stack), telemetry, shutdown)
            delivery = delivering(answers, config, shutdown, stack)
            forwarded = _forwarded_here(
                found.files,
                start,
                delivery,
                kept,
                shutdown=shutdown,
                telemetry=telemetry,
                line=line,
            )
        else:
            if client is not None:
                client.close()
            aside = {each.aside for each in replayed.values()}
            forwarded = _forwarded_by(
                workers,
                found.files,
                aside,
                kept,
                shutdown=shutdown,
                telemetry=telemetry,
                line=line,
            )
        broken = _closed(kept, forwarded.broken)
        if broken is None:
            for each in replayed.values():
                each.read_to = forwarded.stopped_at.get(each.aside, 0)
        problems = found.problems + forwarded.problems
        for problem in [*problems, *filter(None, [broken])]:
            _log.error("%s", problem)
        not_kept = kept.lost
        if broken is not None and len(replayed) == len(found.files):
            not_kept = Counter()  # all of it goes back into the file that was replayed
        if shutdown.requested != signal.SIGPIPE:
            _say_what_is_kept(forwarded, kept.places(), not_kept)
        if shutdown.requested != signal.SIGPIPE and (broken is not None or shutdown.is_requested()):
            _say_what_is_unread(found.files, forwarded.stopped_at)
        warn_time_shifted(forwarded.counts, config)
        warn_not_judged(forwarded.counts, config)
        ending = RunResult(
            counts=forwarded.counts,
            fail_on=config.fail_on,
            unreadable=bool(problems),
            ledger_broken=broken is not None,
            signal=shutdown.requested,
        )
        say_what_was_met(ending, forwarded.first_met, config)
    return summary(
        forwarded.counts,
        forwarded.sent,
        time.monotonic() - started,
        exit_code(ending),
        not_kept=not_kept,
        files=Files(len(found.files), sum(each is None for each in forwarded.stopped_at.values())),
    )


def _book(
    config: RunConfig, reference_ns: int, shutdown: Shutdown, *, shows_kept: bool
) -> FileSink | NothingKept:
    """Where records are kept. Nothing is kept of what only went to a screen, or is kept already."""
    if shows_kept or config.delivery.writes == "console":
        return NothingKept(reference_ns)
    return FileSink(
        config.quarantine,
        config.pending,
        reference_ns,
        keeps_pending=lambda: shutdown.requested != signal.SIGPIPE,
    )


def _closed(kept: FileSink | NothingKept, broken: LedgerBroken | None) -> LedgerBroken | None:
    """Makes durable what was kept; returns why that is impossible, or why it was before."""
    try:
        kept.close()
    except LedgerBroken as error:
        return broken or error
    return broken


class _Forwarded(Struct, frozen=True, kw_only=True):
    """What became of the files, whoever forwarded them."""

    counts: Counts
    reasons: Counter[str]
    first_met: FirstMet
    sent: Sent
    over: str
    """Why nothing was sent any more."""
    broken: LedgerBroken | None
    stopped_at: dict[str, int | None]
    """How far each file was read."""
    problems: list[str]
    """What could not be read."""


def _forwarded_here(
    files: Sequence[str],
    start: Start,
    delivery: Delivery,
    kept: ResultSink,
    *,
    shutdown: Shutdown,
    telemetry: Telemetry,
    line: NoProgressLine,
) -> _Forwarded:
    """Forwards one file after the other, in this process."""
    config = start.config
    watch_delivery(telemetry, delivery)
    forwarder = Forwarder(
        encoder=WireEncoder(config.mapping),
        delivery=delivery,
        config=config.delivery,
        is_stopping=shutdown.is_requested,
        sends_rejected=start.sends_rejected,
        max_content_bytes=config.max_content_bytes,
        telemetry=telemetry,
    )
    telemetry.watch(pending_of(forwarder.counts))
    stopped_at: dict[str, int | None] = {}
    problems = []
    for name in files:
        if shutdown.is_requested() or forwarder.broken:
            break
        _log.info("reading %s", name)
        try:
            with InputFile(name, sys.stdin.buffer, shutdown.interruptible) as file:
                line.opened(name, file.length)
                forwarder.forward(file, kept, line.take)
                if grown := file.grown_bytes():
                    _log.warning(
                        "%s grew by %d bytes that were not read: run it again when it is whole",
                        file.name,
                        grown,
                    )
            stopped_at[name] = forwarder.stopped_at
        except InputError as error:
            problems.append(str(error))
        except Interrupted:
            break
    forwarder.finish()
    return _Forwarded(
        counts=forwarder.counts,
        reasons=forwarder.reasons,
        first_met=forwarder.first_met,
        sent=delivery.sent,
        over=delivery.over,
        broken=forwarder.broken,
        stopped_at=stopped_at,
        problems=problems,
    )


def _forwarded_by(
    workers: Workers,
    files: Sequence[str],
    whole: Collection[str],
    kept: ResultSink,
    *,
    shutdown: Shutdown,
    telemetry: Telemetry,
    line: NoProgressLine,
) -> _Forwarded:
    """Lets workers forward parts of the files; those of `whole` are not cut."""
    watch_delivery(telemetry, workers)
    telemetry.watch(pending_of(workers.counts))

    def opened(name: str) -> InputFile:
        _log.info("reading %s", name)
        file = InputFile(name, sys.stdin.buffer, shutdown.interruptible)
        line.opened(name, file.length)
        return file

    most = max_open_files(descriptors(), len(workers))
    with closing(WorkQueue(files, opened, workers=len(workers), whole=whole, max_open_files=most)) as supply:
        workers.run(supply, kept, line.take, telemetry)
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


def _say_what_is_kept(forwarded: _Forwarded, places: Mapping[str, str], not_kept: Counter[str]) -> None:
    """`places`: `quarantine` and `pending` → the file where records were kept."""
    counts = forwarded.counts

    def where(kind: str) -> str:
        kept = [f"see {places[kind]}"] if kind in places else []
        lost = [f"{not_kept[kind]} of them not kept" if kept else "not kept"] if not_kept[kind] else []
        return "; ".join(kept + lost) or "they stay in the file that was replayed"

    if number := counts.quarantined + counts.rejected:
        reasons = ", ".join(f"{count} {reason}" for reason, count in forwarded.reasons.most_common())
        what = f"{records(number)} not understood or not taken ({reasons})"
        _log.warning("%s: %s", what, where("quarantine"))
    if counts.pending:
        reason = f" ({forwarded.over})" if forwarded.over else ""
        _log.error("%s not delivered%s: %s", records(counts.pending), reason, where("pending"))


def _say_what_is_unread(files: Sequence[str], stopped_at: Mapping[str, int | None]) -> None:
    """Which input the run did not read because it ended early."""
    left = [name for name in files if stopped_at.get(name, 0) is not None]
    if not left:
        return
    first, *others = left
    offset = stopped_at.get(first)
    how_far = f"read to byte {offset} of its content, and no further" if offset else "not read"
    more = f"; {records(len(others), 'file')} more not read to the end" if others else ""
    shown = "standard input" if first == STDIN else first.removesuffix(SET_ASIDE)
    _log.warning("the run ended early: %s: %s%s", shown, how_far, more)


def _kept_files_among(paths: Sequence[str], config: RunConfig) -> list[str]:
    """Those PATHs that are kept files of this run, each once."""
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
        _log.warning("%s: is only shown, and stays as it is; replay it to a collector", path)
    for warning in found.warnings:
        _log.warning("%s", warning)
    output = config.delivery.output
    if output is not None and Path(output).exists():
        for file in found.files:
            if Path(output).samefile("/dev/stdin" if file == STDIN else file):
                raise ConfigError(f"--output {output}: is one of the files to read; name another")
    return found
