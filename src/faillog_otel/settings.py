"""Where settings come from: flags, environment and config file, each a layer of the same shape.

A layer holds what was said there, and None for the rest. The `OTEL_*` variables are read as
OpenTelemetry's specification reads them: an empty one is unset, headers and resource attributes are
percent-decoded, timeouts are milliseconds, a value that cannot be used is ignored with a warning. A wrong
`FAILLOG_*` or config file is a ConfigError that names it.
"""

import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, get_args
from urllib.parse import unquote

import msgspec
from msgspec import Meta, Struct, field

from faillog_otel.config import (
    MOST_WORKERS,
    BackendName,
    Bodies,
    Compression,
    FailOn,
    Join,
    Moment,
    NetworkProtocol,
    Protocol,
    Signal,
    TimePolicy,
)
from faillog_otel.errors import ConfigError
from faillog_otel.events.times import parse_rfc3339


class SignalSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one signal travels; for both when said in `[otlp]` itself."""

    endpoint: str | None = None
    protocol: NetworkProtocol | None = None
    insecure: bool | None = None
    headers: dict[str, str] | None = None
    timeout: str | None = None
    compression: Compression | None = None
    certificate: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None


class OtlpSettings(SignalSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[otlp]`: where forwarded data goes."""

    protocol: Protocol | None = None  # type: ignore[assignment]  # for both signals, it may be a file, too
    signals: list[Signal] | None = None
    output: str | None = None
    logs: SignalSettings = SignalSettings()
    traces: SignalSettings = SignalSettings()


class MappingSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[mapping]`: what the forwarded data says."""

    backend: BackendName | None = None
    bodies: Bodies | None = None
    response_headers: list[str] | None = None
    time_policy: str | None = None
    join: Join | None = None
    destination_names: dict[str, str] | None = None
    resource_attributes: dict[str, str] | None = None
    redaction_key: str | None = None


class SegmentSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[segment]`: where failure logs are asked for."""

    url: str | None = None
    token: str | None = None
    token_file: str | None = None
    collections: list[str] | None = None
    since: str | None = None
    until: str | None = None
    download_hosts: list[str] | None = None
    certificate: str | None = None
    proxy: str | None = None


class RunSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[run]`: how a run goes and ends."""

    fail_on: list[FailOn] | None = None
    wait: str | None = None
    quarantine: str | None = None
    pending: str | None = None
    max_content: str | None = None
    state_dir: str | None = None
    summary: Literal["text", "json"] | None = None
    log_format: Literal["text", "json"] | None = None
    health_addr: str | None = None
    health_file: str | None = None
    workers: Annotated[int, Meta(ge=1, le=MOST_WORKERS)] | None = None


class OwnSettings(SignalSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[self]`: where our own metrics go."""

    protocol: Literal["http/protobuf", "grpc"] | None = None  # the SDK's exporters
    interval: str | None = None
    resource_attributes: dict[str, str] | None = None


class Layer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that one source of settings may say; a config file has exactly this shape."""

    otlp: OtlpSettings = OtlpSettings()
    mapping: MappingSettings = MappingSettings()
    segment: SegmentSettings = SegmentSettings()
    run: RunSettings = RunSettings()
    own: OwnSettings = field(default=OwnSettings(), name="self")


def said_in(settings: Struct, within: str = "") -> Iterator[str]:
    """The settings that a layer says, such as `otlp.traces.endpoint`."""
    for name in settings.__struct_fields__:
        value, path = getattr(settings, name), f"{within}{name}"
        if isinstance(value, Struct):
            yield from said_in(value, f"{path}.")
        elif value is not None:
            yield path


LONGEST_SECONDS = 100 * 366 * 86400.0

# -- reading -------------------------------------------------------------------------------------------


def read_file(text: str, name: str) -> Layer:
    """The layer of a TOML config file. Raises ConfigError naming the file and the key."""
    try:
        return msgspec.convert(tomllib.loads(text), Layer)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, RecursionError) as error:
        raise ConfigError(f"{name}: {error}") from None


def read_environment(environ: Mapping[str, str]) -> tuple[Layer, list[str]]:
    """The layer of the environment, and warnings about `OTEL_*` values that were ignored."""
    said: dict[str, Any] = {}
    warnings: list[str] = []
    for name, (path, parse) in VARIABLES.items():
        text = environ.get(name, "").strip()
        if not text:
            continue
        try:
            text.encode()
            one = _nested(path, parse(text))
            msgspec.convert(one, Layer)
        except (ConfigError, msgspec.ValidationError, UnicodeEncodeError) as error:
            problem = f"{name}: {re.sub(r' - at `.*', '', str(error))}"
            if not name.startswith("OTEL_"):
                raise ConfigError(problem) from None
            warnings.append(f"{problem}; ignored")
            continue
        _merge(said, one)
        if name.startswith("OTEL_") and name.endswith("_TIMEOUT") and int(text) < 100:
            warnings.append(f"{name}: {text} means {text} milliseconds")
    if "resource_attributes" not in said.get("mapping", {}):
        try:
            _merge(said, _otel_resource(environ))
        except (ConfigError, UnicodeEncodeError) as error:  # the specification: the whole value is discarded
            warnings.append(f"OTEL_RESOURCE_ATTRIBUTES or OTEL_SERVICE_NAME: {error}; ignored")
    return msgspec.convert(said, Layer), warnings


def parse_duration(text: str) -> float:
    """Seconds from `500ms`, `30s`, `5m`, `17h`, `2d`, a plain number of seconds, or `forever` (infinity)."""
    if text == "forever":
        return math.inf
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)", text.strip(), re.ASCII)
    if found is None:
        raise ConfigError(f"{text!r} is no duration: 500ms, 30s, 5m, 17h, 2d or forever")
    seconds = float(found[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "": 1}[found[2]]
    if seconds > LONGEST_SECONDS:
        raise ConfigError(f"{text[:40]!r} is longer than a hundred years: say forever")
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
    raise ConfigError(f"{text!r} is no time policy: occurred, arrival, or clamp:AGE such as clamp:17h")


def parse_moment(text: str) -> Moment:
    """An RFC 3339 time, or so long ago: `-36h`, `-7d`."""
    if text.startswith("-"):
        seconds = parse_duration(text[1:])
        if math.isfinite(seconds):
            return Moment(ago_seconds=seconds)
    at_ns = parse_rfc3339(text.strip().replace(" ", "T"))
    if at_ns is None:
        raise ConfigError(f"{text[:40]!r} is no time: 2025-05-07T23:00:00Z, or -36h for so long ago")
    return Moment(at_ns=at_ns)


def parse_header(text: str) -> tuple[str, str]:
    """Name and value from `K=V`. Errors show no value."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError("a header is K=V")
    return name.strip(), value.strip()


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _pairs(text: str) -> dict[str, str]:
    """`k=v,k2=v2`, percent-encoded (W3C Baggage, as OTEL_RESOURCE_ATTRIBUTES and ..._HEADERS are)."""
    pairs = [part.partition("=") for part in _list(text)]
    if not all(equals and name.strip() for name, equals, _ in pairs):
        raise ConfigError("takes k=v pairs, separated by commas")
    return {unquote(name.strip()): unquote(value.strip()) for name, _, value in pairs}


def _backend(text: str) -> str:
    if text not in get_args(BackendName):
        raise ConfigError(f"{text[:40]!r} is none of {', '.join(get_args(BackendName))}")
    return text


def _milliseconds(text: str) -> str:
    if not re.fullmatch(r"\d+", text, re.ASCII):
        raise ConfigError(f"{text!r} is no number of milliseconds")
    if int(text) > LONGEST_SECONDS * 1000:
        raise ConfigError(f"{text[:40]} milliseconds are longer than a hundred years")
    return f"{text}ms"


def _duration(text: str) -> str:
    """A plain number is milliseconds, as it is in the variables of OpenTelemetry that look like this one."""
    return f"{text}ms" if re.fullmatch(r"\d+", text, re.ASCII) else text


def _boolean(text: str) -> bool:
    """OpenTelemetry's booleans: only `true`, in any case, is true; others than `false` are warned about."""
    if text.lower() not in ("true", "false"):
        raise ConfigError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def _number(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise ConfigError(f"{text[:40]!r} is no number")
    return int(text)


_Parser = Callable[[str], Any]

_SIGNAL_VARIABLES: dict[str, tuple[str, _Parser]] = {
    "ENDPOINT": ("endpoint", str),
    "PROTOCOL": ("protocol", str.lower),
    "INSECURE": ("insecure", _boolean),
    "HEADERS": ("headers", _pairs),
    "TIMEOUT": ("timeout", _milliseconds),
    "COMPRESSION": ("compression", str.lower),
    "CERTIFICATE": ("certificate", str),
    "CLIENT_CERTIFICATE": ("client_certificate", str),
    "CLIENT_KEY": ("client_key", str),
}
VARIABLES: dict[str, tuple[str, _Parser]] = {
    **{
        f"OTEL_EXPORTER_OTLP_{prefix}{name}": (f"otlp.{branch}{key}", parse)
        for prefix, branch in (("", ""), ("LOGS_", "logs."), ("TRACES_", "traces."))
        for name, (key, parse) in _SIGNAL_VARIABLES.items()
    },
    "FAILLOG_PROTOCOL": ("otlp.protocol", str),
    "FAILLOG_SIGNALS": ("otlp.signals", _list),
    "FAILLOG_OUTPUT": ("otlp.output", str),
    "FAILLOG_BACKEND": ("mapping.backend", _backend),
    "FAILLOG_BODIES": ("mapping.bodies", str),
    "FAILLOG_RESPONSE_HEADERS": ("mapping.response_headers", _list),
    "FAILLOG_TIME_POLICY": ("mapping.time_policy", str),
    "FAILLOG_JOIN": ("mapping.join", str),
    "FAILLOG_RESOURCE_ATTRIBUTES": ("mapping.resource_attributes", _pairs),
    "FAILLOG_REDACTION_KEY": ("mapping.redaction_key", str),
    "SEGMENT_TOKEN": ("segment.token", str),
    "SEGMENT_TOKEN_FILE": ("segment.token_file", str),
    "FAILLOG_SEGMENT_URL": ("segment.url", str),
    "FAILLOG_COLLECTIONS": ("segment.collections", _list),
    "FAILLOG_SINCE": ("segment.since", str),
    "FAILLOG_UNTIL": ("segment.until", str),
    "FAILLOG_DOWNLOAD_HOSTS": ("segment.download_hosts", _list),
    "FAILLOG_SEGMENT_CERTIFICATE": ("segment.certificate", str),
    "FAILLOG_SEGMENT_PROXY": ("segment.proxy", str),
    "FAILLOG_STATE_DIR": ("run.state_dir", str),
    "FAILLOG_FAIL_ON": ("run.fail_on", _list),
    "FAILLOG_WAIT": ("run.wait", str),
    "FAILLOG_QUARANTINE": ("run.quarantine", str),
    "FAILLOG_PENDING": ("run.pending", str),
    "FAILLOG_MAX_CONTENT": ("run.max_content", str),
    "FAILLOG_SUMMARY": ("run.summary", str),
    "FAILLOG_LOG_FORMAT": ("run.log_format", str),
    "FAILLOG_HEALTH_ADDR": ("run.health_addr", str),
    "FAILLOG_HEALTH_FILE": ("run.health_file", str),
    "FAILLOG_WORKERS": ("run.workers", _number),
    **{
        f"FAILLOG_SELF_OTLP_{name}": (f"self.{key}", _duration if parse is _milliseconds else parse)
        for name, (key, parse) in _SIGNAL_VARIABLES.items()
    },
    "FAILLOG_SELF_OTLP_INTERVAL": ("self.interval", _duration),
    "FAILLOG_SELF_OTLP_RESOURCE_ATTRIBUTES": ("self.resource_attributes", _pairs),
}
"""Each environment variable: the setting that it is, and how its text is read."""

_CHANGING = ("service.instance.id", "host.", "process.", "container.", "k8s.pod.")
"""Resource attributes that change at every start, and would make re-sends differ."""


def _otel_resource(environ: Mapping[str, str]) -> dict[str, Any]:
    """What `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say, without what changes at every start."""
    name, text = environ.get("OTEL_SERVICE_NAME", ""), environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    (name + text).encode()
    attributes = {k: v for k, v in _pairs(text).items() if not k.startswith(_CHANGING)}
    if name:
        attributes["service.name"] = name
    return _nested("mapping.resource_attributes", attributes) if attributes else {}


def _nested(path: str, value: Any) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    nested: dict[str, Any] = value
    return nested


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
