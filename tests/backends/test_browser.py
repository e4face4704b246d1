"""What a person sees of a failed delivery: the page of the application's trace, in a real browser.

The way there is that of test_trace_join.py, into otel-desktop-viewer, which carries its web pages with it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.backends import DesktopViewer, eventually
from support.browser import CHROMIUM, window
from support.collector import shipped
from support.instrumented_app import complete_order
from support.tracked_failures import ATTEMPTS, move_to_now, poll, segment_hours_ago

from faillog_otel.sandbox import Simulator

pytest.importorskip("playwright", reason="playwright is not installed: make e2e-backends installs it")

if TYPE_CHECKING:
    from playwright.sync_api import Page

NAMES = """
[mapping]
destination_names = { "5f7dd6d21ad74f3842b1fc47" = "Mixpanel" }
"""
DELIVERY = "deliver Mixpanel"


@pytest.fixture
def segment() -> Iterator[Simulator]:
    """Its hour is one file in the end, so that every attempt can say what its exchange was answered."""
    with segment_hours_ago("rewrite") as segment:
        yield segment


@pytest.fixture
def page() -> "Iterator[Page]":
    """An empty page of a browser."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium brings it")
    with window() as page:
        yield page


def test_a_person_sees_the_failed_deliveries_below_the_span_that_tracked(
    segment: Simulator,
    collector_program: Path,
    viewer: DesktopViewer,
    page: "Page",
    tmp_path: Path,
    screenshot: Path,
) -> None:
    """In red, by the destination's name; each says what was answered, and its link leads to the exchange."""
    from playwright.sync_api import expect

    (tmp_path / "faillog-otel.toml").write_text(NAMES, "utf-8")
    order = complete_order(viewer.otlp_endpoint, segment.url, segment.clock.now_ns())
    move_to_now(segment)
    with shipped(collector_program, "jaeger", tmp_path, JAEGER_ENDPOINT=viewer.otlp_endpoint) as collector:
        poll(segment, collector, tmp_path)
        assert eventually(lambda: viewer.spans() == 2 + 2 * ATTEMPTS)

    page.goto(viewer.page(order.trace_id))
    rows = page.locator("tr[data-span-id]")
    expect(rows).to_contain_text(["POST /orders", "complete order", *[DELIVERY] * ATTEMPTS])
    levels = [row.get_attribute("aria-level") for row in rows.all()]
    assert levels == ["1", "2", *["3"] * ATTEMPTS]
    expect(page.locator("tr.waterfall-row--error")).to_have_count(ATTEMPTS)

    page.get_by_label("Collapse sidebar").click()
    rows.get_by_title(DELIVERY).first.click()
    facts = page.get_by_role("table", name="Span fields")
    for fact in (
        f"name (string): {DELIVERY}",
        "status code (string): Error",
        "status message (string): HTTP 503",
        "http.response.status_code (int64): 503",
        "segment.delivery.attempt (int64): 1",
        f"messaging.message.id (string): {order.message_id}",
    ):
        expect(facts.get_by_text(fact, exact=True)).to_be_visible()
    page.screenshot(path=screenshot)

    page.get_by_role("tab", name="Links").click()
    link = page.get_by_role("table", name="Link ").first
    expect(link).to_contain_text("segment.link.type (string): exchange")
    link.get_by_role("link").first.click()
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("POST Mixpanel")
    page.get_by_role("tab", name="Fields").click()
    expect(facts.get_by_text("segment.event (string): segment.exchange", exact=True)).to_be_visible()
    expect(facts.get_by_text("http.response.status_code (int64): 503", exact=True)).to_be_visible()
