"""Reads what Segment's Public API says of a workspace: names, connections, and who changed what.

Some answers also hold credentials (`settings`, `writeKeys`). Only the fields of the types here are decoded;
nothing else of an answer is kept, and no error quotes it. These requests have rate limits of their own, and
cost nothing of the listings' quota. A request is one page. (Segment's generated Public API SDKs.)
"""

from collections.abc import Callable, Mapping
from functools import partial
from urllib.parse import quote

from msgspec import UNSET, Struct, UnsetType

from faillog_otel.clock import parse_rfc3339, time_text
from faillog_otel.segment.answers import (
    CHECK_URL,
    ApiAnswer,
    Change,
    ChangesPage,
    Expected,
    Failed,
    Name,
    NameKind,
    NamesPage,
    NotFound,
    Outcome,
)
from faillog_otel.segment.api import SegmentApi
from faillog_otel.text import read_as

PAGE_ITEMS = 1000
"""Items in a page, the most that Segment allows."""
MAX_NAME_CHARS = 200
MAX_ID_CHARS = 200
"""Items with a longer id are left out: an id must not be truncated."""
MAX_CURSOR_CHARS = 2048
STABLE, BETA, ALPHA = (f"application/vnd.segment.v1{stage}+json" for stage in ("", "beta", "alpha"))


def get_list(
    segment: SegmentApi,
    path: str,
    read: Callable[[bytes], Outcome],
    now_ns: int,
    *,
    cursor: str,
    media_type: str,
    timeout_seconds: float,
    query: Mapping[str, str] | None = None,
) -> ApiAnswer:
    """Requests one page of a list."""
    pages = {"pagination.count": str(PAGE_ITEMS)} | ({"pagination.cursor": cursor} if cursor else {})
    return segment.get(
        path,
        Expected(read, NotFound, quotes_errors=False),
        now_ns,
        query={**(query or {}), **pages},
        media_type=media_type,
        timeout_seconds=timeout_seconds,
    )


class Pagination(Struct):
    """Where the next page begins."""

    next: str | None = None


def cursor_of(pagination: Pagination | None) -> str:
    """Returns the cursor of the next page; empty if there is none that can be sent."""
    cursor = (pagination.next if pagination else "") or ""
    return cursor if len(cursor) <= MAX_CURSOR_CHARS else ""


def _id(text: str | None) -> str:
    """Returns an id; empty if it is unusable."""
    return text if text and len(text) <= MAX_ID_CHARS and text.isprintable() else ""


def plain_text(text: str | None) -> str:
    """Returns a text without control characters, truncated."""
    shown = "".join(each for each in (text or "")[: 2 * MAX_NAME_CHARS] if each.isprintable())
    return shown[:MAX_NAME_CHARS].strip()


# -- names and connections ---

PLURALS: dict[NameKind, str] = {
    "destination": "destinations",
    "source": "sources",
    "subscription": "subscriptions",
}


class PageRequest(Struct, frozen=True):
    """One page of names."""

    kind: NameKind
    parent: str = ""
    """Of subscriptions: the id of their destination."""
    cursor: str = ""
    number: int = 1


def get_page(segment: SegmentApi, page: PageRequest, now_ns: int, timeout_seconds: float) -> ApiAnswer:
    """Requests a page; a success has a `NamesPage`."""
    plural = PLURALS[page.kind]
    return get_list(
        segment,
        f"/destinations/{quote(page.parent, safe='')}/{plural}" if page.parent else f"/{plural}",
        partial(read_page, page.kind, parent=page.parent),
        now_ns,
        cursor=page.cursor,
        media_type=ALPHA if page.kind == "subscription" else STABLE,
        timeout_seconds=timeout_seconds,
    )


def get_connections(
    segment: SegmentApi, source: str, now_ns: int, timeout_seconds: float, cursor: str = ""
) -> ApiAnswer:
    """Requests a page of the destinations that a source sends to; a success has a `NamesPage`.

    A destination's own `source` is only the first of the sources that send to it.
    """
    return get_list(
        segment,
        f"/sources/{quote(source, safe='')}/connected-destinations",
        partial(read_page, "destination"),
        now_ns,
        cursor=cursor,
        media_type=STABLE,
        timeout_seconds=timeout_seconds,
    )


class _Metadata(Struct):
    name: str | None = None
    slug: str | None = None


class _Item(Struct, rename="camel"):
    id: str | None = None
    name: str | None = None
    slug: str | None = None
    enabled: bool | None = None
    source_id: str | None = None
    metadata: _Metadata | None = None


_Items = list[_Item | None] | None | UnsetType


class _Data(Struct):
    destinations: _Items = UNSET
    sources: _Items = UNSET
    subscriptions: _Items = UNSET
    pagination: Pagination | None = None


class _Answer(Struct):
    data: _Data


def read_page(kind: NameKind, body: bytes, *, parent: str = "") -> Outcome:
    """Returns the names in an answer. The message of a failure says nothing of its content."""
    plural = PLURALS[kind]
    try:
        data = read_as(_Answer, body).data
        items: _Items = getattr(data, plural)
    except (ValueError, RecursionError):
        items = UNSET
    if items is UNSET:
        return Failed(f"the answer is not a list of {plural}; {CHECK_URL}")
    found = [_name(kind, each, parent) for each in items or () if each is not None]
    return NamesPage(tuple(each for each in found if each.id), cursor_of(data.pagination))


def _name(kind: NameKind, item: _Item, parent: str) -> Name:
    metadata = item.metadata or _Metadata()
    return Name(
        kind=kind,
        id=_id(item.id),
        name=plain_text(item.name),
        slug=plain_text(item.slug),
        enabled=item.enabled is not False,
        source=parent or _id(item.source_id),
        product=plain_text(metadata.name),
        product_slug=plain_text(metadata.slug),
    )


# -- changes: audit events ---


def get_changes(
    segment: SegmentApi,
    since_ns: int,
    until_ns: int,
    now_ns: int,
    *,
    timeout_seconds: float,
    cursor: str = "",
) -> ApiAnswer:
    """Requests a page of the audit events of the whole workspace; a success has a `ChangesPage`."""
    return get_list(
        segment,
        "/audit-events",
        read_changes,
        now_ns,
        cursor=cursor,
        media_type=STABLE,
        timeout_seconds=timeout_seconds,
        query={"startTime": time_text(since_ns), "endTime": time_text(until_ns)},
    )


class _Event(Struct, rename="camel"):
    id: str | None = None
    timestamp: str | None = None
    type: str | None = None
    actor: str | None = None
    actor_email: str | None = None
    resource_id: str | None = None
    resource_type: str | None = None
    resource_name: str | None = None


class _Events(Struct):
    events: list[_Event | None] | None
    pagination: Pagination | None = None


class _EventsAnswer(Struct):
    data: _Events


def read_changes(body: bytes) -> Outcome:
    """Returns the changes in an answer, without those that have no id or no time."""
    try:
        data = read_as(_EventsAnswer, body).data
    except (ValueError, RecursionError):
        return Failed(f"the answer is not a list of audit events; {CHECK_URL}")
    found = [_change(each) for each in data.events or () if each is not None]
    return ChangesPage(tuple(each for each in found if each.id and each.at_ns), cursor_of(data.pagination))


def _change(each: _Event) -> Change:
    return Change(
        id=_id(each.id),
        at_ns=parse_rfc3339(each.timestamp or "") or 0,
        kind=plain_text(each.type),
        resource_id=_id(each.resource_id),
        resource_type=plain_text(each.resource_type),
        resource_name=plain_text(each.resource_name),
        actor=plain_text(each.actor),
        actor_email=plain_text(each.actor_email),
    )
