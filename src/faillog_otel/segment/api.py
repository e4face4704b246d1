"""Client of Segment's Public API: lists the objects of an hour, checks the token, and gets pages of names.

One call is one request and returns its outcome as a value (`answers`). The token is sent to the configured
origin only, through the configured proxy; redirects are not followed. Each exchange has one deadline, and
answers have a maximum size.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
import msgspec
from msgspec.structs import replace

from faillog_otel.clock import date_ns, hour_text
from faillog_otel.config import SEGMENT_URLS, Secret, SegmentConfig, token_problem
from faillog_otel.errors import ConfigError
from faillog_otel.files import read_small_text
from faillog_otel.network import Deadline, origin_of
from faillog_otel.segment.answers import (
    CHECK_URL,
    LISTING,
    WORKSPACE,
    ApiAnswer,
    Denied,
    Expected,
    Failed,
    read_answer,
    without_queries,
)
from faillog_otel.segment.http_client import Network, direct_network, explain, http_client, whole_answer
from faillog_otel.text import peer_text

MEDIA_TYPE = "application/vnd.segment.v1alpha+json"
MAX_ANSWER_BYTES = 16 * 1024 * 1024
TIMEOUT_SECONDS = 60.0
"""For a whole exchange, from the name look-up to the last byte of the answer."""
MIN_SECRET_CHARS = 8
"""Masking a shorter token would garble ordinary words."""

Form = Literal["both", "body"]
"""Where a listing request has its parameters: in the query and the body, or in the body only. Segment's page
shows the query, its SDKs send a body."""


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
            LISTING,
            params=query if form == "both" else None,
            content=msgspec.json.encode(query),
            headers={"content-type": MEDIA_TYPE},
        )

    def check_token(self, now_ns: int) -> ApiAnswer:
        """Requests the workspace, which costs no quota: an empty Listing means a valid token."""
        return self._request("GET", "/", now_ns, WORKSPACE)

    def get(
        self,
        path: str,
        expected: Expected,
        now_ns: int,
        *,
        query: Mapping[str, str],
        media_type: str,
        timeout_seconds: float,
    ) -> ApiAnswer:
        """Requests a path that costs no quota. `timeout_seconds`: if it is shorter than the client's own."""
        return self._request(
            "GET",
            path,
            now_ns,
            expected,
            headers={"accept": media_type},
            timeout_seconds=timeout_seconds,
            params=query,
        )

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
        self,
        method: str,
        path: str,
        now_ns: int,
        expected: Expected,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = math.inf,
        **request: Any,
    ) -> ApiAnswer:
        """Sends one request. `request`: as for httpx."""
        try:
            token = (self._next_token or self._token()).reveal()
        except ConfigError as error:  # the file is being replaced
            return ApiAnswer(Failed(str(error)))
        self._next_token = None
        request["headers"] = {**(headers or {}), "authorization": f"Bearer {token}"}
        timeout_seconds = min(timeout_seconds, self._timeout_seconds)
        request["extensions"] = {"deadline": Deadline(timeout_seconds)}
        mask = partial(_masked, token=token)
        try:
            with self._client.stream(method, self._url + path, **request) as response:
                answer = whole_answer(response, MAX_ANSWER_BYTES)
        except httpx.TimeoutException:
            through = f" through the proxy {self._proxy.url}" if self._proxy else ""
            return ApiAnswer(
                Failed(f"{self._url}: no complete answer{through} within {timeout_seconds:.3g} s")
            )
        except (httpx.InvalidURL, httpx.LocalProtocolError, ValueError):  # the text can quote the token
            return ApiAnswer(Failed(f"{self._url}: invalid request; check --segment-url and the token"))
        except httpx.HTTPError as error:
            failure = explain(error, self._scheme, self._proxy)
            why = peer_text(mask(failure.why), without_queries)
            return ApiAnswer(Failed(f"{self._url}: {why}", failure.is_permanent))
        if answer.body is None:
            return ApiAnswer(Failed(f"the answer is longer than {MAX_ANSWER_BYTES} bytes; {CHECK_URL}"))
        answered = read_answer(
            answer.status, answer.headers, answer.body, now_ns, expected=expected, mask=mask
        )
        if isinstance(answered.outcome, Denied) and self._region_hint:
            denied = replace(answered.outcome, why=f"{answered.outcome.why}; {self._region_hint}")
            answered = replace(answered, outcome=denied)
        return replace(answered, date_ns=date_ns(answer.headers.get("date")), is_answered=True)


def _masked(text: str, token: str) -> str:
    return text.replace(token, "***") if len(token) >= MIN_SECRET_CHARS else text


def _region_hint(host: str) -> str:
    """Returns what to try after a refused token at one of Segment's own two hosts; empty for other hosts."""
    regions = {urlsplit(url).hostname: name for name, url in SEGMENT_URLS.items()}
    if host not in regions:
        return ""
    own, (other,) = regions[host], set(SEGMENT_URLS) - {regions[host]}
    return f"this is the {own.upper()} region; for a workspace of the other one, set --segment-url {other}"
