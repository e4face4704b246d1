"""The simulated Tracking API, and the inbox with the messages that applications sent to it.

It accepts what Segment's SDKs and curl send: `POST /v1/batch`, and `/v1/track` and its like. Any write key is
accepted, as the user of Basic authorization or as `writeKey` in the body, which may be gzip. Every message
that it accepts fails later, in every collection (see world.py).

Segment answers 200 to many messages that it then drops. This API answers 400 and names the error, because it
is made for tests. Sources: Segment's page "HTTP API Source"; its SDKs for Python, Node and the browser.
"""

import base64
import random
import string
import threading
import zlib
from collections import defaultdict
from typing import Any

import msgspec
from msgspec import Struct

from faillog_otel.clock import hour_of, time_text
from faillog_otel.sandbox.http import Request, Response, json_response

KINDS = ("track", "identify", "page", "screen", "group", "alias")
_CALLS = {f"/v1/{name}": kind for kind in KINDS for name in (kind, kind[0])}  # browsers call /v1/t
_BATCHES = ("/v1/batch", "/v1/b", "/v1/import")
PATHS = frozenset((*_CALLS, *_BATCHES))

_MAX_CALL_BYTES, _MAX_BATCH_BYTES, _MAX_BATCH_MESSAGES = 32 * 1024, 500 * 1024, 2500
_MAX_ID_CHARACTERS = 100
_REQUIRED = {"track": "event", "group": "groupId", "alias": "previousId"}
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST",
    "Access-Control-Allow-Headers": "*, Authorization",
}
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase


class TrackedMessage(Struct, frozen=True):
    """One message; times are nanoseconds since 1970, by the simulator's clock."""

    id: str
    received_ns: int
    listed_until_ns: int
    """The latest time for which objects had been read when the message arrived."""
    event: dict[str, Any]
    """As it was sent, plus what Segment adds: receivedAt, and messageId and timestamp if they are missing."""


class Inbox:
    """All messages that applications sent, each once. Safe to use from several threads.

    Messages are only added, and never change an object that was read already: when the clock is moved back,
    the records of a new message wait until after the latest time for which objects were read. So the
    manifest can generate every version of an object that was listed.
    """

    def __init__(self, seed: int) -> None:
        """`seed` determines the messageIds that are generated."""
        self._seed = seed
        self._lock = threading.Lock()
        self._messages: dict[str, TrackedMessage] = {}
        self._by_hour: defaultdict[int, list[TrackedMessage]] = defaultdict(list)
        self._listed_until_ns = 0

    def add(self, event: dict[str, Any], now_ns: int) -> TrackedMessage:
        """Adds a message. Of several with the same messageId the first counts, because SDKs retry."""
        with self._lock:
            message_id = event.get("messageId") or self._generated_id()
            if message_id not in self._messages:
                now = time_text(now_ns)
                event = {"timestamp": now} | event | {"messageId": message_id, "receivedAt": now}
                message = TrackedMessage(message_id, now_ns, self._listed_until_ns, event)
                self._messages[message_id] = message
                self._by_hour[hour_of(now_ns)].append(message)
            return self._messages[message_id]

    def note_listed(self, now_ns: int) -> None:
        """Notes that somebody reads objects as they are at this time."""
        with self._lock:
            self._listed_until_ns = max(self._listed_until_ns, now_ns)

    def count(self, hour: int) -> int:
        """The number of messages that arrived in an hour so far."""
        with self._lock:
            return len(self._by_hour.get(hour, ()))

    def messages_of(self, hour: int, count: int) -> list[TrackedMessage]:
        """The first `count` messages of an hour."""
        with self._lock:
            return self._by_hour.get(hour, [])[:count]

    def messages(self) -> list[TrackedMessage]:
        """All messages, oldest first."""
        with self._lock:
            return list(self._messages.values())

    def _generated_id(self) -> str:
        """An id as Segment gives it to a message without one: `api-` and 27 letters and digits."""
        rng = random.Random(f"{self._seed}/messageId/{len(self._messages)}")
        return "api-" + "".join(rng.choices(_BASE62, k=27))


class TrackingApi:
    """Answers requests to `PATHS`, and adds their messages to the inbox."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    def answer(self, request: Request, now_ns: int) -> Response:
        """Answers one request. A batch is accepted as a whole or not at all."""
        response = self._answer(request, now_ns)
        return Response(response.status, response.body, {**response.headers, **_CORS})

    def _answer(self, request: Request, now_ns: int) -> Response:
        if request.method == "OPTIONS":  # a browser's preflight request
            return Response(204)
        if request.method != "POST":
            return _refusal(405, "not_allowed", "use POST to send messages")
        body = _content(request)
        if isinstance(body, Response):
            return body
        if not (body.get("writeKey") or _basic_user(request)):
            message = "a write key is required: as the user of Basic authorization, or as writeKey"
            return _refusal(401, "unauthorized", message)
        events = _events(request.path, body)
        if isinstance(events, str):
            return _refusal(400, "bad_request", events)
        for event in events:
            self._inbox.add(event, now_ns)
        return json_response(200, {"success": True})


def _content(request: Request) -> dict[str, Any] | Response:
    """The JSON object in a request's body, or the refusal of a body without one."""
    content = request.body
    max_bytes = _MAX_BATCH_BYTES if request.path in _BATCHES else _MAX_CALL_BYTES
    if request.headers.get("content-encoding", "").strip().lower() == "gzip":
        try:
            content = zlib.decompressobj(wbits=31).decompress(content, max_bytes + 1)
        except zlib.error:
            return _refusal(400, "bad_request", "the body is not gzip")
    if len(content) > max_bytes:
        return _refusal(400, "bad_request", f"the body exceeds {max_bytes // 1024} KB")
    try:
        body = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _refusal(400, "invalid_json", "the body is not JSON")
    return body if isinstance(body, dict) else _refusal(400, "invalid_json", "the body is not a JSON object")


def _basic_user(request: Request) -> str:
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials).partition(b":")[0].decode()
    except ValueError:
        return ""


def _events(path: str, body: dict[str, Any]) -> list[dict[str, Any]] | str:
    """The events of a request, or an error message."""
    if path in _CALLS:
        event = _event(body) | {"type": _CALLS[path]}
        return _error_in(event) or [event]
    batch = body.get("batch")
    if not isinstance(batch, list) or len(batch) > _MAX_BATCH_MESSAGES:
        return f"batch must be a list of at most {_MAX_BATCH_MESSAGES} messages"
    events = []
    for number, each in enumerate(batch):
        if not isinstance(each, dict):
            return f"batch[{number}] is not a JSON object"
        event = _event(each)
        for shared in ("context", "integrations"):  # a batch may give them once for all messages
            if isinstance(body.get(shared), dict) and isinstance(event.get(shared, {}), dict):
                event[shared] = body[shared] | event.get(shared, {})
        if len(msgspec.json.encode(event)) > _MAX_CALL_BYTES:
            return f"batch[{number}] exceeds {_MAX_CALL_BYTES // 1024} KB"
        if error := _error_in(event):
            return f"batch[{number}]: {error}"
        events.append(event)
    return events


def _event(given: dict[str, Any]) -> dict[str, Any]:
    """A message without its write key and without nulls, which some SDKs send for missing fields."""
    return {name: value for name, value in given.items() if name != "writeKey" and value is not None}


def _error_in(event: dict[str, Any]) -> str | None:
    """The first of Segment's requirements that an event does not meet, as an error message."""
    kind, message_id = event.get("type"), event.get("messageId", "-")
    if kind not in KINDS:
        return f"type must be one of {', '.join(KINDS)}"
    if not (_is_id(event.get("userId")) or _is_id(event.get("anonymousId"))):
        return "userId or anonymousId is required"
    if kind in _REQUIRED and not _is_id(event.get(_REQUIRED[kind])):
        return f"{kind} requires {_REQUIRED[kind]}"
    if not isinstance(message_id, str) or len(message_id) > _MAX_ID_CHARACTERS:
        return f"messageId must be a string of at most {_MAX_ID_CHARACTERS} characters"
    return None


def _is_id(value: Any) -> bool:
    return value != "" and isinstance(value, str | int | float) and not isinstance(value, bool)


def _refusal(status: int, code: str, message: str) -> Response:
    """An error with the keys that the Python SDK reads."""
    return json_response(status, {"success": False, "code": code, "message": message})
