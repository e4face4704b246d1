"""The charts of the page as data: which path an SVG draws, and the words that say the same.

Pure arithmetic over counts by hour. A chart has few buckets, whatever its window is.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from faillog_otel.clock import HOUR_NS, hour_of, parse_rfc3339, time_text
from faillog_otel.reports.completeness import sentence
from faillog_otel.reports.status import Coverage, State
from faillog_otel.reports.text import MEANINGS
from faillog_otel.text import counted

SPARK_BUCKETS = 48
SPARK_WIDTH, SPARK_HEIGHT = 96, 20
MAX_BARS = 84
BAR_WIDTH, CHART_HEIGHT = 10, 200
"""Of the viewBox of the stacked bars: the page stretches it."""
MAX_SERIES = 6
"""Destinations with a colour of their own; the others share one."""
OTHERS = "other destinations"
_WIDTHS = (1, 2, 3, 4, 6, 12, 24)
"""Hours of a bar: they divide a day."""


class Buckets(Struct, frozen=True):
    """Equal parts of a window. `start` is an hour since 1970, `hours` the length of one part."""

    start: int
    hours: int
    number: int

    def of(self, hour: int) -> int:
        """Returns the part of an hour; hours outside the window count for the first or the last."""
        return min(max(hour - self.start, 0) // self.hours, self.number - 1)

    def begin(self, part: int) -> str:
        """Returns when a part begins: `2025-05-07 23:00`."""
        return minute_text((self.start + part * self.hours) * HOUR_NS)


def buckets(since: str, until: str, max_number: int) -> Buckets:
    """Returns the parts of the window, at most `max_number`. Bars begin with a whole day or a part of it."""
    first, last = hour_of(ns_of(since)), hour_of(max(ns_of(until) - 1, ns_of(since)))
    days = 1
    while True:
        for hours in (*_WIDTHS, 24 * days):
            start = first - first % min(hours, 24)
            number = (last - start) // hours + 1
            if number <= max_number:
                return Buckets(start, hours, number)
        days += 1


def ns_of(text: str) -> int:
    """Returns the time of a text that this program wrote."""
    ns = parse_rfc3339(text)
    if ns is None:
        raise ValueError(f"{text}: not RFC 3339")
    return ns


def minute_text(ns: int) -> str:
    """Returns a time for people, to the minute: `2025-05-07 23:14`."""
    return time_text(ns)[:16].replace("T", " ")


class Spark(Struct, frozen=True):
    """A small chart of one group, and what it says."""

    path: str
    label: str


def sparkline(by_hour: Mapping[str, int], within: Buckets) -> Spark:
    """Returns the chart of counts by hour. A count is at least a pixel high."""
    counts = _sums(by_hour, within)
    highest = max(counts.values(), default=0)
    if not highest:
        return Spark("", "no count by hour")
    step = SPARK_WIDTH // within.number or 1
    path, y = f"M0 {SPARK_HEIGHT}", SPARK_HEIGHT
    for part in range(within.number):
        count = counts[part]
        height = max(1, round(count / highest * SPARK_HEIGHT)) if count else 0
        if SPARK_HEIGHT - height != y:
            y = SPARK_HEIGHT - height
            path += f"V{y}"
        path += f"h{step}"
    peak = max(counts, key=lambda part: (counts[part], part))
    return Spark(f"{path}V{SPARK_HEIGHT}z", f"most from {within.begin(peak)}: {highest:,}")


class Series(Struct, frozen=True):
    """The bars of one destination."""

    name: str
    number: int
    """Of its colour; that of `OTHERS` is 0."""
    total: int
    path: str


class Mark(Struct, frozen=True):
    """A change of the workspace that failures followed."""

    x: float
    """On the chart; see `Bars.width`."""
    at: str
    text: str


class Bars(Struct, frozen=True):
    """Stacked bars over the window."""

    width: int
    height: int
    hours: int
    """Of one bar."""
    highest: int
    peak: str
    """When the highest bar begins."""
    ticks: list[str]
    """Times below the chart, at equal distances."""
    series: list[Series]
    rows: list[tuple[str, list[int]]]
    """The same as a table: when each bar begins that is not empty, and the count of each series."""
    marks: list[Mark]
    """In the order of time."""


def stacked_bars(
    by_destination: Sequence[tuple[str, Mapping[str, int]]],
    since: str,
    until: str,
    changes: Iterable[tuple[str, str]] = (),
) -> Bars | None:
    """Returns the bars of (destination, hour → count), which may repeat a destination; None if all are 0.

    `changes`: time and text of marks. One that is up to an hour before the first bar is marked where that
    begins; others outside the window have no mark.
    """
    within = buckets(since, until, MAX_BARS)
    counts: dict[str, Counter[int]] = {}
    for name, by_hour in by_destination:
        counts.setdefault(name, Counter()).update(_sums(by_hour, within))
    ranked = sorted(filter(counts.get, counts), key=lambda name: -counts[name].total())
    shown = {name: counts[name] for name in ranked[:MAX_SERIES]}
    if rest := ranked[MAX_SERIES:]:
        shown[OTHERS] = sum((counts[name] for name in rest), Counter())
    heights = sum(shown.values(), Counter())
    if not heights:
        return None
    highest = max(heights.values())
    tops: Counter[int] = Counter()
    series = []
    for number, (name, each) in enumerate(shown.items(), 1):
        path = ""
        for part in sorted(each):
            low, tops[part] = tops[part], tops[part] + each[part]
            bottom, top = (CHART_HEIGHT * (1 - level / highest) for level in (low, tops[part]))
            path += f"M{part * BAR_WIDTH + 1} {bottom:.4g}V{top:.4g}h{BAR_WIDTH - 2}V{bottom:.4g}z"
        series.append(Series(name, number if number <= MAX_SERIES else 0, each.total(), path))
    return Bars(
        width=within.number * BAR_WIDTH,
        height=CHART_HEIGHT,
        hours=within.hours,
        highest=highest,
        peak=within.begin(min(heights, key=lambda part: (-heights[part], part))),
        ticks=[
            minute_text((within.start * 4 + within.number * within.hours * quarter) * HOUR_NS // 4)
            for quarter in range(5)
        ],
        series=series,
        rows=[(within.begin(part), [each[part] for each in shown.values()]) for part in sorted(heights)],
        marks=[*_marks(changes, within)],
    )


def _marks(changes: Iterable[tuple[str, str]], within: Buckets) -> Iterator[Mark]:
    for at, text in sorted({*changes}):
        hours = ns_of(at) / HOUR_NS - within.start
        if -1 <= hours <= within.number * within.hours:
            yield Mark(round(max(hours, 0.0) / within.hours * BAR_WIDTH, 1), at, text)


class Tried(Struct, frozen=True):
    """How many messages succeeded with this attempt. `width` is in percent of the longest bar."""

    attempt: int
    messages: int
    width: int


def tried(attempts: dict[int, int]) -> list[Tried]:
    """Returns the histogram as bars."""
    most = max(attempts.values(), default=0) or 1
    return [
        Tried(attempt, messages, max(1, round(messages / most * 100)))
        for attempt, messages in sorted(attempts.items())
        if messages
    ]


class Calendar(Struct, frozen=True):
    """The hours of one collection."""

    name: str
    is_polled: bool
    days: list[tuple[str, str, list[tuple[State | None, str]]]]
    """Day; its hours in words; runs of hours in one state (None: not wanted), each with its marks."""
    legend: list[tuple[State, str, int, str]]
    """State, mark, number of hours, meaning."""
    failed: list[str]
    completeness: str = ""
    """A sentence; empty if Segment's counts were not read."""


def calendar(name: str, coverage: Coverage, marks: dict[State, str]) -> Calendar:
    """Returns the calendar of `status` as runs of equal hours."""
    states = {mark: state for state, mark in marks.items()}
    days = []
    for day, hours in coverage.days.items():
        counts = Counter(state for mark in hours if (state := states.get(mark)))
        words = ", ".join(f"{count} {state}" for state, count in counts.items())
        runs: list[tuple[State | None, str]] = []
        for mark in hours:
            state = states.get(mark)
            if runs and runs[-1][0] == state:
                runs[-1] = (state, runs[-1][1] + mark)
            else:
                runs.append((state, mark))
        days.append((day, words, runs))
    failed = [
        f"{minute_text(ns_of(each.hour))}: {each.why} ({counted(each.times, 'attempt')})"
        for each in coverage.failed[-3:]
    ]
    legend = [
        (state, marks[state], number, MEANINGS[state]) for state, number in coverage.hours.items() if number
    ]
    complete = f"{sentence(coverage.completeness)}." if coverage.completeness else ""
    return Calendar(name, coverage.polled, days, legend, failed, complete)


def _sums(by_hour: Mapping[str, int], within: Buckets) -> Counter[int]:
    sums: Counter[int] = Counter()
    for hour, count in by_hour.items():
        sums[within.of(hour_of(ns_of(hour)))] += count
    return +sums
