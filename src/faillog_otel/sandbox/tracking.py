"""The Tracking API: takes messages as Segment's SDKs and curl send them.

`POST /v1/batch`, and `/v1/track` and its like, with a write key (any) as the name in Basic authorization or
as `writeKey` in the body, which may be gzip. What is taken fails later, in every collection (see world.py).

The real API answers 200 to much that it then drops. This one says 400 and what is wrong, for it is made for
tests. Sources: Segment's page "HTTP API Source"; its SDKs for Python, Node and the browser.
"""

import base64
import zlib
from typing import Any

import msgspec

from faillog_otel.clock import Clock, time_text
from faillog_otel.sandbox.bookkeeping import Asked, Inbox, Journal
from faillog_otel.sandbox.http import Request, Response, json_answer

KINDS = ("track", "identify", "page", "screen", "group", "alias")
_CALLS = {f"/v1/{name}": kind for kind in KINDS for name in (kind, kind[0])}  # browsers say /v1/t
_BATCHES = ("/v1/batch", "/v1/b", "/v1/import")
PATHS = frozenset((*_CALLS, *_BATCHES))

_CALL_BYTES, _BATCH_BYTES, _BATCH_MESSAGES = 32 * 1024, 500 * 1024, 2500
_MAX_ID = 100
_DEMANDED = {"track": "event", "group": "groupId", "alias": "previousId"}
_ANY_PAGE_MAY = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST",
    "Access-Control-Allow-Headers": "*, Authorization",
}


class Tracking:
    """Answers the requests of `PATHS`."""

    def __init__(self, *, inbox: Inbox, journal: Journal, clock: Clock) -> None:
        self._inbox = inbox
        self._journal = journal
        self._clock = clock

    def answer(self, request: Request) -> Response:
        """One request. A batch is taken as a whole or not at all."""
        now_ns = self._clock.now_ns()
        answer = self._answer(request, now_ns)
        self._journal.note(
            Asked(
                at=time_text(now_ns),
                origin="api",
                method=request.method,
                path=request.path,
                status=answer.status,
                authorized="authorization" in request.headers,
            )
        )
        return Response(answer.status, answer.body, {**answer.headers, **_ANY_PAGE_MAY})

    def _answer(self, request: Request, now_ns: int) -> Response:
        if request.method == "OPTIONS":  # what a browser asks before it lets a page send to another origin
            return Response(204)
        if request.method != "POST":
            return _refusal(405, "not_allowed", "POST messages")
        body = _content(request)
        if isinstance(body, Response):
            return body
        if not (body.get("writeKey") or _basic_name(request)):
            return _refusal(401, "unauthorized", "a write key is required: Basic authorization, or writeKey")
        events = _events(request.path, body)
        if isinstance(events, str):
            return _refusal(400, "bad_request", events)
        for event in events:
            self._inbox.take(event, now_ns)
        return json_answer(200, {"success": True})


def _content(request: Request) -> dict[str, Any] | Response:
    """The JSON object that a body is, or why it is none."""
    content, most = request.body, _BATCH_BYTES if request.path in _BATCHES else _CALL_BYTES
    if request.headers.get("content-encoding", "").strip().lower() == "gzip":
        try:
            content = zlib.decompressobj(wbits=31).decompress(content, most + 1)
        except zlib.error:
            return _refusal(400, "bad_request", "the body is not gzip")
    if len(content) > most:
        return _refusal(400, "bad_request", f"the body has more than {most // 1024} KB")
    try:
        body = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _refusal(400, "invalid_json", "the body is not JSON")
    return body if isinstance(body, dict) else _refusal(400, "invalid_json", "the body is no object")


def _basic_name(request: Request) -> str:
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials).partition(b":")[0].decode()
    except ValueError:
        return ""


def _events(path: str, body: dict[str, Any]) -> list[dict[str, Any]] | str:
    """The events of a request, or what is wrong with them."""
    if path in _CALLS:
        event = _event(body) | {"type": _CALLS[path]}
        return _fault(event) or [event]
    batch = body.get("batch")
    if not isinstance(batch, list) or len(batch) > _BATCH_MESSAGES:
        return f"batch must be a list of at most {_BATCH_MESSAGES} messages"
    events = []
    for number, each in enumerate(batch):
        if not isinstance(each, dict):
            return f"batch[{number}] is no object"
        event = _event(each)
        for shared in ("context", "integrations"):  # given once for all of them
            if isinstance(body.get(shared), dict) and isinstance(event.get(shared, {}), dict):
                event[shared] = body[shared] | event.get(shared, {})
        if len(msgspec.json.encode(event)) > _CALL_BYTES:
            return f"batch[{number}] has more than {_CALL_BYTES // 1024} KB"
        if fault := _fault(event):
            return f"batch[{number}]: {fault}"
        events.append(event)
    return events


def _event(given: dict[str, Any]) -> dict[str, Any]:
    """Without the key, and without what is null, as some SDKs write what is not there."""
    return {name: value for name, value in given.items() if name != "writeKey" and value is not None}


def _fault(event: dict[str, Any]) -> str | None:
    """What Segment demands and the event lacks."""
    kind, message_id = event.get("type"), event.get("messageId", "-")
    if kind not in KINDS:
        return f"type must be one of {', '.join(KINDS)}"
    if not (_is_name(event.get("userId")) or _is_name(event.get("anonymousId"))):
        return "userId or anonymousId is required"
    if kind in _DEMANDED and not _is_name(event.get(_DEMANDED[kind])):
        return f"{kind} requires {_DEMANDED[kind]}"
    if not isinstance(message_id, str) or len(message_id) > _MAX_ID:
        return f"messageId must be a text of at most {_MAX_ID} characters"
    return None


def _is_name(value: Any) -> bool:
    return value != "" and isinstance(value, str | int | float) and not isinstance(value, bool)


def _refusal(status: int, code: str, message: str) -> Response:
    """In the words that the Python SDK looks for."""
    return json_answer(status, {"success": False, "code": code, "message": message})
