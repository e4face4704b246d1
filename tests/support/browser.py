"""Debian's Chromium, as a person has it in front of them: Playwright drives it.

Playwright and the browser come with `make e2e-backends` or the system, not with the other tests.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium")
_QUIET = (
    "--no-sandbox",  # which Chromium cannot have as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",  # it calls nobody but the page under test
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def window() -> "Iterator[Page]":
    """A window of a browser that never ran before, with British dates in UTC."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=_QUIET)
        try:
            yield chromium.new_page(
                viewport={"width": 1280, "height": 780},
                locale="en-GB",
                timezone_id="UTC",
                color_scheme="light",
                reduced_motion="reduce",
            )
        finally:
            chromium.close()
