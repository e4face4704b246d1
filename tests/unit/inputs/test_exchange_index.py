"""The index of a file's exchanges, in memory and past it."""

import hashlib
import json
import os
import random
import resource
import tempfile
import tracemalloc
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.events import attempt, exchange

from faillog_otel.errors import InputError
from faillog_otel.events.decode import decode
from faillog_otel.events.model import ExchangeAnswer, Reason
from faillog_otel.inputs.exchange_index import MAX_REASONS_BYTES, ExchangeIndex, UnusableIndex

ANSWERS = st.builds(
    ExchangeAnswer,
    st.none() | st.integers(100, 999),
    st.none() | st.builds(Reason, st.text(), st.none() | st.text()),
)


def digest(key: object) -> bytes:
    return hashlib.sha256(repr(key).encode()).digest()


@given(st.lists(st.tuples(st.integers(0, 50), ANSWERS)), st.sampled_from([20, 200, 10**6]))
def test_the_first_answer_of_each_exchange_is_found_and_no_other(
    added: list[tuple[int, ExchangeAnswer]], memory_bytes: int
) -> None:
    exchanges = ExchangeIndex(memory_bytes)
    first: dict[int, ExchangeAnswer] = {}
    for key, answer in added:
        exchanges.add(digest(key), answer)
        first.setdefault(key, answer)
    for key in range(60):
        assert exchanges.find(digest(key)) == first.get(key)
    exchanges.close()


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 50), ANSWERS)), max_size=5),
    st.sampled_from([20, 200, 10**6]),
    st.sampled_from([20, 10**6]),
)
def test_what_is_learned_in_parts_and_asked_elsewhere_is_the_same(
    parts: list[list[tuple[int, ExchangeAnswer]]], memory_bytes: int, memory_bytes_there: int
) -> None:
    """However much of it memory holds here, and there."""
    with tempfile.TemporaryFile() as file:
        whole, learned = ExchangeIndex(), ExchangeIndex(memory_bytes, file=file)
        for part in parts:
            partial = ExchangeIndex(is_part=True)
            for key, answer in part:
                whole.add(digest(key), answer)
                partial.add(digest(key), answer)
            learned.merge(partial.part())
        index = learned.write_out()
        there = ExchangeIndex.of(index, os.fdopen(os.dup(file.fileno()), "rb"), memory_bytes_there)
        for key in range(60):
            assert there.find(digest(key)) == whole.find(digest(key))
        there.close()


def test_reasons_that_are_too_many_are_the_same_for_workers_as_for_one_process() -> None:
    """A lesson forgets none: what was in an earlier part is known."""
    parts = [[(0, "timeout")], [*((n, f"reason {n}") for n in range(1, 2**16)), (2**16, "timeout")]]
    whole, learned = ExchangeIndex(), ExchangeIndex()
    for part in parts:
        partial = ExchangeIndex(is_part=True)
        for key, text in part:
            whole.add(digest(key), ExchangeAnswer(500, Reason(text)))
            partial.add(digest(key), ExchangeAnswer(500, Reason(text)))
        learned.merge(partial.part())
    for key in (0, 1, 2**16 - 2, 2**16 - 1, 2**16):
        assert learned.find(digest(key)) == whole.find(digest(key))
    assert learned.find(digest(2**16)) == ExchangeAnswer(500, Reason("timeout"))


def test_a_key_across_two_entries_is_not_found() -> None:
    """Entries are searched as bytes: a match must begin where an entry begins."""
    exchanges = ExchangeIndex()
    exchanges.add(bytes(32), ExchangeAnswer(500, None))
    exchanges.add(bytes(32), ExchangeAnswer(501, None))
    across = bytes(4) + (500).to_bytes(2, "little") + bytes(26)  # half of a hash, and what stands behind it
    assert exchanges.find(across) is None
    assert exchanges.find(bytes(32)) == ExchangeAnswer(500, None)


def test_an_exchange_takes_at_most_14_bytes_and_32_while_they_are_put_in_order() -> None:
    keys = random.Random(1)
    exchanges, answer = ExchangeIndex(), ExchangeAnswer(500, Reason("Internal Server Error"))
    tracemalloc.start()
    try:
        for _ in range(200_000):
            exchanges.add(keys.randbytes(32), answer)
        added, _ = tracemalloc.get_traced_memory()
        assert exchanges.find(bytes(32)) is None
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert max(added, held) / 200_000 <= 14
    assert most / 200_000 <= 32


def test_past_its_memory_it_goes_on_in_a_file() -> None:
    exchanges = ExchangeIndex(memory_bytes=10_000)
    for number in range(5_000):
        exchanges.add(digest(number), ExchangeAnswer(100 + number % 900, None))
    assert all(exchanges.find(digest(n)) == ExchangeAnswer(100 + n % 900, None) for n in range(5_000))
    assert exchanges.find(digest("another")) is None
    exchanges.close()


def add_many(exchanges: ExchangeIndex) -> None:
    for number in range(5_000):
        exchanges.add(digest(number), ExchangeAnswer(500, None))


def test_an_index_that_was_searched_refuses_additions() -> None:
    """The index is sorted for the first search; a later addition would not be found."""
    exchanges = ExchangeIndex()
    exchanges.add(digest(1), ExchangeAnswer(500, None))
    assert exchanges.find(digest(2)) is None
    with pytest.raises(ValueError, match="frozen"):
        exchanges.add(digest(2), ExchangeAnswer(500, None))
    with pytest.raises(ValueError, match="frozen"):
        exchanges.write_out()


def test_without_a_folder_for_its_file_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(InputError, match=r"temporary file in .*gone cannot be written: No such file"):
        add_many(ExchangeIndex(memory_bytes=10_000))


def test_without_room_for_its_file_it_says_so_and_can_be_closed() -> None:
    exchanges = ExchangeIndex(memory_bytes=10_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(InputError, match=r"temporary file in .* cannot be written"):
            add_many(exchanges)
        exchanges.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [1000])
def test_more_distinct_reasons_than_there_is_room_for_leave_the_status(size: int) -> None:
    exchanges = ExchangeIndex()
    count = MAX_REASONS_BYTES // size + 10
    for number in range(count):
        exchanges.add(digest(number), ExchangeAnswer(500, Reason(f"{number:0{size}}")))
    assert exchanges.find(digest(0)) == ExchangeAnswer(500, Reason(f"{0:0{size}}"))
    assert exchanges.find(digest(count - 1)) == ExchangeAnswer(500, None)


# -- saved indexes ---------------------------------------------------------------------------------------

SHA256, LENGTH = "ab" * 32, 1234


def saved(file: BinaryIO, added: Iterable[tuple[int, ExchangeAnswer]], memory_bytes: int = 10**6) -> None:
    exchanges = ExchangeIndex(memory_bytes, file=file)
    for key, answer in added:
        exchanges.add(digest(key), answer)
    exchanges.save(file, SHA256, LENGTH)


def reopened(file: BinaryIO) -> BinaryIO:
    return os.fdopen(os.dup(file.fileno()), "rb")


@given(
    st.lists(st.tuples(st.integers(0, 50), ANSWERS)),
    st.sampled_from([20, 200, 10**6]),
    st.sampled_from([20, 10**6]),
)
def test_a_saved_index_finds_the_same_answers(
    added: list[tuple[int, ExchangeAnswer]], memory_bytes: int, memory_bytes_there: int
) -> None:
    """However much of it memory holds when it is saved, and when it is opened."""
    whole = ExchangeIndex()
    for key, answer in added:
        whole.add(digest(key), answer)
    with tempfile.TemporaryFile() as file:
        saved(file, added, memory_bytes)
        opened = ExchangeIndex.open(reopened(file), SHA256, LENGTH, memory_bytes_there)
        for key in range(60):
            assert opened.find(digest(key)) == whole.find(digest(key))
        opened.close()


def test_a_saved_index_finds_the_trace_contexts_in_request_bodies() -> None:
    body = {"batch": [{"messageId": "m", "context": {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}}]}
    raw = exchange(destinationExchangeId="x", requestToDestination={"body": json.dumps(body)})
    event = decode(attempt(destinationExchangeId="x", messageId="m"))
    with tempfile.TemporaryFile() as file:
        exchanges = ExchangeIndex(file=file)
        exchanges.add_record(raw)
        exchanges.save(file, SHA256, LENGTH)
        with closing(ExchangeIndex.open(reopened(file), SHA256, LENGTH)) as opened:
            assert opened.context_of(event, 0).traceparent == f"00-{'1' * 32}-{'2' * 16}-01"


@given(st.data())
def test_a_damaged_index_is_refused(data: st.DataObject) -> None:
    """A changed byte at any place, or any number of bytes missing at the end, or more of them."""
    with tempfile.TemporaryFile() as file:
        saved(file, [(n, ExchangeAnswer(500, Reason(f"reason {n % 7}"))) for n in range(30)])
        file.seek(0)
        content = bytearray(file.read())
        way = data.draw(st.sampled_from(["change", "cut", "append"]))
        at = data.draw(st.integers(0, len(content) - 1))
        if way == "change":
            content[at] ^= data.draw(st.integers(1, 255))
        elif way == "cut":
            del content[at:]
        else:
            content += data.draw(st.binary(min_size=1))
        file.seek(0)
        file.truncate()
        file.write(content)
        file.flush()
        with reopened(file) as there, pytest.raises(UnusableIndex):
            ExchangeIndex.open(there, SHA256, LENGTH)


@pytest.mark.parametrize("other", [("cd" * 32, LENGTH), (SHA256, LENGTH + 1)])
def test_the_index_of_another_object_is_refused(other: tuple[str, int]) -> None:
    with tempfile.TemporaryFile() as file:
        saved(file, [(1, ExchangeAnswer(500, None))])
        with reopened(file) as there, pytest.raises(UnusableIndex, match="another object"):
            ExchangeIndex.open(there, *other)


def test_an_index_of_another_version_is_refused() -> None:
    with tempfile.TemporaryFile() as file:
        saved(file, [(1, ExchangeAnswer(500, None))])
        file.seek(0)
        content = file.read().replace(b"exchange index 1", b"exchange index 2")
        file.seek(0)
        file.write(content)
        file.flush()
        with reopened(file) as there, pytest.raises(UnusableIndex, match="another version"):
            ExchangeIndex.open(there, SHA256, LENGTH)
