"""The page in a real Chromium: it loads from the disk, asks for nothing, and can be read by everybody."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from msgspec.structs import replace
from support.browser import browser, new_page, require_browser
from support.failures_page import HOSTILE, failures, hostile, many, realistic, status
from support.tiers import slow

from faillog_otel.reports.page import MAX_BYTES, MAX_GROUPS, PageData, page
from faillog_otel.telemetry.health import HealthServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

A4_WIDTH = 703
"""Pixels between margins of 12 mm."""
PHONE_WIDTH = 360
WIDER_THAN_THE_WINDOW = """
[...document.querySelectorAll("main *, header *")].filter(each =>
  each.getBoundingClientRect().right > document.documentElement.clientWidth + 1
  && !each.closest(".vh, .groups thead, details .scroll")
).map(each => each.outerHTML.slice(0, 100))
"""
PLACE = "[...document.querySelectorAll('*')].indexOf(document.activeElement)"
SERIOUS = ["serious", "critical"]


@pytest.fixture(scope="module")
def chromium() -> "Iterator[Browser]":
    """One browser for all tests: it takes a second to start."""
    require_browser()
    with browser() as chromium:
        yield chromium


class Seen:
    """A loaded page: what the browser asked for, and what it complained about."""

    def __init__(self, window: "Page", address: str) -> None:
        self.window = window
        self.requests: list[str] = []
        self.complaints: list[str] = []
        window.on("request", lambda request: self.requests.append(request.url))
        window.on("console", lambda message: self.complaints.append(message.text))
        window.on("pageerror", lambda error: self.complaints.append(str(error)))
        window.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        window.goto(address)

    def groups(self) -> list[str]:
        """The ids of the groups in the table."""
        rows = self.window.locator("tr[id^=g]").all()
        return [str(row.get_attribute("id"))[1:] for row in rows]

    def problems(self, axe: Path) -> list[str]:
        """What axe-core calls serious or critical: rule, and where."""
        self.window.evaluate(axe.read_text("utf-8"))
        found: Any = self.window.evaluate("axe.run({resultTypes: ['violations']})")
        return [
            f"{each['id']}: {node['html'][:200]}"
            for each in found["violations"]
            if each["impact"] in SERIOUS
            for node in each["nodes"]
        ]


@pytest.fixture
def opened(chromium: "Browser", tmp_path: Path) -> "Iterator[Callable[[PageData], Seen]]":
    """Opens the page of some data from the disk."""
    window = new_page(chromium)

    def open_(data: PageData) -> Seen:
        file = tmp_path / "report.html"
        file.write_text(page(data), "utf-8")
        return Seen(window, file.as_uri())

    yield open_
    window.close()


@pytest.fixture(scope="session")
def axe(node_modules: Path) -> Path:
    """The checks of accessibility."""
    return node_modules / "axe-core" / "axe.min.js"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_from_the_disk_and_everybody_can_read_it(
    opened: Callable[[PageData], Seen], axe: Path, scheme: Literal["light", "dark"], tmp_path: Path
) -> None:
    data = realistic()
    seen = opened(data)
    seen.window.emulate_media(color_scheme=scheme)
    assert seen.groups() == [each.group for each in data.failures.groups]
    assert all(row.is_visible() for row in seen.window.locator("tr[id^=g]").all())
    seen.window.locator("details").evaluate_all("all => all.forEach(each => each.open = true)")
    assert seen.problems(axe) == []
    assert seen.requests == [(tmp_path / "report.html").as_uri()]
    assert seen.complaints == []


def test_a_run_serves_the_same_page(chromium: "Browser", axe: Path) -> None:
    """Its headers have a policy, too, and let the browser load it again; the page says how to stop that."""
    data = replace(realistic(), is_live=True)
    with HealthServer("127.0.0.1", 0, alive=dict, ready=dict, page=lambda: page(data)) as server:
        window, url = new_page(chromium), f"http://127.0.0.1:{server.port}/"
        seen = Seen(window, url)
        assert seen.problems(axe) == []
        assert seen.requests == [url]
        assert window.locator(".cards").evaluate("e => getComputedStyle(e).display") == "grid"
        window.get_by_role("link", name="stop that").click()
        window.wait_for_url(f"{url}?still")
        assert len(seen.groups()) == len(data.failures.groups)
        assert seen.complaints == []
        window.close()


def test_an_empty_window_is_a_whole_page(opened: Callable[[PageData], Seen], axe: Path) -> None:
    seen = opened(PageData(failures=failures(), version="1", status=status()))
    assert seen.window.get_by_role("heading", level=1).inner_text() == "Nothing failed in this window"
    assert (seen.problems(axe), seen.complaints) == ([], [])


def test_hostile_names_and_reasons_are_text(opened: Callable[[PageData], Seen], tmp_path: Path) -> None:
    seen = opened(PageData(failures=failures(*hostile()), version="1", shows_messages=True))
    assert len(seen.groups()) == len(HOSTILE)
    text = seen.window.locator("table.groups").inner_text()
    assert [each for each in HOSTILE if each.isprintable() and each not in text] == []
    assert r"\u202egnp.exe\u2066" in text
    assert seen.window.title() == "No message lost - faillog-otel"
    assert seen.window.locator("script, img, iframe").count() == 0
    links = seen.window.locator("main a").evaluate_all("all => all.map(each => each.protocol)")
    assert set(links) == {"https:"}
    assert seen.requests == [(tmp_path / "report.html").as_uri()]
    assert seen.complaints == []


def test_a_page_runs_no_script_even_if_one_gets_in(opened: Callable[[PageData], Seen]) -> None:
    """The policy forbids it: escaping is not the only wall."""
    seen = opened(realistic())
    seen.window.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "document.title = 'taken'";
          document.body.append(script);
          const image = document.createElement("img");
          image.src = "https://attacker.example/x";
          document.body.append(image);
        }"""
    )
    assert "taken" not in seen.window.title()
    assert len([each for each in seen.complaints if "Content Security Policy" in each]) == 2


@pytest.mark.parametrize("width", [PHONE_WIDTH, 768, 1100])
def test_a_narrow_window_shows_everything_without_scrolling_sideways(
    opened: Callable[[PageData], Seen], width: int
) -> None:
    texts = [each for each in hostile() if each.reason]
    seen = opened(
        PageData(failures=failures(*realistic().failures.groups, *texts), version="1", status=status())
    )
    seen.window.set_viewport_size({"width": width, "height": 800})
    assert seen.window.evaluate(WIDER_THAN_THE_WINDOW) == []
    assert seen.window.locator("tr[id^=g] td.do").first.is_visible()


def test_paper_cuts_nothing_off(opened: Callable[[PageData], Seen]) -> None:
    data = realistic()
    seen = opened(
        PageData(failures=failures(*data.failures.groups, *hostile()), version="1", status=status())
    )
    seen.window.set_viewport_size({"width": A4_WIDTH, "height": 1000})
    seen.window.emulate_media(media="print", color_scheme="dark")
    assert seen.window.evaluate(WIDER_THAN_THE_WINDOW) == []
    assert seen.window.locator("body").evaluate("e => getComputedStyle(e.parentElement).backgroundColor") == (
        "rgb(255, 255, 255)"
    )
    assert seen.window.locator("table.groups thead").is_visible()
    sheets = re.findall(rb"/Type\s*/Page\b", seen.window.pdf(format="A4"))
    assert 2 <= len(sheets) <= 6


def test_the_keyboard_reaches_every_link_and_shows_where_it_is(opened: Callable[[PageData], Seen]) -> None:
    seen = opened(realistic())
    wanted = seen.window.locator("a, summary, .scroll:not(details *)").count()
    reached = set()
    for _ in range(wanted):
        seen.window.keyboard.press("Tab")
        outline = seen.window.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        reached.add(seen.window.evaluate(PLACE))
    assert len(reached) == wanted


@slow
def test_five_hundred_groups_are_there_below_a_mebibyte(
    opened: Callable[[PageData], Seen], tmp_path: Path
) -> None:
    data = PageData(failures=many(MAX_GROUPS), version="1", status=status(), shows_messages=True)
    seen = opened(data)
    assert seen.groups() == [each.group for each in data.failures.groups]
    assert (tmp_path / "report.html").stat().st_size <= MAX_BYTES
    assert seen.complaints == []
