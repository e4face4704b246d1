"""Settings → the way to the collector, for every kind of run."""

import errno
import os
import random
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO

from faillog_otel import __version__
from faillog_otel.cli.shutdown import GRACE_SECONDS, Shutdown
from faillog_otel.cli.streams import results_stream
from faillog_otel.config import RunConfig
from faillog_otel.errors import ConfigError
from faillog_otel.otlp.clients import in_flight, network_client, writing_client
from faillog_otel.otlp.delivery import Delivery
from faillog_otel.otlp.patience import Patience, Say
from faillog_otel.otlp.sender import Client
from faillog_otel.telemetry.pulse import NO_PULSE, Pulse

USER_AGENT = f"faillog-otel/{__version__}"


def sending_client(config: RunConfig) -> Client:
    """The client for targets on the network. Raises ConfigError."""
    return network_client(config.delivery, config.mapping.resource, USER_AGENT)


def writing(config: RunConfig, shutdown: Shutdown, stack: ExitStack) -> Client:
    """The client that writes to a file or the terminal. Raises ConfigError.

    If the reader of standard output closes it, the run ends as by SIGPIPE.
    """
    file: IO[bytes] = open(1, "wb", buffering=0, closefd=False)  # noqa: SIM115  # standard output
    if config.delivery.output is not None:
        try:
            opened = open(  # noqa: SIM115  # until the run ends
                config.delivery.output, "wb", buffering=0, opener=_without_waiting
            )
            file = stack.enter_context(opened)
        except OSError as error:
            is_unread = error.errno == errno.ENXIO
            why = "is a pipe that nobody reads; start its reader first" if is_unread else error.strerror
            raise ConfigError(f"--output {config.delivery.output}: {why}") from None
    return writing_client(
        config.delivery,
        config.mapping.resource,
        file,
        results_stream(),
        on_closed=lambda: shutdown.request(signal.SIGPIPE),
    )


def _without_waiting(name: str, flags: int) -> int:
    """Opens a pipe only if it has a reader: no signal could end the wait for one."""
    descriptor = os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    os.set_blocking(descriptor, True)
    return descriptor


def delivering(
    client: Client,
    config: RunConfig,
    shutdown: Shutdown,
    stack: ExitStack,
    *,
    pulse: Pulse = NO_PULSE,
    say: Say | None = None,
) -> Delivery:
    """Delivers through the client until the stack is left; who waits for it rests.

    `say` takes what requests wait for; by default it is logged.
    """

    @contextmanager
    def waiting() -> Iterator[None]:
        with pulse.resting("forwarding"), shutdown.interruptible(GRACE_SECONDS):
            yield

    # What cannot be written stays so; a collector may come back.
    wait_seconds = 0.0 if config.delivery.writes else config.delivery.wait_seconds
    signals = config.delivery.signals
    if config.delivery.writes == "console":  # it takes a batch's spans before its logs
        signals = tuple(sorted(signals, reverse=True))
    delivery = Delivery(
        client,
        Patience(wait_seconds, shutdown, random.Random(), say),
        signals=signals,
        in_flight=in_flight(config.delivery),
        waiting=waiting,
    )
    stack.callback(delivery.close)
    return delivery
