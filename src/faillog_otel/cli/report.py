"""How a run ends: its exit code, and its summary for people or machines."""

import json
import logging
import os
import sys
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import click
from msgspec import Struct, to_builtins

from faillog_otel.backends import BACKENDS
from faillog_otel.config import FailOn, RunConfig
from faillog_otel.ledger.counts import Counts
from faillog_otel.otlp.sender import Sent
from faillog_otel.telemetry.logs import announce

_log = logging.getLogger(__name__)


class Exit(IntEnum):
    """Exit codes: a contract with scripts."""

    DONE = 0
    CONDITION = 1
    USAGE = 2
    QUARANTINED = 3
    PENDING = 4
    LEDGER = 5
    SEGMENT = 6


class Ending(Struct, frozen=True, kw_only=True):
    """What the exit code of a run rests on."""

    counts: Counts
    fail_on: Sequence[FailOn] = ()
    unreadable: bool = False
    ledger_broken: bool = False
    segment_refused: bool = False
    signal: int | None = None


def exit_code(ending: Ending) -> int:
    """The first that applies of 2, 5, 6, 4, 1, 3; 128 + the signal where one ended the run."""
    counts = ending.counts
    if ending.signal is not None:
        return 128 + ending.signal
    not_understood = counts.quarantined + counts.rejected
    met = {
        "discarded": counts.discarded,
        "failure": counts.failures,
        "quarantined": not_understood,
        "never": 0,
    }
    applies = {
        Exit.USAGE: ending.unreadable,
        Exit.LEDGER: ending.ledger_broken,
        Exit.SEGMENT: ending.segment_refused,
        Exit.PENDING: counts.pending,
        Exit.CONDITION: any(met[condition] for condition in ending.fail_on),
        Exit.QUARANTINED: not_understood,
    }
    return next((code for code, is_so in applies.items() if is_so), Exit.DONE)


def summary(counts: Counts, sent: Sent, seconds: float, code: int) -> dict[str, Any]:
    """The summary of a run, as `--summary json` prints it. `bytes_in` is decompressed content."""
    plain = to_builtins(counts)
    names = [
        "lines",
        "blank",
        "records",
        "events",
        "exported",
        "rejected",
        "quarantined",
        "pending",
        "duplicate",
    ]
    return {
        **{name: plain[name] for name in names},
        "sent": {"logs": sent.logs, "spans": sent.traces},
        "requests": sent.requests,
        "retries": sent.retries,
        "bytes_in": counts.bytes_in,
        "seconds": round(seconds, 3),
        "exit": code,
    }


def summary_text(found: dict[str, Any]) -> str:
    """The same for people, in two or three lines."""
    events = ", ".join(
        f"{number} {name}{'' if number == 1 or name == 'other' else 's'}"
        for name, number in found["events"].items()
        if number
    )
    kept = [
        f"{found[name]} {name}" for name in ("rejected", "quarantined", "pending", "duplicate") if found[name]
    ]
    outcome = ", ".join([f"{found['exported']} exported", *kept])
    sent = found["sent"]
    logs, spans = records(sent["logs"], "log record"), records(sent["spans"], "span")
    requests = f"{records(found['requests'], 'request')} ({found['retries']} of them again)"
    return (
        f"{records(found['records'])}: {outcome}\n"
        f"{events or 'no events'} → {logs} and {spans} in {requests}, {found['seconds']:.1f} s"
    )


def say_what_was_shifted(counts: Counts, config: RunConfig) -> None:
    """No record gets another time without a word."""
    if counts.time_shifted:
        number, policy = records(counts.time_shifted), config.mapping.time_policy
        is_backends = config.backend is not None and BACKENDS[config.backend].time_policy == policy
        why = f"time policy {policy}" + (f" of --backend {config.backend}" if is_backends else "")
        _log.warning("%s sent with another time (%s); the true one is segment.occurred_at", number, why)


def records(number: int, what: str = "record") -> str:
    """`1 record`, `2 records`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def print_summary(found: dict[str, Any], config: RunConfig) -> None:
    """Text on standard error (not with `-q`); JSON as the last line of standard output."""
    if config.summary == "json":
        try:
            click.echo(json.dumps(found))
            sys.stdout.flush()
        except OSError as error:
            _log.error("the summary cannot be written: %s", error.strerror)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes once more at its end
    elif config.verbosity >= 0 and config.log_format == "json":
        announce(_log, "ended", found)
    elif config.verbosity >= 0:
        click.echo(summary_text(found), err=True)
