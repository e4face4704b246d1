"""What a run would send of a file, without sending: the same reading and mapping, and no effects."""

from collections.abc import Iterator

from faillog_otel.config import MappingConfig
from faillog_otel.events.decode import decode
from faillog_otel.events.entry import read_entry
from faillog_otel.events.forms import form_of, read_records
from faillog_otel.events.model import BadRecord, Place
from faillog_otel.events.record import Record
from faillog_otel.events.unpack import unpack
from faillog_otel.ledger.exchanges import Exchanges
from faillog_otel.otlp.explain import Explanation, explain
from faillog_otel.segment.paths import InputFile


def preview(
    file: InputFile, config: MappingConfig, reference_ns: int, most_content_bytes: int
) -> Iterator[tuple[Place, Explanation | BadRecord]]:
    """Each record with its place, explained; or why it would be quarantined. Raises InputError.

    Entries of kept files are explained as the records that they keep.
    """

    def content() -> Iterator[bytes]:
        return unpack(file.chunks(), most_content_bytes)

    exchanges = Exchanges()
    try:
        form = form_of(content())
        for each in read_records(form, content()):
            if isinstance(each, Record):
                exchanges.learn(each.raw)
        for each in read_records(form, content()):
            if not isinstance(each, Record):
                continue
            place = Place(file.name, each.line, each.offset)
            entry = read_entry(each.raw)
            raw = each.raw if entry is None else entry.record() or b""
            event = each.bad or decode(raw)
            if isinstance(event, BadRecord):
                yield place, event
            else:
                learned = exchanges.learned_by(event, reference_ns)
                yield place, explain(event, entry.context if entry and entry.context else learned, config)
    finally:
        exchanges.close()
