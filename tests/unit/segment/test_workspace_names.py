"""A page of names: what is read of it, and that nothing else of it is."""

import json
from typing import Any

import pytest

from faillog_otel.segment.answers import Failed, Name, NamesPage
from faillog_otel.segment.workspace import MAX_NAME_CHARS, read_page

SECRET = "c4n4ry5Xq9ZtK2mW"  # noqa: S105  # made up


def page(*items: Any, **more: Any) -> NamesPage:
    found = read_page("destination", json.dumps({"data": {"destinations": items, **more}}).encode())
    assert isinstance(found, NamesPage)
    return found


def test_only_the_fields_that_are_shown_are_read() -> None:
    item = {
        "id": "d1",
        "name": "Mixpanel (prod)",
        "enabled": False,
        "sourceId": "s1",
        "settings": {"apiKey": SECRET, "name": SECRET, "nested": [{"id": SECRET}]},
        "metadata": {"name": "Mixpanel (Actions)", "slug": "actions-mixpanel", "options": [SECRET]},
        "writeKeys": [SECRET],
    }
    found = page(item, pagination={"current": "1", "next": "2"})
    name = Name(
        kind="destination",
        id="d1",
        name="Mixpanel (prod)",
        enabled=False,
        source="s1",
        product="Mixpanel (Actions)",
        product_slug="actions-mixpanel",
    )
    assert found == NamesPage((name,), "2")
    assert SECRET not in repr(found)


def test_a_destination_without_a_name_is_shown_with_its_product() -> None:
    [name] = page({"id": "d1", "metadata": {"name": "Mixpanel"}}).names
    assert name.shown == "Mixpanel"
    assert page({"id": "d1"}).names[0].shown == ""


def test_names_are_truncated_and_have_no_control_characters() -> None:
    [name] = page({"id": "d1", "name": "a\x1b[31m\u202eb\n" + "c" * 5000}).names
    assert name.name == "a[31mb" + "c" * (MAX_NAME_CHARS - 6)


@pytest.mark.parametrize("item", [{}, {"id": ""}, {"id": None}, {"id": "x" * 201}, {"id": "a\nb"}, None])
def test_an_item_without_a_usable_id_is_left_out(item: Any) -> None:
    assert page(item, {"id": "d2"}).names == (Name("destination", "d2", ""),)


def test_a_subscription_belongs_to_its_destination() -> None:
    body = b'{"data": {"subscriptions": [{"id": "u1", "name": "Orders", "destinationId": "x"}]}}'
    found = read_page("subscription", body, parent="d1")
    assert found == NamesPage((Name("subscription", "u1", "Orders", source="d1"),))


def test_null_means_no_names() -> None:
    """Go writes an empty list as null."""
    assert read_page("source", b'{"data": {"sources": null, "pagination": null}}') == NamesPage(())


@pytest.mark.parametrize(
    "body",
    [
        *("", "<html>", "[]", "{}", '{"data": null}', '{"data": {}}', '{"data": {"sources": []}}'),
        f'{{"data": {{"destinations": {{"settings": "{SECRET}"}}}}}}',
        f'{{"data": {{"destinations": [{{"id": "d1", "settings": {{"apiKey": "{SECRET}"',
        f'{{"data": {{"destinations": [{{"id": 1, "settings": {{"apiKey": "{SECRET}"}}}}]}}}}',
        f'{{"data": {{"destinations": ["{SECRET}"]}}}}',
        f'{{"data": {{"destinations": [{{"id": "d", "settings": {"[" * 5000}"{SECRET}"{"]" * 5000}}}]}}}}',
    ],
    ids=range(12),
)
def test_another_answer_is_a_failure_that_says_nothing_of_it(body: str) -> None:
    found = read_page("destination", body.encode())
    assert found == Failed(
        "the answer is not a list of destinations; check that --segment-url is Segment's API"
    )
