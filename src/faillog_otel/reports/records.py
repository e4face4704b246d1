"""Reads the events of files for reports, as a run over PATHs does: all files are indexed before."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from typing import BinaryIO

from msgspec import Struct

from faillog_otel.errors import InputError
from faillog_otel.events.decode import decode
from faillog_otel.events.kept_record import read_entry
from faillog_otel.events.model import BadRecord, Event, Place, RecordContext
from faillog_otel.hash_table import TemporaryFileError
from faillog_otel.inputs.exchange_index import ExchangeIndex
from faillog_otel.inputs.files import InputFile, unpack
from faillog_otel.inputs.formats import form_of, read_records
from faillog_otel.inputs.json_stream import Record


class ReadEvent(Struct, frozen=True):
    """A record with its place, decoded, and its context."""

    place: Place
    event: Event | BadRecord
    context: RecordContext


def read_events(
    paths: Sequence[str], stdin: BinaryIO, reference_ns: int, max_content_bytes: int
) -> Iterator[ReadEvent | InputError]:
    """Yields each record; also the errors of files that cannot be read to their ends.

    An entry of a kept file is read as the record in it, with its context.
    """

    def content(file: InputFile) -> Iterator[bytes]:
        return unpack(file.chunks(), max_content_bytes)

    with ExitStack() as stack:
        exchanges = stack.enter_context(closing(ExchangeIndex()))
        files = []
        for path in paths:
            try:
                files.append(stack.enter_context(InputFile(path, stdin, nullcontext)))
            except InputError as error:
                yield error
                continue
            try:
                exchanges.add_content(form_of(content(files[-1])), content(files[-1]))
            except TemporaryFileError as error:
                yield error
                return
            except InputError:  # the second pass yields it
                pass
        for file in files:
            try:
                for each in read_records(form_of(content(file)), content(file)):
                    if isinstance(each, Record):
                        yield _read(file.name, each, exchanges, reference_ns)
            except InputError as error:
                yield error


def _read(name: str, record: Record, exchanges: ExchangeIndex, reference_ns: int) -> ReadEvent:
    entry = read_entry(record.raw)
    raw = record.raw if entry is None else entry.record() or b""
    event = record.bad or decode(raw)
    context = entry.context if entry else None
    place = Place(name, record.line, record.offset)
    return ReadEvent(place, event, context or exchanges.context_of(event, reference_ns))
