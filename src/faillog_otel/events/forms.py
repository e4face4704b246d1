"""Which form a file's content has, by its bytes; and its records, whichever it is."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice

from faillog_otel.events.decode import EXCHANGE_MARKS, may_be_exchange
from faillog_otel.events.lines import group_lines, lines_with, split_lines
from faillog_otel.events.model import BadRecord, Form
from faillog_otel.events.record import (
    BYTE_ORDER_MARK,
    FROM_THE_START,
    KEPT_BYTES,
    Blank,
    Group,
    Record,
    Start,
    UntilDamage,
)
from faillog_otel.events.syntax import WHITE_SPACE, is_json
from faillog_otel.events.values import read_values

_FOREIGN = (
    (b"PK\x03\x04", "a zip archive: unpack it, and name what is inside"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"BZh", "bzip2: unpack it with bunzip2"),
    (b"\xfd7zXZ\0", "xz: unpack it with unxz"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it, and name what is inside"),
    (b"\x1f\x8b", "gzip inside a compressed file: unpack it once"),
    (b"\x28\xb5\x2f\xfd", "zstd inside a compressed file: unpack it once"),
    (b"\xff\xfe\0\0", "UTF-32: convert it (iconv -f UTF-32 -t UTF-8)"),
    (b"\0\0\xfe\xff", "UTF-32: convert it (iconv -f UTF-32 -t UTF-8)"),
    *((start, "UTF-16: convert it (iconv -f UTF-16 -t UTF-8)") for start in (b"\xff\xfe", b"\xfe\xff")),
    *(
        (start + b"\0", "UTF-16: convert it (iconv -f UTF-16LE -t UTF-8)")
        for start in (b"{", b"[", b" ", b"\n")
    ),
    *(
        (b"\0" + start, "UTF-16: convert it (iconv -f UTF-16BE -t UTF-8)")
        for start in (b"{", b"[", b" ", b"\n")
    ),
    (b"PAR1", "Parquet"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"%PDF", "PDF"),
)
_LONGEST_START = 16


def form_of(chunks: Iterable[bytes]) -> Form:
    """Reads as far as the second line that is not blank.

    The first byte that is no white space is `[`: an array. Else, where either of the first two lines that
    are not blank is a complete JSON value: JSON Lines, each line stands for itself. Else values.
    """
    source = iter(UntilDamage(chunks))
    opening, start, head = b"", b"", b""
    for chunk in source:
        opening += chunk[: _LONGEST_START - len(opening)]
        start += chunk
        head = start.removeprefix(BYTE_ORDER_MARK).lstrip(WHITE_SPACE)
        if head and len(start) >= _LONGEST_START:
            break
        if not head and len(start) > _LONGEST_START:
            start = start[-1:]  # white space is not gathered
    for magic, what in _FOREIGN:
        if opening.startswith(magic):
            return Form("foreign", f"this file is {what}")
    if head.startswith(b"["):
        return Form("array")
    lines = (line for line in split_lines(chain([start], source)) if isinstance(line, Record))
    first = list(islice(lines, 2))
    if not head or any(map(_is_complete, first)):
        return Form("lines")
    if head.startswith(b"<"):
        return Form("foreign", "this file is HTML or XML, perhaps an error page: download it again")
    return Form("values")


def read_records(
    form: Form, chunks: Iterable[bytes], start: Start = FROM_THE_START
) -> Iterator[Record | Blank]:
    """The records of the content, in their order. Blank lines are told of JSON Lines only.

    Only of JSON Lines may the chunks start elsewhere: at the beginning of a line.
    """
    if form.kind == "lines":
        return split_lines(chunks, start)
    if form.kind == "foreign":
        return iter([_foreign(form, chunks)])
    return read_values(chunks, in_arrays=form.kind == "array")


def read_groups(
    form: Form, chunks: Iterable[bytes], start: Start = FROM_THE_START
) -> Iterator[Group | Record | Blank]:
    """The same, but lines that are ordinary come many at a time."""
    return group_lines(chunks, start) if form.kind == "lines" else read_records(form, chunks)


def read_exchanges(form: Form, chunks: Iterable[bytes], start: Start = FROM_THE_START) -> Iterator[bytes]:
    """The records that may be exchanges, in their order; most others are not looked at."""
    if form.kind == "lines":
        return lines_with(*EXCHANGE_MARKS, chunks, start)
    records = (each for each in read_records(form, chunks) if isinstance(each, Record))
    return (record.raw for record in records if may_be_exchange(record.raw))


def _is_complete(line: Record) -> bool:
    """Whether a line is a JSON value and nothing else; of an over-long one only its beginning is known."""
    if line.bad is None:
        return is_json(line.raw)
    if line.bad.reason != "too_long":
        return False
    first = next(iter(read_values([line.bad.raw], in_arrays=False)))
    return first.bad is not None  # one value goes on and on; else others follow it on the line


def _foreign(form: Form, chunks: Iterable[bytes]) -> Record:
    head = b""
    for chunk in UntilDamage(chunks):
        head += chunk
        if len(head) >= KEPT_BYTES:
            break
    return Record(1, 0, b"", BadRecord("foreign_format", form.detail, head[:KEPT_BYTES], replayable=False))
