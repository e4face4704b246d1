"""The law of conservation, for any mix of good and bad lines: nothing lost, nothing invented."""

import gzip
import hashlib
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from support.events import attempt, error, event, exchange
from support.file_formats import ENCODINGS, FORMATS, pretty
from support.file_run import run_over_file
from support.tiers import slow_case

from faillog_otel import propagation
from faillog_otel.sandbox.collector import Receiver
from faillog_otel.sandbox.generator import failure_events

IDS = st.text(min_size=1, max_size=5)
GOOD = st.one_of(
    st.builds(lambda message, flag: error(messageId=message, discarded=flag), IDS, st.booleans()),
    st.builds(
        lambda message, number, exchange_id: attempt(
            messageId=message, attempt=number, destinationExchangeId=exchange_id
        ),
        IDS,
        st.integers(0, 9),
        IDS,
    ),
    st.builds(
        lambda exchange_id, status: exchange(
            destinationExchangeId=exchange_id, responseFromDestination={"status": status}
        ),
        IDS,
        st.integers(100, 599),
    ),
    st.builds(lambda name: event(f"x{name}", occurredAt="2025-03-23T20:00:00Z"), IDS),
)
BAD = st.one_of(
    st.sampled_from(
        [b"{", b"[]", b"7", b"{}", error(occurredAt="never"), error(messageId=None), b"\xff\xfe"]
    ),
    GOOD.map(lambda good: good[:-1]),
)
LINE = st.one_of(GOOD.map(lambda raw: (True, raw)), BAD.map(lambda raw: (False, raw)), st.just((None, b"  ")))
FIRST = (True, error(messageId="first"))  # a complete first line: these are JSON Lines, whatever follows


@settings(max_examples=60)
@given(st.lists(LINE, max_size=30).map(lambda lines: [FIRST, *lines]), st.booleans(), st.integers(1, 10))
def test_records_are_exported_or_quarantined_and_the_receiver_holds_exactly_the_good_ones(
    lines: list[tuple[bool | None, bytes]], packed: bool, batch_records: int
) -> None:
    content = b"".join(raw + b"\n" for _, raw in lines)
    good = [raw for is_good, raw in lines if is_good]
    bad = [raw for is_good, raw in lines if is_good is False]
    with tempfile.TemporaryDirectory() as folder, Receiver() as receiver:
        file = gzip.compress(content) if packed else content
        counts = run_over_file(file, Path(folder), receiver, batch_records).counts
        assert counts.records == counts.exported + counts.quarantined == len(good) + len(bad)
        assert counts.lines == counts.records + counts.blank == len(lines)
        assert counts.bytes_in == len(content)
        arrived = [uid(log) for log in receiver.logs()]
        assert arrived == [uid_of(raw) for raw in good]
        assert len(receiver.spans()) == counts.events["attempt"] + counts.events["exchange"]
        kept = Path(folder, "quarantine").read_bytes().splitlines() if bad else []
        assert [json.loads(entry)["line"] for entry in kept] == [
            number for number, (is_good, _) in enumerate(lines, 1) if is_good is False
        ]
        statuses = first_statuses(good)
        for span in receiver.spans():
            if span.name.startswith("deliver"):
                found = {pair.key: pair.value for pair in span.attributes}
                exchange_id = found["segment.destination_exchange.id"].string_value
                status = found.get("http.response.status_code")
                assert (status.int_value if status else None) == statuses.get(exchange_id)
                digest = propagation.digest("segment.exchange", exchange_id)
                assert span.links[0].span_id == propagation.part(digest, 16, 24)


EVENTS = list(failure_events(1, 6))
DAMAGE = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "drop", "insert", "end"]), st.integers(0), st.binary(max_size=9)
    ),
    min_size=1,
    max_size=4,
)


def damaged(packed: bytes, damage: list[tuple[str, int, bytes]]) -> tuple[bytes, int]:
    """The file with something wrong in some places, and the first byte that is not as it was."""
    first = len(packed)
    for what, where, junk in damage:
        at = where % (len(packed) or 1)
        if what == "flip":
            packed = (
                packed[:at] + bytes(each ^ 1 + where % 255 for each in packed[at : at + 1]) + packed[at + 1 :]
            )
        elif what == "cut":
            packed = packed[:at] + packed[at + len(junk) + 1 :]
        elif what == "drop":
            packed = packed[:at] + bytes(len(packed[at : at + 20])) + packed[at + 20 :]
        elif what == "insert":
            packed = packed[:at] + junk + packed[at:]
        else:
            packed = packed[:at]
        first = min(first, at)
    return packed, first


@pytest.mark.parametrize("examples", [80, slow_case(400)])
def test_every_record_is_accounted_for_whatever_the_damage(examples: int) -> None:
    """Every record is exported or quarantined, and what precedes the damage is exported."""
    cases = given(st.sampled_from(sorted(FORMATS)), st.sampled_from(sorted(ENCODINGS)), DAMAGE)
    settings(max_examples=examples)(cases(check_damaged))()


def check_damaged(form: str, packing: str, damage: list[tuple[str, int, bytes]]) -> None:
    whole = ENCODINGS[packing](FORMATS[form](EVENTS))
    file, first = damaged(whole, damage)
    with tempfile.TemporaryDirectory() as folder, Receiver() as receiver:
        counts = run_over_file(file, Path(folder), receiver).counts
        quarantine = Path(folder, "quarantine")
        kept = quarantine.read_bytes().splitlines() if quarantine.exists() else []
        arrived = [uid(log) for log in receiver.logs()]
    assert counts.records == counts.exported + counts.quarantined
    assert (counts.exported, counts.quarantined) == (len(arrived), len(kept))
    assert counts.lines in (0, counts.records + counts.blank)
    assert counts.blank <= counts.lines
    if file == whole:
        assert counts.exported == len(EVENTS)
    if counts.lines and packing == "plain":  # each line stands for itself: also those behind the damage
        assert {uid_of(line) for line in file.split(b"\n") if line in EVENTS} <= set(arrived)
    if packing == "plain":
        written = [pretty(each) if "pretty" in form else each for each in EVENTS]
        before = [uid_of(each) for each in written if whole.find(each) + len(each) < first]
        assert arrived[: len(before)] == before


@pytest.mark.parametrize("packing", ENCODINGS)
@pytest.mark.parametrize("form", FORMATS)
def test_a_whole_file_of_any_form_is_all_exported(
    form: str, packing: str, receiver: Receiver, tmp_path: Path
) -> None:
    """The other half of the law above: nothing is quarantined without damage."""
    counts = run_over_file(ENCODINGS[packing](FORMATS[form](EVENTS)), tmp_path, receiver).counts
    assert (counts.records, counts.exported) == (len(EVENTS), len(EVENTS))
    assert counts.lines == (len(EVENTS) if form.endswith("lines") else 0)
    written = [pretty(each) if "pretty" in form else each for each in EVENTS]
    assert [uid(log) for log in receiver.logs()] == [uid_of(each) for each in written]


def uid(log: LogRecord) -> str:
    found = {pair.key: pair.value.string_value for pair in log.attributes}
    return found["log.record.uid"]


def uid_of(raw: bytes) -> str:

    names = {
        "Error Logged": "error",
        "Delivery Attempt Logged": "attempt",
        "Destination Exchange Logged": "exchange",
    }
    name = names.get(json.loads(raw)["event"], "other")
    return hashlib.sha256(f"segment.{name}\n".encode() + raw).hexdigest()[:32]


def first_statuses(good: list[bytes]) -> dict[str, int]:
    statuses: dict[str, int] = {}
    for raw in good:
        found = json.loads(raw)
        if found["event"] == "Destination Exchange Logged":
            properties = found["properties"]
            status = properties["responseFromDestination"]["status"]
            statuses.setdefault(properties["destinationExchangeId"], status)
    return statuses
