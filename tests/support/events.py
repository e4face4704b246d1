"""Events as Segment's page shows them, with whatever a test wants different."""

import json
from typing import Any

ROUTED = {"to": [{"type": "destination", "id": "abc"}], "from": [{"type": "source", "id": "ghi"}]}
TIMES = {"occurredAt": "2025-03-23T20:00:00Z", "loggedAt": "2025-03-23T20:00:00Z"}
ABSENT = object()


def event(name: str, /, **properties: Any) -> bytes:
    """One event's line, compact; properties given as ABSENT are left out."""
    kept = {key: value for key, value in properties.items() if value is not ABSENT}
    whole = {"type": "observability", "event": name, "version": "v1", "properties": kept}
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()


def error(**properties: Any) -> bytes:
    """An Error Logged."""
    return event(
        "Error Logged", **{"routed": ROUTED, "discarded": True, "messageId": "m", **TIMES, **properties}
    )


def attempt(**properties: Any) -> bytes:
    """A Delivery Attempt Logged."""
    own = {"attempt": 4, "outcome": "failure", "destinationExchangeId": "x", "messageId": "m"}
    return event("Delivery Attempt Logged", **{"routed": ROUTED, **own, **TIMES, **properties})


def exchange(**properties: Any) -> bytes:
    """A Destination Exchange Logged."""
    own = {
        "requestToDestination": {"body": '{"key": "value"}'},
        "responseFromDestination": {
            "status": 418,
            "headers": {"X-header": "value"},
            "body": '{"key": "value"}',
        },
        "destinationExchangeId": "x",
    }
    return event("Destination Exchange Logged", **{**own, "routed": ROUTED, **TIMES, **properties})


def lines(*events: bytes) -> bytes:
    """A file of events."""
    return b"".join(each + b"\n" for each in events)
