"""How Segment's API and S3 are reached: whom TLS trusts, and through which proxy."""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path

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
    context = trusting_context(config.certificate, environ)
    if config.url.startswith("https:") and not context.cert_store_stats()["x509"]:
        raise ConfigError(
            "this system has no certificate authorities, so no server can be trusted; install them "
            f"(ca-certificates), or name a file with them: SSL_CERT_FILE or {_CERTIFICATE}"
        )
    return Network(context, Proxies(config.proxy, environ, SEGMENT))


def trusting_context(certificate: str | None, environ: Mapping[str, str]) -> ssl.SSLContext:
    """Returns TLS settings that trust the system's authorities, and those of a PEM file besides.

    Raises ConfigError for what holds no authorities; OpenSSL passes in silence over what it cannot read.
    """
    if file := environ.get("SSL_CERT_FILE"):
        _check(file, "SSL_CERT_FILE")
    folders = environ.get("SSL_CERT_DIR", "")
    if folders and not any(Path(each).is_dir() for each in folders.split(os.pathsep)):
        raise ConfigError(f"SSL_CERT_DIR: {folders}: is no folder; name one with authorities, or unset it")
    if certificate:
        _check(certificate, _CERTIFICATE)
    return client_context(certificate)


def _check(file: str, name: str) -> None:
    remedy = "name a file of certificates in PEM form"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except ssl.SSLError:
        raise ConfigError(f"{name}: {file}: holds no certificate in PEM form; {remedy}") from None
    except OSError as error:
        raise ConfigError(f"{name}: {file}: {error.strerror}; {remedy}") from None
