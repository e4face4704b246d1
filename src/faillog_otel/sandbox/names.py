"""The simulated API's names: destinations, sources and subscriptions, among credentials.

These requests have a rate limit of their own, and cost nothing of the listings' quota. The credentials
(`CREDENTIALS`) are canaries: none of them may be found anywhere else.
"""

import threading
from collections.abc import Callable
from typing import Any

from faillog_otel.clock import SECOND_NS
from faillog_otel.errors import ConfigError
from faillog_otel.sandbox.bookkeeping import Served, SimulatorState
from faillog_otel.sandbox.generator import DESTINATIONS, SOURCE_ID, Destination
from faillog_otel.sandbox.http import Request, Response, html_page, json_response

STABLE_JSON, ALPHA_JSON = "application/vnd.segment.v1+json", "application/vnd.segment.v1alpha+json"

CREDENTIALS = tuple(
    f"c4n4ry-{where}-6tHq2Zs9"
    for where in (
        "api-key",
        "nested-secret",
        "list-token",
        "password",
        "write-key",
        "source-setting",
        "error",
    )
)
"""All credentials in the answers."""
_API_KEY, _NESTED, _IN_LIST, _PASSWORD, _WRITE_KEY, _OF_SOURCE, _IN_ERROR = CREDENTIALS

_WINDOW_NS = 60 * SECOND_NS
_MAX_COUNT = 1000


class NamesApi:
    """Answers `GET /destinations` and `/sources`, and what belongs to one. Safe for several threads."""

    def __init__(self, state: SimulatorState, error: Callable[[int, str], Response]) -> None:
        """`error` makes an error as Segment writes it."""
        self._state = state
        self._error = error
        self._lock = threading.Lock()
        self._destinations = {each.id: each for each in DESTINATIONS}
        self._names: dict[str, str] = {}
        self._window_ends_ns = 0
        self._used = 0

    def rename(self, id_: str, name: str) -> None:
        """Gives a destination, a source or a subscription another name. Raises ConfigError."""
        known = {each.subscription_id for each in self._destinations.values()}
        if id_ not in {SOURCE_ID, *self._destinations, *known}:
            raise ConfigError(f"no destination, source or subscription has the id {id_!r}; use a known id")
        self._names[id_] = name

    def answer(self, request: Request, now_ns: int) -> Served | None:
        """Answers one request; None for a path of another service."""
        items = self._items(request)
        if items is None:
            return None
        fault = self._state.faults.pick("names", None, None)
        label = fault and f"names:{fault}"
        if (response := self._faulty(fault)) is not None:
            return Served(response, fault=label)
        if (seconds := self._seconds_to_wait(now_ns)) is not None:
            return Served(self._too_many(seconds), fault=label)
        response = items if isinstance(items, Response) else self._page(*items, request)
        if fault == "slow":
            response = Response(
                200, response.body, response.headers, slow_seconds=self._state.config.slow_seconds
            )
        if fault == "truncated":
            response = Response(200, response.body[:-40], response.headers)
        return Served(response, fault=label)

    def _items(self, request: Request) -> tuple[str, list[dict[str, Any]]] | Response | None:
        """Returns the key and all items of a list, or one item; None for an unknown path."""
        if request.method != "GET":
            return None
        found: tuple[str, list[dict[str, Any]]] | Response | None = None
        match request.path.strip("/").split("/"):
            case ["destinations"]:
                found = "destinations", [*map(self._destination, self._destinations.values())]
            case ["sources"]:
                found = "sources", [self._source()]
            case ["destinations", id_] if id_ in self._destinations:
                item = self._destination(self._destinations[id_])
                found = json_response(200, {"data": {"destination": item}})
            case ["sources", id_] if id_ == SOURCE_ID:
                found = json_response(200, {"data": {"source": self._source()}})
            case ["sources", id_, "connected-destinations"] if id_ == SOURCE_ID:
                found = "destinations", [*map(self._destination, self._destinations.values())]
            case ["destinations", id_, "subscriptions"] if id_ in self._destinations:
                found = "subscriptions", self._subscriptions(self._destinations[id_])
        return found

    def _destination(self, each: Destination) -> dict[str, Any]:
        product = each.name.partition(" ")[0]
        return {
            "id": each.id,
            "name": self._names.get(each.id, f"{product} (prod)"),
            "enabled": True,
            "sourceId": SOURCE_ID,
            "metadata": {
                "id": each.id[::-1],
                "name": each.name,
                "slug": each.name.lower().replace(" ", "-").replace("(", "").replace(")", ""),
                "options": [{"name": "apiKey", "type": "password", "required": True}],
            },
            "settings": {
                "apiKey": _API_KEY,
                "connection": {"oauth": {"clientSecret": _NESTED}, "name": _NESTED},
                "headers": [{"name": "X-Token", "value": _IN_LIST}],
                "password": _PASSWORD,
            },
        }

    def _source(self) -> dict[str, Any]:
        return {
            "id": SOURCE_ID,
            "slug": "shop-web",
            "name": self._names.get(SOURCE_ID, "Shop (web)"),
            "workspaceId": "9aQ1Lj62S4bomZKLF4DPqW",
            "enabled": True,
            "writeKeys": [_WRITE_KEY],
            "metadata": {"id": "IqDTy1TpoU", "name": "Javascript", "slug": "javascript"},
            "settings": {"track": {"secret": _OF_SOURCE}},
            "labels": [],
        }

    def _subscriptions(self, each: Destination) -> list[dict[str, Any]]:
        if each.subscription_id is None:
            return []
        return [
            {
                "id": each.subscription_id,
                "name": self._names.get(each.subscription_id, f"Track orders in {each.name}"),
                "actionId": each.subscription_id[::-1],
                "actionSlug": "trackEvent",
                "destinationId": each.id,
                "enabled": True,
                "trigger": 'type = "track"',
                "settings": {"authorization": _PASSWORD},
            }
        ]

    def _page(self, key: str, items: list[dict[str, Any]], request: Request) -> Response:
        """Returns the page that a request names. A cursor is the index of the first item, in hex."""
        if request.headers.get("accept") != (ALPHA_JSON if key == "subscriptions" else STABLE_JSON):
            return self._error(406, "Not acceptable")
        count, cursor = request.query.get("pagination.count", ""), request.query.get("pagination.cursor", "0")
        if not (count.isdigit() and 1 <= int(count) <= _MAX_COUNT):
            return self._error(422, "pagination.count must be from 1 to 1000")
        first, size = int(cursor, 16), min(int(count), self._state.config.names_per_page)
        pagination = {"current": cursor, "totalEntries": len(items)}
        if first + size < len(items):
            pagination["next"] = f"{first + size:x}"
        return json_response(200, {"data": {key: items[first : first + size], "pagination": pagination}})

    def _seconds_to_wait(self, now_ns: int) -> int | None:
        """Counts a request; returns how long to wait if the minute's requests are used up."""
        with self._lock:
            if not now_ns < self._window_ends_ns <= now_ns + _WINDOW_NS:
                self._window_ends_ns, self._used = now_ns + _WINDOW_NS, 0
            self._used += 1
            if self._used <= self._state.config.names_per_minute:
                return None
            return -(-(self._window_ends_ns - now_ns) // SECOND_NS)

    def _too_many(self, seconds: int) -> Response:
        response = self._error(429, "Too many requests")
        return Response(429, response.body, {**response.headers, "Retry-After": str(seconds)})

    def _faulty(self, fault: str | None) -> Response | None:
        """Returns the response of a fault; None for no fault, and for those that change a good response."""
        if fault in ("401", "403", "404", "500"):  # a careless server repeats what it holds
            return self._error(int(fault), f"cannot serve settings apiKey {_IN_ERROR}")
        if fault == "429":
            return self._too_many(30)
        if fault == "html":
            return html_page(200)
        if fault == "reset":
            return Response(breaks_off="reset")
        if fault == "wrong-shape":
            shape = {"data": {"destinations": {"settings": {"apiKey": _API_KEY}}, "sources": [_WRITE_KEY]}}
            return json_response(200, shape)
        return None
