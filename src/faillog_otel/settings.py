"""Where settings come from: flags, environment and config file, each a layer of the same shape.

A layer holds what was said there, and None for the rest. The `OTEL_*` variables are read as
OpenTelemetry's specification reads them: an empty one is unset, headers and resource attributes are
percent-decoded, timeouts are milliseconds, a value that cannot be used is ignored with a warning; but not
headers and resource attributes: without them data would leave without its key. They, a wrong `FAILLOG_*` and
a wrong config file are a ConfigError that names it.
"""

import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from faillog_otel.config import (
    MAX_WORKERS,
    BackendName,
    Bodies,
    Compression,
    FailOn,
    Join,
    NetworkProtocol,
    Protocol,
    Signal,
)
from faillog_otel.errors import ConfigError
from faillog_otel.setting_errors import broken_toml, shown, unknown_variables, wrong_table, wrong_value
from faillog_otel.setting_values import (
    check_collections,
    check_headers,
    parse_boolean,
    parse_duration,
    parse_encoded_pairs,
    parse_list,
    parse_milliseconds,
    parse_moment,
    parse_number,
    parse_own_duration,
    parse_size,
    parse_time_policy,
    parse_timeout,
)


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
    proxy: str | None = None


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
    requests_per_day: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    max_requests: Annotated[int, Meta(ge=1)] | None = None


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
    workers: Annotated[int, Meta(ge=1, le=MAX_WORKERS)] | None = None


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


def explicit_settings(settings: Struct, within: str = "") -> Iterator[str]:
    """The settings that a layer says, such as `otlp.traces.endpoint`."""
    for name, key in zip(settings.__struct_fields__, settings.__struct_encode_fields__, strict=True):
        value, path = getattr(settings, name), f"{within}{key}"
        if isinstance(value, Struct):
            yield from explicit_settings(value, f"{path}.")
        elif value is not None:
            yield path


# -- reading -------------------------------------------------------------------------------------------


def read_file(text: str, name: str) -> Layer:
    """The layer of a TOML config file. Raises ConfigError naming the file and the key."""
    try:
        content = tomllib.loads(text)
    except ValueError as error:
        raise ConfigError(f"{name}: {broken_toml(error, text)}") from None
    except RecursionError:
        raise ConfigError(f"{name}: too many brackets are open") from None
    if problem := next(wrong_table(content, Layer), ""):
        raise ConfigError(f"{name}: {problem}")
    layer = msgspec.convert(content, Layer)
    check_texts(layer, lambda path: f"{name}: {shown(path)}")
    return layer


def read_environment(
    environ: Mapping[str, str], is_used: Callable[[str], bool] = lambda _: True
) -> tuple[Layer, list[str]]:
    """The layer of the environment, and warnings about what has no effect. Raises ConfigError.

    `is_used`: whether a setting's path is read at all; what is not used cannot be wrong.
    """
    said: dict[str, Any] = {}
    warnings = list(unknown_variables(filter(environ.get, environ), {*VARIABLES, *OTHER_VARIABLES}))
    for name, (path, parse) in VARIABLES.items():
        text = environ.get(name, "").strip()
        if not text or not is_used(path):
            continue
        try:
            _merge(said, _nested(path, _read_variable(text, path, parse)))
        except ConfigError as error:
            if not name.startswith("OTEL_") or parse is parse_encoded_pairs:
                raise ConfigError(f"{name}: {error}") from None
            warnings.append(f"{name}: {error}; ignored")
            continue
        if name.startswith("OTEL_") and name.endswith("_TIMEOUT") and int(text) < 100:
            warnings.append(f"{name}: {text} means {text} milliseconds")
    resource = "mapping.resource_attributes"
    if is_used(resource) and "resource_attributes" not in said.get("mapping", {}):
        _merge(said, _otel_resource(environ))
    return msgspec.convert(said, Layer), warnings


def _read_variable(text: str, path: str, parse: "_Parser") -> Any:
    """What a variable says. Raises ConfigError."""
    _check_utf8(text)
    value = parse(text)
    if problem := wrong_value(value, path, Layer):
        raise ConfigError(problem)
    if check := TEXT_CHECKS.get(path):
        check(value)
    return value


def check_texts(layer: Layer, name: Callable[[str], str]) -> None:
    """Raises ConfigError for a text that cannot be read; `name` says how the user calls a setting's path."""
    for path in explicit_settings(layer):
        if check := TEXT_CHECKS.get(path):
            try:
                check(_value_at(layer, path))
            except ConfigError as error:
                raise ConfigError(f"{name(path)}: {error}") from None


def _value_at(layer: Layer, path: str) -> Any:
    value: Any = msgspec.to_builtins(layer)
    for key in path.split("."):
        value = value[key]
    return value


def _check_utf8(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError("is not UTF-8; set it anew") from None


_Parser = Callable[[str], Any]

_SIGNAL_VARIABLES: dict[str, tuple[str, _Parser]] = {
    "ENDPOINT": ("endpoint", str),
    "PROTOCOL": ("protocol", str.lower),
    "INSECURE": ("insecure", parse_boolean),
    "HEADERS": ("headers", parse_encoded_pairs),
    "TIMEOUT": ("timeout", parse_milliseconds),
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
    "FAILLOG_OTLP_PROXY": ("otlp.proxy", str),
    "FAILLOG_PROTOCOL": ("otlp.protocol", str),
    "FAILLOG_SIGNALS": ("otlp.signals", parse_list),
    "FAILLOG_OUTPUT": ("otlp.output", str),
    "FAILLOG_BACKEND": ("mapping.backend", str),
    "FAILLOG_BODIES": ("mapping.bodies", str),
    "FAILLOG_RESPONSE_HEADERS": ("mapping.response_headers", parse_list),
    "FAILLOG_TIME_POLICY": ("mapping.time_policy", str),
    "FAILLOG_JOIN": ("mapping.join", str),
    "FAILLOG_RESOURCE_ATTRIBUTES": ("mapping.resource_attributes", parse_encoded_pairs),
    "FAILLOG_REDACTION_KEY": ("mapping.redaction_key", str),
    "SEGMENT_TOKEN": ("segment.token", str),
    "SEGMENT_TOKEN_FILE": ("segment.token_file", str),
    "FAILLOG_SEGMENT_URL": ("segment.url", str),
    "FAILLOG_COLLECTIONS": ("segment.collections", parse_list),
    "FAILLOG_SINCE": ("segment.since", str),
    "FAILLOG_UNTIL": ("segment.until", str),
    "FAILLOG_DOWNLOAD_HOSTS": ("segment.download_hosts", parse_list),
    "FAILLOG_SEGMENT_CERTIFICATE": ("segment.certificate", str),
    "FAILLOG_SEGMENT_PROXY": ("segment.proxy", str),
    "FAILLOG_REQUESTS_PER_DAY": ("segment.requests_per_day", parse_number),
    "FAILLOG_MAX_REQUESTS": ("segment.max_requests", parse_number),
    "FAILLOG_STATE_DIR": ("run.state_dir", str),
    "FAILLOG_FAIL_ON": ("run.fail_on", parse_list),
    "FAILLOG_WAIT": ("run.wait", str),
    "FAILLOG_QUARANTINE": ("run.quarantine", str),
    "FAILLOG_PENDING": ("run.pending", str),
    "FAILLOG_MAX_CONTENT": ("run.max_content", str),
    "FAILLOG_SUMMARY": ("run.summary", str),
    "FAILLOG_LOG_FORMAT": ("run.log_format", str),
    "FAILLOG_HEALTH_ADDR": ("run.health_addr", str),
    "FAILLOG_HEALTH_FILE": ("run.health_file", str),
    "FAILLOG_WORKERS": ("run.workers", parse_number),
    **{
        f"FAILLOG_SELF_OTLP_{name}": (
            f"self.{key}",
            parse_own_duration if parse is parse_milliseconds else parse,
        )
        for name, (key, parse) in _SIGNAL_VARIABLES.items()
    },
    "FAILLOG_SELF_OTLP_PROXY": ("self.proxy", str),
    "FAILLOG_SELF_OTLP_INTERVAL": ("self.interval", parse_own_duration),
    "FAILLOG_SELF_OTLP_RESOURCE_ATTRIBUTES": ("self.resource_attributes", parse_encoded_pairs),
}
"""Each environment variable: the setting that it is, and how its text is read."""

OTHER_VARIABLES = ("FAILLOG_CONFIG", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES")
"""Variables that are read besides."""

TEXT_CHECKS: dict[str, Callable[[Any], object]] = {
    **{f"{branch}.timeout": parse_timeout for branch in ("otlp", "otlp.logs", "otlp.traces", "self")},
    **{f"{branch}.headers": check_headers for branch in ("otlp", "otlp.logs", "otlp.traces", "self")},
    "mapping.time_policy": parse_time_policy,
    "segment.collections": check_collections,
    "segment.since": parse_moment,
    "segment.until": parse_moment,
    "run.wait": parse_duration,
    "run.max_content": parse_size,
    "self.interval": parse_duration,
}
"""Settings whose text has a form of its own → what raises ConfigError for another one."""

_CHANGING = ("service.instance.id", "host.", "process.", "container.", "k8s.pod.")
"""Resource attributes that change at every start, and would make re-sends differ."""


def _otel_resource(environ: Mapping[str, str]) -> dict[str, Any]:
    """What `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say, without what changes at every start."""
    name, text = environ.get("OTEL_SERVICE_NAME", ""), environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    try:
        _check_utf8(name + text)
        attributes = {k: v for k, v in parse_encoded_pairs(text).items() if not k.startswith(_CHANGING)}
    except ConfigError as error:
        raise ConfigError(f"OTEL_RESOURCE_ATTRIBUTES or OTEL_SERVICE_NAME: {error}") from None
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
