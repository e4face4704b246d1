"""The sources of settings: options, environment variables and a config file, and their precedence.

A `Layer` holds the values of one source. `resolve` makes the settings of a run from layers; the first layer
that sets a value wins.

`OTEL_*` variables follow OpenTelemetry's specification of the OTLP exporter: an empty one is unset, and a
unusable value is ignored with a warning, except in headers and resource attributes: data would be sent
without its key. Every other wrong value is a ConfigError that names the setting as the user wrote it.
"""

import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from msgspec import Struct, field
from msgspec.structs import replace

from faillog_otel.backends import BACKENDS, NO_BACKEND
from faillog_otel.config import (
    DEFAULT_GRPC_ENDPOINT,
    DEFAULT_HTTP_ENDPOINT,
    DeliveryConfig,
    FailureLimits,
    HealthConfig,
    LinksConfig,
    MappingConfig,
    NetworkProtocol,
    RunConfig,
    SegmentConfig,
    Signal,
    Target,
    TelemetryConfig,
)
from faillog_otel.errors import ConfigError
from faillog_otel.links import links_config
from faillog_otel.network import is_loopback, parse_setting
from faillog_otel.setting_values import MAX_QUOTED, describe, parse_encoded_pairs, parse_pairs
from faillog_otel.settings import (
    BY_PARAMETER,
    BY_PATH,
    SETTINGS,
    TABLES,
    Setting,
)
from faillog_otel.text import truncate
from faillog_otel.unknown_settings import unknown_key, unknown_variables

MIN_KEY = 16
"""Characters of the redaction key: who guesses a shorter one can guess the redacted values."""


class Layer(Struct, frozen=True):
    """The values of one source."""

    source: str
    """`flag`, `environment`, or the config file's name."""
    values: dict[str, Any] = field(default_factory=dict)
    """Path of a setting → its value, parsed."""
    variables: dict[str, str] = field(default_factory=dict)
    """Path of a setting → the environment variable that sets it."""


def origins(layers: Iterable[Layer]) -> dict[str, str]:
    """Returns path of a setting → what sets it: `flag`, a variable, or the config file."""
    found = {path: layer for layer in reversed([*layers]) for path in layer.values}
    return {path: found[path].variables.get(path, found[path].source) for path in sorted(found)}


def read_flags(flags: Mapping[str, Any]) -> Layer:
    """Returns the layer of options, by their names in Python. Raises ConfigError."""
    layer = Layer("flag")
    for name, value in flags.items():
        row = BY_PARAMETER.get(name)
        if row and row.path and value not in (None, ()):
            layer.values[row.path] = row.parse(value, row.flag, _reader(value, row))
    return layer


def _reader(value: object, row: Setting) -> Callable[[Any], Any] | None:
    """Returns the function that turns an option into the value of a config file; None if it is one."""
    if row.kind.form == "table":
        return parse_pairs
    if row.kind.form == "list":
        return row.kind.read if isinstance(value, str) else list
    return None


def read_file(text: str, name: str, is_used: Callable[[str], bool] = lambda _: True) -> Layer:
    """Returns the layer of a TOML config file. Raises ConfigError, which names the file and the key.

    `is_used` returns whether the command uses the setting of a path; others are not checked.
    """
    layer = Layer(name)
    try:
        content = tomllib.loads(text)
    except ValueError as error:
        raise ConfigError(f"{name}: {_broken_toml(error, text)}") from None
    except RecursionError:
        raise ConfigError(f"{name}: brackets are nested too deeply") from None
    _read_table(content, (), layer, is_used)
    return layer


def _read_table(
    content: Mapping[str, Any], within: tuple[str, ...], layer: Layer, is_used: Callable[[str], bool]
) -> None:
    for key, value in content.items():
        path = ".".join((*within, key))
        if path in TABLES and isinstance(value, dict):
            _read_table(value, (*within, key), layer, is_used)
        elif path in TABLES:
            what = f"must be a table; found {describe(value)}; write [{path}] on a line of its own"
            raise ConfigError(f"{layer.source}: [{path}] {what}")
        elif is_used(path):
            if (row := BY_PATH.get(path)) is None:
                raise ConfigError(f"{layer.source}: {unknown_key(key, value, '.'.join(within))}")
            layer.values[path] = row.parse(value, f"{layer.source}: [{row.table}] {key}")


def _broken_toml(error: ValueError, text: str) -> str:
    """Returns `line 3: ...` for an error of tomllib: what is wrong, and what to do."""
    message, _, place = str(error).rpartition(" (at ")
    line = re.match(r"line (\d+)", place)
    where = f"line {line[1] if line else text.rstrip().count(chr(10)) + 1}"
    if message.startswith("Cannot overwrite a value"):
        return f"{where}: the key is set twice; remove one of the two"
    if (twice := re.fullmatch(r"Cannot declare \((.*?),?\) twice", message)) is not None:
        table = truncate(twice[1].replace("'", "").replace(", ", "."), MAX_QUOTED)
        return f"{where}: the table [{table}] appears twice; write its settings under one heading"
    if message.startswith("Invalid value"):
        return f"{where}: a value is missing or is not TOML; write text in quotes"
    if not message:  # not from tomllib: Python limits the digits of a number
        return "a number has too many digits; shorten it"
    return f"{where}: {message[0].lower()}{message[1:]}; correct the TOML"


_RESOURCE = "mapping.resource_attributes"
_OTEL_RESOURCE = ("OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME")
_CHANGING = ("service.instance.id", "host.", "process.", "container.", "k8s.pod.")
"""Resource attributes that change at each start: with them, re-sent records would differ."""


def read_environment(
    environ: Mapping[str, str], is_used: Callable[[str], bool] = lambda _: True
) -> tuple[Layer, list[str]]:
    """Returns the layer of the environment, and warnings about variables without effect. Raises ConfigError.

    `is_used` returns whether the command uses the setting of a path; others are not checked.
    """
    layer = Layer("environment")
    warnings = list(unknown_variables(filter(environ.get, environ)))
    used = [each for each in SETTINGS if each.path and is_used(each.path)]
    for name, row in [(name, each) for each in used for name in reversed(each.variables)]:
        text = environ.get(name, "").strip()
        if not text or name in _OTEL_RESOURCE:
            continue
        try:
            layer.values[row.path] = row.parse(text, name, row.kind.read)
        except ConfigError as error:
            if not name.startswith("OTEL_") or row.kind.form == "table":
                raise
            warnings.append(f"{error}; ignored")
            continue
        layer.variables[row.path] = name
        if name.startswith("OTEL_") and name.endswith("_TIMEOUT") and int(text) < 100:
            warnings.append(f"{name}: {text} means {text} milliseconds")
    if is_used(_RESOURCE) and _RESOURCE not in layer.values:
        _read_otel_resource(environ, layer)
    return layer, warnings


def _read_otel_resource(environ: Mapping[str, str], layer: Layer) -> None:
    """Reads OpenTelemetry's variables, without attributes that change at each start."""
    names = [name for name in _OTEL_RESOURCE if environ.get(name)]
    by, row = " or ".join(names), BY_PATH[_RESOURCE]
    text, service = (environ.get(name, "") for name in _OTEL_RESOURCE)
    row.parse(text, by, row.kind.read)  # all of it must be valid
    pairs = {key: value for key, value in parse_encoded_pairs(text).items() if not key.startswith(_CHANGING)}
    if service:
        pairs["service.name"] = service
    if pairs:
        layer.values[_RESOURCE], layer.variables[_RESOURCE] = row.parse(pairs, by), by.replace(" or", ",")


def resolve(
    layers: Sequence[Layer],
    *,
    verbosity: int = 0,
    config_file: str | None = None,
    warnings: Sequence[str] = (),
    polls_forever: bool = False,
    home: str = ".",
) -> RunConfig:
    """Returns the settings of a run; earlier layers win. Raises ConfigError.

    `home` is the folder of the default state folder.
    """
    run, delivery = _fields_set(layers, ""), _fields_set(layers, "delivery")
    if polls_forever:
        delivery.setdefault("wait_seconds", math.inf)
    signals: tuple[Signal, ...] = value_of(layers, "otlp.signals")
    writes = _writes(layers, signals)
    if "output" in delivery and writes != "file":
        raise ConfigError("--output needs --protocol file; set it, or remove --output")
    if writes and "output" not in delivery and run.get("summary") == "json":
        raise ConfigError(f"--protocol {writes} writes to stdout, and so does --summary json; choose one")
    targets = {} if writes else {signal: _target(_of_signal(layers, signal), signal) for signal in signals}
    telemetry, ignored = _telemetry(layers)
    mapping = resolve_mapping(layers)
    if any(each.values.get("segment.token") and each.values.get("segment.token_file") for each in layers):
        ignored.append("one source sets a token and a token file; the file is not read; unset one of them")
    if mapping.redaction_key and len(mapping.redaction_key.reveal()) < MIN_KEY:
        ignored.append(f"the redaction key has fewer than {MIN_KEY} characters; write a longer one")
    reached = [*targets.values(), *filter(None, [telemetry.target])]
    unencrypted = sorted({target.shown_url for target in reached if _is_unencrypted(target.url)})
    return RunConfig(
        **{"state_dir": f"{home}/faillog-otel", **run},
        mapping=mapping,
        delivery=DeliveryConfig(writes=writes, targets=targets, **delivery),
        segment=_segment(layers),
        telemetry=telemetry,
        health=HealthConfig(**_fields_set(layers, "health")),
        failure_limits=FailureLimits(**_fields_set(layers, "failure_limits")),
        links=resolve_links(layers),
        verbosity=verbosity,
        config_file=config_file,
        warnings=(*warnings, *ignored, *(f"{url}: sent without encryption" for url in unencrypted)),
        ignored=tuple(warnings),
    )


def resolve_mapping(layers: Sequence[Layer]) -> MappingConfig:
    """Returns the settings of the mapping of events to records; earlier layers win."""
    backend = _first(layers, "mapping.backend")
    profile = BACKENDS[backend] if backend else NO_BACKEND
    values = {"time_policy": profile.time_policy, **_fields_set(layers, "mapping")}
    return MappingConfig(limits=profile.limits, **values)


def resolve_links(layers: Sequence[Layer]) -> LinksConfig:
    """Returns the settings of links; earlier layers win. Raises ConfigError."""
    found = {row.key: _first(layers, row.path) for row in SETTINGS if row.table == "links"}
    return links_config(found.pop("trace"), found.pop("segment"), {k: v for k, v in found.items() if v})


def value_of(layers: Sequence[Layer], path: str) -> Any:
    """Returns the value of one setting, or its default."""
    found = _first(layers, path)
    return BY_PATH[path].default if found is None else found


def _first(layers: Iterable[Layer], path: str) -> Any:
    """Returns the value of the first layer that sets it; None if none does."""
    return next((layer.values[path] for layer in layers if path in layer.values), None)


def _is_set(layers: Iterable[Layer], path: str) -> bool:
    return any(path in layer.values for layer in layers)


def _fields_set(layers: Sequence[Layer], owner: str) -> dict[str, Any]:
    """Returns the fields of one part of the `RunConfig` that layers set, with their values."""
    rows = [row for row in SETTINGS if row.field.rpartition(".")[0] == owner and _is_set(layers, row.path)]
    return {row.field.rpartition(".")[2]: _first(layers, row.path) for row in rows if row.field}


def _segment(layers: Sequence[Layer]) -> SegmentConfig:
    values, token, file = _fields_set(layers, "segment"), "segment.token", "segment.token_file"
    for layer in layers:  # the first that sets one of them; within it, the token wins
        if token in layer.values or file in layer.values:
            values["token"] = layer.values.get(token)
            values["token_file"] = None if token in layer.values else layer.values[file]
            break
    return SegmentConfig(is_since_given="since" in values, **values)


def _telemetry(layers: Sequence[Layer]) -> tuple[TelemetryConfig, list[str]]:
    """Returns the settings of the program's own metrics, and warnings."""
    found = {row.key: (_first(layers, row.path), False) for row in SETTINGS if row.table == "self"}
    if not found["endpoint"][0]:
        keys = ", ".join(sorted(key for key, (value, _) in found.items() if value is not None))
        warnings = [f"[self] sets {keys}, but no endpoint; no metrics are sent"] if keys else []
        return TelemetryConfig(), warnings
    if not _is_set(layers, "self.proxy"):
        found["proxy"] = (_first(layers, "otlp.proxy"), False)
    try:
        metrics, logs = _target(found, "metrics"), _target(found, "logs")
    except ConfigError as error:
        raise ConfigError(f"[self], FAILLOG_SELF_OTLP_*: {error}") from None
    return TelemetryConfig(target=metrics, logs_target=logs, **_fields_set(layers, "telemetry")), []


_Found = Mapping[str, tuple[Any, bool]]
"""Key of `[otlp]` → the value (None if nothing sets it), and whether it was set for this signal alone."""


def _of_signal(layers: Sequence[Layer], signal: Signal) -> _Found:
    """Returns a signal's settings. Within a layer, the signal's own setting overrides the general one."""
    found: dict[str, tuple[Any, bool]] = {}
    for row in SETTINGS:
        if row.table == f"otlp.{signal}":
            paths = ((row.path, True), (f"otlp.{row.key}", False))
            values = (
                (each.values[path], own) for each in layers for path, own in paths if path in each.values
            )
            found[row.key] = next(values, (None, False))
    return found


def _writes(layers: Sequence[Layer], signals: Sequence[Signal]) -> Literal["file", "console"] | None:
    default = BY_PATH["otlp.protocol"].default
    protocols: set[Any] = {_of_signal(layers, signal)["protocol"][0] or default for signal in signals}
    writes = protocols & {"file", "console"}
    if writes and len(protocols) > 1:
        raise ConfigError(f"the protocols exclude each other: {', '.join(sorted(protocols))}; choose one")
    return writes.pop() if writes else None


def _target(found: _Found, signal: str) -> Target:
    """Returns the target of a signal, or of `metrics`. Raises ConfigError."""
    rows = [BY_PATH[f"otlp.{key}"] for key in found if f"otlp.{key}" in BY_PATH]
    values = {row.field.removeprefix("target."): found[row.key][0] for row in rows if row.field}
    target = Target(url="", **{name: value for name, value in values.items() if value is not None})
    if target.protocol == "grpc":
        if binary := [name for name, _ in target.headers if name.endswith("-bin")]:
            raise ConfigError(f"the header {binary[0]!r} cannot be set; remove it")
        proxy = parse_setting(target.proxy.reveal(), "the proxy") if target.proxy else None
        if proxy and proxy.scheme == "https":
            raise ConfigError(
                f"the proxy {proxy.url}: gRPC supports http:// proxies only; name one, or use OTLP/HTTP"
            )
    return replace(target, url=_url(found, target.protocol, signal))


def _url(found: _Found, protocol: NetworkProtocol, signal: str) -> str:
    """Returns the URL of a target. For HTTP, `v1/<signal>` is appended to a general endpoint."""
    endpoint, is_own = found["endpoint"]
    url: str = endpoint or (DEFAULT_GRPC_ENDPOINT if protocol == "grpc" else DEFAULT_HTTP_ENDPOINT)
    if protocol == "grpc" and "://" not in url:  # by the specification, INSECURE decides only then
        url = f"{'http' if found['insecure'][0] else 'https'}://{url}"
    _check_endpoint(url)
    _check_path(url, protocol, signal, is_own=is_own)
    if protocol == "grpc" or is_own:
        return url
    if re.search("[?#]", url):
        raise ConfigError("the endpoint has a query, and v1/<signal> cannot follow one; remove the query")
    return f"{url.rstrip('/')}/v1/{signal}"


_HOST = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*")
_STARTS_WITH_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?")


def _check_endpoint(url: str) -> None:
    """Raises ConfigError if no client can use the URL. The message shows nothing that may be secret."""
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
        raise ConfigError(f"{shown!r} is not an endpoint; write http://HOST:PORT or https://HOST:PORT")


def _check_path(url: str, protocol: NetworkProtocol, signal: str, *, is_own: bool) -> None:
    """Raises ConfigError if the path is wrong for the protocol or the signal."""
    parts = urlsplit(url)
    origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    path = parts.path.rstrip("/")
    if protocol == "grpc" and path:
        raise ConfigError(f"the endpoint {origin}{path} has a path, but gRPC uses none; write {origin}")
    found = re.search(r"/v1/(logs|traces|metrics)$", path)
    base = f"{origin}{path[: found.start()]}" if found else ""
    if found and not is_own:
        raise ConfigError(
            f"the endpoint {origin}{path} ends with {found[0]}, which is appended to it; write {base}"
        )
    if found and found[1] != signal:
        raise ConfigError(f"the endpoint of {signal} ends with {found[0]}; write {base}/v1/{signal}")


def _is_unencrypted(url: str) -> bool:
    """Returns whether the URL is plain http to another machine."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")
