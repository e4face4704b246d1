"""The simulated API's names: destinations, sources and subscriptions, among credentials."""

from typing import Any

from faillog_otel.errors import ConfigError
from faillog_otel.sandbox.bookkeeping import Served, SimulatorState
from faillog_otel.sandbox.destinations import Destination, source_of
from faillog_otel.sandbox.free_requests import (
    ALPHA_JSON,
    API_KEY,
    IN_LIST,
    NESTED,
    OF_SOURCE,
    PASSWORD,
    STABLE_JSON,
    WRITE_KEY,
    ErrorMaker,
    FreeRequests,
)
from faillog_otel.sandbox.http import Request, Response, json_response


class NamesApi:
    """Answers `GET /destinations` and `/sources`, and what belongs to one. Safe for several threads."""

    def __init__(self, state: SimulatorState, error: ErrorMaker) -> None:
        config = state.config
        self._requests = FreeRequests("names", config.names_per_minute, state, error)
        self._has_subscriptions = "subscriptions" not in config.lacks
        self._destinations = {each.id: each for each in state.world.destinations}
        self._sources = [source_of(number) for number in range(config.world.sources)]
        self._names: dict[str, str] = {}

    def rename(self, id_: str, name: str) -> None:
        """Gives a destination, a source or a subscription another name. Raises ConfigError."""
        known = {each.subscription_id for each in self._destinations.values()}
        if id_ not in {*self._sources, *self._destinations, *known}:
            raise ConfigError(f"no destination, source or subscription has the id {id_!r}; use a known id")
        self._names[id_] = name

    def answer(self, request: Request, now_ns: int) -> Served | None:
        """Answers one request; None for a path of another service."""
        items = self._items(request)
        if items is None:
            return None
        return self._requests.answer(
            now_ns, lambda: items if isinstance(items, Response) else self._page(*items, request)
        )

    def _page(self, key: str, items: list[dict[str, Any]], request: Request) -> Response:
        media_type = ALPHA_JSON if key == "subscriptions" else STABLE_JSON
        return self._requests.page(key, items, request, media_type)

    def _items(self, request: Request) -> tuple[str, list[dict[str, Any]]] | Response | None:
        """Returns the key and all items of a list, or one item; None for an unknown path."""
        if request.method != "GET":
            return None
        destinations = self._destinations
        found: tuple[str, list[dict[str, Any]]] | Response | None = None
        match request.path.strip("/").split("/"):
            case ["destinations"]:
                found = "destinations", [*map(self._destination, destinations.values())]
            case ["sources"]:
                found = "sources", [*map(self._source, self._sources)]
            case ["destinations", id_] if id_ in destinations:
                item = self._destination(destinations[id_])
                found = json_response(200, {"data": {"destination": item}})
            case ["sources", id_] if id_ in self._sources:
                found = json_response(200, {"data": {"source": self._source(id_)}})
            case ["sources", id_, "connected-destinations"] if id_ in self._sources:
                connected = [each for each in destinations.values() if each.source == id_]
                found = "destinations", [*map(self._destination, connected)]
            case ["destinations", id_, "subscriptions"] if id_ in destinations:
                found = self._requests.error(403, "Destination Subscriptions are not enabled")
                if self._has_subscriptions:
                    found = "subscriptions", self._subscriptions(destinations[id_])
        return found

    def _destination(self, each: Destination) -> dict[str, Any]:
        product = each.name.partition(" ")[0]
        return {
            "id": each.id,
            "name": self._names.get(each.id, f"{product} (prod{_number(each)})"),
            "enabled": True,
            "sourceId": each.source,
            "metadata": {
                "id": each.id[::-1],
                "name": each.name,
                "slug": each.name.lower().replace(" ", "-").replace("(", "").replace(")", ""),
                "options": [{"name": "apiKey", "type": "password", "required": True}],
            },
            "settings": {
                "apiKey": API_KEY,
                "connection": {"oauth": {"clientSecret": NESTED}, "name": NESTED},
                "headers": [{"name": "X-Token", "value": IN_LIST}],
                "password": PASSWORD,
            },
        }

    def _source(self, id_: str) -> dict[str, Any]:
        number = self._sources.index(id_)
        return {
            "id": id_,
            "slug": f"shop-web-{number + 1}" if number else "shop-web",
            "name": self._names.get(id_, f"Shop (web {number + 1})" if number else "Shop (web)"),
            "workspaceId": "9aQ1Lj62S4bomZKLF4DPqW",
            "enabled": True,
            "writeKeys": [WRITE_KEY],
            "metadata": {"id": "IqDTy1TpoU", "name": "Javascript", "slug": "javascript"},
            "settings": {"track": {"secret": OF_SOURCE}},
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
                "settings": {"authorization": PASSWORD},
            }
        ]


def _number(each: Destination) -> str:
    """Returns ` 2` for the second destination of a kind; empty for the first."""
    last = each.name.rpartition(" ")[2]
    return f" {last}" if last.isdigit() else ""
