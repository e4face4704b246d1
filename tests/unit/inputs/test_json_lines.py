"""Chunks → lines with their places, and what damage does to them."""

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.file_formats import zstd

from faillog_otel.inputs.files import PIECE_BYTES, unpack
from faillog_otel.inputs.formats import split_lines
from faillog_otel.inputs.json_stream import MAX_KEPT_BYTES, MAX_RECORD_BYTES, Blank, Record

CHUNKS = st.lists(st.sampled_from([b"a", b"\n", b"bc", b"\r\n", b" ", b"", b"\n\n"]))


def chunked(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


@given(CHUNKS)
def test_however_a_file_is_cut_into_chunks_its_lines_are_the_same(chunks: list[bytes]) -> None:
    data = b"".join(chunks)
    lines = list(split_lines(chunks))
    expected = data.split(b"\n")
    if not expected[-1]:
        expected.pop()
    found: list[bytes] = []
    for line in lines:
        if isinstance(line, Blank):
            found += [b""] * line.lines
        else:
            found.append(line.raw)
            assert line.line == len(found)
            assert data[line.offset :].startswith(expected[len(found) - 1])
    assert found == [each.strip(b" \t\r\n") for each in expected]


def records(chunks: Iterable[bytes]) -> list[Record]:
    return [each for each in split_lines(chunks) if isinstance(each, Record)]


def test_a_byte_order_mark_is_skipped_at_the_start_only() -> None:
    mark = b"\xef\xbb\xbf"
    assert [line.raw for line in records([mark + b"a\n" + mark + b"b"])] == [b"a", mark + b"b"]


def test_an_over_long_line_is_bad_keeps_its_head_and_the_next_one_is_read() -> None:
    long = b"x" * (MAX_RECORD_BYTES + 1)
    first, second, third = records(chunked(b"a\n" + long + b"\nb", 1024 * 1024))
    assert (first.raw, third.raw, third.line) == (b"a", b"b", 3)
    assert second.bad is not None
    assert (second.bad.reason, second.bad.replayable) == ("too_long", False)
    assert second.bad.raw == long[:MAX_KEPT_BYTES]
    assert third.offset == 2 + len(long) + 1


@pytest.mark.parametrize("end", [b"", b"\n", b"\nb"])
def test_a_line_of_nothing_but_white_space_is_blank_however_long(end: bytes) -> None:
    blank = b" " * (MAX_RECORD_BYTES + 5)
    *_, last = found = list(split_lines(chunked(b"a\n" + blank + end, 1024 * 1024)))
    assert sum(each.lines for each in found if isinstance(each, Blank)) == 1
    if isinstance(last, Record):
        assert (last.raw, last.line, last.offset) == (b"b", 3, 2 + len(blank) + 1) if end else b"a"


def test_an_over_long_line_that_begins_blank_keeps_where_its_content_begins() -> None:
    long = b" " * MAX_RECORD_BYTES + b"x" * 100
    first, second = records(chunked(long + b"\nb", 1024 * 1024))
    assert first.bad is not None
    assert (first.bad.reason, first.bad.raw.lstrip()[:3]) == ("too_long", b"xxx")
    assert second.offset == len(long) + 1


def test_the_longest_line_that_is_allowed_is_read() -> None:
    (line,) = records(chunked(b"x" * MAX_RECORD_BYTES, 1024 * 1024))
    assert line.bad is None
    assert len(line.raw) == MAX_RECORD_BYTES


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=4), st.integers(1, 40), st.integers(0, 3))
def test_gzip_of_several_members_unpacks_to_all_of_them(
    members: list[bytes], size: int, padding: int
) -> None:
    packed = b"".join(map(gzip.compress, members)) + bytes(padding)
    assert b"".join(unpack(chunked(packed, size))) == b"".join(members)


PACKED = re.compile(rb"\x1f\x8b|\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")
"""How gzip (RFC 1952), a zstd frame and a skippable one (RFC 8878) begin."""


@example(b"\x1f", 1)
@example(b"\x28\xb5\x2f", 1)
@example(b"\x50\x2a\x4d", 2)
@given(st.binary().filter(lambda data: not PACKED.match(data)), st.integers(1, 10))
def test_uncompressed_content_stays_as_it_is(data: bytes, size: int) -> None:
    assert b"".join(unpack(chunked(data, size))) == data


@pytest.mark.parametrize(
    ("packed", "reason"),
    [  # mtime=0: with the time of day in them, two test processes would collect tests of different names
        (gzip.compress(b"one\ntwo\n" * 1000, mtime=0)[:-9], "truncated_gzip"),
        (gzip.compress(b"one\ntwo\n", mtime=0)[:5], "truncated_gzip"),
        (gzip.compress(b"one\n", mtime=0) + b"garbage", "trailing_garbage"),
        (gzip.compress(b"one\n", mtime=0)[:-8] + bytes(8), "damaged_gzip"),
        (zstd.compress(b"one\ntwo\n")[:-3], "truncated_zstd"),
        (zstd.compress(b"one\n") + b"garbage", "trailing_garbage"),
        (zstd.compress(b"one\n")[:6] + b"\xff" * 20, "damaged_zstd"),
    ],
)
def test_a_damaged_file_is_one_bad_line_behind_the_good_ones(packed: bytes, reason: str) -> None:
    *good, damage = records(unpack([packed]))
    assert damage.bad is not None
    assert damage.bad.reason == reason
    assert all(line.bad is None for line in good)
    assert damage.line == len(good) + 1


@pytest.mark.parametrize(
    ("behind", "reason"),
    [(b"\x1f", "truncated_gzip"), (b"\x1f\x8c" + b"x" * 30, "trailing_garbage"), (b"g", "trailing_garbage")],
)
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_what_is_behind_gzip_does_not_depend_on_the_chunks(behind: bytes, reason: str, size: int) -> None:
    *_, damage = records(unpack(chunked(gzip.compress(b"one\n") + bytes(3) + behind, size)))
    assert damage.bad is not None
    assert damage.bad.reason == reason


def test_all_lines_before_the_damage_are_read() -> None:
    content = b"".join(b'{"n": %d}\n' % n for n in range(30_000))
    packed = gzip.compress(content)
    *good, damage = records(unpack(chunked(packed[:-8] + bytes(8), 4096)))
    assert damage.bad is not None
    assert damage.bad.reason == "damaged_gzip"
    assert [line.raw for line in good] == content.splitlines()


def test_all_lines_before_the_damage_of_zstd_are_read() -> None:
    content = b"".join(b'{"n": %d}\n' % n for n in range(200_000))
    packed = zstd.compress(content)
    middle = len(packed) // 2
    *good, damage = records(unpack(chunked(packed[:middle] + b"\xff" * 5000 + packed[middle:], 4096)))
    assert damage.bad is not None
    assert damage.bad.reason == "damaged_zstd"
    whole = set(content.splitlines())
    assert sum(line.raw in whole for line in good) > 60_000


def test_skippable_zstd_frames_are_skipped() -> None:
    """Tools such as pzstd write them (RFC 8878, section 3.1.2)."""
    skippable = b"\x50\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc"
    packed = skippable + zstd.compress(b"one\n") + skippable + zstd.compress(b"two\n")
    for size in (1, 5, 1000):
        assert b"".join(unpack(chunked(packed, size))) == b"one\ntwo\n"


def test_what_unpacks_to_more_than_is_allowed_breaks_off_there() -> None:
    """A small file may unpack to terabytes."""
    for packed in (gzip.compress(b"a\n" * 1000), zstd.compress(b"a\n" * 1000)):
        *good, damage = records(unpack([packed], max_bytes=100))
        assert damage.bad is not None
        assert (damage.bad.reason, len(good)) == ("too_much_content", 50)


def test_lines_before_a_cut_are_all_there() -> None:
    compressor = zlib.compressobj(wbits=31)
    packed = compressor.compress(b"one\ntwo\nthr") + compressor.flush(zlib.Z_SYNC_FLUSH)
    lines = records(unpack([packed]))
    assert lines[:3] == [Record(1, 0, b"one"), Record(2, 4, b"two"), Record(3, 8, b"thr")]
    assert [line.bad.reason for line in lines[3:] if line.bad] == ["truncated_gzip"]


def test_a_file_that_unpacks_to_much_comes_in_pieces() -> None:
    for packed in (gzip.compress(bytes(8 * 1024 * 1024)), zstd.compress(bytes(8 * 1024 * 1024))):
        assert max(map(len, unpack([packed]))) <= PIECE_BYTES
