"""Builds the parts of a run over PATHs, runs them, and says how it ended."""

import logging
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
from faillog_otel.cli.report import Ending, exit_code, summary
from faillog_otel.cli.shutdown import GRACE_SECONDS, Shutdown
from faillog_otel.config import RunConfig
from faillog_otel.errors import ConfigError, InputError, Interrupted, LedgerBroken
from faillog_otel.ledger.kept import KeptFile
from faillog_otel.otlp.delivery import Client, Delivery
from faillog_otel.otlp.encoding import Envelope, ProtobufEncoder
from faillog_otel.segment.paths import STDIN, FoundPaths, InputFile

_log = logging.getLogger(__name__)

USER_AGENT = f"faillog-otel/{__version__}"


def run_paths(paths: Sequence[str], config: RunConfig) -> dict[str, Any]:
    """Forwards the files; returns the summary. Raises ConfigError before anything was read."""
    started = time.monotonic()
    for warning in config.warnings:
        _log.warning("%s", warning)
    quarantine, pending = KeptFile(config.quarantine), KeptFile(config.pending)
    own_files = [config.quarantine, config.pending, *filter(None, [config.delivery.output])]
    found = FoundPaths(paths, own_files)
    for warning in found.warnings:
        _log.warning("%s", warning)
    problems = list(found.problems)
    is_broken = False
    with ExitStack() as stack:
        shutdown = stack.enter_context(Shutdown())
        delivery = Delivery(
            _client(config, stack),
            signals=config.delivery.signals,
            wait_seconds=config.delivery.wait_seconds,
            clock=shutdown,
            jitter=random.Random(),
            in_flight=lambda: shutdown.interruptible(GRACE_SECONDS),
        )
        stack.callback(delivery.close)
        forwarder = Forwarder(
            encoder=ProtobufEncoder(config.mapping),
            delivery=delivery,
            quarantine=quarantine,
            pending=pending,
            config=config.delivery,
            reference_ns=shutdown.now_ns(),
            is_stopping=shutdown.is_requested,
        )
        try:
            try:
                problems += _forward_all(found.files, forwarder, shutdown, config)
            finally:
                forwarder.finish()
        except LedgerBroken as error:
            is_broken = True
            _log.error("%s", error)
        for problem in problems:
            _log.error("%s", problem)
        for kept, what in ((quarantine, "not understood or rejected"), (pending, "not delivered")):
            if kept.count:
                _log.warning("%d records %s: kept in %s", kept.count, what, kept.path)
        ending = Ending(
            counts=forwarder.counts,
            fail_on=config.fail_on,
            unreadable=bool(problems),
            ledger_broken=is_broken,
            signal=shutdown.requested,
        )
    seconds = time.monotonic() - started
    return summary(forwarder.counts, delivery.sent, seconds, exit_code(ending))


def _forward_all(
    files: Sequence[str], forwarder: Forwarder, shutdown: Shutdown, config: RunConfig
) -> list[str]:
    """Forwards one file after the other; returns what went wrong with any of them."""
    problems = []
    with _progress(files, config) as progress:
        for name in files:
            if shutdown.is_requested():
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
    envelope = Envelope(config.mapping.resource)
    delivery = config.delivery
    if delivery.protocol == "file":
        from faillog_otel.otlp.file import FileClient

        if delivery.output is None:
            return FileClient(sys.stdout.buffer, envelope)
        try:
            return FileClient(stack.enter_context(Path(delivery.output).open("wb")), envelope)
        except OSError as error:
            raise ConfigError(f"--output {delivery.output}: {error.strerror}") from None
    from faillog_otel.otlp.http import HttpClient

    return HttpClient(delivery.targets, envelope, USER_AGENT)


@contextmanager
def _progress(files: Sequence[str], config: RunConfig) -> Iterator[Progress]:
    """A progress bar over the files' bytes where standard error is a terminal."""
    sizes = [Path(name).stat().st_size for name in files if name != STDIN and Path(name).is_file()]
    if not sys.stderr.isatty() or config.verbosity < 0 or not any(sizes):
        yield lambda _: None
        return
    with click.progressbar(length=sum(sizes), label="forwarding", file=sys.stderr) as bar:
        yield bar.update
