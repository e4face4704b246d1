"""Which application's context a request names beside which messageId.

Destinations that pass events through (webhooks, functions) send what the application tracked: where it put a
`traceparent` into it, the exchange's request body holds both. Together they are when they stand in the same
JSON object, or in one that names no other messageId.
"""

from typing import Any

from faillog_otel import propagation
from faillog_otel.events.anything import read_anything
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
            body = read_anything(text)
        except ValueError:
            return {}
    found: dict[str, str] = {}
    if isinstance(body, dict | list):
        _look(body, found)
    return found


def _look(value: Any, found: dict[str, str]) -> tuple[set[str], list[str]]:
    """The messageIds in a value, and the contexts in it that belong to none of them yet."""
    messages: set[str] = set()
    free: list[str] = []
    for each in value.values() if isinstance(value, dict) else value:
        if isinstance(each, dict | list):
            inner, unclaimed = _look(each, found)
            messages, fewer = (messages, inner) if len(messages) > len(inner) else (inner, messages)
            messages |= fewer
            free += unclaimed
    if isinstance(value, dict):
        free = _claimed(value, messages, free, found)
    return messages, free


def _claimed(value: dict[str, Any], messages: set[str], free: list[str], found: dict[str, str]) -> list[str]:
    """Adds an object's own messageId, gives it, or the only one inside, its context; returns the rest."""
    message, context = value.get(_MESSAGE_ID), value.get(_TRACEPARENT)
    if isinstance(context, str) and propagation.parse_traceparent(context):
        if isinstance(message, str):
            found.setdefault(message, context)
        else:
            free = [*free, context]
    if isinstance(message, str):
        messages.add(message)
    elif _MESSAGE_ID in value:
        return []  # they are of a message that has no id, and of no other
    if free and len(messages) == 1:
        found.setdefault(next(iter(messages)), free[0])
    return [] if messages else free
