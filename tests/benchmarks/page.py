"""Puts the figures of a benchmark into the documentation: `python -m benchmarks.page build/bench/bench.json`.

Copies the file to `figures.json`, rewrites what lies between `<!-- figures: NAME -->` and
`<!-- end of figures -->` in README.md and docs/performance.md, and draws docs/benchmark.svg. Without a file
it uses the figures that are there. Run it with `PYTHONPATH=tests`.
"""

import re
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.picture import picture
from benchmarks.ratios import median_ratio
from benchmarks.results import MAX_LOAD, MIB, Results, ShapeResult, bars, read

ROOT = Path(__file__).parents[2]
FIGURES = Path(__file__).with_name("figures.json")
PICTURE = ROOT / "docs" / "benchmark.svg"
PAGES = (ROOT / "README.md", ROOT / "docs" / "performance.md")
_WIDTH = 110
_BLOCK = re.compile(
    r"(?P<before><!-- figures: (?P<name>\w+) -->\n)(?:(?!<!-- ).)*(?P<after><!-- end of figures -->)",
    re.DOTALL,
)


def updated(page: str, results: Results) -> str:
    """Returns a page with its blocks as the figures give them. Raises KeyError for an unknown block."""
    return _BLOCK.sub(
        lambda found: f"{found['before']}\n{_BLOCKS[found['name']](results)}\n{found['after']}", page
    )


def _summary(results: Results) -> str:
    worst, best, routes = results.shapes[0], results.shapes[-1], _routes(results)
    return _paragraph(
        f"`faillog-otel` is slower than the OpenTelemetry Collector: on a file with 400 routes, one worker"
        f" forwards {routes.one_to_collector:.2f} times as many events per second, and two workers"
        f" {routes.two_to_collector:.2f} times as many. The Collector sends one log record per event, with"
        f" nothing redacted. `faillog-otel` sends a redacted log record, and for each attempt and exchange a"
        f" span with links. Counted by record sent, one worker takes {routes.one.cpu_us_per_record:.0f} µs of"
        f" CPU, and the Collector {routes.collector.cpu_us_per_record:.0f} µs."
        f"\n\nThe speed depends on the file. In the worst case ({worst.about}) one worker forwards"
        f" {_speed(worst)}; in the best ({best.about}) {_speed(best)}."
    )


def _speed(shape: ShapeResult) -> str:
    events, cpu_us = shape.one.events_per_second, shape.one.cpu_us_per_event
    return f"{_thousand(events)} events per second, with {cpu_us:.0f} µs of CPU per event"


def _routes(results: Results) -> ShapeResult:
    if results.routes is None:
        raise ValueError("the file with 400 routes was not measured")
    return results.routes


def _machine(results: Results) -> str:
    machine, rounds = results.machine, len(results.shapes[0].one.seconds)
    return _paragraph(
        f"Measured on {machine.date} on {machine.cores} cores ({machine.processor}, Python {machine.python})."
        f" The programs take turns; the figures are medians of {rounds} round{'s' if rounds > 1 else ''}, and"
        f" each ratio is formed within a round."
        + (
            f" Other programs were running: load average {machine.load:.0f}."
            if machine.load > MAX_LOAD
            else ""
        )
    )


def _shapes(results: Results) -> str:
    return _table(
        f"{results.shapes[0].events:,} events | events/s: 1 worker (to the Collector) | 2 workers | Collector"
        " | CPU µs per event | per record | Collector, per event and record | peak MiB",
        (
            (
                each.about,
                f"{_thousand(each.one.events_per_second)} ({each.one_to_collector:.2f})",
                f"{_thousand(each.two.events_per_second)} ({each.two_to_collector:.2f})",
                _thousand(each.collector.events_per_second),
                f"{each.one.cpu_us_per_event:.1f}",
                f"{each.one.cpu_us_per_record:.1f}",
                f"{each.collector.cpu_us_per_event:.1f}",
                f"{each.peak_bytes / MIB:.0f}",
            )
            for each in results.shapes
        ),
    )


def _contest(results: Results) -> str:
    return _table(
        f"400 routes, {results.events:,} events | events/s | to the first | CPU µs per event | per record"
        " | peak MiB",
        (
            (
                each.title + (f": {1 - each.delivered:.0%} lost" if each.delivered < 1 else ""),
                _thousand(each.events_per_second),
                f"{median_ratio(results.scores[0].seconds, each.seconds):.2f}",
                f"{each.cpu_us_per_event:.1f}",
                f"{each.cpu_us_per_record:.1f}",
                f"{each.peak_bytes / MIB:.0f}",
            )
            for each in results.scores
        ),
    )


def _lengths(results: Results) -> str:
    return _table(
        "Events, 400 routes | MiB of the file | µs per event | to the shortest | CPU µs per event | peak MiB",
        (
            (
                f"{each.events:,}",
                f"{each.file_bytes / MIB:,.0f}",
                f"{each.us_per_event:.1f}",
                f"{each.to_shortest:.2f}",
                f"{each.cpu_us_per_event:.1f}",
                f"{each.peak_bytes / MIB:.0f}",
            )
            for each in results.lengths
        ),
    )


def _targets(results: Results) -> str:
    rows = ((bar.text, bar.shown, "yes" if bar.is_met else "**no**") for bar in bars(results))
    return _table("Target | measured | met", rows)


def _table(header: str, rows: Iterable[tuple[str, ...]]) -> str:
    """Returns a Markdown table; all columns but the first are aligned to the right."""
    columns = header.count("|")
    lines = [header.split(" | "), ["---", *["--:"] * columns], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _paragraph(text: str) -> str:
    return (
        "\n\n".join(textwrap.fill(each, _WIDTH, break_on_hyphens=False) for each in text.split("\n\n")) + "\n"
    )


def _thousand(number: float) -> str:
    """Returns a number to the hundred: medians of few rounds are no more exact."""
    return f"{round(number, -2):,.0f}"


_BLOCKS: dict[str, Callable[[Results], str]] = {
    "summary": _summary,
    "machine": _machine,
    "shapes": _shapes,
    "contest": _contest,
    "lengths": _lengths,
    "targets": _targets,
}


def main() -> None:
    if len(sys.argv) > 1:
        FIGURES.write_bytes(Path(sys.argv[1]).read_bytes())
    results = read(FIGURES)
    for page in PAGES:
        page.write_text(updated(page.read_text("utf-8"), results), "utf-8")
    PICTURE.write_text(picture(results), "utf-8")


if __name__ == "__main__":
    main()
