"""How Segment's API and S3 are reached: whom TLS trusts, and through which proxy."""

import ssl
from collections.abc import Mapping

from msgspec import Struct

from faillog_otel.config import SegmentConfig
from faillog_otel.errors import ConfigError
from faillog_otel.proxies import SEGMENT, Proxies
from faillog_otel.tls import client_context

_CERTIFICATE = "[segment] certificate"


class Network(Struct, frozen=True):
    """The settings of all connections to Segment and S3."""

    context: ssl.SSLContext
    proxies: Proxies


MIN_TIMEOUT_SECONDS = 1.0


def timeout_within(wait_seconds: float, seconds: float) -> float:
    """Returns how long an exchange of `seconds` may take in a run that waits so long (`--wait`)."""
    return min(seconds, max(MIN_TIMEOUT_SECONDS, wait_seconds))


def direct_network() -> Network:
    """The system's authorities, and no proxy."""
    return Network(client_context(), Proxies(None, {}, SEGMENT))


def network_of(config: SegmentConfig, environ: Mapping[str, str]) -> Network:
    """Returns what the settings and the environment say. Raises ConfigError."""
    try:
        context = client_context(config.certificate, setting=_CERTIFICATE)
    except OSError as error:
        raise ConfigError(str(error)) from None
    if config.url.startswith("https:") and not context.cert_store_stats()["x509"]:
        raise ConfigError(
            "this system has no certificate authorities, so no server can be trusted; install them "
            f"(ca-certificates), or name a file with them: SSL_CERT_FILE or {_CERTIFICATE}"
        )
    return Network(context, Proxies(config.proxy, environ, SEGMENT))
