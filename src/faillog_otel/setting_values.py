"""The texts of settings → values: durations, sizes, times, pairs. What cannot be read is a ConfigError."""

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from urllib.parse import unquote, urlsplit

from faillog_otel.clock import MIN_TIME_NS, RETENTION_NS, duration_text, parse_rfc3339, time_text
from faillog_otel.config import SEGMENT_URLS, Moment, NetworkProtocol, SegmentConfig, TimePolicy
from faillog_otel.errors import ConfigError
from faillog_otel.network import is_loopback, plain_host

# -- setting values ------------------------------------------------------------------------------------------


MAX_SECONDS = 100 * 366 * 86400.0
MAX_TIMEOUT_SECONDS = 86400.0
"""Of one request: the system's calls that wait take no more than some weeks."""


def parse_duration(text: str) -> float:
    """Seconds from `500ms`, `30s`, `5m`, `17h`, `2d`, a plain number of seconds, or `forever` (infinity)."""
    if text == "forever":
        return math.inf
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)", text.strip(), re.ASCII)
    if found is None:
        raise ConfigError(f"{text[:40]!r} is no duration: 500ms, 30s, 5m, 17h, 2d or forever")
    seconds = float(found[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "": 1}[found[2]]
    if seconds > MAX_SECONDS:
        raise ConfigError(f"{text[:40]!r} is longer than a hundred years: say forever")
    return seconds


def parse_timeout(text: str) -> float:
    """Seconds from a duration that leaves time to send something; infinity for `forever`."""
    seconds = parse_duration(text)
    if not seconds:
        raise ConfigError(f"{text[:40]!r} leaves no time to send; write 10s, or forever for no limit")
    if MAX_TIMEOUT_SECONDS < seconds < math.inf:
        raise ConfigError(f"{text[:40]!r} is longer than a day; write forever for no limit")
    return seconds


def parse_size(text: str) -> int:
    """Bytes from `500MiB`, `16GiB`, `64KiB`, or a plain number of bytes."""
    found = re.fullmatch(r"(\d{1,15})(KiB|MiB|GiB|TiB|)", text.strip(), re.ASCII)
    if found is None:
        raise ConfigError(f"{text[:40]!r} is no size: 500MiB, 16GiB, or a number of bytes")
    return int(found[1]) << 10 * ["", "KiB", "MiB", "GiB", "TiB"].index(found[2])


def parse_time_policy(text: str) -> TimePolicy:
    """`occurred`, `arrival` or `clamp:<age>`, such as `clamp:17h`."""
    kind, _, age = text.partition(":")
    if kind == "clamp" and age:
        seconds = parse_duration(age)
        if math.isfinite(seconds):
            return TimePolicy("clamp", seconds)
    if text == "occurred":
        return TimePolicy("occurred")
    if text == "arrival":
        return TimePolicy("arrival")
    raise ConfigError(f"{text[:40]!r} is no time policy: occurred, arrival, or clamp:AGE such as clamp:17h")


def parse_moment(text: str) -> Moment:
    """An RFC 3339 time, or so long ago: `-36h`, `-7d`."""
    said = text.strip().replace(" ", "T", 1)
    if re.fullmatch(r"-[\d.]+(ms|s|m|h|d)", said, re.ASCII):
        return Moment(ago_seconds=parse_duration(said[1:]))
    zone = re.search(r"T.*([Zz]|[+-]\d\d:\d\d)$", said, re.ASCII)
    at_ns = parse_rfc3339(said)
    if at_ns is not None and zone:
        return Moment(at_ns=at_ns)
    raise ConfigError(f"{text[:40]!r} {_why_no_moment(said)}")


def _why_no_moment(text: str) -> str:
    """With the right one written out, where it can be told."""
    for missing in ("Z", ":00Z", "T00:00:00Z"):
        if parse_rfc3339(f"{text}{missing}") is not None:
            return f"has no time zone: write {text}{missing} for UTC, or another zone, such as +02:00"
    if re.fullmatch(r"-\d+", text, re.ASCII):
        return f"has no unit: write {text}h or {text}d for so long ago"
    if re.fullmatch(r"[\d.]+(ms|s|m|h|d)", text, re.ASCII):
        return f"is no time: write -{text} for so long ago"
    return "is no time: RFC 3339, such as 2025-05-07T23:00:00Z, or -36h for so long ago"


_COLON = ', with "=" for the ":"'


def parse_pairs(parts: Sequence[str]) -> dict[str, str]:
    """Names and values from `K=V`. Raises ConfigError that says which pair is wrong, and shows no value."""
    pairs: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        name, equals, value = part.partition("=")
        where = f"pair {number} of {len(parts)}" + (f' (after "{[*pairs][-1]}")' if pairs else "")
        if not equals:
            raise ConfigError(f'{where} has no "=": write NAME=VALUE{_COLON if ":" in part else ""}')
        if not name.strip():
            raise ConfigError(f'{where} has no name before its "=": write NAME=VALUE')
        pairs[name.strip()] = value.strip()
    return pairs


def parse_list(text: str) -> list[str]:
    """Words that are separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_encoded_pairs(text: str) -> dict[str, str]:
    """`k=v,k2=v2`, percent-encoded (W3C Baggage, as OTEL_RESOURCE_ATTRIBUTES and ..._HEADERS are)."""
    try:
        pairs = parse_pairs(parse_list(text))
    except ConfigError as error:
        raise ConfigError(f"{error}, with %2C for a comma within a value") from None
    return {unquote(name): unquote(value) for name, value in pairs.items()}


_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OUR_HEADERS = frozenset(
    ("connection", "content-encoding", "content-length", "content-type", "host", "te", "transfer-encoding")
)


def check_headers(headers: Mapping[str, str]) -> None:
    """Raises ConfigError for a header that HTTP forbids, or that is ours to set; it shows no value."""
    for name, value in headers.items():
        found = _HEADER_NAME.match(name)
        if not found or found[0] != name:
            shown_name = f"{found[0]}..." if found else "..."  # a value may have slipped into the name
            raise ConfigError(f"{shown_name} is no name of an HTTP header: a header is K=V")
        if name.lower() in _OUR_HEADERS:
            raise ConfigError(f"the header {name!r} cannot be set: leave it out")
        if not re.fullmatch(r"[ -~\t]*", value):
            raise ConfigError(f"the value of the header {name!r} has characters that HTTP forbids")


_PLACEHOLDER = re.compile(
    r"(your|my)[_-]?collection.*|your[_-].*|collection[_-]?ids?|changeme|x{3,}|\W*", re.IGNORECASE
)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")


def check_collections(collections: Sequence[str]) -> None:
    """Raises ConfigError for what cannot be Collection IDs: to ask Segment for one costs a request.

    Segment's own are KSUIDs, 27 letters and digits; those of a simulated Segment may be words.
    """
    for number, each in enumerate(collections):
        if each in collections[:number]:
            raise ConfigError(f"{each[:40]!r} is named twice; was another Collection ID meant?")
        if _PLACEHOLDER.fullmatch(each):
            why = "is a placeholder"
        elif not _ID.fullmatch(each):
            why = "has a character that no Collection ID has"
        else:
            continue
        raise ConfigError(f"{each[:40]!r} {why}; copy it from Segment's Delivery Overview")


def parse_milliseconds(text: str) -> str:
    """OpenTelemetry's timeouts."""
    if re.fullmatch(r"\d{1,15}", text, re.ASCII) and int(text):
        parse_timeout(f"{text}ms")
        return f"{text}ms"
    hint = "10000 for 10 s"
    if re.search("[a-z]$", text):
        with suppress(ConfigError, OverflowError):
            hint = f"{parse_timeout(text) * 1000:.0f} for {text[:40]}"
    raise ConfigError(f"{text[:40]!r} is no number of milliseconds: write {hint}")


def parse_own_duration(text: str) -> str:
    """A plain number is milliseconds, as it is in the variables of OpenTelemetry that look like this one."""
    return f"{text}ms" if re.fullmatch(r"\d+", text, re.ASCII) else text


def parse_boolean(text: str) -> bool:
    """OpenTelemetry's booleans: only `true`, in any case, is true; others than `false` are warned about."""
    if text.lower() not in ("true", "false"):
        raise ConfigError(f"{text[:40]!r} is neither true nor false")
    return text.lower() == "true"


def parse_number(text: str) -> int:
    """A whole number."""
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise ConfigError(f"{text[:40]!r} is no number")
    return int(text)


# -- setting urls --------------------------------------------------------------------------------------------
#
# URLs that settings name: which of them are usable, and what to write instead of the others.
#
# No error shows what may be secret in a URL.


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


# -- window --------------------------------------------------------------------------------------------------
#
# The hours between `--since` and `--until`: whether there are any, and whether Segment still has them.


def check_window(config: SegmentConfig, now_ns: int, noted_since_ns: int | None = None) -> list[str]:
    """Warnings about the window at this time. Raises ConfigError where no hour is in it.

    `noted_since_ns`: what an earlier run wanted stays wanted, so an absolute `--until` may by now lie before
    a relative `--since`. A relative and an absolute time compare by the machine's clock, which may be wrong:
    that is a warning. A default `--since` is no mistake.
    """
    since, until, warnings = config.since, config.until, []
    since_ns = since.ns(now_ns)
    if until is not None and since_ns >= (until_ns := until.ns(now_ns)):
        says = f"--since ({time_text(since_ns)}) is not before --until ({time_text(until_ns)})"
        is_certain = (since.at_ns is None) == (until.at_ns is None)
        was_wanted = noted_since_ns is not None and noted_since_ns < until_ns
        if config.is_since_given and is_certain:
            raise ConfigError(f"{says}: no hour lies between them; exchange them, or name others")
        if not was_wanted:
            warnings.append(f"{says} by this machine's clock: no hour lies between them; name a --since")
    if now_ns < MIN_TIME_NS or not config.is_since_given:
        return warnings
    if since_ns > now_ns:
        ahead = duration_text((since_ns - now_ns) / 1e9)
        warnings.append(
            f"--since {time_text(since_ns)} is {ahead} in the future by this machine's clock: no hour"
            " that an earlier run did not want is asked for until then"
        )
    elif since_ns < now_ns - RETENTION_NS:
        warnings.append(
            f"--since {time_text(since_ns)} is more than 28 days ago, and Segment has no older hours:"
            f" the first that can be read begins after {time_text(now_ns - RETENTION_NS)}"
        )
    return warnings
