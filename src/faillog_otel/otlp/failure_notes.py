"""Notes the failures among the events of a run, to be counted when their batch is committed."""

import struct
from typing import Any, Protocol

from msgspec import Struct

from faillog_otel.clock import SECOND_NS
from faillog_otel.config import MappingConfig
from faillog_otel.events import failure_counts as failures
from faillog_otel.events.failure import MAX_GROUP_REASON, FailureGroup, group_number
from faillog_otel.events.failure_counts import BatchFailures, message_key, other_group
from faillog_otel.events.model import ATTEMPT, EXCHANGE, Event, Kind, RecordContext
from faillog_otel.otlp.mapping import RULES, message_origin
from faillog_otel.otlp.rules import (
    NO_REASON,
    failure_group,
    outcome_fields,
    reason_fields,
    status_and_reason,
    varying_of,
)
from faillog_otel.propagation import exchange_digest
from faillog_otel.text import printable

HOUR_SECONDS = 3600
MAX_KNOWN_GROUPS = 4096
"""Groups whose facts a process remembers; in a run over PATHs further ones are `other`."""
MAX_SAMPLES = 16
"""Messages of a group whose ids are remembered."""


NOTE = struct.Struct("<qqBBI")
"""Key, group, what, number of the attempt, hour."""
_pack = NOTE.pack


class FailureNotes(Protocol):
    """Notes events."""

    def note(self, into: BatchFailures, event: Event, kind: Kind, context: RecordContext, group: int) -> None:
        """Adds a note about an event to its batch, if it is a failure or a success.

        `group`: the failure group of the encoded event, 0 for none.
        """


class NoNotes:
    """No-op implementation."""

    def note(self, into: BatchFailures, event: Event, kind: Kind, context: RecordContext, group: int) -> None:
        """Does nothing."""


NO_NOTES = NoNotes()


class MessageNotes:
    """Notes with messageIds, for the ledger."""

    def __init__(self, config: MappingConfig) -> None:
        self._config = config
        self._groups: dict[int, FailureGroup] = {}

    def note(self, into: BatchFailures, event: Event, kind: Kind, context: RecordContext, group: int) -> None:
        """Adds a note; each batch gets the facts of all of its groups."""
        what = _what(event, kind, group)
        if what < 0:
            return
        if group and group not in into.groups:
            into.groups[group] = self._facts(group, event, context)
        properties: Any = event.properties
        second = event.occurred_ns // SECOND_NS
        if what == failures.REQUEST:
            key = exchange_key(properties.destination_exchange_id)
            into.notes.append((key, group, what, 0, second, "", 0))
            return
        message_id = properties.message_id or ""
        key = message_key(event.routing.destination_id or "", message_id)
        exchange = attempt = 0
        if kind is ATTEMPT:
            attempt = max(properties.attempt, 0)
            if group and context.answer is None and properties.destination_exchange_id is not None:
                exchange = exchange_key(properties.destination_exchange_id)
        into.notes.append((key, group, what, attempt, second, message_id, exchange))

    def _facts(self, group: int, event: Event, context: RecordContext) -> FailureGroup:
        if (found := self._groups.get(group)) is None:
            if len(self._groups) >= MAX_KNOWN_GROUPS:
                self._groups.clear()
            found = self._groups[group] = failure_group_of(event, context, self._config)
        return found


class _Seen(Struct):
    """When a group occurred, in seconds since 1970, and how many of its messages are samples."""

    first_s: int
    last_s: int
    samples: int = 0


class PackedNotes:
    """Notes of 22 bytes for a run over PATHs. Their keys are comparable within one run only."""

    def __init__(self, config: MappingConfig) -> None:
        self._config = config
        self._seen: dict[int, _Seen] = {}

    def note(self, into: BatchFailures, event: Event, kind: Kind, context: RecordContext, group: int) -> None:
        """Adds a note; a batch gets the facts of the groups that are new to this process."""
        properties: Any = event.properties
        # The builtin hash takes a tenth of SHA-256's time; workers are forks, and have the same one.
        if kind is EXCHANGE and group:
            key, what, attempt = hash(properties.destination_exchange_id), failures.REQUEST, 0
        else:
            if (what := _what(event, kind, group)) < 0:
                return
            key = hash((event.routing.destination_id, properties.message_id))
            attempt = properties.attempt if kind is ATTEMPT else 0
            if not 0 <= attempt <= MAX_ATTEMPT:
                attempt = MAX_ATTEMPT if attempt > 0 else 0
        second = event.occurred_ns // SECOND_NS
        if group:
            seen = self._seen.get(group)
            if seen is None:
                group, seen = self._meet(into, event, context, group, second)
            if second > seen.last_s:
                seen.last_s = second
            elif second < seen.first_s:
                seen.first_s = second
            if seen.samples < MAX_SAMPLES and properties.message_id is not None:
                seen.samples += 1
                into.samples[key] = properties.message_id
        into.packed.append(_pack(key, group, what, attempt, second // HOUR_SECONDS))

    def _meet(
        self, into: BatchFailures, event: Event, context: RecordContext, group: int, second: int
    ) -> tuple[int, _Seen]:
        facts = failure_group_of(event, context, self._config)
        if len(self._seen) >= MAX_KNOWN_GROUPS:
            facts = other_group(facts.destination)
            group = group_number(facts.id)
        into.groups[group] = facts
        return group, self._seen.setdefault(group, _Seen(second, second))

    def times(self) -> dict[int, tuple[int, int]]:
        """Returns group → its first and last failure, in seconds since 1970."""
        return {group: (seen.first_s, seen.last_s) for group, seen in self._seen.items()}


def _what(event: Event, kind: Kind, group: int) -> int:
    """Returns what a note about the event says; negative if it is neither a failure nor a success."""
    if kind is ATTEMPT:
        if group:
            return failures.FAILED
        outcome: str | None = event.properties.outcome  # type: ignore[attr-defined]
        return failures.SUCCEEDED if outcome == "success" else -1
    if not group:
        return -1
    if kind is EXCHANGE:
        return failures.REQUEST
    return failures.DISCARDED if kind.is_bad(event.properties, event.extras) else failures.ERROR


MAX_ATTEMPT = 255


def exchange_key(exchange_id: str | None) -> int:
    """Returns the key of an exchange: a signed 64-bit number."""
    return int.from_bytes(exchange_digest(exchange_id)[:8], "big", signed=True)


def failure_group_of(event: Event, context: RecordContext, config: MappingConfig) -> FailureGroup:
    """Returns the failure group of an event that is a failure, with its facts."""
    rules, routing = RULES[event.kind], event.routing
    origin = message_origin(event, context, config)
    status, reason = status_and_reason(event, rules, context, config.bodies)
    outcome = outcome_fields(varying_of(event, rules, context, status, reason, origin=origin), rules, config)
    of_reason = reason_fields(reason, config) if reason is not None else NO_REASON
    return FailureGroup(
        id=failure_group(routing, outcome.code, status, of_reason.group_text),
        destination=routing.destination_id or "",
        subscription=routing.subscription_id,
        code=outcome.code,
        status=status,
        reason=printable(of_reason.short)[:MAX_GROUP_REASON] or None,
        reason_class=outcome.reason_class,
        retryable=outcome.retryable,
    )
