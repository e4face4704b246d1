"""Where files are cut, and that nobody notices."""

from hypothesis import given
from hypothesis import strategies as st

from faillog_otel.inputs.formats import split_lines
from faillog_otel.inputs.json_stream import Blank, ReadPosition, Record
from faillog_otel.pipeline.partition import MAX_BYTES, MIN_BYTES, cuts, part_bytes

LINES = st.lists(st.sampled_from([b"{}", b"", b" ", b'{"a":1}', b"x" * 40, b"\r"]), max_size=40)
SIZES = st.integers(1, 50)


def line_after(data: bytes, offset: int) -> int:
    return data.find(b"\n", offset - 1) + 1 or len(data)


def records(found: list[Record | Blank]) -> tuple[list[Record], int]:
    blank = sum(each.lines for each in found if isinstance(each, Blank))
    return [each for each in found if isinstance(each, Record)], blank


@given(LINES, st.booleans(), SIZES)
def test_parts_read_one_by_one_are_the_file(lines: list[bytes], ends: bool, size: int) -> None:
    """The same records with the same places, as many blank lines."""
    data = b"\n".join(lines) + b"\n" * ends
    found: list[Record | Blank] = []
    before = 0
    for start, end in cuts(len(data), size, lambda offset: line_after(data, offset)):
        part = data[start:end]
        found += split_lines([part], ReadPosition(before, start))
        before += part.count(b"\n")
    assert records(found) == records(list(split_lines([data])))


@given(LINES, SIZES)
def test_parts_join_and_begin_with_a_line(lines: list[bytes], size: int) -> None:
    data = b"\n".join(lines)
    parts = list(cuts(len(data), size, lambda offset: line_after(data, offset)))
    assert b"".join(data[start:end] for start, end in parts) == data
    assert all(start == 0 or data[start - 1 : start] == b"\n" for start, _ in parts)
    assert all(end - start >= size for start, end in parts[:-1])


@given(st.integers(0, 2**50), st.integers(1, 64))
def test_parts_are_neither_tiny_nor_huge(length: int, workers: int) -> None:
    assert MIN_BYTES <= part_bytes(length, workers) <= MAX_BYTES
