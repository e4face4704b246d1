"""What decoding costs, and what mapping and encoding cost, without reading, sending and bookkeeping:
`PYTHONPATH=tests .venv/bin/python -m benchmarks.in_process FILE RESULT`, where RESULT becomes JSON.

A process of its own: caches and the garbage collector know nothing but the events.
"""

import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import msgspec
from msgspec import Struct

from faillog_otel.config import MappingConfig
from faillog_otel.events.decode import answer_of, decode
from faillog_otel.events.model import BadRecord, Event, ExchangeAnswer, RecordContext, exchange_of
from faillog_otel.otlp.encoder import WireEncoder
from faillog_otel.otlp.wire import Envelope

_TRIES = 5


class Stages(Struct, frozen=True):
    """CPU microseconds an event, the median of several tries."""

    events: int
    decode_us: float
    encode_us: float


def stages(file: Path) -> Stages:
    """Measures all events of a file; every try begins with an encoder that has seen nothing."""
    raws = file.read_bytes().splitlines()
    found = [decode(raw) for raw in raws]
    events = [event for event in found if not isinstance(event, BadRecord)]
    answers = dict(filter(None, map(answer_of, events)))
    contexts = [RecordContext(event.logged_ns, _answer_to(event, answers)) for event in events]

    def decode_all() -> None:
        for raw in raws:
            decode(raw)

    def encode_all() -> None:
        encode = WireEncoder(MappingConfig()).encode
        for event, context in zip(events, contexts, strict=True):
            encode(event, context)

    gc.freeze()  # what is held here is not what is measured
    return Stages(len(events), _us_each(decode_all, len(raws)), _us_each(encode_all, len(events)))


def _answer_to(event: Event, answers: dict[str, ExchangeAnswer]) -> ExchangeAnswer | None:
    return answers.get(exchange_of(event.properties) or "")


def _us_each(work: Callable[[], None], events: int) -> float:
    tries = []
    for _ in range(_TRIES):
        start = time.process_time()
        work()
        tries.append((time.process_time() - start) / events * 1e6)
    return median(tries)


def ready_request(file: Path) -> bytes:
    """All log records of a file as one request, encoded as they are sent."""
    encoder = WireEncoder(MappingConfig())
    events = [decode(raw) for raw in file.read_bytes().splitlines()]
    records = [
        encoder.encode(event, RecordContext(event.logged_ns)).log
        for event in events
        if not isinstance(event, BadRecord)
    ]
    return Envelope(()).request("logs", records)


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(msgspec.json.encode(stages(Path(sys.argv[1]))))
