"""The process of a worker, composed of its parts.

`python -m faillog_otel.app.worker_process DESCRIPTOR` is a fork server; DESCRIPTOR is its socket to the run.
"""

import os
import signal
import socket
import sys
from contextlib import suppress
from functools import partial

from msgspec.structs import replace

from faillog_otel.app.build import Runtime
from faillog_otel.otlp.failure_notes import PackedNotes
from faillog_otel.pipeline.fork_server import serve
from faillog_otel.pipeline.worker import Channel, RequestLog, Start, Waits, Worker, encode, read_order
from faillog_otel.telemetry.output import protect_standard_streams, set_up_streams, start_logging

CAREFUL_RECORDS = 16
"""Records per batch after a worker crashed: few are sent again if it crashes once more."""


def work(channel: Channel) -> None:
    """Is a worker: forwards partitions until the run closes the channel, or ends."""
    received = channel.receive()
    start = read_order(received[0]) if received else None
    if not isinstance(start, Start):
        return
    config = start.config
    start_logging(config.verbosity, config.log_format)
    requests = RequestLog()
    # SIGINT and SIGTERM are blocked here: the run receives them, and passes them on as SIGUSR1.
    with Runtime(config, (signal.SIGUSR1,), requests) as runtime:
        runtime.prepare_client()

        def say(what: str, seconds: float) -> None:
            with suppress(OSError):  # the run is gone; the loop below notices
                channel.send(encode(Waits(what, seconds)))

        delivery = runtime.deliver(say)
        notes = PackedNotes(runtime.config.mapping)
        careful = replace(config.delivery, batch_records=CAREFUL_RECORDS)
        forwarder = partial(runtime.forwarder, delivery, sends_rejected=start.sends_rejected, notes=notes)
        worker = Worker(
            channel=channel,
            start=start,
            forwarder=forwarder(),
            careful=forwarder(config=careful),
            delivery=delivery,
            requests=requests,
            notes=notes,
            stop=lambda: os.kill(os.getpid(), signal.SIGUSR1),
        )
        try:
            worker.run()
        except ConnectionError:
            os._exit(0)  # the run is gone


if __name__ == "__main__":
    set_up_streams()
    protect_standard_streams()
    serve(Channel(socket.socket(fileno=int(sys.argv[1]))), work)
