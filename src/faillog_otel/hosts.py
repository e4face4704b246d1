"""Hosts and ports, as settings and URLs write them, in one form that can be compared."""

import ipaddress
import re
from urllib.parse import urlsplit

from msgspec import Struct

MAX_PORT = 65535
DEFAULT_PORTS = {"http": 80, "https": 443}

_HOST_PORT = re.compile(r"(?:\[(?P<literal>[^\[\]]+)\]|(?P<host>[^:\[\]]+))(?::(?P<port>[0-9]{1,5}))?")
_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")


class HostPort(Struct, frozen=True):
    """A host in its plain form; `port` is None where any port is meant."""

    host: str
    port: int | None = None


def plain_host(text: str) -> str:
    """Returns a host in lower case, as Punycode, without brackets and without the dot at its end.

    IP addresses come in their shortest form. Raises ValueError for what is no host.
    """
    host = text.removeprefix("[").removesuffix("]").removesuffix(".").lower()
    if not host.isascii():
        import idna  # its tables are large, and rarely needed

        host = idna.encode(host, uts46=True).decode()  # IDNAError is a ValueError
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if not _NAME.fullmatch(host):
            raise ValueError("no host") from None
        return host
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
        raise ValueError("an address with a zone")  # it means something on one machine only
    return str(address)


def origin_of(url: str) -> tuple[str, str, int]:
    """The scheme, the host in its plain form and the port of an http or https URL. Raises ValueError."""
    parts = urlsplit(url)
    return parts.scheme, plain_host(parts.hostname or ""), parts.port or DEFAULT_PORTS[parts.scheme]


def parse_host_port(text: str) -> HostPort:
    """Returns HOST or HOST:PORT, apart. IPv6 with a port is [ADDRESS]:PORT. Raises ValueError."""
    if text.count(":") > 1 and "[" not in text:
        return HostPort(plain_host(text))
    found = _HOST_PORT.fullmatch(text)
    if found is None or (port := int(found["port"] or 1)) > MAX_PORT or not port:
        raise ValueError("neither HOST nor HOST:PORT")
    if found["literal"]:
        ipaddress.IPv6Address(found["literal"])
    return HostPort(plain_host(found["literal"] or found["host"]), port if found["port"] else None)


def is_loopback(host: str) -> bool:
    """Whether a host in its plain form is this machine by its very name."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
