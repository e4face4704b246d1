"""Events → the bytes of their records: what `mapping` says, written straight to the wire.

A record is the concatenation of its fields, and most of them repeat. Where an event went and how it went
are encoded once and remembered, in two small caches; ids, times and the event's own values are written for
each. The bytes are those that the official classes write of `map_event`'s records, to the last one.
"""

import math
import struct
from functools import lru_cache

from msgspec import Struct

from faillog_otel.config import MappingConfig
from faillog_otel.events.model import AttemptProperties, Context, Event, Routing
from faillog_otel.events.printable import printable
from faillog_otel.otlp import messages
from faillog_otel.otlp.encoding import Item
from faillog_otel.otlp.extras import size_of, within
from faillog_otel.otlp.mapping import (
    SAMPLED_LOCAL,
    SPAN_KINDS,
    UID,
    ids,
    link_to_exchange,
    link_to_message,
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
from faillog_otel.otlp.parts import (
    EVENT_NAMES,
    OWN,
    Case,
    Own,
    case_of,
    destined,
    judged,
    own_values,
    present,
    true_time,
)
from faillog_otel.otlp.records import Attributes, StatusCode
from faillog_otel.otlp.wire import (
    FIXED64,
    VARINT,
    Heads,
    int64,
    message_field,
    tag,
    text_field,
    varint,
)
from faillog_otel.propagation import SAMPLED

REMEMBERED = 1024
"""Entries in each cache."""
LONGEST_REMEMBERED = 512
"""Characters; what is longer is encoded each time, so that the caches stay within some MiB."""

_log_time = struct.Struct("<BQ").pack
_span_times = struct.Struct("<BQBQ").pack
_LOG_TIME, _LOG_OBSERVED_TIME, _SPAN_START_TIME, _SPAN_END_TIME = (
    ord(tag(number, FIXED64))
    for number in (
        messages.LOG_TIME,
        messages.LOG_OBSERVED_TIME,
        messages.SPAN_START_TIME,
        messages.SPAN_END_TIME,
    )
)
_LOG_BODY = Heads(tag(messages.LOG_BODY), tag(messages.ANY_STRING))
_LOG_UID = text_attribute_heads(messages.LOG_ATTRIBUTES, UID)[32]
_LOG_TRACE_ID = tag(messages.LOG_TRACE_ID) + varint(16)
_LOG_SPAN_ID = tag(messages.LOG_SPAN_ID) + varint(8)
_SPAN_TRACE_ID = tag(messages.SPAN_TRACE_ID) + varint(16)
_SPAN_SPAN_ID = tag(messages.SPAN_SPAN_ID) + varint(8)
_OWN = (
    *(
        (
            text_attribute_heads(messages.LOG_ATTRIBUTES, key),
            text_attribute_heads(messages.SPAN_ATTRIBUTES, key),
        )
        for key in OWN[:-1]
    ),
    (
        int_attribute_heads(messages.LOG_ATTRIBUTES, OWN[-1]),
        int_attribute_heads(messages.SPAN_ATTRIBUTES, OWN[-1]),
    ),
)
"""What stands before each own value, in a log record and in a span."""
_LOG_FLAGS = {flags: flags_field(messages.LOG_FLAGS, flags) for flags in (0, SAMPLED)}
_SPAN_FLAGS = {flags: flags_field(messages.SPAN_FLAGS, flags) for flags in (SAMPLED_LOCAL, REMOTE | SAMPLED)}
_EVENT_NAME_FIELDS = {name: text_field(messages.LOG_EVENT_NAME, name) for name in EVENT_NAMES.values()}


class _Where(Struct, frozen=True):
    """Where events went, encoded. `name_and_kind` are the span's, `size` is what limits count."""

    log: bytes
    span: bytes
    name_and_kind: bytes
    event_name: str
    attributes: Attributes
    size: int
    before: bytes
    after: bytes
    words_length: int


class _How(Struct, frozen=True):
    """How it went with events, encoded."""

    log: bytes
    span: bytes
    attributes: Attributes
    size: int
    severity: bytes
    status: bytes
    opening: bytes
    ending: bytes
    words_length: int
    verb: str


class WireEncoder:
    """Turns one event into the bytes of its records; the same ones every time."""

    def __init__(self, config: MappingConfig) -> None:
        self._config = config
        self._is_limited = config.limits.attributes != math.inf or config.limits.attribute_bytes != math.inf
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
        is_shifted = time_ns != event.occurred_ns
        case = case_of(event, context.answer, origin.name if origin else None, is_shifted=is_shifted)
        how = self._how_of(case, event)
        where = self._where_of(name, how.verb, event.routing)
        trace_id, span_id = ids(event, origin)
        own = own_values(event)
        log_own, span_own = _own_fields(own)
        span = b""
        if span_id:
            span = b"".join(
                (
                    _SPAN_TRACE_ID,
                    trace_id,
                    _SPAN_SPAN_ID,
                    span_id,
                    bytes_field(messages.SPAN_PARENT_SPAN_ID, origin.parent_span_id)
                    if origin and origin.parent_span_id
                    else b"",
                    where.name_and_kind,
                    _span_times(_SPAN_START_TIME, time_ns, _SPAN_END_TIME, time_ns) if time_ns else b"",
                    where.span,
                    how.span,
                    span_own,
                    _links(event, origin),
                    how.status,
                    _SPAN_FLAGS[origin.span_flags if origin else SAMPLED_LOCAL],
                )
            )
        elif origin is not None:
            span_id = origin.log_span_id
        about = own[1] if name == "segment.exchange" else own[0]
        about_bytes = printable(about).encode() if about else b""
        when = true_time(event).encode() if is_shifted else b""
        log = b"".join(
            (
                _log_time(_LOG_TIME, time_ns) if time_ns else b"",
                how.severity,
                _LOG_BODY[how.words_length + where.words_length + len(about_bytes) + len(when)],
                how.opening,
                where.before,
                about_bytes,
                where.after,
                how.ending,
                when,
                *self._log_attributes(event, where, how, own, log_own),
                _LOG_FLAGS[origin.log_flags if origin else SAMPLED],
                _LOG_TRACE_ID if trace_id else b"",
                trace_id,
                _LOG_SPAN_ID if span_id else b"",
                span_id,
                _log_time(_LOG_OBSERVED_TIME, event.logged_ns) if event.logged_ns else b"",
                _EVENT_NAME_FIELDS[name],
            )
        )
        return Item(log, span, is_shifted)

    def _log_attributes(
        self, event: Event, where: _Where, how: _How, own: Own, own_fields: bytes
    ) -> tuple[bytes, ...]:
        """A log record's attributes, and how many were left out."""
        alone, dropped = log_attributes(event, self._config)
        uid = record_uid(where.event_name, event.raw)
        limits = self._config.limits
        if self._is_limited and (alone or not self._has_room(where, how, own_fields)):
            every = [*where.attributes, *how.attributes, *present(*zip(OWN, own, strict=True)), (UID, uid)]
            kept, more = within([*every, *alone], limits)
            fields: tuple[bytes, ...] = (attribute_fields(messages.LOG_ATTRIBUTES, kept),)
            dropped += more
        else:
            fields = (where.log, how.log, own_fields, _LOG_UID, uid.encode())
            if alone:
                fields += (attribute_fields(messages.LOG_ATTRIBUTES, alone),)
        if dropped:
            fields += (tag(messages.LOG_DROPPED_ATTRIBUTES, VARINT) + varint(dropped),)
        return fields

    def _has_room(self, where: _Where, how: _How, own_fields: bytes) -> bool:
        """Whether the log record of an event without more of its own is surely within the limits."""
        limits = self._config.limits
        # An own field takes more bytes on the wire than its name and value have.
        size = where.size + how.size + len(own_fields) + len(_LOG_UID) + 32
        count = len(where.attributes) + len(how.attributes) + len(OWN) + 1
        return size <= limits.attribute_bytes and count <= limits.attributes

    # -- parts -----------------------------------------------------------------------------------------

    def _how_of(self, case: Case, event: Event) -> _How:
        reason = case.reason
        if (reason is None or len(reason.text) <= LONGEST_REMEMBERED) and (
            len(event.raw) <= 2 * LONGEST_REMEMBERED or case.length() <= LONGEST_REMEMBERED
        ):
            return self._remembered_how(case)
        return self._how(case)

    def _where_of(self, name: str, verb: str, routing: Routing) -> _Where:
        to, source = routing.destination_id, routing.from_id
        ids = routing.destination_ids
        if len(ids) <= 1 and len(to or "") + len(source or "") <= LONGEST_REMEMBERED:
            return self._remembered_where(name, verb, to, source, ids)
        return self._where(name, verb, to, source, ids)

    def _where(
        self, name: str, verb: str, to: str | None, source: str | None, ids: tuple[str, ...]
    ) -> _Where:
        routing = Routing(from_id=source, destination_id=to, destination_ids=ids)
        part = destined(name, routing, self._config.destination_names)
        kind = SPAN_KINDS.get(name)
        before, after = part.before.encode(), part.after.encode()
        return _Where(
            log=attribute_fields(messages.LOG_ATTRIBUTES, part.attributes),
            span=attribute_fields(messages.SPAN_ATTRIBUTES, part.attributes),
            attributes=part.attributes,
            size=sum(map(size_of, part.attributes)),
            name_and_kind=text_field(messages.SPAN_NAME, span_name(verb, part.destination))
            + (tag(messages.SPAN_KIND, VARINT) + varint(kind) if kind else b""),
            event_name=name,
            before=before,
            after=after,
            words_length=len(before) + len(after),
        )

    def _how(self, case: Case) -> _How:
        part = judged(case, self._config.redaction_key)
        opening, ending = part.opening.encode(), part.ending.encode()
        code = StatusCode.ERROR if part.failed else StatusCode.UNSET
        status = text_field(messages.STATUS_MESSAGE, part.status_message)
        if code:
            status += tag(messages.STATUS_CODE, VARINT) + varint(code)
        return _How(
            log=attribute_fields(messages.LOG_ATTRIBUTES, part.attributes),
            span=attribute_fields(messages.SPAN_ATTRIBUTES, part.attributes),
            attributes=part.attributes,
            size=sum(map(size_of, part.attributes)),
            severity=tag(messages.LOG_SEVERITY_NUMBER, VARINT)
            + varint(part.severity)
            + text_field(messages.LOG_SEVERITY_TEXT, part.severity.name),
            status=message_field(messages.SPAN_STATUS, status),
            opening=opening,
            ending=ending,
            words_length=len(opening) + len(ending),
            verb=part.verb,
        )


def _own_fields(own: Own) -> tuple[bytes, bytes]:
    """The event's own attributes, for a log record and for a span."""
    message_id, exchange_id, occurred_at, logged_at, lag_ms = own
    message = b"" if message_id is None else message_id.encode()
    exchange = b"" if exchange_id is None else exchange_id.encode()
    occurred = b"" if occurred_at is None else occurred_at.encode()
    logged = b"" if logged_at is None else logged_at.encode()
    lag = b"" if lag_ms is None else int64(lag_ms)
    log, span = _own_templates(
        None if message_id is None else len(message),
        None if exchange_id is None else len(exchange),
        None if occurred_at is None else len(occurred),
        None if logged_at is None else len(logged),
        None if lag_ms is None else len(lag),
    )
    values = (message, exchange, occurred, logged, lag)
    return log % values, span % values


@lru_cache(maxsize=REMEMBERED)  # ids and times are mostly as long as those of the event before
def _own_templates(*lengths: int | None) -> tuple[bytes, bytes]:
    """What stands around own values of so many bytes, with `%b` for each; None is an absent one."""
    log, span = b"", b""
    for length, (log_heads, span_heads) in zip(lengths, _OWN, strict=True):
        log += b"%b" if length is None else log_heads[length].replace(b"%", b"%%") + b"%b"
        span += b"%b" if length is None else span_heads[length].replace(b"%", b"%%") + b"%b"
    return log, span


@lru_cache(maxsize=REMEMBERED)  # the attempts of one exchange mostly stand together
def _link_to_exchange(exchange_id: str) -> bytes:
    return link_field(link_to_exchange(exchange_id))


def _links(event: Event, origin: Origin | None) -> bytes:
    """An attempt's links; the one to its exchange comes first."""
    properties = event.properties
    if not isinstance(properties, AttemptProperties):
        return b""
    found, exchange_id = b"", properties.destination_exchange_id
    if exchange_id is not None:
        is_usual = len(exchange_id) <= LONGEST_REMEMBERED
        found = _link_to_exchange(exchange_id) if is_usual else link_field(link_to_exchange(exchange_id))
    if origin is not None and origin.linked is not None:
        found += link_field(link_to_message(origin.linked))
    return found
