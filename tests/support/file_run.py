"""A run over one file in this process: the real parts, put together as `run` does it."""

import io
from contextlib import nullcontext
from pathlib import Path

from faillog_otel.config import DeliveryConfig, MappingConfig
from faillog_otel.inputs.exchange_index import ExchangeIndex
from faillog_otel.inputs.files import InputFile
from faillog_otel.ledger.kept_files import FileSink
from faillog_otel.otlp.encoder import WireEncoder
from faillog_otel.pipeline.forwarder import Forwarder
from faillog_otel.sandbox.collector import Receiver
from support.clock import MovedClock
from support.delivery import delivery_to


def run_over_file(packed: bytes, folder: Path, receiver: Receiver, batch_records: int = 100) -> Forwarder:
    """Forwards a file of these bytes; `folder` then has `quarantine`, if anything is in it."""
    path = folder / "events"
    path.write_bytes(packed)
    with delivery_to(receiver.http_endpoint, MovedClock(), wait_seconds=0) as delivery:
        forwarder = Forwarder(
            encoder=WireEncoder(MappingConfig()),
            delivery=delivery,
            config=DeliveryConfig(batch_records=batch_records),
            is_stopping=lambda: False,
        )
        kept = FileSink(str(folder / "quarantine"), str(folder / "pending"), reference_ns=0)
        with InputFile(str(path), io.BytesIO(), nullcontext) as file:
            exchanges = ExchangeIndex()
            forwarder.index(file, exchanges)
            forwarder.forward(file, kept, exchanges)
        forwarder.finish()
        kept.close()
    return forwarder
