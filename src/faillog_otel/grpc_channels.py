"""Settings of gRPC channels: address, authorities, proxy, keepalive, reconnection.

gRPC's defaults would trust a bundled list of authorities, use the environment's proxy, share one connection
among all channels of a process, and never detect a dead connection.
"""

import math
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc

from faillog_otel.config import DEFAULT_GRPC_PORT, Target
from faillog_otel.errors import ConfigError
from faillog_otel.network import proxy_to
from faillog_otel.tls import trusted_authorities

KEEPALIVE_SECONDS = 30
"""The server is pinged after this time without data during a call. Servers that limit pings (grpc-go's
default: one in five minutes) tolerate two, and reset the count with each answer."""
KEEPALIVE_TIMEOUT_SECONDS = 10

Options = tuple[tuple[str, Any], ...]


def channel_address(url: str) -> str:
    """Returns HOST:PORT of a target's URL."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"{f'[{host}]' if ':' in host else host}:{parts.port or DEFAULT_GRPC_PORT}"


def channel_credentials(target: Target) -> grpc.ChannelCredentials | None:
    """Returns the credentials of a target; None: no TLS. Raises OSError."""
    if urlsplit(target.url).scheme == "http":
        return None
    key, certificate = (
        Path(name).read_bytes() if name else None for name in (target.client_key, target.client_certificate)
    )
    return grpc.ssl_channel_credentials(trusted_authorities(target.certificate).encode(), key, certificate)


def channel_options(target: Target, *, connect_seconds: float = math.inf) -> Options:
    """Returns the options of a channel to a target. Raises ConfigError for an unusable proxy.

    `connect_seconds`: for the name look-up and connecting.
    """
    connect_ms = round(min(connect_seconds, target.timeout_seconds, 60.0) * 1000)
    options: Options = (
        ("grpc.enable_retries", 0),
        ("grpc.use_local_subchannel_pool", 1),  # else a new channel reuses the old connection
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", connect_ms),  # also the time limit of one connection attempt
        ("grpc.max_reconnect_backoff_ms", 1000),  # Backoff decides about retries, not the channel
        ("grpc.dns_min_time_between_resolutions_ms", 1000),
        ("grpc.dns_ares_query_timeout", connect_ms),
    )
    proxy = proxy_to(target.url, target.proxy, os.environ)
    if proxy is None:
        return (*options, ("grpc.enable_http_proxy", 0))
    if proxy.scheme != "http":
        raise ConfigError(
            f"the proxy {proxy.url}: gRPC supports only http:// proxies; name one, or use OTLP/HTTP"
        )
    return (*options, ("grpc.enable_http_proxy", 1), ("grpc.http_proxy", proxy.whole_url.reveal()))
