"""`properties.routed` → a Routing: where an event was going, and where it came from."""

from functools import lru_cache
from typing import Any

from faillog_otel.events.anything import read_anything, without_null
from faillog_otel.events.model import Routing

_LONGEST_ROUTING = 1024
_MOST_BRACKETS = 90
"""Of these alone, no record that is flat otherwise is too deep."""


@lru_cache(maxsize=4096)
def shallow_routing(raw: bytes) -> Routing | None:
    """`routed`, read once for each of its spellings: a file has few. Raises ValueError.

    None where it is long, or may be deep.
    """
    if len(raw) > _LONGEST_ROUTING or raw.count(b"[") + raw.count(b"{") > _MOST_BRACKETS:
        return None
    return read_routing(raw)


def read_routing(raw: bytes) -> Routing:
    """What it says, whatever it is; what is null is absent. Raises ValueError."""
    value = without_null(read_anything(raw)) if raw else None
    if value is None:
        return Routing()
    if isinstance(value, dict):
        value = {key: _without_gaps(item) for key, item in value.items()}
    to = _parties(value, "to")
    source = _parties(value, "from")
    subscriptions = [name for kind, name in to if kind == "subscription"]
    destinations = [(kind, name) for kind, name in to if kind != "subscription"]
    first = destinations[0][1] if destinations else None
    plain = {
        key: [{"type": kind, "id": name} for kind, name in parties]
        for key, parties in (("to", to), ("from", source))
        if parties or (isinstance(value, dict) and value.get(key) == [])
    }
    return Routing(
        to_id=first,
        from_id=source[0][1] if source else None,
        destination_id=next((name for kind, name in destinations if kind == "destination"), first),
        destination_ids=tuple(name for _, name in destinations),
        subscription_id=subscriptions[0] if subscriptions else None,
        leftover=None if value == plain and len(subscriptions) <= 1 else value,
    )


def _without_gaps(value: Any) -> Any:
    return [item for item in value if item is not None] if isinstance(value, list) else value


def _parties(routed: Any, key: str) -> list[tuple[Any, str]]:
    parties = routed.get(key) if isinstance(routed, dict) else None
    return [
        (party.get("type"), party["id"])
        for party in (parties if isinstance(parties, list) else ())
        if isinstance(party, dict) and isinstance(party.get("id"), str)
    ]
