"""The contest as a picture: a bar for each contestant, as SVG that reads on light and dark pages."""

from html import escape

from benchmarks.contestants import PROGRAM_TITLE
from benchmarks.results import Results

_WIDTH, _RIGHT, _ROW, _TOP, _BOTTOM = 800, 80, 30, 52, 34
_LETTER = 7
"""How wide one is at the most, on average."""
_WHAT = "The Collector sends logs only; the others logs, spans and links."
_STYLE = """
    text { font: 13px system-ui, sans-serif; fill: #1f2328 }
    .title { font-size: 15px; font-weight: 600 }
    .small { font-size: 11px; fill: #59636e }
    .own { fill: #2f6fdb } .other { fill: #9aa4ae }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 } .small { fill: #9198a1 } .own { fill: #5b93f5 } .other { fill: #656c76 }
    }
"""


def picture(results: Results) -> str:
    """SVG of the contestants' events a second; raises ValueError where none took part."""
    scores = results.scores
    if not scores:
        raise ValueError("nobody took part")
    height = _TOP + _ROW * len(scores) + _BOTTOM
    left = 12 + _LETTER * max(len(each.title) for each in scores) + 8
    unit = (_WIDTH - left - _RIGHT) / max(each.events_per_second for each in scores)
    machine = results.machine
    about = (
        f"{results.events:,} events, medians of {len(scores[0].seconds)} rounds; {machine.cores} cores of"
        f" {machine.processor}, Python {machine.python}; make bench"
    )
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="Events a second">',
        f"<style>{_STYLE}</style>",
        '<text class="title" x="12" y="24">Failure events a second, file to OTLP</text>',
        f'<text class="small" x="12" y="41">{_WHAT}</text>',
    ]
    for row, each in enumerate(scores):
        y, length = _TOP + row * _ROW, each.events_per_second * unit
        kind = "own" if each.title.startswith(PROGRAM_TITLE) else "other"
        dropped = f", {1 - each.delivered:.0%} lost" if each.delivered < 1 else ""
        parts += [
            f'<text x="{left - 8}" y="{y + 18}" text-anchor="end">{escape(each.title)}</text>',
            f'<rect class="{kind}" x="{left}" y="{y + 4}" width="{length:.1f}" height="20" rx="2"/>',
            f'<text x="{left + length + 6:.1f}" y="{y + 18}">{each.events_per_second:,.0f}{dropped}</text>',
        ]
    parts.append(f'<text class="small" x="12" y="{height - 12}">{escape(about)}</text>')
    return "\n".join([*parts, "</svg>", ""])
