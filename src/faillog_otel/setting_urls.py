"""URLs that settings name: which of them are usable, and what to write instead of the others.

No error shows what may be secret in a URL.
"""

import re
from urllib.parse import urlsplit

from faillog_otel.config import SEGMENT_URLS, NetworkProtocol
from faillog_otel.errors import ConfigError
from faillog_otel.hosts import is_loopback, plain_host

_HOST = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*")
_STARTS_WITH_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?")


def check_endpoint(url: str) -> None:
    """Raises ConfigError for what no client could use, without showing what may be secret in it."""
    try:
        parts = urlsplit(url)
        usable = (
            parts.scheme in ("http", "https")
            and _HOST.fullmatch(parts.hostname or "") is not None
            and parts.port != 0
            and re.fullmatch(r"[!-~]+", url) is not None
        )
    except ValueError:
        usable = False
    if not usable:
        shown = re.sub(r"[?#].*", "", re.sub(r"(?s)^(\w+://)?.*@", r"\1", url))
        if "://" not in url and _STARTS_WITH_HOST.match(shown):
            raise ConfigError(
                f"the endpoint {shown!r} has no scheme; write http://{shown} or https://{shown}"
            )
        raise ConfigError(f"{shown!r} is no endpoint: http://HOST:PORT or https://HOST:PORT")


def check_path(url: str, protocol: NetworkProtocol, signal: str, *, is_own: bool) -> None:
    """Raises ConfigError for a path that leads nowhere, and says what to write instead."""
    parts = urlsplit(url)
    origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    path = parts.path.rstrip("/")
    if protocol == "grpc" and path:
        raise ConfigError(f"the endpoint {origin}{path} has a path, and gRPC has none; write {origin}")
    found = re.search(r"/v1/(logs|traces|metrics)$", path)
    base = f"{origin}{path[: found.start()]}" if found else ""
    if found and not is_own:
        raise ConfigError(
            f"the endpoint {origin}{path} ends with {found[0]}, which is added to it; write {base}"
        )
    if found and found[1] != signal:
        raise ConfigError(f"the endpoint of {signal} ends with {found[0]}; write {base}/v1/{signal}")


def is_unencrypted(url: str) -> bool:
    """Whether what is sent there can be read on the way: plain http, and not to this machine."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def segment_url(text: str) -> str:
    """The base URL of Segment's API. Raises ConfigError, which shows neither users nor passwords."""
    url = SEGMENT_URLS.get(text, text)
    if "://" not in url:
        shown = re.sub(r".*@|[?#].*", "", url)
        raise ConfigError(f"--segment-url {shown!r} has no scheme; write us, eu, or https://HOST")
    try:
        parts = urlsplit(url)
        host, port = plain_host(parts.hostname or ""), parts.port
    except ValueError:
        host, port = "", None
    if not host or port == 0 or parts.scheme not in ("http", "https") or not re.fullmatch(r"[!-~]+", url):
        raise ConfigError("--segment-url is no URL of an API; write us, eu, or https://HOST")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError("--segment-url has more than a base URL; write https://HOST, and set SEGMENT_TOKEN")
    if parts.scheme == "http" and not is_loopback(host):
        raise ConfigError(
            "--segment-url: the token would not be encrypted; write https:// (plain http is for this machine)"
        )
    is_segments = host in {urlsplit(each).hostname for each in SEGMENT_URLS.values()}
    if parts.path.strip("/") and (is_segments or "customer-insights" in parts.path):
        base = "" if is_segments else parts.path.partition("/customer-insights")[0]
        raise ConfigError(
            f"--segment-url has a path of one request, {parts.path[:80]!r}; "
            f"write {parts.scheme}://{parts.netloc}{base}"
        )
    return url
