"""Builds the parts of a run over PATHs, runs them, and says how it ended."""

import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from faillog_otel.app.answers import Answers
from faillog_otel.app.forwarder import Forwarder, Progress
from faillog_otel.cli.delivering import delivering, sending_client, writing
from faillog_otel.cli.observing import pending_of, telemetry_of, watch_delivery
from faillog_otel.cli.report import Ending, exit_code, records, say_what_was_shifted, summary
from faillog_otel.cli.shutdown import Shutdown
from faillog_otel.config import RunConfig
from faillog_otel.errors import ConfigError, InputError, Interrupted, LedgerBroken
from faillog_otel.ledger.kept import SET_ASIDE, KeptFiles, Replayed, is_kept_file
from faillog_otel.otlp.encoder import WireEncoder
from faillog_otel.segment.paths import STDIN, FoundPaths, InputFile

_log = logging.getLogger(__name__)


def run_paths(paths: Sequence[str], config: RunConfig, *, sends_rejected: bool = False) -> dict[str, Any]:
    """Forwards the files; returns the summary. Raises ConfigError before anything was read.

    A PATH that is the run's own pending or quarantine file is replayed: it is set aside first, what fails
    again is kept anew, and the set-aside file goes when all of it is accounted for.
    """
    started = time.monotonic()
    for warning in config.warnings:
        _log.warning("%s", warning)
    with ExitStack() as stack:
        shutdown = stack.enter_context(Shutdown())
        # Certificates are looked at before any file is touched.
        client = None if config.delivery.writes else sending_client(config)
        replayed = {path: stack.enter_context(Replayed(path)) for path in _to_replay(paths, config)}
        found = _found(paths, replayed, config)
        telemetry = telemetry_of(config, stack)
        answers = Answers(client or writing(config, stack), telemetry, shutdown)
        delivery = delivering(answers, config, shutdown, stack)
        watch_delivery(telemetry, delivery)
        kept = KeptFiles(config.quarantine, config.pending, shutdown.now_ns())
        forwarder = Forwarder(
            encoder=WireEncoder(config.mapping),
            delivery=delivery,
            config=config.delivery,
            is_stopping=shutdown.is_requested,
            sends_rejected=sends_rejected,
            most_content_bytes=config.most_content_bytes,
            telemetry=telemetry,
        )
        telemetry.watch(pending_of(forwarder.counts))
        stopped_at, unreadable = _forward_all(found.files, forwarder, kept, shutdown, config)
        forwarder.finish()
        broken = forwarder.broken
        try:
            kept.close()
        except LedgerBroken as error:
            broken = broken or error
        if broken is None:
            for each in replayed.values():
                each.read_to = stopped_at.get(each.aside, 0)
        problems = found.problems + unreadable
        for problem in [*problems, *filter(None, [broken])]:
            _log.error("%s", problem)
        _say_what_is_kept(forwarder, delivery.over, kept)
        say_what_was_shifted(forwarder.counts, config)
        ending = Ending(
            counts=forwarder.counts,
            fail_on=config.fail_on,
            unreadable=bool(problems),
            ledger_broken=broken is not None,
            signal=shutdown.requested,
        )
    return summary(forwarder.counts, delivery.sent, time.monotonic() - started, exit_code(ending))


def _say_what_is_kept(forwarder: Forwarder, why: str, kept: KeptFiles) -> None:
    counts, quarantine, pending = forwarder.counts, kept.quarantine, kept.pending
    number = counts.quarantined + counts.rejected
    if number and quarantine.count:
        reasons = ", ".join(f"{count} {reason}" for reason, count in forwarder.reasons.most_common())
        what = f"{records(number)} not understood or not taken ({reasons})"
        _log.warning("%s: see %s", what, quarantine.path)
    if counts.pending and pending.count:
        reason = f" ({why})" if why else ""
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


def _forward_all(
    files: Sequence[str], forwarder: Forwarder, kept: KeptFiles, shutdown: Shutdown, config: RunConfig
) -> tuple[dict[str, int | None], list[str]]:
    """Forwards one file after the other; returns how far each was read, and what could not be read."""
    stopped_at: dict[str, int | None] = {}
    problems = []
    with _progress(files, config) as progress:
        for name in files:
            if shutdown.is_requested() or forwarder.broken:
                break
            _log.info("reading %s", name)
            try:
                with InputFile(name, sys.stdin.buffer, shutdown.interruptible) as file:
                    forwarder.forward(file, kept, progress)
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
    return stopped_at, problems


@contextmanager
def _progress(files: Sequence[str], config: RunConfig) -> Iterator[Progress]:
    """A progress bar over the files' bytes where standard error is a terminal."""
    sizes = [Path(name).stat().st_size for name in files if name != STDIN and Path(name).is_file()]
    if not sys.stderr.isatty() or config.verbosity < 0 or not any(sizes):
        yield lambda _: None
        return
    with click.progressbar(length=sum(sizes), label="forwarding", file=sys.stderr) as bar:
        yield bar.update
