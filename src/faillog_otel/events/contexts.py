"""Which application's context a request names beside which messageId.

Destinations that pass events through (webhooks, functions) send what the application tracked: where it put a
`traceparent` into it, the exchange's request body holds both. Together they are when they stand in the same
JSON object, or in one that names no other messageId.
"""

from typing import Any

import msgspec

from faillog_otel import propagation
from faillog_otel.events.syntax import holds_too_much, is_too_deep

_MESSAGE_ID = "messageId"
_TRACEPARENT = "traceparent"


def traceparents(body: Any) -> dict[str, str]:
    """By messageId, its `traceparent`, the first that is valid. `body`: a JSON value, or its text.

    A body that cannot be read, such as one that was cut off, names none.
    """
    if isinstance(body, str):
        if f'"{_TRACEPARENT}"' not in body:
            return {}
        text = body.encode()
        if is_too_deep(text) or holds_too_much(text):
            return {}
        try:
            body = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return {}
    found: dict[str, str] = {}
    _look(body, found)
    return found


def _look(value: Any, found: dict[str, str]) -> tuple[set[str], list[str]]:
    """The messageIds in a value, and the contexts in it that belong to none of them yet."""
    messages: set[str] = set()
    free: list[str] = []
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            if isinstance(each, dict | list):
                inner, unclaimed = _look(each, found)
                messages, smaller = (messages, inner) if len(messages) > len(inner) else (inner, messages)
                messages |= smaller
                free += unclaimed
    if not isinstance(value, dict):
        return messages, free
    message, context = value.get(_MESSAGE_ID), value.get(_TRACEPARENT)
    if isinstance(message, str):
        messages.add(message)
    if isinstance(context, str) and propagation.parse_traceparent(context):
        if isinstance(message, str):
            found.setdefault(message, context)
        else:
            free.append(context)
    if free and messages:
        if len(messages) == 1:
            found.setdefault(next(iter(messages)), free[0])
        free = []
    return messages, free
