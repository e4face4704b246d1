"""Segment's Public API, as far as it is asked: the objects of an hour, and whether a token is good.

One call is one request: what it came to is a value, and what to do about it is the caller's decision. The
token goes to the configured origin only, through the proxy that the settings name; redirects are not
followed. Answers are read up to a bound and until one deadline. (Segment's page "Failure Log Collection", its
generated Public API SDKs, its page "Rate Limits".)
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
from faillog_otel.json_syntax import read_as
from faillog_otel.network import Deadline, origin_of
from faillog_otel.segment.http_client import Network, direct_network, explain, http_client, whole_answer
from faillog_otel.segment.quota import RateLimit
from faillog_otel.text import peer_text

MEDIA_TYPE = "application/vnd.segment.v1alpha+json"
MAX_ANSWER_BYTES = 16 * 1024 * 1024
MAX_URLS = 10_000
MAX_URL_CHARS = 8192
"""Servers refuse longer ones: RFC 9110, section 4.1, asks for 8,000 bytes."""
TIMEOUT_SECONDS = 60.0
"""For a whole exchange, from the look-up of the name to the answer's last byte."""
MAX_PAUSE_NS = DAY_NS
MAX_COUNT_DIGITS = 9
MIN_EPOCH_SECONDS = 1e9
"""A reset that is a larger number counts from 1970: nobody waits for 30 years."""
MIN_SECRET_CHARS = 8
"""Characters: to mask a shorter token would garble all words."""

Form = Literal["both", "body"]
"""How a listing is asked for: in query and body at once, or in the body alone. Segment's page shows the
query, its SDKs send a body."""


class Listing(Struct, frozen=True):
    """The presigned URLs of an hour's objects; there may be none."""

    urls: tuple[str, ...]


class TooMany(Struct, frozen=True):
    """429: nothing was counted, and nothing is to be asked for as long as the answer says."""

    why: str


class Misunderstood(Struct, frozen=True):
    """400, 415 or 422: perhaps the other form is accepted."""

    why: str


class Denied(Struct, frozen=True):
    """401 or 403: the token is not good for this. `is_token_wrong`: nor for anything else."""

    why: str
    is_token_wrong: bool = False


class Unknown(Struct, frozen=True):
    """404: there is no such collection."""

    why: str


class Failed(Struct, frozen=True):
    """No answer, or one that cannot be used: another time, perhaps."""

    why: str
    is_permanent: bool = False
    """No try succeeds before a setting is changed."""


Outcome = Listing | TooMany | Misunderstood | Denied | Unknown | Failed


class Answered(Struct, frozen=True):
    """One request's outcome, and what its answer said about the quota."""

    outcome: Outcome
    said: RateLimit | None = None
    pause_ns: int | None = None
    """How long Segment wants no request at all; None where it does not say."""
    date_ns: int | None = None
    """What time it is there: the answer's Date, to the second. Nanoseconds since 1970."""
    is_answered: bool = False
    """Whether a whole answer came, whatever it says."""


def token_source(config: SegmentConfig) -> Callable[[], Secret]:
    """Gives the token for each request; a file is read anew. Raises ConfigError where there is none."""

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
            raise ConfigError(f"SEGMENT_TOKEN_FILE: {config.token_file}: is empty; write the token into it")
        if problem := token_problem(text):
            raise ConfigError(f"SEGMENT_TOKEN_FILE: {config.token_file}: the token {problem}")
        return Secret(text)

    return read


class SegmentApi:
    """One origin of the API, used by one thread at a time."""

    def __init__(
        self,
        url: str,
        token: Callable[[], Secret],
        user_agent: str,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        network: Network | None = None,
    ) -> None:
        """`url`: the base, such as https://api.segmentapis.com. `token` is asked each time: it may change.

        With a ConfigError, for a missing token, no request is made. `timeout_seconds`: for a whole exchange.
        `network`: by default the system's authorities, and no proxy.
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

    def list_hour(self, collection: str, hour: int, form: Form, now_ns: int) -> Answered:
        """Asks for one hour of a collection. It costs one request of the day's quota."""
        asked = {"collectionId": collection, "hour": hour_text(hour)}
        return self._ask(
            "POST",
            "/customer-insights/download",
            now_ns,
            params=asked if form == "both" else None,
            content=msgspec.json.encode(asked),
            headers={"content-type": MEDIA_TYPE},
        )

    def check_token(self, now_ns: int) -> Answered:
        """Asks for the workspace, which costs nothing of the quota: a Listing (empty) means a good token."""
        return self._ask("GET", "/", now_ns)

    def why_no_token(self) -> str:
        """Why the token for a request cannot be read. Empty where it can; the next request has it."""
        try:
            self._next_token = self._token()
        except ConfigError as error:
            return str(error)
        return ""

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _ask(
        self, method: str, path: str, now_ns: int, headers: Mapping[str, str] | None = None, **request: Any
    ) -> Answered:
        """Sends one request. `request`: as for httpx."""
        try:
            token = (self._next_token or self._token()).reveal()
        except ConfigError as error:  # a token that is just being replaced
            return Answered(Failed(str(error)))
        self._next_token = None
        request["headers"] = {**(headers or {}), "authorization": f"Bearer {token}"}
        request["extensions"] = {"deadline": Deadline(self._timeout_seconds)}
        mask = partial(_masked, token=token)
        try:
            with self._client.stream(method, self._url + path, **request) as response:
                answer = whole_answer(response, MAX_ANSWER_BYTES)
        except httpx.TimeoutException:
            through = f" through the proxy {self._proxy.url}" if self._proxy else ""
            return Answered(
                Failed(f"{self._url}: no whole answer{through} within {self._timeout_seconds:g} s")
            )
        except (httpx.InvalidURL, httpx.LocalProtocolError, ValueError):  # its words may quote the token
            return Answered(
                Failed(f"{self._url}: no request can be made of it: look at the URL and the token")
            )
        except httpx.HTTPError as error:
            failure = explain(error, self._scheme, self._proxy)
            said = peer_text(mask(failure.why), _without_queries)
            return Answered(Failed(f"{self._url}: {said}", failure.is_permanent))
        if answer.body is None:
            return Answered(Failed(f"the answer is longer than {MAX_ANSWER_BYTES} bytes"))
        answered = read_answer(
            answer.status, answer.headers, answer.body, now_ns, is_listing=method == "POST", mask=mask
        )
        if isinstance(answered.outcome, Denied) and self._region_hint:
            denied = replace(answered.outcome, why=f"{answered.outcome.why} {self._region_hint}")
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
) -> Answered:
    """What an answer means. Nothing that it says is quoted but its first error's message, cut.

    `mask` replaces our token, which a gateway may say back.
    """
    said = _said(headers, now_ns, is_refused=status == 429)
    if 200 <= status < 300:
        return Answered(_read_listing(body) if is_listing else _read_workspace(body), said)
    errors = _errors(body)
    why = f"HTTP {status}"
    if message := next((each.message for each in errors if each.message), ""):
        why += f": {peer_text(mask(message), _without_queries)}"
    if status == 429:
        if said is None:
            said = _said_by_refusal(errors, now_ns)
        return Answered(TooMany(why), said, _pause_ns(headers, errors, now_ns))
    asked_ns = _retry_after_ns(headers, now_ns)
    outcome: Outcome
    if status in (401, 403):
        outcome = Denied(f"{why}: is the token right, and good for this workspace?", status == 401)
    elif status == 404 and not is_listing:
        outcome = Failed(f"{why}: {_IS_IT_SEGMENT}")
    elif status == 404:
        outcome = Unknown(f"{why}: is the collection's id right?")
    elif status in (400, 415, 422):
        outcome = Misunderstood(why)
    elif 300 <= status < 400:
        outcome = Failed(f"{why}: redirects are not followed: is the URL right?")
    else:
        outcome = Failed(why)
    return Answered(outcome, said, asked_ns)


def _masked(text: str, token: str) -> str:
    return text.replace(token, "***") if len(token) >= MIN_SECRET_CHARS else text


def _without_queries(text: str) -> str:
    """The text with the queries of URLs hidden: those of presigned ones are secrets."""
    return re.sub(r"(https?://[^\s?]*)\?\S+", r"\1?***", text)


class _Download(Struct):
    urls: list[str | None] | None


class _Data(Struct):
    download: _Download


class _Good(Struct):
    data: _Data


class _ErrorData(Struct):
    remaining_points: float | None = msgspec.field(default=None, name="remainingPoints")
    ms_before_next: float | None = msgspec.field(default=None, name="msBeforeNext")
    consumed_points: float | None = msgspec.field(default=None, name="consumedPoints")


class _Error(Struct):
    message: str | None = None
    data: _ErrorData | None = None


class _Bad(Struct):
    errors: list[_Error | None] | None = None


_IS_IT_SEGMENT = "is this Segment's API?"


def _region_hint(host: str) -> str:
    """What a refused token may mean at one of Segment's own two hosts."""
    regions = {urlsplit(url).hostname: name for name, url in SEGMENT_URLS.items()}
    if host not in regions:
        return ""
    own, (other,) = regions[host], set(SEGMENT_URLS) - {regions[host]}
    return f"This is the {own.upper()} region; for a workspace of the other one, --segment-url {other}"


def _read_workspace(body: bytes) -> Outcome:
    """A login page of a network in between is no sign of a good token."""
    try:
        msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Failed(f"the answer is no JSON object: {_IS_IT_SEGMENT}")
    return Listing(())


def _read_listing(body: bytes) -> Outcome:
    try:
        listed = read_as(_Good, body).data.download.urls or ()
    except (ValueError, RecursionError):
        return Failed(f"the answer is no list of URLs: {_IS_IT_SEGMENT}")
    urls = [url for url in listed if url is not None]
    if len(urls) > MAX_URLS:
        return Failed(f"the answer lists {len(urls)} objects, more than {MAX_URLS}")
    try:
        for url in urls:
            if len(url) > MAX_URL_CHARS:
                return Failed(f"the answer lists a URL of {len(url)} characters, more than {MAX_URL_CHARS}")
            urlsplit(url).port  # noqa: B018  # it is checked by being read
    except ValueError:
        return Failed("the answer lists a URL that is none")
    return Listing(tuple(urls))


def _errors(body: bytes) -> list[_Error]:
    try:
        return [each for each in read_as(_Bad, body).errors or () if each is not None]
    except (ValueError, RecursionError):
        return []


def _said(headers: Mapping[str, str], now_ns: int, *, is_refused: bool) -> RateLimit | None:
    """X-RateLimit-Consumed, -Remaining and -Reset: a date, seconds since 1970, or seconds from now.

    Some servers count refused requests, too: then the consumed and the remaining ones are no limit.
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


def _said_by_refusal(errors: list[_Error], now_ns: int) -> RateLimit | None:
    """What the body of a 429 says: nothing remains until then, and one more than there are was counted."""
    data = next((each.data for each in errors if each.data and each.data.ms_before_next is not None), None)
    if data is None or data.remaining_points != 0:
        return None
    consumed = data.consumed_points
    limit = int(consumed) - 1 if consumed is not None and 2 <= consumed < 10**MAX_COUNT_DIGITS else None
    return RateLimit(now_ns, 0, now_ns + _ms_ns(data.ms_before_next or 0.0), limit, is_refusal=True)


def _pause_ns(headers: Mapping[str, str], errors: list[_Error], now_ns: int) -> int | None:
    """How long a 429 asks to wait, by its body or its header; the longer one of both."""
    asked = [each.data.ms_before_next for each in errors if each.data]
    pauses = [_ms_ns(ms) for ms in asked if ms is not None]
    if (after := _retry_after_ns(headers, now_ns)) is not None:
        pauses.append(after)
    return max(pauses, default=None)


def _ms_ns(ms: float) -> int:
    return min(int(min(max(ms, 0.0), 1e9) * 1_000_000), MAX_PAUSE_NS)


def _retry_after_ns(headers: Mapping[str, str], now_ns: int) -> int | None:
    seconds = retry_after(headers.get("retry-after"), now_ns / SECOND_NS, headers.get("date"))
    return None if seconds is None else min(int(min(seconds, 1e6) * SECOND_NS), MAX_PAUSE_NS)
