"""The law of conservation, for any mix of good and bad lines: nothing lost, nothing invented."""

import gzip
import hashlib
import io
import json
import tempfile
from contextlib import nullcontext
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from support.clock import MovedClock
from support.delivering import delivery_to
from support.events import attempt, error, event, exchange

from faillog_otel import propagation
from faillog_otel.app import Forwarder
from faillog_otel.config import DeliveryConfig, MappingConfig
from faillog_otel.ledger.kept import KeptFile
from faillog_otel.otlp.encoding import ProtobufEncoder
from faillog_otel.otlp.receiver import Receiver
from faillog_otel.segment.paths import InputFile

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


@settings(max_examples=60)
@given(st.lists(LINE, max_size=30), st.booleans(), st.integers(1, 10))
def test_records_are_exported_or_quarantined_and_the_receiver_holds_exactly_the_good_ones(
    lines: list[tuple[bool | None, bytes]], packed: bool, batch_records: int
) -> None:
    content = b"".join(raw + b"\n" for _, raw in lines)
    good = [raw for is_good, raw in lines if is_good]
    bad = [raw for is_good, raw in lines if is_good is False]
    with tempfile.TemporaryDirectory() as folder, Receiver() as receiver:
        path = Path(folder, "events")
        path.write_bytes(gzip.compress(content) if packed else content)
        quarantine = KeptFile(f"{folder}/quarantine")
        with delivery_to(receiver.http_endpoint, MovedClock(), wait_seconds=0) as delivery:
            forwarder = Forwarder(
                encoder=ProtobufEncoder(MappingConfig()),
                delivery=delivery,
                quarantine=quarantine,
                pending=KeptFile(f"{folder}/pending"),
                config=DeliveryConfig(batch_records=batch_records),
                reference_ns=0,
                is_stopping=lambda: False,
            )
            with InputFile(str(path), io.BytesIO(), nullcontext) as file:
                forwarder.forward(file, lambda _: None)
            forwarder.finish()
        counts = forwarder.counts
        assert counts.records == counts.exported + counts.quarantined == len(good) + len(bad)
        complete = [number for number, raw in enumerate(first_two(lines)) if is_complete(raw)]
        is_json_lines = bool(complete) or not first_two(lines)
        assert counts.lines == (counts.records + counts.blank if is_json_lines else 0)
        assert counts.bytes_in == len(content)
        arrived = [uid(log) for log in receiver.logs()]
        assert arrived == [uid_of(raw) for raw in good]
        assert len(receiver.spans()) == counts.events.attempt + counts.events.exchange
        kept = Path(quarantine.path).read_bytes().splitlines() if bad else []
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
