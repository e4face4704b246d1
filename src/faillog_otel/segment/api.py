"""Client of Segment's Public API: lists the objects of an hour and checks the token.

One call is one request and returns its outcome as a value. The token is sent to the configured origin only,
through the configured proxy; redirects are not followed. Each exchange has one deadline, and answers have a
maximum size. (Segment's pages "Failure Log Collection" and "Rate Limits", its generated Public API SDKs.)
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.clock import DAY_NS, SECOND_NS, date_ns, hour_text, retry_after
from faillog_otel.config import SEGMENT_URLS, Secret, SegmentConfig, token_problem
from faillog_otel.errors import ConfigError
from faillog_otel.files import read_small_text
from faillog_otel.network import Deadline, origin_of
from faillog_otel.segment.http_client import Network, direct_network, explain, http_client, whole_answer
from faillog_otel.segment.quota import RateLimit
from faillog_otel.text import peer_text, read_as

MEDIA_TYPE = "application/vnd.segment.v1alpha+json"
MAX_ANSWER_BYTES = 16 * 1024 * 1024
MAX_URLS = 10_000
MAX_URL_CHARS = 8192
"""Servers refuse longer URLs: RFC 9110, section 4.1, recommends at least 8,000 bytes."""
TIMEOUT_SECONDS = 60.0
"""For a whole exchange, from the name look-up to the last byte of the answer."""
MAX_PAUSE_NS = DAY_NS
MAX_COUNT_DIGITS = 9
MIN_EPOCH_SECONDS = 1e9
"""A larger X-RateLimit-Reset counts from 1970, a smaller one from now."""
MIN_SECRET_CHARS = 8
"""Masking a shorter token would garble ordinary words."""

Form = Literal["both", "body"]
"""Where a listing request has its parameters: in the query and the body, or in the body only. Segment's page
shows the query, its SDKs send a body."""


class Listing(Struct, frozen=True):
    """The presigned URLs of an hour's objects, possibly none."""

    urls: tuple[str, ...]


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


class Failed(Struct, frozen=True):
    """No answer, or an unusable one; a later request can succeed."""

    why: str
    is_permanent: bool = False
    """No request can succeed before a setting changes."""


Outcome = Listing | RateLimited | FormRejected | Denied | UnknownCollection | Failed
LEDGER_NAMES: Mapping[type[Outcome], str] = {
    Listing: "listed",
    RateLimited: "toomany",
    FormRejected: "misunderstood",
    Denied: "denied",
    UnknownCollection: "unknown",
    Failed: "failed",
}
"""Names of the outcomes in the ledger, which are a part of its schema."""


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


def token_source(config: SegmentConfig) -> Callable[[], Secret]:
    """Returns a function that returns the token; it reads a file again each time and raises ConfigError."""

    def read() -> Secret:
        if config.token is not None:
            return config.token
        if config.token_file is None:
            raise ConfigError("no token: set SEGMENT_TOKEN or SEGMENT_TOKEN_FILE")
        try:
            text = read_small_text(config.token_file).strip()
        except ConfigError as error:
            raise ConfigError(f"SEGMENT_TOKEN_FILE: {error}") from None
        if not text:
            raise ConfigError(f"SEGMENT_TOKEN_FILE: {config.token_file} is empty; write the token into it")
        if problem := token_problem(text):
            raise ConfigError(f"SEGMENT_TOKEN_FILE: {config.token_file}: the token {problem}")
        return Secret(text)

    return read


class SegmentApi:
    """A client of one origin of the API, for one thread at a time."""

    def __init__(
        self,
        url: str,
        token: Callable[[], Secret],
        user_agent: str,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        network: Network | None = None,
    ) -> None:
        """`url`: the base, such as https://api.segmentapis.com. `token` is called for each request.

        If it raises ConfigError, no request is made. `timeout_seconds`: for a whole exchange. `network`: by
        default the system's authorities, and no proxy.
        """
        self._url = url.rstrip("/")
        self._scheme, host, port = origin_of(url)
        network = network or direct_network()
        self._proxy = network.proxies.proxy_of(self._scheme, host, port)
        self._region_hint = _region_hint(host)
        self._token = token
        self._next_token: Secret | None = None
        self._timeout_seconds = timeout_seconds
        headers = {"user-agent": user_agent, "accept": MEDIA_TYPE}
        self._client = http_client(headers, network.context, self._proxy)

    def list_hour(self, collection: str, hour: int, form: Form, now_ns: int) -> ApiAnswer:
        """Lists one hour of a collection. It costs one request of the quota."""
        query = {"collectionId": collection, "hour": hour_text(hour)}
        return self._request(
            "POST",
            "/customer-insights/download",
            now_ns,
            params=query if form == "both" else None,
            content=msgspec.json.encode(query),
            headers={"content-type": MEDIA_TYPE},
        )

    def check_token(self, now_ns: int) -> ApiAnswer:
        """Requests the workspace, which costs no quota: an empty Listing means a valid token."""
        return self._request("GET", "/", now_ns)

    def why_no_token(self) -> str:
        """Returns why the token cannot be read; empty if it can, and the next request uses it."""
        try:
            self._next_token = self._token()
        except ConfigError as error:
            return str(error)
        return ""

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _request(
        self, method: str, path: str, now_ns: int, headers: Mapping[str, str] | None = None, **request: Any
    ) -> ApiAnswer:
        """Sends one request. `request`: as for httpx."""
        try:
            token = (self._next_token or self._token()).reveal()
        except ConfigError as error:  # the file is being replaced
            return ApiAnswer(Failed(str(error)))
        self._next_token = None
        request["headers"] = {**(headers or {}), "authorization": f"Bearer {token}"}
        request["extensions"] = {"deadline": Deadline(self._timeout_seconds)}
        mask = partial(_masked, token=token)
        try:
            with self._client.stream(method, self._url + path, **request) as response:
                answer = whole_answer(response, MAX_ANSWER_BYTES)
        except httpx.TimeoutException:
            through = f" through the proxy {self._proxy.url}" if self._proxy else ""
            return ApiAnswer(
                Failed(f"{self._url}: no complete answer{through} within {self._timeout_seconds:g} s")
            )
        except (httpx.InvalidURL, httpx.LocalProtocolError, ValueError):  # the text can quote the token
            return ApiAnswer(Failed(f"{self._url}: invalid request; check --segment-url and the token"))
        except httpx.HTTPError as error:
            failure = explain(error, self._scheme, self._proxy)
            why = peer_text(mask(failure.why), _without_queries)
            return ApiAnswer(Failed(f"{self._url}: {why}", failure.is_permanent))
        if answer.body is None:
            return ApiAnswer(Failed(f"the answer is longer than {MAX_ANSWER_BYTES} bytes; {_CHECK_URL}"))
        answered = read_answer(
            answer.status, answer.headers, answer.body, now_ns, is_listing=method == "POST", mask=mask
        )
        if isinstance(answered.outcome, Denied) and self._region_hint:
            denied = replace(answered.outcome, why=f"{answered.outcome.why}; {self._region_hint}")
            answered = replace(answered, outcome=denied)
        return replace(answered, date_ns=date_ns(answer.headers.get("date")), is_answered=True)


def read_answer(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    now_ns: int,
    *,
    is_listing: bool,
    mask: Callable[[str], str] = str,
) -> ApiAnswer:
    """Returns what an answer means. Of its text only the first error's message is quoted, truncated.

    `mask` replaces our token, which a gateway can echo.
    """
    rate_limit = _rate_limit(headers, now_ns, is_refused=status == 429)
    if 200 <= status < 300:
        return ApiAnswer(_read_listing(body) if is_listing else _read_workspace(body), rate_limit)
    errors = _errors(body)
    why = f"HTTP {status}"
    if message := next((each.message for each in errors if each.message), ""):
        why += f": {peer_text(mask(message), _without_queries)}"
    if status == 429:
        if rate_limit is None:
            rate_limit = _rate_limit_of_refusal(errors, now_ns)
        return ApiAnswer(RateLimited(why), rate_limit, _pause_ns(headers, errors, now_ns))
    pause_ns = _retry_after_ns(headers, now_ns)
    outcome: Outcome
    if status in (401, 403):
        outcome = Denied(f"{why}; check the token and its workspace", status == 401)
    elif status == 404 and not is_listing:
        outcome = Failed(f"{why}; {_CHECK_URL}")
    elif status == 404:
        outcome = UnknownCollection(f"{why}; check the collection's id")
    elif status in (400, 415, 422):
        outcome = FormRejected(why)
    elif 300 <= status < 400:
        outcome = Failed(f"{why}; redirects are not followed; {_CHECK_URL}")
    else:
        outcome = Failed(why)
    return ApiAnswer(outcome, rate_limit, pause_ns)


def _masked(text: str, token: str) -> str:
    return text.replace(token, "***") if len(token) >= MIN_SECRET_CHARS else text


def _without_queries(text: str) -> str:
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


_CHECK_URL = "check that --segment-url is Segment's API"


def _region_hint(host: str) -> str:
    """Returns what to try after a refused token at one of Segment's own two hosts; empty for other hosts."""
    regions = {urlsplit(url).hostname: name for name, url in SEGMENT_URLS.items()}
    if host not in regions:
        return ""
    own, (other,) = regions[host], set(SEGMENT_URLS) - {regions[host]}
    return f"this is the {own.upper()} region; for a workspace of the other one, set --segment-url {other}"


def _read_workspace(body: bytes) -> Outcome:
    """Returns an empty Listing for a JSON object: a proxy's login page does not prove the token."""
    try:
        msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Failed(f"the answer is not a JSON object; {_CHECK_URL}")
    return Listing(())


def _read_listing(body: bytes) -> Outcome:
    try:
        listed = read_as(_Success, body).data.download.urls or ()
    except (ValueError, RecursionError):
        return Failed(f"the answer is not a list of URLs; {_CHECK_URL}")
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
