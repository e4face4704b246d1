"""Builds the parts of a run over PATHs, runs them, and says how it ended."""

import logging
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from faillog_otel import __version__
from faillog_otel.app import Forwarder, Progress
from faillog_otel.cli.report import Ending, exit_code, records, summary
from faillog_otel.cli.shutdown import GRACE_SECONDS, Shutdown
from faillog_otel.config import RunConfig
from faillog_otel.errors import ConfigError, InputError, Interrupted
from faillog_otel.ledger.counts import Counts
from faillog_otel.ledger.kept import SET_ASIDE, KeptFile, set_aside
from faillog_otel.otlp.clients import in_flight, network_client, writing_client
from faillog_otel.otlp.delivery import Delivery
from faillog_otel.otlp.encoding import ProtobufEncoder
from faillog_otel.otlp.patience import Patience
from faillog_otel.otlp.sender import Client
from faillog_otel.segment.paths import STDIN, FoundPaths, InputFile

_log = logging.getLogger(__name__)

USER_AGENT = f"faillog-otel/{__version__}"


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
        replayed = _set_aside(paths, config)
        found = _found(paths, replayed, config)
        client = _client(config, stack)
        patience = Patience(config.delivery.wait_seconds, shutdown, random.Random())
        delivery = Delivery(
            client,
            patience,
            signals=config.delivery.signals,
            in_flight=in_flight(config.delivery),
            waiting=lambda: shutdown.interruptible(GRACE_SECONDS),
        )
        stack.callback(delivery.close)
        quarantine = KeptFile(config.quarantine)
        is_one_file = os.path.realpath(config.pending) == os.path.realpath(config.quarantine)
        pending = quarantine if is_one_file else KeptFile(config.pending)
        forwarder = Forwarder(
            encoder=ProtobufEncoder(config.mapping),
            delivery=delivery,
            quarantine=quarantine,
            pending=pending,
            config=config.delivery,
            reference_ns=shutdown.now_ns(),
            is_stopping=shutdown.is_requested,
            sends_rejected=sends_rejected,
        )
        problems = found.problems + _forward_all(found.files, forwarder, shutdown, config)
        forwarder.finish()
        is_broken = forwarder.broken is not None
        if not problems and not is_broken and not shutdown.is_requested():
            for aside in replayed.values():
                Path(aside).unlink()
        for problem in [*problems, *filter(None, [forwarder.broken])]:
            _log.error("%s", problem)
        _say_what_is_kept(forwarder.counts, delivery.over, quarantine, pending)
        ending = Ending(
            counts=forwarder.counts,
            fail_on=config.fail_on,
            unreadable=bool(problems),
            ledger_broken=is_broken,
            signal=shutdown.requested,
        )
    return summary(forwarder.counts, delivery.sent, time.monotonic() - started, exit_code(ending))


def _say_what_is_kept(counts: Counts, why: str, quarantine: KeptFile, pending: KeptFile) -> None:
    number = counts.quarantined + counts.rejected
    if number and quarantine.count:
        _log.warning("%s not understood or not taken: see %s", records(number), quarantine.path)
    if counts.pending and pending.count:
        reason = f" ({why})" if why else ""
        _log.error("%s not delivered%s: see %s", records(counts.pending), reason, pending.path)


def _set_aside(paths: Sequence[str], config: RunConfig) -> dict[str, str]:
    """Those PATHs that are kept files of this run, and the names under which they are read."""
    own = {os.path.realpath(config.quarantine), os.path.realpath(config.pending)}
    return {
        path: set_aside(path)
        for path in dict.fromkeys(paths)
        if os.path.realpath(path) in own and any(map(os.path.exists, (path, path + SET_ASIDE)))
    }


def _found(paths: Sequence[str], replayed: dict[str, str], config: RunConfig) -> FoundPaths:
    own_files = [config.quarantine, config.pending, *filter(None, [config.config_file])]
    found = FoundPaths([replayed.get(path, path) for path in paths], own_files)
    for warning in found.warnings:
        _log.warning("%s", warning)
    output = config.delivery.output
    if output is not None and Path(output).exists():
        for file in found.files:
            if Path(output).samefile("/dev/stdin" if file == STDIN else file):
                raise ConfigError(f"--output {output}: is one of the files to read; name another")
    return found


def _forward_all(
    files: Sequence[str], forwarder: Forwarder, shutdown: Shutdown, config: RunConfig
) -> list[str]:
    """Forwards one file after the other; returns what could not be read."""
    problems = []
    with _progress(files, config) as progress:
        for name in files:
            if shutdown.is_requested() or forwarder.broken:
                break
            _log.info("reading %s", name)
            try:
                with InputFile(name, sys.stdin.buffer, shutdown.interruptible) as file:
                    forwarder.forward(file, progress)
            except InputError as error:
                problems.append(str(error))
            except Interrupted:
                break
    return problems


def _client(config: RunConfig, stack: ExitStack) -> Client:
    delivery, resource = config.delivery, config.mapping.resource
    if delivery.writes is None:
        return network_client(delivery, resource, USER_AGENT)
    file = sys.stdout.buffer
    if delivery.output is not None:
        try:
            file = stack.enter_context(Path(delivery.output).open("wb"))  # noqa: SIM115  # until the run ends
        except OSError as error:
            raise ConfigError(f"--output {delivery.output}: {error.strerror}") from None
    return writing_client(delivery, resource, file, sys.stdout)


@contextmanager
def _progress(files: Sequence[str], config: RunConfig) -> Iterator[Progress]:
    """A progress bar over the files' bytes where standard error is a terminal."""
    sizes = [Path(name).stat().st_size for name in files if name != STDIN and Path(name).is_file()]
    if not sys.stderr.isatty() or config.verbosity < 0 or not any(sizes):
        yield lambda _: None
        return
    with click.progressbar(length=sum(sizes), label="forwarding", file=sys.stderr) as bar:
        yield bar.update
