"""Settings → what a run tells of itself: our own metrics, and whether it is healthy."""

import logging
import os
from collections.abc import Callable
from contextlib import ExitStack

from faillog_otel import __version__
from faillog_otel.app.answers import Answers
from faillog_otel.app.standing import Standing, collector, loops
from faillog_otel.app.workers import Workers
from faillog_otel.cli.working import descriptors
from faillog_otel.config import HealthConfig, RunConfig
from faillog_otel.ledger.counts import Counts
from faillog_otel.otlp.delivery import Delivery
from faillog_otel.otlp.tls import tls_context
from faillog_otel.ports import wrong_port
from faillog_otel.telemetry.measuring import NO_TELEMETRY, Gauge, Telemetry
from faillog_otel.telemetry.pulse import NO_PULSE, FeltPulse, Pulse

_log = logging.getLogger(__name__)


def telemetry_of(config: RunConfig, stack: ExitStack) -> Telemetry:
    """Our own metrics until the stack is left; nobody, where no endpoint is set. Raises ConfigError."""
    target = config.telemetry.target
    if target is None:
        return NO_TELEMETRY
    if target.url.startswith("https:"):
        tls_context(target)  # says what is wrong with the files
    # OTEL_* is about the forwarded data, and has been read; the SDK would read it again for itself.
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        del os.environ[name]
    from faillog_otel.telemetry.otel import OtelTelemetry

    telemetry = OtelTelemetry(
        config.telemetry, target, config.mapping.destination_names, __version__, wrong_port
    )
    stack.callback(telemetry.close)
    return telemetry


def watch_delivery(telemetry: Telemetry, delivery: Delivery | Workers) -> None:
    """The gauges of every run."""
    telemetry.watch(
        Gauge(
            "faillog.export.retries",
            "{request}",
            "Requests with forwarded data that were not the first one of their batch: tries again, probes",
            lambda: {"": delivery.sent.retries},
            only_grows=True,
        )
    )


def pending_of(counts: Counts) -> Gauge:
    """The gauge of a run over PATHs."""
    return Gauge(
        "faillog.pending",
        "{record}",
        "Records that this run did not deliver",
        lambda: {"": counts.pending},
    )


def pulse_of(config: HealthConfig, monotonic: Callable[[], float]) -> Pulse:
    """The pulse where somebody feels it. Raises ConfigError."""
    if config.address is None and config.file is None:
        return NO_PULSE
    return FeltPulse(monotonic, config.file)


def serve_health(
    config: HealthConfig, pulse: Pulse, answers: Answers, standing: Standing, stack: ExitStack
) -> None:
    """Answers `/healthz` and `/readyz` until the stack is left, if an address is set. Raises ConfigError."""
    if config.address is None:
        return
    from faillog_otel.telemetry.health import MAX_CONNECTIONS, HealthServer

    host, port = config.address
    server = stack.enter_context(
        HealthServer(
            host,
            port,
            alive=lambda: {"loops": loops(pulse)},
            ready=lambda: {
                "loops": loops(pulse),
                "ledger": standing.ledger(),
                "collector": collector(answers),
                "hours": standing.hours(),
            },
            max_connections=max(1, min(MAX_CONNECTIONS, descriptors() // 4)),
        )
    )
    shown = f"[{host}]" if ":" in host else host
    _log.info("healthy? http://%s:%d/healthz and /readyz", shown, server.port)
