"""What a file is, its bytes say; arrays and streams of values → records."""

import json
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.events import error, lines
from support.file_formats import ENCODINGS, FORMATS

from faillog_otel.events.model import Form
from faillog_otel.inputs.files import DamagedFile, StopAtCorruption, unpack
from faillog_otel.inputs.formats import form_and_content, form_of, read_records
from faillog_otel.inputs.json_stream import MAX_RECORD_BYTES, Blank, Record
from faillog_otel.sandbox.generator import failure_events

EVENTS = list(failure_events(1, 3))


def chunked(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def read(data: bytes, size: int = 1 << 18) -> list[Record | Blank]:
    return list(read_records(form_of(chunked(data, size)), chunked(data, size)))


def records(data: bytes, size: int = 1 << 18) -> list[tuple[str, bytes]]:
    """Each record's reason code, empty for one that is to be decoded, and its bytes."""
    found = [each for each in read(data, size) if isinstance(each, Record)]
    return [(each.bad.reason, each.bad.raw) if each.bad else ("", each.raw) for each in found]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "lines"),
        (b" \r\n\n", "lines"),
        (b'{"a":1}', "lines"),
        (b'{"a":1}\n{broken', "lines"),
        (b'\n{broken\n\r\n{"a":1}\r\n', "lines"),
        (b'{broken\n{broken\n{"a":1}\n', "values"),
        (b"{broken", "values"),
        (b"7\n8\n", "lines"),
        (b"[]", "array"),
        (b"\xef\xbb\xbf \n[", "array"),
        (b'{\n "a": 1\n}\n', "values"),
        (b'{"a":1}{"a":2}\n{"a":3}{"a":4}', "values"),
        (b'{"a":"\\ud800"}\n', "lines"),
        (b"<!DOCTYPE html>\n<html>", "foreign"),
        (b"PK\x03\x04rest", "foreign"),
        ('{"a":1}'.encode("utf-16"), "foreign"),
        ('{"a":1}'.encode("utf-16-le"), "foreign"),
        ('[{"a":1}]'.encode("utf-16-be"), "foreign"),
        (b"BZh91AY", "foreign"),
    ],
)
def test_the_format_of_a_file_is_detected(content: bytes, kind: str) -> None:
    assert form_of([content]).kind == kind
    assert form_of(chunked(content, 1)).kind == kind


def test_a_long_first_line_is_json_lines_unless_values_follow_one_another_on_it() -> None:
    long = b'{"a":"' + b"x" * (MAX_RECORD_BYTES + 1) + b'"}'
    assert form_of(chunked(long + b"\n" + error(), 1 << 20)).kind == "lines"
    values = error() * (MAX_RECORD_BYTES // len(error()) + 2)
    assert form_of(chunked(values, 1 << 20)).kind == "values"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'[{"a":1}, 2 ,"x", [3]]', [("", b'{"a":1}'), ("", b"2"), ("", b'"x"'), ("", b"[3]")]),
        (b"[]", []),
        (b'[{"a":"]}\\""}]\n', [("", b'{"a":"]}\\""}')]),
        (b'[{"a":1}]\n[{"a":2}] {"a":3}', [("", b'{"a":1}'), ("", b'{"a":2}'), ("", b'{"a":3}')]),
        (b'[{"a":1} {"a":2}]', [("", b'{"a":1}'), ("invalid_json", b'{"a":2}]')]),
        (b'[{"a":1},]', [("", b'{"a":1}'), ("invalid_json", b"]")]),
        (b'[{"a":1},{"a":tru},{"a":3}]', [("", b'{"a":1}'), ("invalid_json", b'{"a":tru},{"a":3}]')]),
        (b'[{"a":1}', [("", b'{"a":1}'), ("invalid_json", b"")]),
        (b'[{"a":1},{"a":', [("", b'{"a":1}'), ("invalid_json", b'{"a":')]),
        (b'[{"a":"\\ud800"},{"a":1}]', [("", b'{"a":"\\ud800"}'), ("", b'{"a":1}')]),
        (b'{\n"a":1\n}\n{\n"a":2}', [("", b'{\n"a":1\n}'), ("", b'{\n"a":2}')]),
        (b'{"a":1}{"a":2}', [("", b'{"a":1}'), ("", b'{"a":2}')]),
        (b'{\n"a":1},{"a":2}', [("", b'{\n"a":1}'), ("invalid_json", b',{"a":2}')]),
        (b"not json\nat all\n", [("invalid_json", b"not json\nat all")]),
    ],
)  # fmt: skip
def test_records_of_arrays_and_streams(content: bytes, expected: list[tuple[str, bytes]]) -> None:
    for size in (1, 2, 3, 100):
        assert records(content, size) == expected


def test_records_have_their_line_and_offset() -> None:
    content = b'[\n  {"a":\n1},\n\n  {"a":2}\n]'
    first, second = read(content)
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    assert [(each.line, each.offset) for each in (first, second)] == [(2, 4), (5, content.index(b'{"a":2'))]


def test_a_record_that_is_too_long_or_too_deep_costs_only_itself() -> None:
    """It goes to the quarantine, and the rest of its array is delivered."""
    long = b'{"a":"' + b"x" * MAX_RECORD_BYTES + b'"}'
    deep = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    found = records(b"[" + long + b"," + deep + b"," + error() + b"]")
    assert [reason for reason, _ in found] == ["too_long", "", ""]
    assert [raw for _, raw in found][1:] == [deep, error()]


def test_damage_to_the_packing_is_one_more_record() -> None:
    def broken() -> Iterator[bytes]:
        yield b'[{"a":1},{"a":2'
        raise DamagedFile("truncated_gzip", "cut off")

    found = list(read_records(Form("array"), broken()))
    reasons = [each.bad.reason if each.bad else "" for each in found if isinstance(each, Record)]
    assert reasons == ["", "invalid_json", "truncated_gzip"]


@given(st.sampled_from(sorted(FORMATS)), st.sampled_from(sorted(ENCODINGS)), st.integers(1, 300))
def test_however_a_file_is_cut_into_chunks_its_records_are_the_same(
    form: str, packing: str, size: int
) -> None:
    packed = ENCODINGS[packing](FORMATS[form](EVENTS))
    found = form_of(unpack(chunked(packed, size)))
    cut = [each for each in read_records(found, unpack(chunked(packed, size))) if isinstance(each, Record)]
    assert [json.loads(each.raw) for each in cut] == [json.loads(event) for event in EVENTS]
    assert all(before.offset < after.offset for before, after in pairwise(cut))


@given(st.binary(), st.integers(1, 20))
def test_any_bytes_are_read_the_same_however_they_are_cut(data: bytes, size: int) -> None:
    for start in (b"", b"[", b"{\n"):
        assert read(start + data, size) == read(start + data)


def test_gigabytes_of_blank_lines_are_counted_in_one() -> None:
    """An item for each would take longer than the reading."""
    found = list(read_records(Form("lines"), [b"\n" * 1000] * 1000 + [lines(error())]))
    assert found == [Blank(1_000_000), Record(1_000_001, 1_000_000, error())]


@given(st.binary(max_size=200), st.integers(1, 50), st.sampled_from([10, 10**6]), st.booleans())
def test_a_content_is_read_whole_after_its_form_was_detected(
    data: bytes, size: int, max_bytes: int, is_damaged: bool
) -> None:
    """Also its damage. It is opened once, unless its first two lines are long."""
    opened: list[None] = []

    def content() -> Iterator[bytes]:
        opened.append(None)
        yield from (data[at : at + size] for at in range(0, len(data), size))
        if is_damaged:
            raise DamagedFile("truncated_gzip", "it is incomplete")

    form, chunks = form_and_content(content, max_bytes)
    found = StopAtCorruption(chunks)
    assert (b"".join(found), found.damage is not None) == (data, is_damaged)
    assert len(opened) == 1 or len(data) > max_bytes
    assert form == form_of(content())


def test_a_content_of_records_of_any_allowed_length_is_opened_once() -> None:
    line = b'{"a":"' + b"x" * (MAX_RECORD_BYTES - 8) + b'"}\n'
    opened: list[None] = []

    def content() -> Iterator[bytes]:
        opened.append(None)
        yield from (line[at : at + 2**18] for _ in range(3) for at in range(0, len(line), 2**18))

    form, chunks = form_and_content(content)
    assert (form.kind, sum(map(len, chunks)), len(opened)) == ("lines", 3 * len(line), 1)
