"""Renders the report of failures as text: a table, CSV, and lines for other reports.

All texts come from outside, so control characters are escaped. Times are local, with the zone named once.
"""

import csv
import io
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Any

import click
from msgspec import Struct, to_builtins

from faillog_otel.reports.completeness import sentence
from faillog_otel.reports.failures import Failures, Group, Message, Named
from faillog_otel.text import counted, printable

BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.-=+*%#"
MAX_BARS = 48
MIN_BARS = 16
"""With less room, the bars have a line of their own."""
MAX_DAYS_WITHOUT_YEAR = 300
_INDENT = "  "
_NUMBERS = ("LOST", "PENDING", "RECOVERED", "ATTEMPTS", "REQUESTS")


class Style(Struct, frozen=True):
    """What the output can show."""

    width: int | None = None
    """The columns of a terminal; None: nothing is wrapped."""
    is_ascii: bool = False
    hyperlinks: bool = False
    """Whether it is a terminal that has links (OSC 8)."""
    zone: tzinfo | None = None
    """The time zone; None: that of this machine."""


def bars(by_hour: Mapping[int, int], hours: range, columns: int, *, is_ascii: bool = False) -> str:
    """Returns a sparkline of these hours, in at most so many columns; a blank is a time without a failure."""
    each = hours_per_bar(hours, columns)
    sums = [0] * -(-len(hours) // each)
    for hour, number in by_hour.items():
        sums[(hour - hours.start) // each] += number
    signs, most = ASCII_BARS if is_ascii else BARS, max([1, *sums])
    return "".join(signs[(number * len(signs) - 1) // most] if number else " " for number in sums)


def hours_per_bar(hours: range, columns: int) -> int:
    """Returns how many hours a bar stands for."""
    return max(1, -(-len(hours) // columns))


def failures_text(found: Failures, covers: str, style: Style) -> Iterator[str]:
    """Yields the lines of `failures`. `covers` says what was read."""
    times = _Times(found, style.zone)
    window = f"from {times.full(found.since)} to {times.full(found.until)} ({times.zone_name})"
    if not found.groups:
        # Files without a failure have no first one, where their window could begin.
        nothing = f"No failures {window}" if found.since != found.until else "No failures were read"
        yield from _wrapped(nothing, style.width, "")
        yield from _wrapped(covers, style.width, "")
        if found.completeness and found.completeness.hours:
            yield from _complete(found, style.width)
        return
    counts = found.totals.messages
    for each in _wrapped(f"Failures {window}", style.width, ""):
        yield click.style(each, bold=True)
    messages = (
        f"{counted(counts.lost, 'message')} lost, {counts.pending} pending, {counts.recovered} recovered"
    )
    attempts = counted(found.totals.attempts, "failed attempt")
    requests = f"{attempts}, {counted(found.totals.requests, 'failing request')}"
    yield from _wrapped(f"{messages}; {requests}", style.width, "")
    yield from _wrapped(covers, style.width, "")
    yield from _complete(found, style.width)
    yield ""
    yield from _table(found, times, style)
    if found.left_out:
        yield f"{counted(found.left_out, 'more group')}; --all shows all"
    if found.forgotten:
        forgotten = f"{counted(found.forgotten, 'message')} forgotten, because more failed than are kept"
        text = f"{forgotten}: the numbers have them, --messages does not"
        for each in _wrapped(text, style.width, ""):
            yield click.style(each, fg="yellow")


def _complete(found: Failures, width: int | None) -> list[str]:
    return _wrapped(f"{sentence(found.completeness)}.", width, "") if found.completeness else []


def _table(found: Failures, times: "_Times", style: Style) -> Iterator[str]:
    rows = [_cells(each, times) for each in found.groups]
    header = ["GROUP", *_NUMBERS, "FIRST SEEN", "LAST SEEN"]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    room = None if style.width is None else style.width - sum(widths)
    is_narrow = room is not None and room < len(widths) - 1
    gap = " " * (2 if room is None or room >= 2 * (len(widths) - 1) else 1)
    left = MAX_BARS if room is None else room - len(gap) * len(widths)
    hours = _hours(found.groups)
    columns = min(
        MAX_BARS,
        left if left >= MIN_BARS else (style.width or MAX_BARS) - len(_INDENT) - len("  by 100 hours"),
    )
    each = hours_per_bar(hours, max(1, columns))
    names = [name.lower() for name in header]
    if left >= MIN_BARS:
        header.append("BY HOUR" if each == 1 else f"BY {each} HOURS")
    if not is_narrow:
        yield click.style(_row(header, widths, gap), dim=True)
    for group, cells in zip(found.groups, rows, strict=True):
        by_hour = {_hour(text): number for text, number in group.by_hour.items()}
        drawn = bars(by_hour, hours, max(1, columns), is_ascii=style.is_ascii).rstrip()
        if is_narrow:
            said = [f"{name} {cell}" for name, cell in zip(names, cells, strict=True)]
            yield from _wrapped(", ".join(said), style.width, "")
        else:
            yield _row([*cells, drawn] if left >= MIN_BARS else cells, widths, gap)
        yield from _title(group, style.width)
        yield from _wrapped(printable(group.reason or group.meaning), style.width)
        yield from _wrapped(printable(change_text(group)), style.width)
        if left < MIN_BARS and drawn:
            yield f"{_INDENT}{drawn}" + (f"  by {each} hours" if each > 1 else "  by hour")
        yield from _wrapped(f"→ {printable(group.remedy)}", style.width)
        if group.sample.link:
            yield f"{_INDENT}{_link(f'trace {group.sample.trace_id}', group.sample.link, style)}"
        if group.destination.link:
            yield f"{_INDENT}{_link('destination in Segment', group.destination.link, style)}"
        yield ""


def _title(group: Group, width: int | None) -> list[str]:
    title = printable(failure_title(group))
    if not group.new:
        return _wrapped(title, width)
    *lines, last = _wrapped(f"{title}  new", width)
    return [*lines, last.removesuffix("new") + click.style("new", fg="yellow")]


def failure_title(group: Group) -> str:
    """Returns where and what: `Mixpanel (prod), Order Completed: HTTP 401 INVALID_SETTINGS (settings)`."""
    where = _called(group.destination)
    if group.subscription:
        where += f", {group.subscription_name or group.subscription}"
    return f"{where}: {failure_code(group)} ({group.reason_class.replace('_', ' ')})"


def change_text(group: Group) -> str:
    """Returns which change the failures followed, and of what if it is not the destination; or nothing."""
    change = group.after_change
    if change is None:
        return ""
    name = change.resource_name
    return change.text if name in ("", group.destination.name) else f"{change.text} ({name})"


def failure_code(row: Group | Message) -> str:
    """Returns status and code: `HTTP 401 INVALID_SETTINGS`, `HTTP 429`, `ETIMEDOUT`, `no code`."""
    status = f"HTTP {row.status}" if row.status else ""
    code = row.code if row.code and row.code != str(row.status) else ""
    return f"{status} {code}".strip() or "no code"


def _called(destination: Named) -> str:
    return destination.name or destination.id or "an unknown destination"


def _cells(group: Group, times: "_Times") -> list[str]:
    counts = group.messages
    numbers = (counts.lost, counts.pending, counts.recovered, group.attempts, group.requests)
    return [group.group[:8], *map(str, numbers), times.short(group.first_seen), times.short(group.last_seen)]


def _row(cells: list[str], widths: list[int], gap: str) -> str:
    first, *numbers = [
        cell.ljust(width) if number in (0, 6, 7) else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(cells, widths, strict=False))
    ]
    return gap.join([first, *numbers, *cells[len(widths) :]]).rstrip()


def _hours(groups: Iterable[Group]) -> range:
    """Returns the hours from the first to the last one with a failure: one axis for all groups."""
    seen = [_hour(text) for group in groups for text in group.by_hour]
    return range(min(seen), max(seen) + 1) if seen else range(1)


def _hour(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) // 3600


def _wrapped(text: str, width: int | None, indent: str = _INDENT) -> list[str]:
    if not text:
        return []
    if width is None:
        return [indent + text]
    deeper = indent + (_INDENT if text.startswith("→") else "")
    return textwrap.wrap(text, max(20, width), initial_indent=indent, subsequent_indent=deeper)


def _link(text: str, url: str, style: Style) -> str:
    """Returns a text that links to the URL, or where that is impossible the URL itself."""
    return f"\x1b]8;;{url}\x1b\\{text}\x1b]8;;\x1b\\" if style.hyperlinks else url


class _Times:
    """The times of a report as local ones."""

    def __init__(self, found: Failures, zone: tzinfo | None) -> None:
        self._zone = zone
        since, until = self._local(found.since), self._local(found.until)
        seen = [self._local(text) for each in found.groups for text in (each.first_seen, each.last_seen)]
        days = (max([until, *seen]) - min(seen or [since])).days
        self._form = "%Y-%m-%d %H:%M" if days > MAX_DAYS_WITHOUT_YEAR else "%m-%d %H:%M"
        zones = dict.fromkeys(at.tzname() or "local time" for at in (since, until))
        self.zone_name = ", ".join(zones)

    def full(self, text: str) -> str:
        return f"{self._local(text):%Y-%m-%d %H:%M}"

    def short(self, text: str) -> str:
        return self._local(text).strftime(self._form)

    def _local(self, text: str) -> datetime:
        return datetime.fromisoformat(text).astimezone(self._zone)


def messages_text(messages: Iterable[Message], style: Style) -> Iterator[str]:
    """Yields a table of messages, one by one; times are UTC, because no zone is named."""
    head = f"{'STATE':<9} {'ATTEMPTS':>8}  {'LAST FAILURE':<20}  {'CODE':<28}  DESTINATION, MESSAGE, TRACE"
    is_first = True
    for each in messages:
        if is_first:
            yield click.style(head, dim=True)
            is_first = False
        trace = f"trace {each.trace_id}"
        shown = _link(trace, each.link, style) if each.link and style.hyperlinks else each.link or trace
        names = printable(f"{_called(each.destination)}  {each.message_id}")
        code = printable(failure_code(each))
        yield f"{each.state:<9} {each.attempts:>8}  {each.last_seen:<20}  {code:<28}  {names}  {shown}"
    if is_first:
        yield "No message failed in this time"


GROUP_COLUMNS = (
    *("group", "destination.id", "destination.name", "destination.link", "subscription", "subscription_name"),
    *("code", "status", "class", "retryable", "reason"),
    *("messages.lost", "messages.pending", "messages.recovered", "attempts", "requests"),
    *("first_seen", "last_seen", "new", "meaning", "remedy"),
    *("sample.message_id", "sample.trace_id", "sample.link"),
)
MESSAGE_COLUMNS = (
    *("message_id", "destination.id", "destination.name", "destination.link", "state", "attempts", "code"),
    *("status", "group", "first_seen", "last_seen", "trace_id", "link"),
)
"""Columns of CSV: keys of the JSON output; in the header with `_` instead of the dot."""
_FORMULA = ("=", "+", "-", "@")
"""How a cell begins that a spreadsheet calculates."""


def csv_lines(rows: Iterable[Group | Message], columns: Sequence[str]) -> Iterator[str]:
    """Yields the lines of CSV (RFC 4180) with their ends, the header first. No cell is a formula."""
    yield _csv_line([column.replace(".", "_") for column in columns])
    for row in rows:
        values = to_builtins(row)
        yield _csv_line([_cell(values, *column.split(".")) for column in columns])


def _cell(values: Mapping[str, Any], key: str, inner: str | None = None) -> object:
    value = values[key] if inner is None else values[key][inner]
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        text = printable(value)
        return f"'{text}" if text.startswith(_FORMULA) else text
    return value


def _csv_line(cells: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()


# -- parts of other reports --------------------------------------------------------------------------------


def summary_lines(found: Failures, limit: int = 3, *, is_of_paths: bool = False) -> list[str]:
    """Returns the worst groups for the end of a run, and the link to the first lost message's trace."""
    lines = []
    for group in found.groups[:limit]:
        why = f"; {group.reason}" if group.reason else ""
        lines.append(printable(f"{failure_title(group)}: {_states(group)}{why}"))
        lines += [printable(f"{_INDENT}{said}") for said in (change_text(group), f"→ {group.remedy}") if said]
    more = len(found.groups[limit:]) + found.left_out
    if more:
        command = "faillog-otel failures" + (" PATH..." if is_of_paths else "")
        lines.append(f"{counted(more, 'more failure group')}; `{command}` shows them")
    links = (group.sample.link for group in found.groups if group.messages.lost and group.sample.link)
    if link := next(links, None):
        lines.append(f"a lost message: {link}")
    return lines


def summary_groups(found: Failures, limit: int = 20) -> list[dict[str, Any]]:
    """Returns the worst groups for `--summary json`, each as in `failures --json`."""
    return [to_builtins(group) for group in found.groups[:limit]]


def worst_groups(groups: Sequence[Group], left_out: int) -> Iterator[tuple[str, str, str | None]]:
    """Yields label, text and colour of the lines of `status` about these groups of the last 24 hours."""
    label = "failures 24 h"
    for group in groups:
        colour = "red" if group.messages.lost else "yellow" if group.messages.pending else None
        yield label, f"{failure_title(group)}: {_states(group)}", colour
        label = ""
    if left_out:
        yield "", f"{counted(left_out, 'more group')}; `failures` shows them with remedies", None


def _states(group: Group) -> str:
    """Returns the numbers of messages that are not zero, or how many requests failed."""
    counts = to_builtins(group.messages)
    found = [f"{number} {state}" for state, number in counts.items() if number]
    return ", ".join(found) or f"{counted(group.requests, 'failing request')}, no message known"
