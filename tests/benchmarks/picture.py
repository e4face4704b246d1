"""The shapes of files as a picture: bars for each shape, as SVG that reads on light and dark pages."""

from html import escape

from benchmarks.results import Results

_WIDTH, _RIGHT, _ROW, _GAP, _TOP, _BOTTOM = 800, 110, 16, 10, 58, 34
_LETTER = 7
"""The average width of a letter, at most."""
_ABOUT = "The Collector sends logs; faillog-otel redacted logs, spans and links. The worst shape comes first."
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
    """Returns SVG of the events per second for each shape; raises ValueError where there is no shape."""
    shapes = results.shapes
    if not shapes:
        raise ValueError("no shape was measured")
    height = _TOP + (3 * _ROW + _GAP) * len(shapes) + _BOTTOM
    left = 12 + _LETTER * max(len(each.about) for each in shapes) + 8
    scores = [score for each in shapes for score in (each.collector, each.two, each.one)]
    unit = (_WIDTH - left - _RIGHT) / max(each.events_per_second for each in scores)
    machine = results.machine
    about = (
        f"{shapes[0].events:,} events, medians of {len(shapes[0].one.seconds)} rounds;"
        f" {machine.cores} cores of {machine.processor}, Python {machine.python}; make bench"
    )
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="Events per second">',
        f"<style>{_STYLE}</style>",
        '<text class="title" x="12" y="24">Failure events per second, file to OTLP</text>',
        f'<text class="small" x="12" y="41">{_ABOUT}</text>',
    ]
    for row, each in enumerate(shapes):
        top = _TOP + row * (3 * _ROW + _GAP)
        parts.append(f'<text x="{left - 8}" y="{top + 28}" text-anchor="end">{escape(each.about)}</text>')
        for bar, (kind, title, score) in enumerate(
            (
                ("other", "Collector", each.collector),
                ("own", "2 workers", each.two),
                ("own", "1 worker", each.one),
            )
        ):
            y, length = top + bar * _ROW, score.events_per_second * unit
            text = f"{score.events_per_second:,.0f} {title}"
            parts += [
                f'<rect class="{kind}" x="{left}" y="{y}" width="{length:.1f}" height="{_ROW - 3}" rx="2"/>',
                f'<text class="small" x="{left + length + 6:.1f}" y="{y + 11}">{text}</text>',
            ]
    parts.append(f'<text class="small" x="12" y="{height - 12}">{escape(about)}</text>')
    return "\n".join([*parts, "</svg>", ""])
