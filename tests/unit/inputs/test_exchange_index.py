"""The index of a file's exchanges, in memory and past it."""

import hashlib
import json
import os
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

from faillog_otel import propagation
from faillog_otel.errors import InputError
from faillog_otel.events.decode import decode
from faillog_otel.events.model import ExchangeAnswer, Reason
from faillog_otel.files import ChecksummedFile
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
        there = ExchangeIndex.of(learned.shared(), os.fdopen(os.dup(file.fileno()), "rb"), memory_bytes_there)
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


def test_an_exchange_takes_24_bytes_and_60_while_they_are_put_in_order() -> None:
    """With its number of attempts; and some KiB for the places of the buckets."""
    number = 50_000
    exchanges, answer = ExchangeIndex(), ExchangeAnswer(500, Reason("Internal Server Error"))
    keys = [propagation.exchange_digest(str(each)) for each in range(number)]
    heads = [attempt(destinationExchangeId=str(each)) for each in range(number)]
    tracemalloc.start()
    try:
        for key, head in zip(keys, heads, strict=True):
            exchanges.add(key, answer)
            exchanges.add_records([head])
        assert exchanges.find(bytes(32)) is None
        assert exchanges.count(bytes(32)) == 0
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert exchanges.size == number * 24
    assert held / number <= 30
    assert most / number <= 60


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


def checksummed(file: BinaryIO) -> ChecksummedFile:
    """The same file, to be written from its start."""
    return ChecksummedFile(os.dup(file.fileno()))


def saved(file: BinaryIO, added: Iterable[tuple[int, ExchangeAnswer]], memory_bytes: int = 10**6) -> str:
    with checksummed(file) as there:
        exchanges = ExchangeIndex(memory_bytes, file=there)
        for key, answer in added:
            exchanges.add(digest(key), answer)
        exchanges.save(there)
        return there.sha256


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
        sha256 = saved(file, added, memory_bytes)
        opened = ExchangeIndex.open(reopened(file), sha256, memory_bytes_there)
        for key in range(60):
            assert opened.find(digest(key)) == whole.find(digest(key))
        opened.close()


def test_a_saved_index_finds_the_trace_contexts_in_request_bodies() -> None:
    body = {"batch": [{"messageId": "m", "context": {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}}]}
    raw = exchange(destinationExchangeId="x", requestToDestination={"body": json.dumps(body)})
    event = decode(attempt(destinationExchangeId="x", messageId="m"))
    with tempfile.TemporaryFile() as file:
        with checksummed(file) as there:
            exchanges = ExchangeIndex(file=there)
            exchanges.add_records([raw])
            exchanges.save(there)
        with closing(ExchangeIndex.open(reopened(file), there.sha256)) as opened:
            assert opened.context_of(event, 0).traceparent == f"00-{'1' * 32}-{'2' * 16}-01"


@given(st.data())
def test_a_damaged_index_is_refused(data: st.DataObject) -> None:
    """A changed byte at any place, or any number of bytes missing at the end, or more of them."""
    with tempfile.TemporaryFile() as file:
        sha256 = saved(file, [(n, ExchangeAnswer(500, Reason(f"reason {n % 7}"))) for n in range(30)])
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
            ExchangeIndex.open(there, sha256)


def test_an_index_of_another_version_is_refused() -> None:
    with tempfile.TemporaryFile() as file:
        saved(file, [(1, ExchangeAnswer(500, None))])
        file.seek(0)
        content = file.read().replace(b"exchange index 2", b"exchange index 3")
        file.seek(0)
        file.write(content)
        file.flush()
        with reopened(file) as there, pytest.raises(UnusableIndex, match="another version"):
            ExchangeIndex.open(there, hashlib.sha256(content).hexdigest())


# -- joined indexes --------------------------------------------------------------------------------------


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 50), ANSWERS)), max_size=5),
    st.sampled_from([20, 200, 10**6]),
    st.sampled_from([20, 10**6]),
)
def test_joined_indexes_find_the_first_answer_of_all(
    parts: list[list[tuple[int, ExchangeAnswer]]], memory_bytes: int, memory_bytes_there: int
) -> None:
    whole, each = ExchangeIndex(), [ExchangeIndex(memory_bytes) for _ in parts]
    for part, index in zip(parts, each, strict=True):
        for key, answer in part:
            whole.add(digest(key), answer)
            index.add(digest(key), answer)
    joined = ExchangeIndex.joined(each, memory_bytes_there)
    for index in each:
        index.close()
    for key in range(60):
        assert joined.find(digest(key)) == whole.find(digest(key))
    joined.close()


# -- numbers of attempts ---------------------------------------------------------------------------------

IDS = st.sampled_from(["a", "b", "c", None])


@given(st.lists(st.lists(IDS, max_size=10), min_size=1, max_size=4), st.sampled_from([20, 10**6]))
def test_the_attempts_of_an_exchange_are_counted_wherever_they_are(
    parts: list[list[str | None]], memory_bytes: int
) -> None:
    """In one index, in the parts that workers built, and in joined indexes."""
    whole, merged, alone = ExchangeIndex(memory_bytes), ExchangeIndex(memory_bytes), list[ExchangeIndex]()
    for part in parts:
        records = [attempt(destinationExchangeId=each) if each else attempt() for each in part]
        whole.add_records(records)
        partial = ExchangeIndex(is_part=True)
        partial.add_records(records)
        merged.merge(partial.part())
        alone.append(ExchangeIndex(memory_bytes))
        alone[-1].add_records(records)
    joined = ExchangeIndex.joined(alone)
    for index in alone:
        index.close()
    for index in (whole, merged, joined):
        for name in ("a", "b", "c", "d"):
            event = decode(exchange(destinationExchangeId=name))
            number = sum(part.count(name) for part in parts)
            assert index.context_of(event, 0).message_count == (number or None)
        index.close()


def test_an_attempt_counts_however_its_json_is_written() -> None:
    plain = attempt(destinationExchangeId="x")
    records = [
        plain,
        plain.replace(b"Logged", b"\\u004cogged"),
        plain.replace(b'"destinationExchangeId"', b'"destinationExchange\\u0049d"'),
        json.dumps(json.loads(plain), indent=1).encode(),
        plain.replace(b'"v1"', b'"v2"'),  # an event of an unknown version is no attempt
        plain.replace(b'"x"', b'["x"]'),
        plain[:-1],
    ]
    index = ExchangeIndex()
    index.add_records(records)
    assert index.context_of(decode(exchange(destinationExchangeId="x")), 0).message_count == 4
