"""Chromium, as a person has it in front of them: Playwright drives it.

Playwright comes with `make .venv/browser`, the browser with the system. In CI both must be there.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from support.building import required

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
_QUIET = (
    "--no-sandbox",  # which Chromium cannot have as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",  # it calls nobody but the page under test
    "--disable-component-update",
    "--disable-sync",
)


def require_browser() -> None:
    """Skips the test if there is no browser, or in CI fails it."""
    here = Path(CHROMIUM) if CHROMIUM else None
    required(here, "there is no chromium: apt-get install chromium brings it")
    has_playwright = find_spec("playwright") is not None
    required(here if has_playwright else None, "playwright is not installed: make .venv/browser installs it")


@contextmanager
def browser() -> "Iterator[Browser]":
    """A browser that never ran before."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=_QUIET)
        try:
            yield chromium
        finally:
            chromium.close()


def new_page(chromium: "Browser") -> "Page":
    """A window with British dates in UTC."""
    return chromium.new_page(
        viewport={"width": 1280, "height": 780},
        locale="en-GB",
        timezone_id="UTC",
        color_scheme="light",
        reduced_motion="reduce",
    )


@contextmanager
def window() -> "Iterator[Page]":
    """A window of a new browser."""
    with browser() as chromium:
        yield new_page(chromium)
