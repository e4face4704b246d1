"""The page of `report --html` and of the health server: one HTML file that needs nothing besides itself.

Pure: the same `PageData` gives the same page. It runs no script and makes no request: its policy allows its
own style sheet only, by hash. Everything from outside is escaped, and its control and format characters are
shown as escapes, so that a name cannot reverse the text that follows it.
"""

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec import Struct

from faillog_otel.clock import DAY_NS, HOUR_NS, duration_text, time_text
from faillog_otel.reports.charts import (
    SPARK_BUCKETS,
    SPARK_HEIGHT,
    SPARK_WIDTH,
    Bars,
    Spark,
    buckets,
    calendar,
    minute_text,
    ns_of,
    sparkline,
    stacked_bars,
    tried,
)
from faillog_otel.reports.failures import Failures, Group, MessageCounts
from faillog_otel.reports.failures_text import change_text
from faillog_otel.reports.status import State, Status
from faillog_otel.text import counted, printable

if TYPE_CHECKING:
    from jinja2 import Environment

MAX_BYTES = 1024 * 1024
MAX_GROUPS = 500
"""In the table; fewer if the page would be longer than `MAX_BYTES`."""
MAX_CHANGES = 50
"""Groups whose change is marked in the chart."""
WORST = 3
"""Groups that are explained in sentences."""
MAX_CHARACTERS = 400
"""Of a name or a reason, as it is shown."""
MAX_LINK_CHARACTERS = 1000

UNREAD: tuple[State, ...] = ("waiting", "partial", "failed", "expired")
"""States of an hour that may hold failures which nobody has seen."""
_LIVE_SECONDS = 60
"""How often a live page is loaded again: the health server says so in a header."""


class PageData(Struct, frozen=True, kw_only=True):
    """What a page shows."""

    failures: Failures
    version: str
    covers: str = ""
    """A sentence on what was read."""
    problems: Sequence[str] = ()
    """Files that could not be read, and why."""
    status: Status | None = None
    """None: a run over PATHs."""
    attempts_until_success: dict[int, int] | None = None
    """The attempt that succeeded → messages; None if it is not known."""
    shows_messages: bool = False
    """Whether message ids are shown."""
    is_live: bool = False
    """Whether the page is one of the health server, which says how to stop reloading it."""


class Row(Struct, frozen=True):
    """A group in the table."""

    group: Group
    destination: str
    code: str
    spark: Spark
    link: str | None
    """To the trace of its sample."""
    destination_link: str | None
    """To the destination in Segment."""
    change: str
    """Which change the failures followed; empty if none is known."""


class Answer(Struct, frozen=True):
    """One group in sentences."""

    row: Row
    since: str
    how_many: str
    retried: str


def page(data: PageData) -> str:
    """Returns the page. It lists fewer groups if it would be longer than `MAX_BYTES`."""
    number = min(MAX_GROUPS, len(data.failures.groups))
    while True:
        text = _rendered(data, number)
        if number <= WORST or len(text.encode()) <= MAX_BYTES:
            return text
        number = max(WORST, number * 3 // 4)


def _rendered(data: PageData, number: int) -> str:
    failures = data.failures
    labels = destination_labels(failures.groups)
    since, until = span(failures)
    within = buckets(since, until, SPARK_BUCKETS)
    rows = [
        Row(
            group,
            labels[group.destination.id],
            code_text(group),
            sparkline(group.by_hour, within),
            safe_link(group.sample.link),
            safe_link(group.destination.link),
            change_text(group),
        )
        for group in failures.groups[:number]
    ]
    bars = stacked_bars(
        [(labels[group.destination.id], group.by_hour) for group in failures.groups],
        since,
        until,
        _changes(failures.groups),
    )
    style = _style()
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            data=data,
            failures=failures,
            style=style,
            policy=policy(style),
            headline=headline(failures),
            lead=lead(failures),
            unread=unread_text(data.status) if data.status else "",
            rows=rows,
            answers=[_answer(row, failures) for row in rows[:WORST]],
            left_out=left_out_text(len(failures.groups) - number + failures.left_out, failures.forgotten),
            bars=bars,
            bars_text=_bars_text(bars) if bars else "",
            tried=tried(data.attempts_until_success or {}),
            calendars=[
                calendar(name, each, data.status.marks) for name, each in data.status.collections.items()
            ]
            if data.status
            else [],
            facts_read=_facts(data.status) if data.status else [],
            spark_size=(SPARK_WIDTH, SPARK_HEIGHT),
            reload_seconds=_LIVE_SECONDS,
        )
    )


def span(failures: Failures) -> tuple[str, str]:
    """Returns the time that charts show: from the first failure to the end of the window.

    It ends earlier if the last failure is long ago compared to the time in which they happened, as in files.
    """
    hours = [hour for group in failures.groups for hour in group.by_hour]
    if not hours:
        return failures.since, failures.until
    first_ns, last_ns = ns_of(min(hours)), ns_of(max(hours)) + HOUR_NS
    until_ns = min(max(ns_of(failures.until), last_ns), last_ns + max(DAY_NS, last_ns - first_ns))
    return time_text(first_ns), time_text(until_ns)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("faillog_otel", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": shown, "sentence": _sentence, "minute": _minute, "number": "{:,}".format}
    return environment


@cache
def _style() -> str:
    return resources.files("faillog_otel.reports").joinpath("page.css").read_text("utf-8")


def policy(style: str) -> str:
    """Returns the Content-Security-Policy of a page with this style sheet."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def shown(text: str) -> str:
    """Returns a text from outside as the page shows it; the template escapes it."""
    text = printable(text)
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"


def _sentence(text: str) -> str:
    text = shown(text)
    return text if not text or text.endswith((".", "!", "?", "…")) else f"{text}."


def safe_link(url: str | None) -> str | None:
    """Returns the URL if a browser may open it; else None. Settings, names and ids may be part of it."""
    if url is None or len(url) > MAX_LINK_CHARACTERS or not url.isprintable():
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return url if parts.scheme in ("http", "https") and parts.netloc else None


def destination_labels(groups: Sequence[Group]) -> dict[str, str]:
    """Returns id → the name to show; two destinations with one name are told apart by their ids."""
    names = {group.destination.id: group.destination.name for group in groups}
    often = Counter(names.values())
    return {
        id_: (name if often[name] == 1 else f"{name} ({id_})") if name else id_ or "unknown destination"
        for id_, name in names.items()
    }


def code_text(group: Group) -> str:
    """Returns status and code: `HTTP 401 INVALID_API_KEY`; empty if the group has neither."""
    status = "" if group.status is None else f"HTTP {group.status}"
    code = "" if group.code is None or group.code == str(group.status) else group.code
    return f"{status} {code}".strip()


def headline(failures: Failures) -> str:
    """Returns what a person has to know first."""
    messages = failures.totals.messages
    if not failures.groups:
        return "Nothing failed in this window"
    if messages.lost:
        return f"{counted_text(messages.lost, 'message')} lost"
    if messages.pending:
        return f"No message lost, {counted_text(messages.pending, 'message')} pending"
    return "No message lost"


def lead(failures: Failures) -> str:
    """Returns what fails where, and how many messages, as sentences."""
    if not failures.groups:
        return "No failure was found in what was read."
    where = counted_text(len({group.destination.id for group in failures.groups}), "destination")
    totals, causes = failures.totals, counted_text(len(failures.groups), "failure group")
    requests = counted_text(totals.requests, "request")
    attempts = f"{counted_text(totals.attempts, 'attempt')} failed, in {requests}."
    return f"{causes} at {where}. {messages_text(totals.messages)} {attempts}"


def messages_text(messages: MessageCounts) -> str:
    """Returns how many messages are in each state, as a sentence."""
    if not messages.lost + messages.pending + messages.recovered:
        return "No message is known: only requests."
    lost = f"{counted_text(messages.lost, 'message')} lost" if messages.lost else "No message lost"
    others = {"pending": messages.pending, "recovered": messages.recovered}
    return ", ".join([lost, *(f"{number:,} {state}" for state, number in others.items() if number)]) + "."


def unread_text(status: Status) -> str:
    """Returns how many hours may hold failures that were not seen; empty if there are none."""
    unread = sum(each.hours.get(state, 0) for each in status.collections.values() for state in UNREAD)
    if not unread:
        return ""
    are = "is" if unread == 1 else "are"
    hours = f"{counted_text(unread, 'hour')} of the collections"
    return f"{hours} {are} not read completely, and may hold more failures."


def left_out_text(groups: int, forgotten: int) -> str:
    """Returns what the table does not list; empty if it lists everything."""
    parts = []
    if groups:
        parts.append(f"{counted_text(groups, 'more group')} not shown; `faillog-otel failures` lists them.")
    if forgotten:
        parts.append(f"{counted_text(forgotten, 'message')} forgotten, because more failed than are kept.")
    return " ".join(parts)


def counted_text(number: int, what: str) -> str:
    """Returns `1 message`, `12,345 messages`."""
    return counted(number, what).replace(str(number), f"{number:,}", 1)


def _answer(row: Row, failures: Failures) -> Answer:
    group = row.group
    attempts = counted_text(group.attempts, "attempt")
    how_many = (
        f"{messages_text(group.messages)} {attempts} failed, in {counted_text(group.requests, 'request')}."
    )
    ago = (ns_of(failures.generated_at) - ns_of(group.last_seen)) / 1e9
    since = (
        f"Since {_minute(group.first_seen)}; last seen {_minute(group.last_seen)} ({duration_text(ago)} ago)."
    )
    retried = {True: "Segment retries.", False: "Segment does not retry.", None: ""}[group.retryable]
    return Answer(row, since, how_many, retried)


def _changes(groups: Sequence[Group]) -> set[tuple[str, str]]:
    """Returns time and text of the changes that the worst groups followed."""
    found = [change for group in groups if (change := group.after_change)]
    return {
        (each.at, f"{each.kind}, {each.resource_name}" if each.resource_name else each.kind)
        for each in found[:MAX_CHANGES]
    }


def _bars_text(bars: Bars) -> str:
    hours = "hour" if bars.hours == 1 else f"{bars.hours} hours"
    what = f"A bar is {'an hour' if bars.hours == 1 else hours}"
    return f"{what}; the highest begins at {bars.peak} and counts {bars.highest:,}."


def _facts(status: Status) -> list[tuple[str, str]]:
    """Returns lag, quota, and what is waiting or lost, as label and text. No path and no host."""
    facts = [
        (f"newest hour {what}", f"{_minute(newest.hour)}, {duration_text(newest.seconds)} behind")
        for what, newest in (("read", status.lag.read), ("sent", status.lag.sent))
        if newest
    ]
    quota = status.quota
    facts.append(
        ("requests left", f"{quota.left} of {quota.per_day} a day; {quota.used} used in the last 24 h")
    )
    if quota.waits:
        facts.append(("paused", f"until {_minute(quota.waits.until)}: {quota.waits.why}"))
    facts += [
        ("refused", f"{name}: Segment refused it; next request at {_minute(until)}")
        for name, until in status.refused.items()
    ]
    facts.append(("records", f"{status.records.exported:,} of {status.records.records:,} exported"))
    if status.quarantine:
        facts.append(("quarantine", ", ".join(f"{n:,} {reason}" for reason, n in status.quarantine.items())))
    if waiting := status.objects.to_download + status.objects.to_forward:
        facts.append(("waiting", counted_text(waiting, "object")))
    if status.lost:
        facts.append(("lost", f"{counted_text(status.lost, 'object')} deleted by Segment, never downloaded"))
    if status.missed_per_day:
        hours, many = next(iter(status.missed_per_day.values())), len(status.missed_per_day)
        missed = f"the quota is too small for {counted(many, 'collection')}"
        facts.append(("missed", f"{missed}: {hours:.1f} of 24 hours a day each"))
    return facts


def _minute(text: str) -> str:
    """Returns an RFC 3339 time to the minute: `2025-05-07 23:14`."""
    return minute_text(ns_of(text))
