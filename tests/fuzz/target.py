"""What holds of any bytes whatsoever, taken for a file: they are read, decoded, mapped and encoded.

Nothing is raised; each byte of the content is in exactly one record, but for the white space, commas and
brackets between them; what is not understood is kept as it is; what is leaves whole, and what was redacted
would not be redacted again. Who runs `check` says how long it may take.
"""

from collections.abc import Iterable

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from faillog_otel.config import MappingConfig, Secret
from faillog_otel.events.decode import answer_of, decode
from faillog_otel.events.kept_record import KeptContext, read_entry, write_entry
from faillog_otel.events.model import (
    AttemptProperties,
    BadRecord,
    Event,
    ExchangeAnswer,
    ExchangeProperties,
    Form,
    Place,
)
from faillog_otel.inputs.files import DamagedFile, StopAtCorruption, unpack
from faillog_otel.inputs.formats import form_of, read_records
from faillog_otel.inputs.json_stream import BYTE_ORDER_MARK, MAX_KEPT_BYTES, Blank, Record
from faillog_otel.otlp.encoder import WireEncoder
from faillog_otel.redact import redact_text
from faillog_otel.text import WHITE_SPACE

MAX_BYTES = 4 * 1024 * 1024
"""What a packed input may unpack to: a bomb is slow because it is large, and that is no find."""
CHUNK_BYTES = ((256, 1), (256, 7), (16 * 1024, 100))
"""Contents of so many bytes at the most are read in chunks of so many, too: each chunk costs something."""

_CONFIGS = tuple(MappingConfig(bodies="all", redaction_key=key) for key in (None, Secret("key")))
_REDACTED = (
    "segment.extra",
    "segment.request.body",
    "segment.response.body",
    "segment.reason",
    "segment.delivery.outcome",
    "http.response.header.",
    "url.full",
    "server.address",
    "error.type",
)
_UNCUT_BYTES = 2000
"""A longer value may have been cut, perhaps in the middle of what stands for something redacted."""


def check(data: bytes) -> None:
    """Takes the bytes of a whole file through the program; raises where that goes wrong."""
    content, damage = _unpacked([data])
    form = form_of(unpack([data], MAX_BYTES))
    found = list(read_records(form, unpack([data], MAX_BYTES)))
    _check_nothing_is_lost(form, content, damage, found)
    for max_bytes, chunk_bytes in CHUNK_BYTES:
        if len(content) <= max_bytes:
            _check_chunks_do_not_matter(data, content, damage, chunk_bytes)
    events = [_event_of(each) for each in found if isinstance(each, Record)]
    answers: dict[str | None, ExchangeAnswer] = {}
    for event in events:
        if isinstance(event, Event) and (answer := answer_of(event)):
            answers.setdefault(*answer)
    for event in events:
        if isinstance(event, BadRecord):
            _check_is_kept(event)
        elif event:
            exchange_id = getattr(event.properties, "destination_exchange_id", None)
            for config in _CONFIGS:
                _check_leaves(event, KeptContext(0, answers.get(exchange_id)), config)


def _unpacked(chunks: Iterable[bytes]) -> tuple[bytes, DamagedFile | None]:
    until_damage = StopAtCorruption(unpack(chunks, MAX_BYTES))
    return b"".join(until_damage), until_damage.damage


def _in_chunks(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


# -- reading -------------------------------------------------------------------------------------------


def _check_nothing_is_lost(
    form: Form, content: bytes, damage: DamagedFile | None, found: list[Record | Blank]
) -> None:
    records = [each for each in found if isinstance(each, Record)]
    if damage and form.kind != "foreign":
        last = records.pop()
        assert last.bad
        assert (last.bad.reason, last.bad.raw) == (damage.reason, b"")
    raws = [record.bad.raw if record.bad else record.raw for record in records]
    if form.kind == "foreign":
        assert raws == [content[:MAX_KEPT_BYTES]]
    elif form.kind == "lines":
        blank = sum(each.lines for each in found if isinstance(each, Blank))
        texts = _lines(content)
        assert raws == [text for text in texts if text]
        assert blank == texts.count(b"")
    else:
        at, between = len(BYTE_ORDER_MARK) if content.startswith(BYTE_ORDER_MARK) else 0, b""
        for record, raw in zip(records, raws, strict=True):
            assert content.startswith(raw, record.offset)
            assert record.line == content.count(b"\n", 0, record.offset) + 1
            between += content[at : record.offset]
            at = record.offset + len(raw)
        assert not (between + content[at:]).translate(None, WHITE_SPACE + b",[]")


def _lines(content: bytes) -> list[bytes]:
    """The lines by the rule for JSON Lines, in the simplest way there is."""
    lines = content.split(b"\n")
    lines = lines if lines[-1] else lines[:-1]
    return [
        (line if number else line.removeprefix(BYTE_ORDER_MARK)).strip(WHITE_SPACE)
        for number, line in enumerate(lines)
    ]


def _check_chunks_do_not_matter(data: bytes, content: bytes, damage: DamagedFile | None, size: int) -> None:
    form, chunks = form_of([content]), _in_chunks(content, size)
    assert form_of(chunks) == form
    assert _merged(read_records(form, chunks)) == _merged(read_records(form, [content]))
    again, still = _unpacked(_in_chunks(data, size))
    if damage or still:  # libzstd notices more where it has a whole frame; what is saved differs, too
        assert content.startswith(again) or again.startswith(content)
    else:
        assert again == content


def _merged(found: Iterable[Record | Blank]) -> tuple[list[Record], int]:
    """The records, and how many blank lines: these may be told in several portions."""
    every = list(found)
    records = [each for each in every if isinstance(each, Record)]
    return records, sum(each.lines for each in every if isinstance(each, Blank))


# -- understanding -------------------------------------------------------------------------------------


def _event_of(record: Record) -> Event | BadRecord | None:
    """What the record says, also from an entry of a kept file; None where that is not whole."""
    entry = read_entry(record.raw)
    raw = entry.record() if entry else record.raw
    return None if raw is None else record.bad or decode(raw)


def _check_is_kept(bad: BadRecord) -> None:
    learned = KeptContext(0)
    kept = read_entry(
        write_entry(bad.reason, bad.detail, Place("f", 1, 0), bad.raw, learned, replayable=bad.replayable)
    )
    assert kept
    assert (kept.reason, kept.context, kept.replayable) == (bad.reason, learned, bad.replayable)
    if bad.replayable:
        assert (kept.record() or b"").strip(WHITE_SPACE) == bad.raw.strip(WHITE_SPACE)


def _check_leaves(event: Event, learned: KeptContext, config: MappingConfig) -> None:
    item = WireEncoder(config).encode(event, learned)
    log = LogRecord.FromString(item.log)
    keys = [pair.key for pair in log.attributes]
    assert len(set(keys)) == len(keys)
    assert "log.record.uid" in keys
    assert (len(log.trace_id), len(log.span_id)) in {(0, 0), (16, 0), (16, 8)}
    has_span = isinstance(event.properties, AttemptProperties | ExchangeProperties)
    assert bool(item.span) == has_span
    if has_span:
        span = Span.FromString(item.span)
        assert (span.trace_id, span.span_id) == (log.trace_id, log.span_id)
    for text in _redacted_texts(log.attributes):
        again = redact_text(text, config.redaction_key)
        assert again == text, f"{text!r} becomes {again!r}"


def _redacted_texts(attributes: Iterable[KeyValue]) -> list[str]:
    texts = [text for pair in attributes if pair.key.startswith(_REDACTED) for text in _texts(pair.value)]
    return [text for text in texts if len(text.encode()) < _UNCUT_BYTES]


def _texts(value: AnyValue) -> list[str]:
    return [each.string_value for each in (*value.array_value.values, value)]
