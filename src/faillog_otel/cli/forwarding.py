"""Builds the parts of a run over PATHs, runs them, and says how it ended."""

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from msgspec import Struct

from faillog_otel.app.answers import Answers
from faillog_otel.app.forwarder import Forwarder
from faillog_otel.app.orders import Start
from faillog_otel.app.parts import max_open_files
from faillog_otel.app.supply import Supply
from faillog_otel.app.workers import Workers
from faillog_otel.cli.delivering import delivering, sending_client, writing
from faillog_otel.cli.observing import pending_of, telemetry_of, watch_delivery
from faillog_otel.cli.progress import NoProgressLine, progress_line
from faillog_otel.cli.report import Ending, exit_code, records, say_what_was_shifted, summary
from faillog_otel.cli.shutdown import Shutdown
from faillog_otel.cli.working import descriptors, number_of_workers, only_forwarding, working
from faillog_otel.config import RunConfig
from faillog_otel.errors import ConfigError, InputError, Interrupted, LedgerBroken
from faillog_otel.ledger.counts import Counts
from faillog_otel.ledger.kept import SET_ASIDE, KeptFiles, Replayed, is_kept_file
from faillog_otel.otlp.delivery import Delivery
from faillog_otel.otlp.encoder import WireEncoder
from faillog_otel.otlp.sender import Sent
from faillog_otel.segment.paths import STDIN, FoundPaths, InputFile
from faillog_otel.telemetry.measuring import Telemetry

_log = logging.getLogger(__name__)


def run_paths(paths: Sequence[str], config: RunConfig, *, sends_rejected: bool = False) -> dict[str, Any]:
    """Forwards the files; returns the summary. Raises ConfigError before anything was read.

    A PATH that is the run's own pending or quarantine file is replayed: it is set aside first, what fails
    again is kept anew, and the set-aside file goes when all of it is accounted for.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        shutdown = stack.enter_context(Shutdown())
        start = Start(only_forwarding(config), shutdown.now_ns(), sends_rejected)
        line = progress_line(config, shutdown.monotonic, stack)
        workers = working(number_of_workers(paths, config), start, shutdown, stack, line.stderr)
        # Certificates are looked at before any file is touched.
        client = None if config.delivery.writes else sending_client(config)
        replayed = {path: stack.enter_context(Replayed(path)) for path in _to_replay(paths, config)}
        found = _found(paths, replayed, config)
        telemetry = telemetry_of(config, stack)
        kept = KeptFiles(config.quarantine, config.pending, start.reference_ns)
        kept.check()
        line.expect(found.files)
        if workers is None:
            answers = Answers(client or writing(config, stack), telemetry, shutdown)
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
        broken = forwarded.broken
        try:
            kept.close()
        except LedgerBroken as error:
            broken = broken or error
        if broken is None:
            for each in replayed.values():
                each.read_to = forwarded.stopped_at.get(each.aside, 0)
        problems = found.problems + forwarded.problems
        for problem in [*problems, *filter(None, [broken])]:
            _log.error("%s", problem)
        _say_what_is_kept(forwarded, kept)
        say_what_was_shifted(forwarded.counts, config)
        ending = Ending(
            counts=forwarded.counts,
            fail_on=config.fail_on,
            unreadable=bool(problems),
            ledger_broken=broken is not None,
            signal=shutdown.requested,
        )
    return summary(forwarded.counts, forwarded.sent, time.monotonic() - started, exit_code(ending))


class _Forwarded(Struct, frozen=True, kw_only=True):
    """What became of the files, whoever forwarded them."""

    counts: Counts
    reasons: Counter[str]
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
    kept: KeptFiles,
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
        most_content_bytes=config.most_content_bytes,
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
    kept: KeptFiles,
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
    with closing(Supply(files, opened, workers=len(workers), whole=whole, max_open_files=most)) as supply:
        workers.run(supply, kept, line.take, telemetry)
    return _Forwarded(
        counts=workers.counts,
        reasons=workers.reasons,
        sent=workers.sent,
        over=workers.over,
        broken=workers.broken,
        stopped_at=workers.stopped_at,
        problems=workers.problems,
    )


def _say_what_is_kept(forwarded: _Forwarded, kept: KeptFiles) -> None:
    counts, quarantine, pending = forwarded.counts, kept.quarantine, kept.pending
    number = counts.quarantined + counts.rejected
    if number and quarantine.count:
        reasons = ", ".join(f"{count} {reason}" for reason, count in forwarded.reasons.most_common())
        what = f"{records(number)} not understood or not taken ({reasons})"
        _log.warning("%s: see %s", what, quarantine.path)
    if counts.pending and pending.count:
        reason = f" ({forwarded.over})" if forwarded.over else ""
        _log.error("%s not delivered%s: see %s", records(counts.pending), reason, pending.path)


def _to_replay(paths: Sequence[str], config: RunConfig) -> list[str]:
    """Those PATHs that are kept files of this run, each once."""
    own = {os.path.realpath(config.quarantine), os.path.realpath(config.pending)}
    found = {os.path.realpath(path): path for path in paths if path != STDIN and is_kept_file(path)}
    return [path for real, path in found.items() if real in own]


def _found(paths: Sequence[str], replayed: dict[str, Replayed], config: RunConfig) -> FoundPaths:
    kept = [config.quarantine, config.pending]
    own_files = [*kept, *(name + SET_ASIDE for name in kept), *filter(None, [config.config_file])]
    set_aside = {os.path.realpath(path) for path in replayed}
    others = [path for path in paths if path == STDIN or os.path.realpath(path) not in set_aside]
    found = FoundPaths(others, own_files)
    found.files += [each.aside for each in replayed.values()]
    for warning in found.warnings:
        _log.warning("%s", warning)
    output = config.delivery.output
    if output is not None and Path(output).exists():
        for file in found.files:
            if Path(output).samefile("/dev/stdin" if file == STDIN else file):
                raise ConfigError(f"--output {output}: is one of the files to read; name another")
    return found
