"""The README's picture of the page of failures, of made-up data: its top, in the light mode.

PYTHONPATH=tests python -m support.page_picture docs/report.png
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec.structs import replace

from faillog_otel.reports.page import page
from support.browser import window
from support.failures_page import realistic

WIDTH, HEIGHT = 1200, 1200
BELOW = 20
"""Pixels below the cards."""


def take(picture: Path) -> None:
    """Writes the picture."""
    with TemporaryDirectory() as folder, window() as browser:
        file = Path(folder, "report.html")
        file.write_text(page(replace(realistic(), shows_messages=False)), "utf-8")
        browser.set_viewport_size({"width": WIDTH, "height": HEIGHT})
        browser.goto(file.as_uri())
        cards = browser.locator(".cards").bounding_box()
        assert cards is not None
        height = round(cards["y"] + cards["height"]) + BELOW
        browser.screenshot(path=picture, clip={"x": 0, "y": 0, "width": WIDTH, "height": height})


if __name__ == "__main__":
    take(Path(sys.argv[1]))
