"""What a run starts for each of its workers: `python -P -m faillog_otel.app.worker_process DESCRIPTOR`."""

import os
import signal
import socket
import sys
from contextlib import suppress

from msgspec.structs import replace

from faillog_otel.app.build import Runtime
from faillog_otel.config import DeliveryConfig
from faillog_otel.otlp.encoder import WireEncoder
from faillog_otel.pipeline.forwarder import Forwarder
from faillog_otel.pipeline.worker import Channel, RequestLog, Start, Waits, Worker, encode, read_order
from faillog_otel.telemetry.output import protect_standard_streams, set_up_streams, start_logging

CAREFUL_RECORDS = 16


def main() -> None:
    """Works until the run closes the socket of this descriptor, or ends."""
    set_up_streams()
    protect_standard_streams()
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    received = channel.receive()
    start = read_order(received[0]) if received else None
    if not isinstance(start, Start):
        return
    config = start.config
    start_logging(config.verbosity, config.log_format)
    requests = RequestLog()
    # The run is asked to stop, not its workers: it passes that on. Here SIGINT and SIGTERM are blocked.
    with Runtime(config, (signal.SIGUSR1,), requests) as runtime:
        runtime.prepare_client()

        def say(what: str, seconds: float) -> None:
            with suppress(OSError):  # the run is gone, which is noticed elsewhere
                channel.send(encode(Waits(what, seconds)))

        delivery = runtime.deliver(say)
        encoder = WireEncoder(config.mapping)

        def forwarder(delivery_config: DeliveryConfig) -> Forwarder:
            return Forwarder(
                encoder=encoder,
                delivery=delivery,
                config=delivery_config,
                is_stopping=runtime.stop.is_requested,
                sends_rejected=start.sends_rejected,
                max_content_bytes=config.max_content_bytes,
            )

        worker = Worker(
            channel=channel,
            start=start,
            forwarder=forwarder(config.delivery),
            careful=forwarder(replace(config.delivery, batch_records=CAREFUL_RECORDS)),
            delivery=delivery,
            requests=requests,
            stop=lambda: os.kill(os.getpid(), signal.SIGUSR1),
        )
        try:
            worker.run()
        except ConnectionError:
            os._exit(0)  # the run is gone


if __name__ == "__main__":
    main()
