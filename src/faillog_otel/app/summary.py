"""How a run ends: its exit code, and its summary for people or machines."""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, Literal

import click
from msgspec import Struct, to_builtins

from faillog_otel.app.limits import exceeded_limits, unmatched_destinations
from faillog_otel.backends import BACKENDS
from faillog_otel.config import FailOn, FailureLimits, RunConfig
from faillog_otel.ledger.results import Counts, FirstMet, Met
from faillog_otel.otlp.sender import Sent
from faillog_otel.reports.failures import Failures
from faillog_otel.reports.failures_text import summary_groups, summary_lines
from faillog_otel.reports.hours import Judged
from faillog_otel.telemetry.output import CLOSED_PIPE, announce
from faillog_otel.text import counted

_log = logging.getLogger(__name__)


Verb = Literal["exported", "shown", "written"]
_VERBS: dict[Verb, str] = {"exported": "Sent", "shown": "Showed", "written": "Wrote"}


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
    """What a run did: its summary and its exit code are computed from it. `seconds` is its duration."""

    counts: Counts
    sent: Sent
    seconds: float
    reported: Counts | None = None
    """The counts in the summary, if they differ: what was only shown is still in the state folder."""
    not_kept: Mapping[str, int] = {}
    """`quarantine` and `pending` → how many of these records could not be kept."""
    files: Files | None = None
    """None: a polling run."""
    hours: Judged | None = None
    """None: not a polling run, or the ledger could not be read."""
    fail_on: Sequence[FailOn] = ()
    limits: FailureLimits = FailureLimits()
    first_met: FirstMet
    failures: Failures | None = None
    """The failures among the records of files, or in the window of a polling run; None if unknown."""
    unreadable: bool = False
    ledger_broken: bool = False
    segment_refused: bool = False
    signal: int | None = None

    @property
    def exit_code(self) -> int:
        """The first that applies of 2, 5, 6, 4, 1, 3, 7; 128 + the signal if one ended the run."""
        counts = self.counts
        if self.signal is not None:
            return 128 + self.signal
        applies = {
            Exit.USAGE: self.unreadable,
            Exit.LEDGER: self.ledger_broken,
            Exit.SEGMENT: self.segment_refused,
            Exit.PENDING: counts.pending,
            Exit.CONDITION: self.conditions_met
            or self.undecided_conditions
            or exceeded_limits(self.failures, self.limits),
            Exit.QUARANTINED: counts.quarantined + counts.rejected,
            Exit.NOT_KNOWN_YET: (self.is_asked_to_judge and self._judged_no_hour) or self.lacks_failures,
        }
        return next((code for code, is_so in applies.items() if is_so), Exit.DONE)

    @property
    def is_asked_to_judge(self) -> bool:
        """Whether there is a condition or a limit."""
        return bool(self.fail_on) or self.limits.are_set

    @property
    def lacks_failures(self) -> bool:
        """Whether limits cannot be judged, because failures were not counted."""
        return self.limits.are_set and self.failures is None

    @property
    def conditions_met(self) -> dict[FailOn, int]:
        """The `--fail-on` conditions that were met → how many records met them; 1 for `empty`.

        A polling run that judged no hour cannot tell whether its hours are empty.
        """
        counts = self.counts
        read = sum(counts.events.values()) + counts.duplicate
        met: dict[FailOn, int] = {
            "discarded": counts.discarded,
            "failure": counts.failures,
            "quarantined": counts.quarantined + counts.rejected,
            "empty": int(not read and not self._judged_no_hour),
            "never": 0,
        }
        return {condition: met[condition] for condition in self.fail_on if met[condition]}

    @property
    def undecided_conditions(self) -> list[FailOn]:
        """The `--fail-on` conditions that events of an unknown version may meet."""
        if not self.counts.unknown_version:
            return []
        return [each for each in self.fail_on if each in ("discarded", "failure")]

    @property
    def _judged_no_hour(self) -> bool:
        return self.hours is not None and self.hours.judged == 0

    def summary(self) -> dict[str, Any]:
        """Returns the summary as `--summary json` prints it. `bytes_in` is decompressed content."""
        counts = self.reported or self.counts
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
                "quarantined": self.not_kept.get("quarantine", 0),
                "pending": self.not_kept.get("pending", 0),
            },
            "files": to_builtins(self.files),
            "hours": to_builtins(self.hours),
            "sent": {"logs": self.sent.logs, "spans": self.sent.traces},
            "requests": self.sent.requests,
            "retries": self.sent.retries,
            "bytes_in": counts.bytes_in,
            "unknown_version": counts.unknown_version,
            "groups": summary_groups(self.failures) if self.failures else [],
            "seconds": round(self.seconds, 3),
            "exit": self.exit_code,
        }


def summary_text(found: dict[str, Any], *, verb: Verb = "exported", shows_judged: bool = False) -> str:
    """Returns the summary as text, in one to three lines.

    `verb` is what was done with the records. `shows_judged` adds how much was judged.
    """
    lines = (
        [_nothing_text(found)]
        if not found["records"]
        else [_outcomes_text(found, verb), _sent_text(found, verb)]
    )
    if shows_judged:
        lines.append(judged_text(found))
    return "\n".join(lines)


def _nothing_text(found: dict[str, Any]) -> str:
    """Returns why there was no record: `Nothing due; next: shop-braze at 09:00 UTC`."""
    hours, files = found["hours"], found["files"]
    if hours is None:
        return f"No records in {counted(files['found'], 'file')}" if files else "No records"
    if hours["due"]:
        return f"Nothing read; {counted(hours['due'], 'hour')} due"
    following = hours["next_readable"]
    return "Nothing due" + (
        f"; next: {following['collection']} at {following['at'][11:16]} UTC" if following else ""
    )


def _outcomes_text(found: dict[str, Any], verb: Verb) -> str:
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
        others["not understood or refused, and not kept"] = lost["quarantined"]
    if found["unknown_version"]:
        others["of an unknown version, not judged"] = found["unknown_version"]
    kept = [f"{number} {name}" for name, number in others.items() if number]
    exported = f"{found['exported']} {verb}"
    return f"{counted(found['records'], 'record')}: {', '.join([exported, *kept])}"


def _sent_text(found: dict[str, Any], verb: Verb) -> str:
    """Returns `Sent 596 logs and 545 spans in 21 requests (1 retried), 0.5 s; 12 messages discarded`."""
    sent = found["sent"]
    text = f"{_VERBS[verb]} {counted(sent['logs'], 'log')} and {counted(sent['spans'], 'span')}"
    if verb == "exported":
        text += f" in {counted(found['requests'], 'request')} ({found['retries']} retried)"
    text += f", {found['seconds']:.1f} s"
    if found["discarded"]:
        text += f"; {counted(found['discarded'], 'message')} discarded"
    return text


def judged_text(found: dict[str, Any]) -> str:
    """Returns how much a run judged: of its collection-hours, or of its files."""
    if hours := found["hours"]:
        text = f"judged {hours['judged']} of {counted(hours['window'], 'collection-hour')}"
        if hours["judged"] > hours["judged_now"]:
            text += f", {hours['judged_now']} of them in this run"
        if hours["due"]:
            text += f"; {hours['due']} due but not read or not forwarded completely"
        if following := hours["next_readable"]:
            text += f"; next readable: {following['collection']} at {following['at'][11:16]} UTC"
        return text
    files, number = found["files"], found["records"]
    judged = sum(found["events"].values()) + found["duplicate"] - found["unknown_version"]
    where = f"{files['read']} of {counted(files['found'], 'file')} read to the end"
    share = "" if judged == number else f"{judged} of "
    return f"judged {share}{counted(number, 'record')}; {where}"


def _log_judged(found: dict[str, Any], result: RunResult) -> bool:
    """Logs how much was judged if that is not everything; returns whether it logged."""
    hours, files = found["hours"], found["files"]
    if not result.is_asked_to_judge or (hours is None and files is None):
        return False
    if hours is not None and not hours["judged"]:
        asked = "--fail-on" if result.fail_on else "the limit of failures"
        _log.error("%s; %s is undecided", judged_text(found), asked)
        return True
    is_whole = hours["judged"] == hours["window"] if hours else files["read"] == files["found"]
    if not is_whole:
        _log.warning("%s", judged_text(found))
    return not is_whole


def log_result(result: RunResult, config: RunConfig) -> None:
    """Warns of shifted times and of events that were not judged, and names the `--fail-on` conditions met."""
    if result.exit_code == CLOSED_PIPE:
        return
    _warn_time_shifted(result.counts, config)
    _warn_not_judged(result)
    _log_conditions(result, config.mapping.destination_names)
    _log_limits(result)


def _log_conditions(result: RunResult, names: Mapping[str, str]) -> None:
    """Names each `--fail-on` condition that was met, how many records met it, and the first of them."""
    for condition, number in result.conditions_met.items():
        what = counted(number, _MET[condition]) if condition in _MET else "no event was read"
        found = result.first_met.get(condition)
        shown = f"; the first: {_first_text(found, names)}" if found else ""
        _log.error("--fail-on %s: %s%s", condition, what, shown)


def _log_limits(result: RunResult) -> None:
    """Names each limit that was exceeded, and destinations that no failure was of."""
    if result.lacks_failures:
        _log.error("failures were not counted; --max-discarded and --max-failed are undecided")
    for each in exceeded_limits(result.failures, result.limits):
        _log.error("%s", each)
    for each in unmatched_destinations(result.failures, result.limits):
        _log.warning("--destination %s: nothing failed at a destination with this id or name", each)


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


def _warn_time_shifted(counts: Counts, config: RunConfig) -> None:
    """Warns of records that were sent with another time."""
    if counts.time_shifted:
        number, policy = counted(counts.time_shifted, "record"), config.mapping.time_policy
        is_backends = config.backend is not None and BACKENDS[config.backend].time_policy == policy
        why = f"time policy {policy}" + (f" of --backend {config.backend}" if is_backends else "")
        _log.warning("%s sent with another time (%s); the true one is segment.occurred_at", number, why)


def _warn_not_judged(result: RunResult) -> None:
    """Warns of events of an unknown version; an error if a `--fail-on` condition depends on them."""
    if not result.counts.unknown_version:
        return
    number = counted(result.counts.unknown_version, "event")
    asked = [f"--fail-on {each}" for each in result.undecided_conditions]
    undecided = f"; {' and '.join(asked)} is undecided" if asked else ""
    level = logging.ERROR if asked else logging.WARNING
    _log.log(level, "%s of an unknown version not judged%s; use a newer faillog-otel", number, undecided)


def reasons_text(reasons: Counter[str]) -> str:
    """Returns `invalid_json`, or `2 invalid_json, 1 missing_event` if there are several reasons."""
    if len(reasons) == 1:
        return next(iter(reasons))
    return ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())


def print_summary(result: RunResult, config: RunConfig) -> None:
    """Prints text on standard error, unless `-q` is set, or JSON as the last line of standard output.

    Prints nothing if the reader of standard output has closed it.
    """
    found = result.summary()
    if found["exit"] == CLOSED_PIPE:
        return
    was_said = _log_judged(found, result)
    if config.summary == "json":
        click.echo(json.dumps(found))
    elif config.verbosity >= 0 and config.log_format == "json":
        announce(_log, "ended", found)
    elif config.verbosity >= 0:
        is_of_paths = found["files"] is not None
        writes = config.delivery.writes if is_of_paths else None
        verb: Verb = "shown" if writes == "console" else "written" if writes == "file" else "exported"
        is_known = found["hours"] is not None or found["files"] is not None
        shows_judged = result.is_asked_to_judge and is_known and not was_said
        click.echo(summary_text(found, verb=verb, shows_judged=shows_judged), err=True)
        if result.failures and writes != "console":  # which groups its trees by failure
            for line in summary_lines(result.failures, is_of_paths=is_of_paths):
                click.echo(line, err=True)
