"""The values of settings: their kinds, and the parsers of their texts.

A parser takes a value of a config file and returns the value that the program uses. Its ConfigError says what
is wrong and what to write. It names no setting, because the caller adds the name, and no secret.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, get_args
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from faillog_otel.clock import parse_rfc3339
from faillog_otel.config import RESPONSE_HEADERS as USUAL_HEADERS
from faillog_otel.config import SEGMENT_URLS, FailOn, Moment, Secret, Signal, TimePolicy, token_problem
from faillog_otel.errors import ConfigError
from faillog_otel.network import MAX_PORT, is_loopback, normalise_host, parse_host_port, parse_setting
from faillog_otel.text import did_you_mean, quoted, truncate

MAX_QUOTED = 50  # bytes of a wrong text that a message quotes
MAX_SECONDS = 100 * 366 * 86400.0
MAX_TIMEOUT_SECONDS = 86400.0  # waiting system calls accept some weeks at most
MIN_INTERVAL_SECONDS = 0.1


def describe(value: object) -> str:
    """Returns the type of a value of a config file, in words; the value may be a secret."""
    if isinstance(value, bool):
        return "true" if value else "false"
    types = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "a table"}
    return types.get(type(value), "a date or a time")


def parse_duration(text: str) -> float:
    """Returns seconds from `500ms`, `30s`, `5m`, `17h`, `2d`, a plain number, or `forever` (infinity)."""
    if text == "forever":
        return math.inf
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)", text.strip(), re.ASCII)
    if found is None:
        raise ConfigError(f"{quoted(text)} is not a duration; write 500ms, 30s, 5m, 17h, 2d or forever")
    seconds = float(found[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "": 1}[found[2]]
    if seconds > MAX_SECONDS:
        raise ConfigError(f"{quoted(text)} is longer than a hundred years; write forever")
    return seconds


def parse_timeout(text: str) -> float:
    """Returns seconds from a duration that is neither 0 nor longer than a day; infinity for `forever`."""
    seconds = parse_duration(text)
    if not seconds:
        raise ConfigError(f"{quoted(text)} leaves no time for a request; write 10s, or forever for no limit")
    if MAX_TIMEOUT_SECONDS < seconds < math.inf:
        raise ConfigError(f"{quoted(text)} is longer than a day; write forever for no limit")
    return seconds


def parse_interval(text: str) -> float:
    """Returns seconds between two exports."""
    if MIN_INTERVAL_SECONDS <= (seconds := parse_duration(text)) < math.inf:
        return seconds
    raise ConfigError(f"{quoted(text)} is out of range; write {MIN_INTERVAL_SECONDS:g}s or more")


def parse_size(text: str) -> int:
    """Returns bytes from `500MiB`, `16GiB`, `64KiB`, or a number of bytes."""
    found = re.fullmatch(r"(\d{1,15})(KiB|MiB|GiB|TiB|)", text.strip(), re.ASCII)
    if found is None:
        raise ConfigError(f"{quoted(text)} is not a size; write 500MiB, 16GiB, or a number of bytes")
    return int(found[1]) << 10 * ["", "KiB", "MiB", "GiB", "TiB"].index(found[2])


def parse_time_policy(text: str) -> TimePolicy:
    """Returns the policy of `occurred`, `arrival` or `clamp:<age>`, such as `clamp:17h`."""
    for policy in (TimePolicy("occurred"), TimePolicy("arrival")):
        if text == str(policy):
            return policy
    kind, _, age = text.partition(":")
    if kind == "clamp" and age and math.isfinite(seconds := parse_duration(age)):
        return TimePolicy("clamp", seconds)
    raise ConfigError(
        f"{quoted(text)} is not a time policy; write occurred, arrival, or clamp:AGE (clamp:17h)"
    )


def parse_moment(text: str) -> Moment:
    """Returns the time of an RFC 3339 text, or a relative one: `-36h`, `-7d`."""
    moment = text.strip().replace(" ", "T", 1)
    if re.fullmatch(r"-[\d.]+(ms|s|m|h|d)", moment, re.ASCII):
        return Moment(ago_seconds=parse_duration(moment[1:]))
    zone = re.search(r"T.*([Zz]|[+-]\d\d:\d\d)$", moment, re.ASCII)
    at_ns = parse_rfc3339(moment)
    if at_ns is not None and zone:
        return Moment(at_ns=at_ns)
    raise ConfigError(f"{quoted(text)} {_moment_problem(moment)}")


def _moment_problem(text: str) -> str:
    for missing in ("Z", ":00Z", "T00:00:00Z"):
        if parse_rfc3339(f"{text}{missing}") is not None:
            return f"has no time zone; write {text}{missing} for UTC, or another zone, such as +02:00"
    if re.fullmatch(r"-\d+", text, re.ASCII):
        return f"has no unit; write {text}h or {text}d for a time before now"
    if re.fullmatch(r"[\d.]+(ms|s|m|h|d)", text, re.ASCII):
        return f"is not a time; write -{text} for a time before now"
    return "is not a time; write RFC 3339, such as 2025-05-07T23:00:00Z, or -36h for a time before now"


def parse_list(text: str) -> list[str]:
    """Returns words that are separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_pairs(parts: Sequence[str]) -> dict[str, str]:
    """Returns names and values of `NAME=VALUE`. An error says which pair is wrong, and shows no value."""
    pairs: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        name, equals, value = part.partition("=")
        where = f"pair {number} of {len(parts)}" + (f' (after "{[*pairs][-1]}")' if pairs else "")
        if not equals:
            colon = ', with "=" instead of ":"' if ":" in part else ""
            raise ConfigError(f'{where} has no "="; write NAME=VALUE{colon}')
        if not name.strip():
            raise ConfigError(f'{where} has no name before its "="; write NAME=VALUE')
        pairs[name.strip()] = value.strip()
    return pairs


def parse_encoded_pairs(text: str) -> dict[str, str]:
    """Returns pairs of `k=v,k2=v2`, percent-encoded (W3C Baggage, as OTEL_RESOURCE_ATTRIBUTES is)."""
    try:
        pairs = parse_pairs(parse_list(text))
    except ConfigError as error:
        raise ConfigError(f"{error}, with %2C for a comma within a value") from None
    return {unquote(name): unquote(value) for name, value in pairs.items()}


def parse_milliseconds(text: str) -> str:
    """Returns the duration of an `OTEL_*` timeout."""
    if re.fullmatch(r"\d{1,15}", text, re.ASCII) and int(text):
        parse_timeout(f"{text}ms")
        return f"{text}ms"
    hint = "10000 for 10 s"
    if re.search("[a-z]$", text):
        with suppress(ConfigError, OverflowError):
            hint = f"{parse_timeout(text) * 1000:.0f} for {text[:40]}"
    raise ConfigError(f"{quoted(text)} is not a number of milliseconds; write {hint}")


def parse_own_duration(text: str) -> str:
    """Returns a duration; a plain number is milliseconds, as in the `OTEL_*` variables of similar names."""
    return f"{text}ms" if re.fullmatch(r"\d+", text, re.ASCII) else text


def parse_boolean(text: str) -> bool:
    """Returns whether the text is `true`, in any case. OpenTelemetry allows nothing else but `false`."""
    if text.lower() not in ("true", "false"):
        raise ConfigError(f"{quoted(text)} is neither true nor false")
    return text.lower() == "true"


def parse_number(text: str) -> int:
    """Returns a whole number."""
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise ConfigError(f"{quoted(text)} is not a whole number")
    return int(text)


_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OUR_HEADERS = frozenset(
    ("connection", "content-encoding", "content-length", "content-type", "host", "te", "transfer-encoding")
)
_PLACEHOLDER = re.compile(
    r"(your|my)[_-]?collection.*|your[_-].*|collection[_-]?ids?|changeme|x{3,}|\W*", re.IGNORECASE
)
_COLLECTION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")


def parse_headers(headers: Mapping[str, str]) -> tuple[tuple[str, Secret], ...]:
    """Returns headers. Refuses those that HTTP forbids, and those that the program sets itself."""
    for name, value in headers.items():
        found = _HEADER_NAME.match(name)
        if not found or found[0] != name:
            shown_name = f"{found[0]}..." if found else "..."  # a value may have slipped into the name
            raise ConfigError(f"{shown_name} is not the name of an HTTP header; write NAME=VALUE")
        if name.lower() in _OUR_HEADERS:
            raise ConfigError(f"the header {name!r} cannot be set; remove it")
        if not re.fullmatch(r"[ -~\t]*", value):
            raise ConfigError(f"the header {name!r} has a value that HTTP forbids; remove control characters")
    return tuple((name.lower(), Secret(value.strip())) for name, value in headers.items())


def parse_collections(collections: Sequence[str]) -> tuple[str, ...]:
    """Returns Collection IDs. Refuses impossible ones, because a request for them would cost quota.

    Segment's own are KSUIDs, 27 letters and digits; those of a simulated Segment may be words.
    """
    for number, each in enumerate(collections):
        if each in collections[:number]:
            raise ConfigError(f"{quoted(each)} is named twice; remove one, or write another Collection ID")
        if _PLACEHOLDER.fullmatch(each):
            problem = "is a placeholder"
        elif not _COLLECTION_ID.fullmatch(each):
            problem = "has a character that no Collection ID has"
        else:
            continue
        raise ConfigError(f"{quoted(each)} {problem}; copy it from Segment's Delivery Overview")
    return tuple(collections)


def parse_segment_url(text: str) -> str:
    """Returns the base URL of Segment's API. An error shows neither users nor passwords."""
    url = SEGMENT_URLS.get(text, text)
    if "://" not in url:
        shown = re.sub(r".*@|[?#].*", "", url)
        raise ConfigError(f"{shown!r} has no scheme; write us, eu, or https://HOST")
    try:
        parts = urlsplit(url)
        host, port = normalise_host(parts.hostname or ""), parts.port
    except ValueError:
        host, port = "", None
    if not host or port == 0 or parts.scheme not in ("http", "https") or not re.fullmatch(r"[!-~]+", url):
        raise ConfigError("this is not the URL of an API; write us, eu, or https://HOST")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError("the URL has more than a base; write https://HOST, and set SEGMENT_TOKEN")
    if parts.scheme == "http" and not is_loopback(host):
        raise ConfigError("http would send the token unencrypted; write https:// (http is for this machine)")
    is_segments = host in {urlsplit(each).hostname for each in SEGMENT_URLS.values()}
    if parts.path.strip("/") and (is_segments or "customer-insights" in parts.path):
        base = "" if is_segments else parts.path.partition("/customer-insights")[0]
        raise ConfigError(f"the URL has the path of a request; write {parts.scheme}://{parts.netloc}{base}")
    return url


def parse_hosts(hosts: Sequence[str]) -> tuple[str, ...]:
    """Returns hosts, with or without a port."""
    for host in hosts:
        try:
            parse_host_port(host)
        except ValueError:
            raise ConfigError(f"{quoted(host)} is not a host; write HOST, HOST:PORT or [IPV6]:PORT") from None
    return tuple(hosts)


def parse_health_address(text: str) -> tuple[str, int]:
    """Returns host and port of `HOST:PORT`, `[ADDRESS]:PORT`, or a port of this machine alone."""
    found = re.fullmatch(r"(?:([^:\[\]]*|\[[0-9A-Fa-f:.]+\]):)?(\d{1,5})", text, re.ASCII)
    if found is None or int(found[2]) > MAX_PORT:
        raise ConfigError(f"{quoted(text)} is not an address; write HOST:PORT, or a port alone for 127.0.0.1")
    return (found[1] or "127.0.0.1").strip("[]"), int(found[2])


def parse_resource(attributes: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Returns the resource's attributes."""
    resource = {"service.name": "segment", **attributes}
    if environment := resource.get("deployment.environment.name"):
        resource["deployment.environment"] = environment  # the older name: Loki makes it a label
    return tuple(resource.items())


def _parse_signals(signals: Sequence[Signal]) -> tuple[Signal, ...]:
    if not signals:
        raise ConfigError("the list is empty; write logs, traces or both")
    return tuple(dict.fromkeys(signals))


def _check_token(text: str) -> None:
    if problem := token_problem(text):
        raise ConfigError(f"the token {problem}")


def _same(value: Any) -> Any:
    return value


class Kind(Struct, frozen=True, kw_only=True):
    """The form of a value in a config file, and how it becomes the value that the program uses."""

    form: Literal["string", "list", "table", "number", "boolean"] = "string"
    choices: tuple[str, ...] = ()
    low: int = 0
    high: int = 0  # 0: no bound
    read: Callable[[str], Any] = str
    """The text of a variable → the value as in a config file. Raises ConfigError."""
    parse: Callable[[Any], Any] = _same
    """The value as in a config file → the value that the program uses. Raises ConfigError."""
    show: Callable[[Any], Any] = _same
    """The opposite of `parse`, for defaults."""

    def convert(self, value: Any) -> Any:
        """Returns the value that the program uses. Raises ConfigError."""
        texts = [*value, *value.values()] if isinstance(value, dict) else value
        for text in texts if isinstance(texts, list) else [texts]:
            if isinstance(text, str) and "\0" in text:
                raise ConfigError("contains a NUL character; remove it")
            if isinstance(text, str) and text.encode(errors="replace").decode() != text:
                raise ConfigError("is not UTF-8; set it again")
        if not self._accepts(value):
            raise ConfigError(f"must be {self.wanted}; found {self._found(value)}")
        return self.parse(value)

    @property
    def wanted(self) -> str:
        """What a value must be, in words."""
        choices = re.sub(r", (\S+)$", r" or \1", ", ".join(self.choices))
        upper = f" to {self.high}" if self.high else ""
        return {
            "string": choices or "a string",
            "list": f"a list of {choices or 'strings'}",
            "table": "a table of strings",
            "number": f"a whole number from {self.low}{upper}",
            "boolean": "true or false",
        }[self.form]

    def _accepts(self, value: Any) -> bool:
        if isinstance(value, bool):
            return self.form == "boolean"
        if isinstance(value, int):
            return self.form == "number" and self.low <= value <= (self.high or value)
        if isinstance(value, list):
            return self.form == "list" and all(map(self._accepts_text, value))
        if isinstance(value, dict):
            return self.form == "table" and all(isinstance(each, str) for each in value.values())
        return self.form == "string" and self._accepts_text(value)

    def _accepts_text(self, value: object) -> bool:
        return isinstance(value, str) and (not self.choices or value in self.choices)

    def _found(self, value: Any) -> str:
        """Returns a wrong word or number as it is; of any other value, only what it is."""
        if self.form == "list" and isinstance(value, list):
            value = next(each for each in value if not self._accepts_text(each))
        elif self.form == "list" and isinstance(value, str):
            return "a string; write it in brackets"
        elif self.form == "table" and isinstance(value, dict):
            name = next(name for name, each in value.items() if not isinstance(each, str))
            return f'{describe(value[name])} for "{truncate(name, MAX_QUOTED)}"'
        elif self.form == "string" and not isinstance(value, str | list | dict):
            return f"{describe(value)}; write it in quotes"
        if isinstance(value, str) and self.choices:
            return f'"{truncate(value, MAX_QUOTED)}"{did_you_mean(value, self.choices)}'
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return truncate(str(value), MAX_QUOTED) if is_number and self.form == "number" else describe(value)


def choice(literal: Any, read: Callable[[str], str] = str) -> Kind:
    """Returns the kind of a `Literal`'s words."""
    return Kind(choices=get_args(literal), read=read)


def number(low: int, high: int = 0) -> Kind:
    """Returns the kind of whole numbers with these bounds."""
    return Kind(form="number", low=low, high=high, read=parse_number)


def _listed(parse: Callable[[Any], Any], literal: Any = None, show: Callable[[Any], Any] = list) -> Kind:
    return Kind(form="list", choices=get_args(literal), read=parse_list, parse=parse, show=show)


def _paired(parse: Callable[[Any], Any]) -> Kind:
    return Kind(form="table", read=parse_encoded_pairs, parse=parse, show=lambda _: {})


def _secret(check: Callable[[str], object] = _same) -> Kind:
    def parse(text: str) -> Secret | None:
        if not text:
            return None
        check(text)
        return Secret(text)

    return Kind(parse=parse)


def _seconds(parse: Callable[[str], float], read: Callable[[str], str] = str) -> Kind:
    return Kind(read=read, parse=parse, show="{:g}s".format)


STRING, BOOLEAN = Kind(), Kind(form="boolean", read=parse_boolean)
SECRET, TOKEN, PROXY = _secret(), _secret(_check_token), _secret(lambda url: parse_setting(url, "the proxy"))
DURATION, INTERVAL = _seconds(parse_duration), _seconds(parse_interval, parse_own_duration)
OTEL_TIMEOUT = _seconds(parse_timeout, parse_milliseconds)
OWN_TIMEOUT = _seconds(parse_timeout, parse_own_duration)
SIZE = Kind(parse=parse_size, show=lambda size: f"{size >> 30}GiB")
MOMENT = Kind(parse=parse_moment, show=lambda moment: f"-{moment.ago_seconds / 86400:g}d")
TIME_POLICY, HEALTH_ADDRESS = Kind(parse=parse_time_policy, show=str), Kind(parse=parse_health_address)
SEGMENT_URL = Kind(parse=parse_segment_url, show={url: name for name, url in SEGMENT_URLS.items()}.get)
COLLECTIONS, HOSTS = _listed(parse_collections), _listed(parse_hosts)
SIGNALS = _listed(_parse_signals, Signal)
TEXTS = _listed(tuple)
FAIL_ON = _listed(lambda words: tuple(dict.fromkeys(each for each in words if each != "never")), FailOn)
RESPONSE_HEADERS = _listed(lambda names: (*USUAL_HEADERS, *names), show=lambda _: [])
HEADERS, RESOURCE, NAMES = _paired(parse_headers), _paired(parse_resource), _paired(dict)
PAIRS = _paired(lambda attributes: tuple(attributes.items()))
