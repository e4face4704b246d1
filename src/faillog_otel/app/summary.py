"""How a run ends: its exit code, and its summary for people or machines."""

import json
import logging
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

import click
from msgspec import Struct, to_builtins

from faillog_otel.backends import BACKENDS
from faillog_otel.config import FailOn, RunConfig
from faillog_otel.ledger.results import Counts, FirstMet, Met
from faillog_otel.otlp.sender import Sent
from faillog_otel.reports.hours import Judged
from faillog_otel.telemetry.output import CLOSED_PIPE, announce

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
    NOT_KNOWN_YET = 7


class Files(Struct, frozen=True):
    """How many files a run over PATHs found, and how many it read to their end."""

    found: int
    read: int


class RunResult(Struct, frozen=True, kw_only=True):
    """What the exit code of a run rests on."""

    counts: Counts
    fail_on: Sequence[FailOn] = ()
    unreadable: bool = False
    ledger_broken: bool = False
    segment_refused: bool = False
    judged_hours: int | None = None
    """How many collection-hours of its window a polling run judged; None: it reads PATHs."""
    signal: int | None = None


def exit_code(ending: RunResult) -> int:
    """The first that applies of 2, 5, 6, 4, 1, 3, 7; 128 + the signal where one ended the run."""
    counts = ending.counts
    if ending.signal is not None:
        return 128 + ending.signal
    applies = {
        Exit.USAGE: ending.unreadable,
        Exit.LEDGER: ending.ledger_broken,
        Exit.SEGMENT: ending.segment_refused,
        Exit.PENDING: counts.pending,
        Exit.CONDITION: conditions_met(ending) or cannot_deny(counts, ending.fail_on),
        Exit.QUARANTINED: counts.quarantined + counts.rejected,
        Exit.NOT_KNOWN_YET: ending.fail_on and ending.judged_hours == 0,
    }
    return next((code for code, is_so in applies.items() if is_so), Exit.DONE)


def conditions_met(ending: RunResult) -> dict[FailOn, int]:
    """The `--fail-on` conditions that were met → how many records met them; 1 for `empty`.

    A polling run that judged no hour does not know whether its hours are empty.
    """
    counts, events = ending.counts, ending.counts.events
    read = events.error + events.attempt + events.exchange + events.other + counts.duplicate
    met: dict[FailOn, int] = {
        "discarded": counts.discarded,
        "failure": counts.failures,
        "quarantined": counts.quarantined + counts.rejected,
        "empty": int(not read and ending.judged_hours != 0),
        "never": 0,
    }
    return {condition: met[condition] for condition in ending.fail_on if met[condition]}


def cannot_deny(counts: Counts, fail_on: Sequence[FailOn]) -> list[FailOn]:
    """The `--fail-on` conditions that events of an unknown version may have met."""
    return [each for each in fail_on if each in ("discarded", "failure")] if counts.unknown_version else []


_NONE: Mapping[str, int] = {}


def summary(
    counts: Counts,
    sent: Sent,
    seconds: float,
    code: int,
    *,
    not_kept: Mapping[str, int] = _NONE,
    files: Files | None = None,
    hours: Judged | None = None,
) -> dict[str, Any]:
    """The summary of a run, as `--summary json` prints it. `bytes_in` is decompressed content.

    `not_kept`: `quarantine` and `pending` → how many of these records were not kept. `files` is of runs over
    PATHs, `hours` of polling runs.
    """
    plain = to_builtins(counts) | {"failed_attempts": counts.failures}
    names = [
        "lines",
        "blank",
        "records",
        "events",
        "failed_attempts",
        "discarded",
        "exported",
        "rejected",
        "quarantined",
        "pending",
        "duplicate",
    ]
    return {
        **{name: plain[name] for name in names},
        "not_kept": {
            "quarantined": not_kept.get("quarantine", 0),
            "pending": not_kept.get("pending", 0),
        },
        "files": to_builtins(files),
        "hours": to_builtins(hours),
        "sent": {"logs": sent.logs, "spans": sent.traces},
        "requests": sent.requests,
        "retries": sent.retries,
        "bytes_in": counts.bytes_in,
        "unknown_version": counts.unknown_version,
        "seconds": round(seconds, 3),
        "exit": code,
    }


def summary_text(found: dict[str, Any], *, verb: str = "exported", says_judged: bool = False) -> str:
    """The same for people, in two or three lines.

    `verb` says what happened to the records that were not kept; `says_judged`: how much was judged, too.
    """
    events = ", ".join(
        f"{number} {name}{'' if number == 1 or name == 'other' else 's'}"
        for name, number in found["events"].items()
        if number
    )
    lost = found["not_kept"]
    others = {
        "rejected": found["rejected"],
        "quarantined": found["quarantined"],
        "pending": found["pending"] - lost["pending"],
        "duplicate": found["duplicate"],
        "not delivered and not kept": lost["pending"],
    }
    if lost["quarantined"]:
        not_understood = others.pop("rejected") + others.pop("quarantined")
        others["quarantined or rejected"] = not_understood - lost["quarantined"]
        others["not understood or not taken, and not kept"] = lost["quarantined"]
    kept = [f"{number} {name}" for name, number in others.items() if number]
    outcome = ", ".join([f"{found['exported']} {verb}", *kept])
    if found["unknown_version"]:
        events += f" ({found['unknown_version']} of an unknown version, not judged)"
    sent = found["sent"]
    logs, spans = records(sent["logs"], "log record"), records(sent["spans"], "span")
    requests = f"{records(found['requests'], 'request')} ({found['retries']} of them again)"
    return (
        f"{records(found['records'])}: {outcome}\n"
        f"{events or 'no events'} → {logs} and {spans} in {requests}, {found['seconds']:.1f} s"
        + (f"\n{judged_text(found)}" if says_judged else "")
    )


def judged_text(found: dict[str, Any]) -> str:
    """How much a run judged: of its collection-hours, or of its files."""
    if hours := found["hours"]:
        text = f"judged {hours['judged']} of {hours['window']} collection-hours"
        if hours["judged"] > hours["judged_now"]:
            text += f", {hours['judged_now']} of them now"
        if hours["due"]:
            text += f"; {hours['due']} due and not read or not forwarded to the end"
        if following := hours["next_readable"]:
            text += f"; next readable: {following['collection']} at {following['at'][11:16]} UTC"
        return text
    files, number = found["files"], found["records"]
    judged = sum(found["events"].values()) + found["duplicate"] - found["unknown_version"]
    where = f"{files['read']} of {records(files['found'], 'file')} read to the end"
    return f"judged {records(number) if judged == number else f'{judged} of {records(number)}'}; {where}"


def say_what_was_judged(found: dict[str, Any], config: RunConfig) -> bool:
    """Says it in the log, where it is not all that was asked for; returns whether it was said."""
    hours, files = found["hours"], found["files"]
    if not config.fail_on or (hours is None and files is None):
        return False
    if hours is not None and not hours["judged"]:
        _log.error("%s: not known yet", judged_text(found))
        return True
    is_whole = hours["judged"] == hours["window"] if hours else files["read"] == files["found"]
    if not is_whole:
        _log.warning("%s", judged_text(found))
    return not is_whole


def say_what_was_met(ending: RunResult, first: FirstMet, config: RunConfig) -> None:
    """Names each `--fail-on` condition that was met, how many records met it, and the first of them."""
    for condition, number in conditions_met(ending).items():
        what = records(number, _MET[condition]) if condition in _MET else "no event was read"
        found = first.get(condition)
        shown = f"; the first: {_first_text(found, config.mapping.destination_names)}" if found else ""
        _log.error("--fail-on %s: %s%s", condition, what, shown)


_MET: dict[FailOn, str] = {
    "failure": "failed attempt",
    "discarded": "discarded message",
    "quarantined": "quarantined record",
}


def _first_text(met: Met, names: Mapping[str, str]) -> str:
    destination = names.get(met.destination, met.destination)
    message = f"message {met.message_id}" if met.message_id else "a record"
    to = f" to {destination}" if destination else ""
    return f"{message}{to} ({met.file}, line {met.line})" + (f": {met.why}" if met.why else "")


def warn_time_shifted(counts: Counts, config: RunConfig) -> None:
    """No record gets another time without a word."""
    if counts.time_shifted:
        number, policy = records(counts.time_shifted), config.mapping.time_policy
        is_backends = config.backend is not None and BACKENDS[config.backend].time_policy == policy
        why = f"time policy {policy}" + (f" of --backend {config.backend}" if is_backends else "")
        _log.warning("%s sent with another time (%s); the true one is segment.occurred_at", number, why)


def warn_not_judged(counts: Counts, config: RunConfig) -> None:
    """No event passes as good because its version is not understood; that is an error where it was asked."""
    if not counts.unknown_version:
        return
    number = records(counts.unknown_version, "event")
    asked = [f"--fail-on {each}" for each in cannot_deny(counts, config.fail_on)]
    undecided = f": {' and '.join(asked)} cannot be denied" if asked else ""
    level = logging.ERROR if asked else logging.WARNING
    _log.log(level, "%s of an unknown version not judged%s; look for a newer faillog-otel", number, undecided)


def records(number: int, what: str = "record") -> str:
    """`1 record`, `2 records`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


_VERBS = {None: "exported", "console": "shown", "file": "written"}


def print_summary(found: dict[str, Any], config: RunConfig) -> None:
    """Text on standard error (not with `-q`); JSON as the last line of standard output.

    A run that ended because the reader of its output closed it says nothing more.
    """
    if found["exit"] == CLOSED_PIPE:
        return
    was_said = say_what_was_judged(found, config)
    if config.summary == "json":
        click.echo(json.dumps(found))
    elif config.verbosity >= 0 and config.log_format == "json":
        announce(_log, "ended", found)
    elif config.verbosity >= 0:
        is_of_paths = found["files"] is not None
        verb = _VERBS[config.delivery.writes if is_of_paths else None]
        is_known = found["hours"] is not None or found["files"] is not None
        says_judged = bool(config.fail_on) and is_known and not was_said
        click.echo(summary_text(found, verb=verb, says_judged=says_judged), err=True)
