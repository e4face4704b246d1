"""How Segment's API and S3 are reached: whom TLS trusts, and through which proxy."""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from faillog_otel.config import SegmentConfig
from faillog_otel.connections import client_context
from faillog_otel.errors import ConfigError
from faillog_otel.hosts import plain_host
from faillog_otel.proxies import Proxies

_CERTIFICATE = "[segment] certificate"


class Network(Struct, frozen=True):
    """The settings of all connections to Segment and S3."""

    context: ssl.SSLContext
    proxies: Proxies


MIN_TIMEOUT_SECONDS = 1.0


def timeout_within(wait_seconds: float, seconds: float) -> float:
    """Returns how long an exchange of `seconds` may take in a run that waits so long (`--wait`)."""
    return min(seconds, max(MIN_TIMEOUT_SECONDS, wait_seconds))


DEFAULT_PORTS = {"http": 80, "https": 443}


def origin_of(url: str) -> tuple[str, str, int]:
    """The scheme, the host in its plain form and the port of an http or https URL. Raises ValueError."""
    parts = urlsplit(url)
    return parts.scheme, plain_host(parts.hostname or ""), parts.port or DEFAULT_PORTS[parts.scheme]


def direct_network() -> Network:
    """The system's authorities, and no proxy."""
    return Network(client_context(), Proxies(None, {}, ""))


def network_of(config: SegmentConfig, environ: Mapping[str, str]) -> Network:
    """Returns what the settings and the environment say. Raises ConfigError."""
    context = trusting_context(config.certificate, environ)
    if config.url.startswith("https:") and not _trusts_any(context, environ):
        raise ConfigError(
            "this system has no certificate authorities, so no server can be trusted; install them "
            f"(ca-certificates), or name a file with them: SSL_CERT_FILE or {_CERTIFICATE}"
        )
    return Network(context, Proxies(config.proxy, environ, "[segment] proxy"))


def trusting_context(certificate: str | None, environ: Mapping[str, str]) -> ssl.SSLContext:
    """Returns TLS settings that trust the system's authorities, and those of a PEM file besides.

    OpenSSL reads SSL_CERT_FILE and SSL_CERT_DIR, and passes in silence over what it cannot read there.
    Raises ConfigError for what holds no authorities.
    """
    if file := environ.get("SSL_CERT_FILE"):
        _add(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), file, "SSL_CERT_FILE")
    folders = environ.get("SSL_CERT_DIR", "")
    if folders and not any(Path(each).is_dir() for each in folders.split(os.pathsep)):
        raise ConfigError(f"SSL_CERT_DIR: {folders}: is no folder; name one with authorities, or unset it")
    context = client_context()
    if certificate:
        _add(context, certificate, _CERTIFICATE)
    return context


def _add(context: ssl.SSLContext, file: str, name: str) -> None:
    remedy = "name a file of certificates in PEM form"
    try:
        context.load_verify_locations(file)
    except ssl.SSLError:
        raise ConfigError(f"{name}: {file}: holds no certificate in PEM form; {remedy}") from None
    except OSError as error:
        raise ConfigError(f"{name}: {file}: {error.strerror}; {remedy}") from None


def _trusts_any(context: ssl.SSLContext, environ: Mapping[str, str]) -> bool:
    """Whether there is any authority: in the files that were read, or in a folder, read when needed."""
    default = ssl.get_default_verify_paths().capath
    folders = [each for each in environ.get("SSL_CERT_DIR", default or "").split(os.pathsep) if each]
    return bool(context.cert_store_stats()["x509"]) or any(
        next(Path(each).iterdir(), None)
        for each in folders
        if Path(each).is_dir() and os.access(each, os.R_OK)
    )
