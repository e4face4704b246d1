"""Hosts and ports, addresses with a deadline, which HTTP proxy is used, and the options of gRPC channels.

A `Deadline` bounds a whole exchange: every call that waits for the peer (name look-up, connecting, TLS
handshake, each send and receive) gets only the time left, so a peer that sends byte by byte gains nothing. A
proxy comes from a setting or from the environment, which is read as curl and Python do: `https_proxy`,
`http_proxy`, else `all_proxy`, and `no_proxy`, in lower case before upper case. Errors show only host and
port of a proxy's URL. gRPC's own defaults would use the environment's proxy, share one connection among all
channels of a process, and never detect a dead connection.
"""

import ipaddress
import math
import os
import queue
import re
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from msgspec import Struct

from faillog_otel.config import DEFAULT_GRPC_PORT, Secret, Target
from faillog_otel.errors import ConfigError

MAX_PORT = 65535
DEFAULT_PORTS = {"http": 80, "https": 443}

_HOST_PORT = re.compile(r"(?:\[(?P<literal>[^\[\]]+)\]|(?P<host>[^:\[\]]+))(?::(?P<port>[0-9]{1,5}))?")
_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")


class HostPort(Struct, frozen=True):
    """A normalised host; `port` is None for any port."""

    host: str
    port: int | None = None


def normalise_host(text: str) -> str:
    """Returns a host in lower case and Punycode, without brackets and final dot; an address is shortened.

    Raises ValueError for an invalid host.
    """
    host = text.removeprefix("[").removesuffix("]").removesuffix(".").lower()
    if not host.isascii():
        import idna  # its tables are large and rarely needed

        host = idna.encode(host, uts46=True).decode()  # IDNAError is a ValueError
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if not _NAME.fullmatch(host):
            raise ValueError("invalid host") from None
        return host
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
        raise ValueError("an address with a zone")  # valid on one machine only
    return str(address)


def origin_of(url: str) -> tuple[str, str, int]:
    """Returns scheme, normalised host and port of an http or https URL. Raises ValueError."""
    parts = urlsplit(url)
    return parts.scheme, normalise_host(parts.hostname or ""), parts.port or DEFAULT_PORTS[parts.scheme]


def parse_host_port(text: str) -> HostPort:
    """Parses HOST or HOST:PORT; IPv6 with a port is [ADDRESS]:PORT. Raises ValueError."""
    if text.count(":") > 1 and "[" not in text:
        return HostPort(normalise_host(text))
    found = _HOST_PORT.fullmatch(text)
    if found is None or (port := int(found["port"] or 1)) > MAX_PORT or not port:
        raise ValueError("neither HOST nor HOST:PORT")
    if found["literal"]:
        ipaddress.IPv6Address(found["literal"])
    return HostPort(normalise_host(found["literal"] or found["host"]), port if found["port"] else None)


def is_loopback(host: str) -> bool:
    """Returns whether a normalised host is `localhost` or a loopback address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


Address = tuple[Any, ...]
"""One row of `socket.getaddrinfo`: family, type, protocol, name, socket address."""


class Deadline:
    """The end time of an exchange."""

    def __init__(self, seconds: float, max_seconds: float = math.inf) -> None:
        """Ends `seconds` from now; `move_to` can move it up to `max_seconds` from now."""
        now = time.monotonic()
        self._latest = now + max_seconds
        self._ends = min(now + seconds, self._latest)

    def move_to(self, seconds: float) -> None:
        """Moves the end to `seconds` from now."""
        self._ends = min(time.monotonic() + seconds, self._latest)

    def within(self, seconds: float) -> "Deadline":
        """Returns a deadline `seconds` from now, or this one if it is earlier."""
        return Deadline(seconds, self._ends - time.monotonic())

    def left(self) -> float | None:
        """Returns the seconds left; None: no limit. Raises TimeoutError after the end."""
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left if math.isfinite(left) else None


def loopback_host() -> str:
    """Returns this machine's address for URLs: `127.0.0.1`, or `[::1]` without IPv4."""
    try:
        socket.create_server(("127.0.0.1", 0)).close()
    except OSError:
        return "[::1]"
    return "127.0.0.1"


def family_of(host: str) -> socket.AddressFamily:
    """Returns the address family of an address as URLs write it."""
    return socket.AF_INET6 if host.startswith("[") else socket.AF_INET


def resolve(host: str, port: int, deadline: Deadline) -> Sequence[Address]:
    """Returns the addresses of a host. Raises TimeoutError, OSError, UnicodeError.

    A look-up cannot be interrupted: after the deadline, its thread continues until the resolver gives up.
    """
    found: queue.SimpleQueue[Sequence[Address] | OSError | UnicodeError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            found.put(error)

    threading.Thread(target=look_up, daemon=True).start()
    try:
        result = found.get(timeout=deadline.left())
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(result, Exception):
        raise result
    return result


MAX_TRY_SECONDS = 5.0
"""For one address while there are others."""


def addresses_in_turn(
    addresses: Sequence[Address], deadline: Deadline
) -> Iterator[tuple[Address, float | None]]:
    """Yields each address and its seconds to connect, so that a silent one leaves time for the others.

    IPv6 and IPv4 alternate, so an unreachable family costs the time of one address (RFC 8305, section 4).
    Raises TimeoutError after the deadline.
    """
    families = [family for family, *_ in addresses]
    turns = sorted(
        range(len(addresses)),
        key=lambda at: (families[:at].count(families[at]), families.index(families[at])),
    )
    for others, at in zip(reversed(range(len(turns))), turns, strict=True):
        left = deadline.left()
        share = (
            left if not others else min(MAX_TRY_SECONDS, math.inf if left is None else left / (others + 1))
        )
        yield addresses[at], share


ENVIRONMENT = "environment"
"""The value of a proxy setting that means the environment's variables."""
SCHEMES = ("http", "https")


class Proxy(Struct, frozen=True):
    """A proxy. `user` is empty if it requires none."""

    scheme: str
    host: str
    port: int
    user: str = ""
    password: Secret = Secret("")

    @property
    def url(self) -> str:
        """The URL without user and password, for clients and messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def whole_url(self) -> Secret:
        """The URL with user and password, for libraries that take one."""
        if not self.user:
            return Secret(self.url)
        scheme, _, rest = self.url.partition("://")
        return Secret(f"{scheme}://{quote(self.user, '')}:{quote(self.password.reveal(), '')}@{rest}")

    @property
    def authorization(self) -> Secret | None:
        """The value of the Proxy-Authorization header; None without a user."""
        if not self.user:
            return None
        pair = f"{self.user}:{self.password.reveal()}".encode()
        return Secret(f"Basic {b64encode(pair).decode()}")


class Traffic(Struct, frozen=True):
    """The proxy rules for one kind of traffic. `setting`: its name in errors."""

    setting: str
    allows_plain_http: bool
    """Whether plain http may use a proxy on another machine, where others can read the traffic."""
    excludes_loopback: bool
    """Whether servers on this machine are reached without the environment's proxy."""


SEGMENT = Traffic("[segment] proxy", allows_plain_http=False, excludes_loopback=False)
OTLP = Traffic("[otlp] proxy", allows_plain_http=True, excludes_loopback=True)
"""A collector is often on this machine, and plain http to another one is the user's choice."""


class Proxies:
    """The proxy of each server."""

    def __init__(self, setting: Secret | None, environ: Mapping[str, str], traffic: Traffic) -> None:
        """`setting`: None, `environment`, or a proxy's URL. Raises ConfigError."""
        self._traffic = traffic
        text = setting.reveal() if setting else ""
        self._named = parse_setting(text, traffic.setting) if text else None
        self._by_scheme: dict[str, Proxy] = {}
        self._exceptions = ""
        if text == ENVIRONMENT:
            for scheme in SCHEMES:
                if variable := _variable_of(scheme, environ):
                    self._by_scheme[scheme] = parse_proxy(environ[variable].strip(), variable)
        if text:
            self._exceptions = next((environ[each] for each in _both_cases("no", environ)), "")

    def proxy_of(self, scheme: str, host: str, port: int) -> Proxy | None:
        """Returns the proxy for a server; None: a direct connection."""
        proxy = self._named or self._by_scheme.get(scheme)
        if proxy is None or _is_excepted(host, port, self._exceptions):
            return None
        if scheme == "http" and not self._traffic.allows_plain_http and not is_loopback(proxy.host):
            return None
        if self._traffic.excludes_loopback and self._named is None and is_loopback(host):
            return None
        return proxy


def proxy_to(
    url: str, setting: Secret | None, environ: Mapping[str, str], traffic: Traffic = OTLP
) -> Proxy | None:
    """Returns the proxy for a URL; None: a direct connection. Raises ConfigError."""
    return Proxies(setting, environ, traffic).proxy_of(*origin_of(url)) if setting else None


def variable_unused(
    url: str, setting: Secret | None, environ: Mapping[str, str], traffic: Traffic = SEGMENT
) -> str:
    """Returns the environment variable with a proxy for this URL that no `setting` uses; else empty."""
    variable = "" if setting else _variable_of(urlsplit(url).scheme, environ)
    try:
        if traffic.excludes_loopback and is_loopback(origin_of(url)[1]):
            return ""
        is_meant = proxy_to(url, Secret(ENVIRONMENT), environ, traffic)
    except ValueError:
        return ""
    except ConfigError:
        return variable
    return variable if is_meant else ""


def parse_setting(text: str, name: str) -> Proxy | None:
    """Returns the proxy of a setting; None for `environment`. Raises ConfigError, which names `name`."""
    if text == ENVIRONMENT:
        return None
    if "://" not in text and ":" not in text:  # a typo would be taken for a host
        raise ConfigError(f'{name} is neither "{ENVIRONMENT}" nor a URL; write http://HOST:PORT')
    return parse_proxy(text, name)


def parse_proxy(text: str, name: str) -> Proxy:
    """Returns the proxy of a URL; HOST:PORT alone means http://. Raises ConfigError, which names `name`."""
    if re.match("socks", text, re.IGNORECASE):
        raise ConfigError(f"{name} uses SOCKS, which is not supported; write http://HOST:PORT")
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        proxy = Proxy(
            scheme=parts.scheme,
            host=normalise_host(parts.hostname or ""),
            port=parts.port or (443 if parts.scheme == "https" else 80),
            user=unquote(parts.username or ""),
            password=Secret(unquote(parts.password or "")),
        )
    except ValueError:
        proxy = None
    if proxy is None or proxy.scheme not in SCHEMES or parts.path not in ("", "/") or parts.query:
        raise ConfigError(
            f"{name} is not the URL of a proxy; write http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, "
            "with special characters in user and password percent-encoded"
        )
    return proxy


def _variable_of(scheme: str, environ: Mapping[str, str]) -> str:
    """Returns the variable that names the proxy for a scheme; empty if none does."""
    return next((each for kind in (scheme, "all") for each in _both_cases(kind, environ)), "")


def _both_cases(kind: str, environ: Mapping[str, str]) -> Iterator[str]:
    for name in (f"{kind}_proxy", f"{kind}_proxy".upper()):
        if environ.get(name, "").strip():
            yield name


def _is_excepted(host: str, port: int, exceptions: str) -> bool:
    """Returns whether `no_proxy` contains the host, a parent domain, its network, or `*`."""
    for each in re.split(r"[,\s]+", exceptions):
        if each == "*":
            return True
        try:
            if "/" in each:
                if ipaddress.ip_address(host) in ipaddress.ip_network(each, strict=False):
                    return True
                continue
            named = parse_host_port(each.removeprefix("*").removeprefix("."))
        except ValueError:  # not a host, or a network while the host is a name
            continue
        if named.port in (None, port) and (host == named.host or host.endswith(f".{named.host}")):
            return True
    return False


KEEPALIVE_SECONDS = 30
"""gRPC pings the server after this time without data during a call. Servers that limit pings (grpc-go's
default: one in five minutes) tolerate two, and reset the count with each answer."""
KEEPALIVE_TIMEOUT_SECONDS = 10

Options = tuple[tuple[str, Any], ...]


def channel_address(url: str) -> str:
    """Returns HOST:PORT of a URL, for a gRPC channel."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"{f'[{host}]' if ':' in host else host}:{parts.port or DEFAULT_GRPC_PORT}"


def channel_options(target: Target, *, connect_seconds: float = math.inf) -> Options:
    """Returns the options of a gRPC channel to a target. Raises ConfigError for an unusable proxy.

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
