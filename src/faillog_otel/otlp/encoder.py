"""Events → the bytes of their records: what `mapping` says, written straight to the wire.

A record is the concatenation of its fields, and most of them repeat. Where an event went and how it went
are encoded once and remembered, in two small caches; ids, times and the event's own values are written for
each. The bytes are those that the official classes write of `map_event`'s records, to the last one.
"""

from functools import lru_cache

from msgspec import Struct

from faillog_otel.config import MappingConfig
from faillog_otel.events.model import Context, Event, Routing
from faillog_otel.events.printable import printable
from faillog_otel.otlp import messages
from faillog_otel.otlp.encoding import Item
from faillog_otel.otlp.mapping import (
    SAMPLED_LOCAL,
    SPAN_KINDS,
    UID,
    ids,
    links,
    log_attributes,
    message_origin,
    record_uid,
    shifted,
    span_name,
)
from faillog_otel.otlp.messages import (
    attribute_fields,
    bytes_field,
    flags_field,
    int_attribute_heads,
    link_field,
    text_attribute_heads,
)
from faillog_otel.otlp.origin import REMOTE, Origin
from faillog_otel.otlp.parts import EVENT_NAMES, OWN, Case, case_of, destined, judged, own_values
from faillog_otel.otlp.records import StatusCode
from faillog_otel.otlp.wire import (
    FIXED64,
    VARINT,
    Heads,
    fixed64,
    int64,
    message_field,
    tag,
    text_field,
    varint,
)
from faillog_otel.propagation import SAMPLED

REMEMBERED = 1024
"""Entries in each cache."""
LONGEST_REMEMBERED = 1024
"""Characters; what is longer is encoded each time, so that the caches stay within some MiB."""

_LOG_TIME = tag(messages.LOG_TIME, FIXED64)
_LOG_BODY = Heads(tag(messages.LOG_BODY), tag(messages.ANY_STRING))
_LOG_UID = text_attribute_heads(messages.LOG_ATTRIBUTES, UID)[32]
_LOG_TRACE_ID = tag(messages.LOG_TRACE_ID) + varint(16)
_LOG_SPAN_ID = tag(messages.LOG_SPAN_ID) + varint(8)
_LOG_OBSERVED = tag(messages.LOG_OBSERVED_TIME, FIXED64)
_SPAN_TRACE_ID = tag(messages.SPAN_TRACE_ID) + varint(16)
_SPAN_SPAN_ID = tag(messages.SPAN_SPAN_ID) + varint(8)
_SPAN_START = tag(messages.SPAN_START_TIME, FIXED64)
_SPAN_END = tag(messages.SPAN_END_TIME, FIXED64)

_OWN_TEXTS = tuple(
    (text_attribute_heads(messages.LOG_ATTRIBUTES, key), text_attribute_heads(messages.SPAN_ATTRIBUTES, key))
    for key in OWN[:-1]
)
_LOG_LAG = int_attribute_heads(messages.LOG_ATTRIBUTES, OWN[-1])
_SPAN_LAG = int_attribute_heads(messages.SPAN_ATTRIBUTES, OWN[-1])

_LOG_FLAGS = {flags: flags_field(messages.LOG_FLAGS, flags) for flags in (0, SAMPLED)}
_SPAN_FLAGS = {flags: flags_field(messages.SPAN_FLAGS, flags) for flags in (SAMPLED_LOCAL, REMOTE | SAMPLED)}
_EVENT_NAME_FIELDS = {name: text_field(messages.LOG_EVENT_NAME, name) for name in EVENT_NAMES.values()}


class _Where(Struct, frozen=True):
    """Where events went, encoded. `name_and_kind` are the span's."""

    log: bytes
    span: bytes
    name_and_kind: bytes
    before: bytes
    after: bytes


class _How(Struct, frozen=True):
    """How it went with events, encoded."""

    log: bytes
    span: bytes
    severity: bytes
    status: bytes
    opening: bytes
    ending: bytes
    verb: str


class WireEncoder:
    """Turns one event into the bytes of its records; the same ones every time."""

    def __init__(self, config: MappingConfig) -> None:
        self._config = config
        self._shifts = config.time_policy.kind != "occurred"
        self._remembered_where = lru_cache(REMEMBERED)(self._where)
        self._remembered_how = lru_cache(REMEMBERED)(self._how)

    def encode(self, event: Event, context: Context) -> Item:
        """The event's records in this context."""
        config = self._config
        name = EVENT_NAMES[type(event.properties)]
        time_ns = event.occurred_ns
        if self._shifts:
            time_ns = shifted(time_ns, context.reference_ns, config.time_policy)
        origin = message_origin(event, context, config)
        case = case_of(
            event, context.answer, origin.name if origin else None, is_shifted=time_ns != event.occurred_ns
        )
        how = self._remembered_how(case) if case.length() <= LONGEST_REMEMBERED else self._how(case)
        where = self._where_of(name, how.verb, event.routing)
        trace_id, span_id = ids(event, origin)
        *texts, lag_ms = own_values(event)
        log_own: list[bytes] = []
        span_own: list[bytes] = []
        for text, (log_heads, span_heads) in zip(texts, _OWN_TEXTS, strict=True):
            if text is not None:
                value = text.encode()
                log_own += (log_heads[len(value)], value)
                span_own += (span_heads[len(value)], value)
        if lag_ms is not None:
            value = int64(lag_ms)
            log_own += (_LOG_LAG[len(value)], value)
            span_own += (_SPAN_LAG[len(value)], value)
        time = fixed64(time_ns) if time_ns else b""
        span = b""
        if span_id:
            span = b"".join(
                (
                    *(_SPAN_TRACE_ID, trace_id, _SPAN_SPAN_ID, span_id),
                    bytes_field(messages.SPAN_PARENT_SPAN_ID, origin.parent_span_id) if origin else b"",
                    where.name_and_kind,
                    *((_SPAN_START, time, _SPAN_END, time) if time else ()),
                    *(where.span, how.span),
                    *span_own,
                    *self._links(event, origin),
                    how.status,
                    _SPAN_FLAGS[origin.span_flags if origin else SAMPLED_LOCAL],
                )
            )
        elif origin is not None:
            span_id = origin.log_span_id
        about = printable(texts[name == "segment.exchange"] or "").encode()
        length = len(how.opening) + len(where.before) + len(about) + len(where.after) + len(how.ending)
        alone, dropped = log_attributes(event, config)
        log = b"".join(
            (
                *((_LOG_TIME, time) if time else ()),
                *(how.severity, _LOG_BODY[length]),
                *(how.opening, where.before, about, where.after, how.ending),
                *(where.log, how.log),
                *log_own,
                *(_LOG_UID, record_uid(name, event.raw).encode()),
                attribute_fields(messages.LOG_ATTRIBUTES, alone) if alone else b"",
                tag(messages.LOG_DROPPED_ATTRIBUTES, VARINT) + varint(dropped) if dropped else b"",
                _LOG_FLAGS[origin.log_flags if origin else SAMPLED],
                *((_LOG_TRACE_ID, trace_id) if trace_id else ()),
                *((_LOG_SPAN_ID, span_id) if span_id else ()),
                *((_LOG_OBSERVED, fixed64(event.logged_ns)) if event.logged_ns else ()),
                _EVENT_NAME_FIELDS[name],
            )
        )
        return Item(log, span)

    # -- parts -----------------------------------------------------------------------------------------

    def _where_of(self, name: str, verb: str, routing: Routing) -> _Where:
        to, source = routing.destination_id, routing.from_id
        is_usual = len(routing.destination_ids) <= 1 and (
            len(to or "") + len(source or "") <= LONGEST_REMEMBERED
        )
        if is_usual:
            return self._remembered_where(name, verb, to, source, routing.destination_ids)
        return self._where(name, verb, to, source, routing.destination_ids)

    def _where(
        self, name: str, verb: str, to: str | None, source: str | None, ids: tuple[str, ...]
    ) -> _Where:
        routing = Routing(from_id=source, destination_id=to, destination_ids=ids)
        part = destined(name, routing, self._config.destination_names)
        kind = SPAN_KINDS.get(name)
        return _Where(
            log=attribute_fields(messages.LOG_ATTRIBUTES, part.attributes),
            span=attribute_fields(messages.SPAN_ATTRIBUTES, part.attributes),
            name_and_kind=text_field(messages.SPAN_NAME, span_name(verb, part.destination))
            + (tag(messages.SPAN_KIND, VARINT) + varint(kind) if kind else b""),
            before=part.before.encode(),
            after=part.after.encode(),
        )

    def _how(self, case: Case) -> _How:
        part = judged(case, self._config.redaction_key)
        code = StatusCode.ERROR if part.failed else StatusCode.UNSET
        status = text_field(messages.STATUS_MESSAGE, part.status_message)
        if code:
            status += tag(messages.STATUS_CODE, VARINT) + varint(code)
        return _How(
            log=attribute_fields(messages.LOG_ATTRIBUTES, part.attributes),
            span=attribute_fields(messages.SPAN_ATTRIBUTES, part.attributes),
            severity=tag(messages.LOG_SEVERITY_NUMBER, VARINT)
            + varint(part.severity)
            + text_field(messages.LOG_SEVERITY_TEXT, part.severity.name),
            status=message_field(messages.SPAN_STATUS, status),
            opening=part.opening.encode(),
            ending=part.ending.encode(),
            verb=part.verb,
        )

    def _links(self, event: Event, origin: Origin | None) -> list[bytes]:
        return [link_field(link) for link in links(event, origin)]
