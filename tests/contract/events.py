"""Failure logs of every kind that the program treats differently; always the same bytes."""

import json
import random
from typing import Any

SPAN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4737-00f067aa0ba902b8-00"
COMPACT = "tr1-2HlvMLgLCTnbMWE6CLrENs0123456789"


def event(kind: str, name: str, /, version: Any = "v1", **properties: Any) -> bytes:
    """One line. The destination's id tells the kind, so that each record shows where it comes from."""
    routed = {
        "to": [{"type": "destination", "id": f"to-{kind}"}],
        "from": [{"type": "source", "id": "qL9vTgNcd3xW2b5Yp8RkZm"}],
    }
    times = {"occurredAt": "2025-05-07T23:14:47.123Z", "loggedAt": "2025-05-07T23:14:49.456Z"}
    whole = {"type": "observability", "event": name, "version": version}
    whole["properties"] = {"routed": routed, **times, **properties}
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()


def error(kind: str, **more: Any) -> bytes:
    """An Error Logged."""
    return event(kind, "Error Logged", **{"messageId": f"{kind}-m", "discarded": True, **more})


def attempt(kind: str, **more: Any) -> bytes:
    """A Delivery Attempt Logged."""
    own = {"messageId": f"{kind}-m", "attempt": 1, "outcome": "failure", "destinationExchangeId": f"{kind}-x"}
    return event(kind, "Delivery Attempt Logged", **{**own, **more})


def exchange(kind: str, status: int = 503, body: Any = "{}", **more: Any) -> bytes:
    """A Destination Exchange Logged."""
    own = {
        "destinationExchangeId": f"{kind}-x",
        "requestToDestination": {"method": "POST", "url": "https://api.example:8443/v1?page=2", "body": "{}"},
        "responseFromDestination": {
            "status": status,
            "headers": {"Retry-After": "30", "CF-Ray": "8a"},
            "body": body,
        },
    }
    return event(kind, "Destination Exchange Logged", **{**own, **more})


def _routed(*to: str, subscription: str | None = None) -> dict[str, Any]:
    ends = [{"type": "destination", "id": each} for each in to]
    ends += [{"type": "subscription", "id": subscription}] if subscription else []
    return {"to": ends, "from": [{"type": "source", "id": "one"}, {"type": "source", "id": "two"}]}


def _varied(kind: str, seed: int, count: int) -> list[bytes]:
    """Ordinary events with many values and combinations: what is common is met again and again."""
    dice = random.Random(seed)
    made = []
    for number in range(count):
        more: dict[str, Any] = {
            "messageId": f"m-{dice.randrange(40)}",
            "occurredAt": f"2025-05-0{dice.randrange(1, 9)}T0{dice.randrange(9)}:00:00.{dice.randrange(99)}Z",
        }
        if dice.random() < 0.2:
            more["reason"] = dice.choice(["ETIMEDOUT", "Service Unavailable", "Ungültig: ☃"])
        if dice.random() < 0.1:
            more["note"] = number
        status = dice.choice([200, 400, 429, 503])
        if dice.random() < 0.3:
            made.append(error(kind, **more, discarded=dice.random() < 0.5))
        elif dice.random() < 0.6:
            outcome = dice.choice(["failure", "success", "postponed"])
            exchange_id = f"x-{dice.randrange(60)}"
            made.append(
                attempt(
                    kind,
                    **more,
                    attempt=dice.randrange(9),
                    outcome=outcome,
                    destinationExchangeId=exchange_id,
                )
            )
        else:
            more["destinationExchangeId"] = f"x-{dice.randrange(60)}"
            made.append(exchange(kind, status, json.dumps({"error": f"e{dice.randrange(5)}"}), **more))
    return made


_SECRETS = json.dumps(
    {
        "error": "Incorrect API key provided: sk_live_4eC39HqLyjWDarjtT1zdp7dc",
        "password": "hunter2",
        "user": "jane.doe@example.com",
        "phone": "+49 30 901820",
        "ip": "203.0.113.7",
        "code": "E_AUTH",
    }
)

KINDS: dict[str, list[bytes]] = {
    "ordinary": [
        error("ordinary"),
        error("ordinary", discarded=False),
        attempt("ordinary"),
        attempt("ordinary", attempt=2, outcome="success"),
        exchange("ordinary"),
        exchange("ordinary", 200, destinationExchangeId="ordinary-y"),
        attempt("ordinary", messageId="Grüße, 世界 🌍", destinationExchangeId="nowhere"),
    ],
    "varied": _varied("varied", seed=17, count=300),
    "drafts": [
        event(
            "drafts",
            "Delivery Attempt Logged",
            1,
            messageId="m",
            attempt=3,
            outcome="failure",
            destinationExchangeId="drafts-x",
            featureName="destinationInsertFunction",
            routed=_routed("to-drafts", subscription="subscription-1"),
            reason="the destination did not answer in time",
        ),
        event(
            "drafts", "Error Logged", "1", messageId="m", discarded=False, attempt=3, featureName="delivery"
        ),
        event("drafts", "Destination Exchange Logged", "v1.7", destinationExchangeId="drafts-x"),
    ],
    "routes": [
        attempt("routes", routed=_routed("to-routes", "second", "third")),
        exchange("routes", routed=_routed("to-routes", "second")),
        error("routes", routed={"to": {"type": "destination", "id": "to-routes"}, "via": ["routes"]}),
    ],
    "reasons": [
        error("reasons", reason="x" * 5000),
        attempt("reasons", errorCode="ETIMEDOUT", errorMessage="a\nb\t" + "ü" * 3000),
        exchange("reasons", 200, {"results": [{"errormessage": "no", "errorreporter": "DESTINATION"}]}),
        exchange("reasons", responseFromDestination=None),
    ],
    "joined": [
        attempt("joined", messageId=f"{SPAN}-joined-1"),
        attempt("joined", messageId=f"{UNSAMPLED}-joined-2"),
        attempt("joined", messageId=COMPACT),
        error("joined", messageId=f"{SPAN}-joined-1"),
        attempt("joined", messageId="body-1", destinationExchangeId="joined-z"),
        exchange(
            "joined",
            destinationExchangeId="joined-z",
            requestToDestination={"body": json.dumps({"messageId": "body-1", "traceparent": SPAN})},
        ),
    ],
    "extras": [
        attempt("extras", note={"a": [1, 2.5, True, None, {"b": "c"}], "empty": {}, "ü": "☃"}),
        exchange("extras", responseFromDestination={"status": 500, "seconds": 1.25, "body": ["a", {"b": 1}]}),
        error("extras", **{f"field{number}": number for number in range(70)}),
        error("extras", long="y" * 5000, bodies=["z" * 3000] * 30),
    ],
    "secrets": [
        exchange(
            "secrets", 401, _SECRETS, requestToDestination={"body": _SECRETS, "url": "https://u:p@h/?token=t"}
        ),
        error("secrets", reason="user jane.doe@example.com: Authorization: Bearer abcdef0123456789abcdef"),
    ],
    "bodies": [
        exchange("bodies", 400, json.dumps({"error": "e", "data": ["d" * 200] * 200})),
        exchange("bodies", 400, "<html>" + "b" * 20_000),
        exchange("bodies", 400, {"message": "m", "nested": {"code": 7, "values": [1, 2, 3]}}),
    ],
    "times": [
        attempt("times", occurredAt="1970-01-01T00:00:00Z", loggedAt="2262-01-01T00:00:00.123456789Z"),
        error("times", occurredAt="2025-05-07T23:14:47+02:00", loggedAt=None),
    ],
    "unknown": [
        event("unknown", "Delivery Paused", messageId="unknown-m", until="2025-05-08T00:00:00Z"),
        event("unknown", "Delivery Attempt Logged", "v2", messageId="unknown-m", attempt=1),
        event("unknown", "", None),
    ],
}
"""By kind, the lines of its file."""


def entry(line: bytes) -> bytes:
    """The line as an entry of a pending file, read first on 2025-06-01: times are shifted from there."""
    context = {"reference_ns": 1_748_736_000_000_000_000}
    return json.dumps({"reason": "unknown", "raw": line.decode(), "context": context}).encode()
