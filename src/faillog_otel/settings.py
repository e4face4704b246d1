"""Where settings come from: flags, environment and config file, each a layer of the same shape.

A layer holds what was said there and None for the rest; the first layer that says something wins. The
`OTEL_*` variables are read as OpenTelemetry's specification reads them: an empty one is unset, a general
endpoint gets `v1/<signal>` behind it and a signal's own one is used as it is, headers and resource
attributes are percent-decoded, timeouts are milliseconds, a value that cannot be used is ignored with a
warning. A wrong flag, `FAILLOG_*` or config file is a ConfigError that names it.
"""

import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Struct

from faillog_otel.config import (
    DEFAULT_ENDPOINT,
    RESPONSE_HEADERS,
    SIGNALS,
    Bodies,
    Compression,
    DeliveryConfig,
    FailOn,
    MappingConfig,
    Protocol,
    RunConfig,
    Secret,
    Signal,
    Target,
    TimePolicy,
)
from faillog_otel.errors import ConfigError


class SignalSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one signal travels; for both when said in `[otlp]` itself."""

    endpoint: str | None = None
    headers: dict[str, str] | None = None
    timeout: str | None = None
    compression: Compression | None = None
    certificate: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None


class OtlpSettings(SignalSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[otlp]`: where forwarded data goes."""

    protocol: Protocol | None = None
    signals: list[Signal] | None = None
    output: str | None = None
    logs: SignalSettings = SignalSettings()
    traces: SignalSettings = SignalSettings()


class MappingSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[mapping]`: what the forwarded data says."""

    bodies: Bodies | None = None
    response_headers: list[str] | None = None
    time_policy: str | None = None
    destination_names: dict[str, str] | None = None
    resource_attributes: dict[str, str] | None = None


class RunSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[run]`: how a run goes and ends."""

    fail_on: list[FailOn] | None = None
    wait: str | None = None
    quarantine: str | None = None
    pending: str | None = None
    summary: Literal["text", "json"] | None = None
    log_format: Literal["text", "json"] | None = None


class Layer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that one source of settings may say; a config file has exactly this shape."""

    otlp: OtlpSettings = OtlpSettings()
    mapping: MappingSettings = MappingSettings()
    run: RunSettings = RunSettings()


# -- reading -------------------------------------------------------------------------------------------


def read_file(text: str, name: str) -> Layer:
    """The layer of a TOML config file. Raises ConfigError naming the file and the key."""
    try:
        return msgspec.convert(tomllib.loads(text), Layer)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
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
            one = _nested(path, parse(text))
            msgspec.convert(one, Layer)
        except (ConfigError, msgspec.ValidationError) as error:
            problem = f"{name}: {re.sub(r' - at `.*', '', str(error))}"
            if not name.startswith("OTEL_") or name.endswith(("ENDPOINT", "PROTOCOL")):
                raise ConfigError(problem) from None
            warnings.append(f"{problem}; ignored")
            continue
        _merge(said, one)
    _merge(said, _otel_resource(environ, said))
    return msgspec.convert(said, Layer), warnings


def parse_duration(text: str) -> float:
    """Seconds from `500ms`, `30s`, `5m`, `17h`, `2d`, a plain number of seconds, or `forever` (infinity)."""
    if text == "forever":
        return math.inf
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)", text.strip(), re.ASCII)
    if found is None:
        raise ConfigError(f"{text!r} is no duration: 500ms, 30s, 5m, 17h, 2d or forever")
    return float(found[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "": 1}[found[2]]


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


def _milliseconds(text: str) -> str:
    if not re.fullmatch(r"\d+", text, re.ASCII):
        raise ConfigError(f"{text!r} is no number of milliseconds")
    return f"{text}ms"


_Parser = Callable[[str], Any]

_SIGNAL_VARIABLES: dict[str, tuple[str, _Parser]] = {
    "ENDPOINT": ("endpoint", str),
    "HEADERS": ("headers", _pairs),
    "TIMEOUT": ("timeout", _milliseconds),
    "COMPRESSION": ("compression", str),
    "CERTIFICATE": ("certificate", str),
    "CLIENT_CERTIFICATE": ("client_certificate", str),
    "CLIENT_KEY": ("client_key", str),
}
VARIABLES: dict[str, tuple[str, _Parser]] = {
    "OTEL_EXPORTER_OTLP_PROTOCOL": ("otlp.protocol", str),
    **{
        f"OTEL_EXPORTER_OTLP_{prefix}{name}": (f"otlp.{branch}{key}", parse)
        for prefix, branch in (("", ""), ("LOGS_", "logs."), ("TRACES_", "traces."))
        for name, (key, parse) in _SIGNAL_VARIABLES.items()
    },
    "FAILLOG_PROTOCOL": ("otlp.protocol", str),
    "FAILLOG_SIGNALS": ("otlp.signals", _list),
    "FAILLOG_OUTPUT": ("otlp.output", str),
    "FAILLOG_BODIES": ("mapping.bodies", str),
    "FAILLOG_RESPONSE_HEADERS": ("mapping.response_headers", _list),
    "FAILLOG_TIME_POLICY": ("mapping.time_policy", str),
    "FAILLOG_RESOURCE_ATTRIBUTES": ("mapping.resource_attributes", _pairs),
    "FAILLOG_FAIL_ON": ("run.fail_on", _list),
    "FAILLOG_WAIT": ("run.wait", str),
    "FAILLOG_QUARANTINE": ("run.quarantine", str),
    "FAILLOG_PENDING": ("run.pending", str),
    "FAILLOG_SUMMARY": ("run.summary", str),
    "FAILLOG_LOG_FORMAT": ("run.log_format", str),
}
"""Each environment variable: the setting that it is, and how its text is read."""

_CHANGING = ("service.instance.id", "host.", "process.", "container.", "k8s.pod.")
"""Resource attributes that change at every start, and would make re-sends differ."""


def _otel_resource(environ: Mapping[str, str], said: Mapping[str, Any]) -> dict[str, Any]:
    """What `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say, where `FAILLOG_...` says nothing."""
    if "resource_attributes" in said.get("mapping", {}):
        return {}
    try:
        attributes = _pairs(environ.get("OTEL_RESOURCE_ATTRIBUTES", ""))
    except ConfigError:
        attributes = {}  # the specification: an error while decoding discards the whole value
    attributes = {k: v for k, v in attributes.items() if not k.startswith(_CHANGING)}
    if name := environ.get("OTEL_SERVICE_NAME", ""):
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


# -- resolving -----------------------------------------------------------------------------------------


def resolve(layers: Sequence[Layer], *, verbosity: int = 0, warnings: Sequence[str] = ()) -> RunConfig:
    """The settings of a run; earlier layers win. Raises ConfigError."""

    def first(branch: str, name: str, default: Any) -> Any:
        values = (getattr(getattr(layer, branch), name) for layer in layers)
        return next((value for value in values if value is not None), default)

    protocol: Protocol = first("otlp", "protocol", "http/protobuf")
    summary = first("run", "summary", "text")
    output = first("otlp", "output", None)
    if output is not None and protocol != "file":
        raise ConfigError(f"--output goes with --protocol file, not {protocol}")
    if protocol == "file" and output is None and summary == "json":
        raise ConfigError("--protocol file writes to stdout, and so does --summary json: use --output")
    signals = tuple(dict.fromkeys(first("otlp", "signals", SIGNALS)))
    if not signals:
        raise ConfigError("--signals names no signal: logs, traces or both")
    fail_on = tuple(dict.fromkeys(each for each in first("run", "fail_on", ()) if each != "never"))
    return RunConfig(
        mapping=MappingConfig(
            bodies=first("mapping", "bodies", "response"),
            response_headers=RESPONSE_HEADERS + tuple(first("mapping", "response_headers", ())),
            time_policy=parse_time_policy(first("mapping", "time_policy", "occurred")),
            destination_names=first("mapping", "destination_names", {}),
            resource=_resource(first("mapping", "resource_attributes", {})),
        ),
        delivery=DeliveryConfig(
            signals=signals,
            protocol=protocol,
            targets={signal: _target(layers, signal) for signal in signals},
            output=output,
            wait_seconds=parse_duration(first("run", "wait", "30s")),
        ),
        fail_on=fail_on,
        quarantine=first("run", "quarantine", "faillog-quarantine.jsonl"),
        pending=first("run", "pending", "faillog-pending.jsonl"),
        summary=summary,
        log_format=first("run", "log_format", "text"),
        verbosity=verbosity,
        warnings=tuple(warnings),
    )


def _resource(attributes: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    resource = {"service.name": "segment", **attributes}
    if environment := resource.get("deployment.environment.name"):
        resource["deployment.environment"] = environment  # the older name, which Loki makes a label of
    return tuple(resource.items())


def _target(layers: Sequence[Layer], signal: Signal) -> Target:
    def first(name: str) -> tuple[Any, bool]:
        """The value, and whether it was said for this signal alone."""
        for layer in layers:
            own: SignalSettings = getattr(layer.otlp, signal)
            for settings, is_own in ((own, True), (layer.otlp, False)):
                if (value := getattr(settings, name)) is not None:
                    return value, is_own
        return None, False

    endpoint, is_own = first("endpoint")
    url = endpoint if is_own else f"{(endpoint or DEFAULT_ENDPOINT).rstrip('/')}/v1/{signal}"
    _check_url(url)
    timeout = parse_duration(first("timeout")[0] or "10s")
    headers: dict[str, str] = first("headers")[0] or {}
    for name, value in headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ConfigError(f"{name!r} is no name of an HTTP header")
        if not value.isascii() or not all(c >= " " or c == "\t" for c in value):
            raise ConfigError(f"the value of the header {name!r} has characters that HTTP forbids")
    return Target(
        url=url,
        headers=tuple((name.lower(), Secret(value)) for name, value in headers.items()),
        compression=first("compression")[0] or "gzip",
        timeout_seconds=timeout if timeout > 0 else math.inf,
        certificate=first("certificate")[0],
        client_certificate=first("client_certificate")[0],
        client_key=first("client_key")[0],
    )


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        shown = re.sub(r"//[^/]*@", "//", url)
        raise ConfigError(f"{shown!r} is no endpoint: http://HOST:PORT or https://HOST:PORT")
