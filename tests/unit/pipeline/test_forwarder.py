"""How often the forwarder reads an object, and that it reads it in the same way each time."""

import gzip
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.clock import MovedClock
from support.delivery import delivery_to
from support.events import attempt, error, exchange, lines

from faillog_otel.config import DeliveryConfig, MappingConfig
from faillog_otel.events.model import JSON_LINES, Survey
from faillog_otel.files import PrivateFolder
from faillog_otel.inputs.exchange_index import ExchangeIndex
from faillog_otel.inputs.files import ByteRange
from faillog_otel.ledger.results import BatchResult
from faillog_otel.ledger.spool import SeenRecords
from faillog_otel.otlp.encoder import WireEncoder
from faillog_otel.pipeline.forwarder import Forwarder
from faillog_otel.sandbox.collector import Receiver

EXCHANGE = exchange(
    destinationExchangeId="x", responseFromDestination={"status": 503, "body": "try again later"}
)
ATTEMPT = attempt(destinationExchangeId="x", outcome="failure")
CONTENT = gzip.compress(lines(ATTEMPT, error(messageId="a"), EXCHANGE, error(messageId="b")))
SURVEY = Survey(JSON_LINES, None)


class CountedRange(ByteRange):
    """Counts how often its bytes are read."""

    passes = 0

    def chunks(self) -> Iterator[bytes]:
        self.passes += 1
        return super().chunks()


class Sink:
    """Collects results; remembers records as the sink of a spooled object does."""

    holds_entries = False
    reference_ns = 0

    def __init__(self, seen: SeenRecords, position: int) -> None:
        self.seen = seen
        self.position = position
        self.results: list[BatchResult] = []

    def commit(self, result: BatchResult) -> bool:
        self.results.append(result)
        return True


@pytest.fixture
def object_(tmp_path: Path) -> Iterator[CountedRange]:
    path = tmp_path / "object"
    path.write_bytes(CONTENT)
    with path.open("rb") as file:
        yield CountedRange(file.fileno(), "object", 0, len(CONTENT))


def forwarded(
    object_: CountedRange, folder: Path, exchanges: ExchangeIndex, position: int = 0
) -> tuple[list[bytes], Sink]:
    """The log records and spans, and the sink with the results."""
    with (
        Receiver() as receiver,
        delivery_to(receiver.http_endpoint, MovedClock()) as delivery,
        closing(PrivateFolder.open(folder)) as private,
        closing(SeenRecords(private, None)) as seen,
    ):
        forwarder = Forwarder(
            encoder=WireEncoder(MappingConfig()),
            delivery=delivery,
            config=DeliveryConfig(),
            is_stopping=lambda: False,
        )
        sink = Sink(seen, position)
        forwarder.forward(object_, sink, exchanges, survey=SURVEY)
        forwarder.finish()
        sent = [each.SerializeToString(deterministic=True) for each in [*receiver.logs(), *receiver.spans()]]
    return sent, sink


def index() -> ExchangeIndex:
    exchanges = ExchangeIndex()
    exchanges.add_records([EXCHANGE])
    return exchanges


def test_an_object_with_an_index_is_read_once(object_: CountedRange, tmp_path: Path) -> None:
    """The survey has read it before: it is unpacked twice in all."""
    sent, _ = forwarded(object_, tmp_path, index())
    assert object_.passes == 1
    assert len(sent) > 4


def test_a_resumed_object_is_read_once_and_knows_the_records_before(tmp_path: Path) -> None:
    """A record that comes again behind the position is a duplicate."""
    path = tmp_path / "again"
    content = gzip.compress(lines(error(messageId="a"), ATTEMPT, EXCHANGE, error(messageId="a")))
    path.write_bytes(content)
    with path.open("rb") as file:
        again = CountedRange(file.fileno(), "again", 0, len(content))
        _, sink = forwarded(again, tmp_path, index(), position=2)
    assert again.passes == 1
    [result] = sink.results
    assert (result.counts.records, result.counts.exported, result.counts.duplicate) == (2, 1, 1)
