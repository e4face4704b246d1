"""What the campaign found, as tables in Markdown."""

from collections.abc import Sequence

from campaign.parts import Table

HEAD = """\
| part | cases | lost | invented | changed | otherwise wrong | minutes | command |
|---|--:|--:|--:|--:|--:|--:|---|"""


def markdown(tables: Sequence[Table]) -> str:
    """A row for each part, then the figures of each."""
    rows = [
        f"| {each.title} | {each.cases} | {each.lost} | {each.invented} | {each.changed} | {each.other}"
        f" | {each.seconds / 60:.1f} | `{each.command}` |"
        for each in tables
    ]
    figures = [f"- {each.title}: {_figures(each)}" for each in tables if each.counts or each.peaks]
    return "\n".join([HEAD, *rows, "", *figures])


def _figures(table: Table) -> str:
    counts = [f"{count} {name}" for name, count in sorted(table.counts.items(), key=lambda each: -each[1])]
    peaks = [f"{name} {value:,.10g}" for name, value in table.peaks.items()]
    return "; ".join([", ".join(counts)] * bool(counts) + peaks)
