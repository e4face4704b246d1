"""Answers of Segment's Public API: what status, headers and body of each mean.

(Segment's pages "Failure Log Collection" and "Rate Limits", its generated Public API SDKs.)
"""

import re
from collections.abc import Callable, Mapping
from typing import Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from faillog_otel.clock import DAY_NS, SECOND_NS, date_ns, retry_after
from faillog_otel.segment.quota import RateLimit
from faillog_otel.text import peer_text, read_as

MAX_URLS = 10_000
MAX_URL_CHARS = 8192
"""Servers refuse longer URLs: RFC 9110, section 4.1, recommends at least 8,000 bytes."""
MAX_PAUSE_NS = DAY_NS
MAX_COUNT_DIGITS = 9
MIN_EPOCH_SECONDS = 1e9
"""A larger X-RateLimit-Reset counts from 1970, a smaller one from now."""


class Success(Struct, frozen=True):
    """What a request asked for."""


class Listing(Success, frozen=True):
    """The presigned URLs of an hour's objects, possibly none."""

    urls: tuple[str, ...]


NameKind = Literal["destination", "source", "subscription"]


class Name(Struct, frozen=True, gc=False):
    """What people see of a destination, a source or a subscription, the mapping of an Actions destination."""

    kind: NameKind
    id: str
    name: str
    """The instance's own, such as Mixpanel (prod); empty if it has none."""
    slug: str = ""
    enabled: bool = True
    source: str = ""
    """Of a destination: the id of its source; of a subscription: the id of its destination."""
    product: str = ""
    """The name of the integration, such as Mixpanel (Actions)."""
    product_slug: str = ""

    @property
    def shown(self) -> str:
        """The name to show: its own, or else the product's; empty if it has neither."""
        return self.name or self.product


class NamesPage(Success, frozen=True):
    """A page of names, and the cursor of the next page; empty after the last one."""

    names: tuple[Name, ...]
    cursor: str = ""


class Change(Struct, frozen=True, gc=False):
    """One audit event: who changed what."""

    id: str
    at_ns: int
    kind: str
    """Such as `Destination Modified`."""
    resource_id: str
    resource_type: str
    resource_name: str
    actor: str
    """Id of the user or token."""
    actor_email: str
    """Personal data: shown only if a person asks for it."""


class ChangesPage(Success, frozen=True):
    """A page of changes, and the cursor of the next page; empty after the last one."""

    changes: tuple[Change, ...]
    cursor: str = ""


class RateLimited(Struct, frozen=True):
    """429: the request was not counted; no request is allowed before the time in the answer."""

    why: str


class FormRejected(Struct, frozen=True):
    """400, 415 or 422: the other form can succeed."""

    why: str


class Denied(Struct, frozen=True):
    """401 or 403: the token does not allow this request; with `is_token_wrong`, none at all."""

    why: str
    is_token_wrong: bool = False


class UnknownCollection(Struct, frozen=True):
    """404: the collection does not exist."""

    why: str


class NotFound(Struct, frozen=True):
    """404 for what is not a listing: the workspace does not have it, or the token may not see it."""

    why: str


class Failed(Struct, frozen=True):
    """No answer, or an unusable one; a later request can succeed."""

    why: str
    is_permanent: bool = False
    """No request can succeed before a setting changes."""


Outcome = Success | RateLimited | FormRejected | Denied | UnknownCollection | NotFound | Failed
LEDGER_NAMES: Mapping[type[Outcome], str] = {
    Listing: "listed",
    RateLimited: "toomany",
    FormRejected: "misunderstood",
    Denied: "denied",
    UnknownCollection: "unknown",
    Failed: "failed",
}
"""Names of the outcomes of listings in the ledger, which are a part of its schema."""


class ApiAnswer(Struct, frozen=True):
    """The outcome of one request, and what its answer says about the quota."""

    outcome: Outcome
    rate_limit: RateLimit | None = None
    pause_ns: int | None = None
    """How long Segment allows no request; None if the answer does not say."""
    date_ns: int | None = None
    """Segment's time: the answer's Date, to the second, in nanoseconds since 1970."""
    is_answered: bool = False
    """Whether a complete answer arrived."""


class Expected(Struct, frozen=True):
    """What a request expects: how to read the body of a success, and what a 404 means.

    `on_404` receives the status and the quoted message. `quotes_errors`: whether messages quote the first
    error of an answer.
    """

    read: Callable[[bytes], Outcome]
    on_404: Callable[[str], Outcome]
    quotes_errors: bool = True


def read_answer(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    now_ns: int,
    *,
    expected: Expected,
    mask: Callable[[str], str] = str,
) -> ApiAnswer:
    """Returns what an answer means. Of its text only the first error's message is quoted, truncated.

    `mask` replaces our token, which a gateway can echo.
    """
    rate_limit = _rate_limit(headers, now_ns, is_refused=status == 429)
    if 200 <= status < 300:
        return ApiAnswer(expected.read(body), rate_limit)
    errors = _errors(body)
    why = f"HTTP {status}"
    message = next((each.message for each in errors if each.message), "")
    if message and expected.quotes_errors:
        why += f": {peer_text(mask(message), without_queries)}"
    if status == 429:
        if rate_limit is None:
            rate_limit = _rate_limit_of_refusal(errors, now_ns)
        return ApiAnswer(RateLimited(why), rate_limit, _pause_ns(headers, errors, now_ns))
    pause_ns = _retry_after_ns(headers, now_ns)
    outcome: Outcome
    if status in (401, 403):
        outcome = Denied(f"{why}; check the token and its workspace", status == 401)
    elif status == 404:
        outcome = expected.on_404(why)
    elif status in (400, 415, 422):
        outcome = FormRejected(why)
    elif 300 <= status < 400:
        outcome = Failed(f"{why}; redirects are not followed; {CHECK_URL}")
    else:
        outcome = Failed(why)
    return ApiAnswer(outcome, rate_limit, pause_ns)


def without_queries(text: str) -> str:
    """Returns the text without the queries of URLs: those of presigned URLs are secrets."""
    return re.sub(r"(https?://[^\s?]*)\?\S+", r"\1?***", text)


class _Download(Struct):
    urls: list[str | None] | None


class _Data(Struct):
    download: _Download


class _Success(Struct):
    data: _Data


class _ErrorData(Struct):
    remaining_points: float | None = msgspec.field(default=None, name="remainingPoints")
    ms_before_next: float | None = msgspec.field(default=None, name="msBeforeNext")
    consumed_points: float | None = msgspec.field(default=None, name="consumedPoints")


class _Error(Struct):
    message: str | None = None
    data: _ErrorData | None = None


class _ErrorAnswer(Struct):
    errors: list[_Error | None] | None = None


CHECK_URL = "check that --segment-url is Segment's API"


def _read_workspace(body: bytes) -> Outcome:
    """Returns an empty Listing for a JSON object: a proxy's login page does not prove the token."""
    try:
        msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Failed(f"the answer is not a JSON object; {CHECK_URL}")
    return Listing(())


def _read_listing(body: bytes) -> Outcome:
    try:
        listed = read_as(_Success, body).data.download.urls or ()
    except (ValueError, RecursionError):
        return Failed(f"the answer is not a list of URLs; {CHECK_URL}")
    urls = [url for url in listed if url is not None]
    if len(urls) > MAX_URLS:
        return Failed(f"the answer lists {len(urls)} objects, more than {MAX_URLS}")
    try:
        for url in urls:
            if len(url) > MAX_URL_CHARS:
                return Failed(f"the answer lists a URL of {len(url)} characters, more than {MAX_URL_CHARS}")
            urlsplit(url).port  # noqa: B018  # reading it checks it
    except ValueError:
        return Failed("the answer lists an invalid URL")
    return Listing(tuple(urls))


LISTING = Expected(_read_listing, lambda why: UnknownCollection(f"{why}; check the collection's id"))
WORKSPACE = Expected(_read_workspace, lambda why: Failed(f"{why}; {CHECK_URL}"))


def _errors(body: bytes) -> list[_Error]:
    try:
        return [each for each in read_as(_ErrorAnswer, body).errors or () if each is not None]
    except (ValueError, RecursionError):
        return []


def _rate_limit(headers: Mapping[str, str], now_ns: int, *, is_refused: bool) -> RateLimit | None:
    """Reads X-RateLimit-Consumed, -Remaining and -Reset: a date, seconds since 1970, or seconds from now.

    Some servers count refused requests, too, so consumed and remaining do not add up to the limit then.
    """
    remaining, consumed = (_count(headers.get(f"x-ratelimit-{name}")) for name in ("remaining", "consumed"))
    if remaining is None:
        return None
    reset, date = headers.get("x-ratelimit-reset"), headers.get("date")
    seconds = retry_after(reset, now_ns / SECOND_NS, date)
    if seconds is not None and seconds >= MIN_EPOCH_SECONDS:
        server_ns = date_ns(date)
        seconds = max(0.0, seconds - (now_ns if server_ns is None else server_ns) / SECOND_NS)
    reset_ns = None if seconds is None else now_ns + min(int(min(seconds, 1e6) * SECOND_NS), MAX_PAUSE_NS)
    limit = None if consumed is None or is_refused else remaining + consumed
    return RateLimit(now_ns, remaining, reset_ns, limit or None)


def _count(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_COUNT_DIGITS else None


def _rate_limit_of_refusal(errors: list[_Error], now_ns: int) -> RateLimit | None:
    """Reads the body of a 429: when requests remain again, and the consumed ones, one more than the limit."""
    data = next((each.data for each in errors if each.data and each.data.ms_before_next is not None), None)
    if data is None or data.remaining_points != 0:
        return None
    consumed = data.consumed_points
    limit = int(consumed) - 1 if consumed is not None and 2 <= consumed < 10**MAX_COUNT_DIGITS else None
    return RateLimit(now_ns, 0, now_ns + _ms_ns(data.ms_before_next or 0.0), limit, is_refusal=True)


def _pause_ns(headers: Mapping[str, str], errors: list[_Error], now_ns: int) -> int | None:
    """Returns the pause after a 429, by its body or its header, whichever is longer."""
    milliseconds = [each.data.ms_before_next for each in errors if each.data]
    pauses = [_ms_ns(ms) for ms in milliseconds if ms is not None]
    if (after := _retry_after_ns(headers, now_ns)) is not None:
        pauses.append(after)
    return max(pauses, default=None)


def _ms_ns(ms: float) -> int:
    return min(int(min(max(ms, 0.0), 1e9) * 1_000_000), MAX_PAUSE_NS)


def _retry_after_ns(headers: Mapping[str, str], now_ns: int) -> int | None:
    seconds = retry_after(headers.get("retry-after"), now_ns / SECOND_NS, headers.get("date"))
    return None if seconds is None else min(int(min(seconds, 1e6) * SECOND_NS), MAX_PAUSE_NS)
