"""Gets names of destinations, sources and subscriptions from Segment's Public API, page by page.

The answers also hold credentials (`settings`, `writeKeys`). Only the fields of `_Item` are decoded; nothing
else of an answer is kept, and no error quotes it. These requests have a rate limit of their own, and cost
nothing of the listings' quota. (Segment's generated Public API SDKs.)
"""

from functools import partial
from urllib.parse import quote

from msgspec import UNSET, Struct, UnsetType

from faillog_otel.segment.answers import (
    CHECK_URL,
    ApiAnswer,
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

PAGE_NAMES = 1000
"""Names in a page, the most that Segment allows."""
MAX_NAME_CHARS = 200
MAX_ID_CHARS = 200
"""Items with a longer id are left out: an id must not be truncated."""
MAX_CURSOR_CHARS = 2048
STABLE, ALPHA = "application/vnd.segment.v1+json", "application/vnd.segment.v1alpha+json"

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
    query = {"pagination.count": str(PAGE_NAMES)}
    if page.cursor:
        query["pagination.cursor"] = page.cursor
    return segment.get(
        f"/destinations/{quote(page.parent, safe='')}/{plural}" if page.parent else f"/{plural}",
        Expected(partial(read_page, page.kind, parent=page.parent), NotFound, quotes_errors=False),
        now_ns,
        query=query,
        media_type=ALPHA if page.kind == "subscription" else STABLE,
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


class _Pagination(Struct):
    next: str | None = None


_Items = list[_Item | None] | None | UnsetType


class _Data(Struct):
    destinations: _Items = UNSET
    sources: _Items = UNSET
    subscriptions: _Items = UNSET
    pagination: _Pagination | None = None


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
    cursor = (data.pagination.next if data.pagination else "") or ""
    found = [_name(kind, each, parent) for each in items or () if each is not None]
    names = tuple(each for each in found if each.id)
    return NamesPage(names, cursor if len(cursor) <= MAX_CURSOR_CHARS else "")


def _name(kind: NameKind, item: _Item, parent: str) -> Name:
    metadata = item.metadata or _Metadata()
    return Name(
        kind=kind,
        id=_id(item.id),
        name=_text(item.name),
        slug=_text(item.slug),
        enabled=item.enabled is not False,
        source=parent or _id(item.source_id),
        product=_text(metadata.name),
        product_slug=_text(metadata.slug),
    )


def _id(text: str | None) -> str:
    """Returns an id; empty if it is unusable."""
    return text if text and len(text) <= MAX_ID_CHARS and text.isprintable() else ""


def _text(text: str | None) -> str:
    """Returns a text without control characters, truncated."""
    shown = "".join(each for each in (text or "")[: 2 * MAX_NAME_CHARS] if each.isprintable())
    return shown[:MAX_NAME_CHARS].strip()
