"""Layers of settings → the settings of a run: the first layer that says something wins. Raises ConfigError.

Endpoints follow OpenTelemetry's specification of the OTLP exporter: a general one gets `v1/<signal>` behind
it, a signal's own one is used as it is, and for gRPC `INSECURE` decides where the endpoint has no scheme.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

from faillog_otel.backends import BACKENDS, NO_BACKEND
from faillog_otel.config import (
    DEFAULT_GRPC_ENDPOINT,
    DEFAULT_HTTP_ENDPOINT,
    DEFAULT_SINCE,
    RESPONSE_HEADERS,
    SIGNALS,
    DeliveryConfig,
    HealthConfig,
    MappingConfig,
    NetworkProtocol,
    Protocol,
    RunConfig,
    Secret,
    SegmentConfig,
    Signal,
    Target,
    TelemetryConfig,
    token_problem,
)
from faillog_otel.errors import ConfigError
from faillog_otel.network import parse_host_port, parse_setting
from faillog_otel.setting_values import (
    check_endpoint,
    check_headers,
    check_path,
    is_unencrypted,
    parse_duration,
    parse_moment,
    parse_size,
    parse_time_policy,
    parse_timeout,
    segment_url,
)
from faillog_otel.settings import Layer, OwnSettings, SignalSettings

MIN_INTERVAL_SECONDS = 0.1
MAX_PORT = 65535

MIN_KEY = 16
"""Characters of the redaction key: a shorter one can be guessed, and then the values, too."""


def resolve(
    layers: Sequence[Layer],
    *,
    verbosity: int = 0,
    config_file: str | None = None,
    warnings: Sequence[str] = (),
    polls_forever: bool = False,
    home: str = ".",
) -> RunConfig:
    """The settings of a run; earlier layers win. Raises ConfigError.

    `home` is the folder that the state folder lies in by default.
    """
    first = partial(_first_said, layers)
    default_wait = "forever" if polls_forever else "30s"
    summary = first("run", "summary", "text")
    output = first("otlp", "output", None)
    signals = tuple(dict.fromkeys(first("otlp", "signals", SIGNALS)))
    if not signals:
        raise ConfigError("--signals names no signal: logs, traces or both")
    writes = _writes(layers, signals)
    if output is not None and writes != "file":
        raise ConfigError("--output goes with --protocol file")
    if writes and output is None and summary == "json":
        raise ConfigError(f"--protocol {writes} writes to stdout, and so does --summary json")
    targets = {} if writes else {signal: _target(layers, signal) for signal in signals}
    telemetry, ignored = _telemetry(first)
    all_targets = [*targets.values(), *filter(None, [telemetry.target])]
    unencrypted = {target.shown_url for target in all_targets if is_unencrypted(target.url)}
    redaction_key = first("mapping", "redaction_key", None)
    if any(layer.segment.token and layer.segment.token_file for layer in layers):
        ignored = [*ignored, "a token and a token file are set in one place: the file is not read; unset one"]
    if redaction_key and len(redaction_key) < MIN_KEY:
        ignored = [*ignored, f"the redaction key has less than {MIN_KEY} characters: too few"]
    fail_on = tuple(dict.fromkeys(each for each in first("run", "fail_on", ()) if each != "never"))
    return RunConfig(
        mapping=resolve_mapping(layers),
        backend=first("mapping", "backend", None),
        delivery=DeliveryConfig(
            signals=signals,
            writes=writes,
            targets=targets,
            output=output,
            wait_seconds=_named("wait", parse_duration, first("run", "wait", default_wait)),
        ),
        segment=_segment(layers, first),
        telemetry=telemetry,
        health=_health(first),
        state_dir=first("run", "state_dir", f"{home}/faillog-otel"),
        fail_on=fail_on,
        quarantine=first("run", "quarantine", "faillog-quarantine.jsonl"),
        pending=first("run", "pending", "faillog-pending.jsonl"),
        max_content_bytes=resolve_max_content(layers),
        workers=first("run", "workers", None),
        summary=summary,
        log_format=first("run", "log_format", "text"),
        verbosity=verbosity,
        config_file=config_file,
        warnings=(
            *warnings,
            *ignored,
            *(f"{url}: what is sent there is not encrypted" for url in sorted(unencrypted)),
        ),
        ignored=tuple(warnings),
    )


def resolve_mapping(layers: Sequence[Layer]) -> MappingConfig:
    """The settings of how events become records; earlier layers win. Raises ConfigError."""
    first = partial(_first_said, layers)
    backend, policy = first("mapping", "backend", None), first("mapping", "time_policy", None)
    profile = BACKENDS[backend] if backend else NO_BACKEND
    redaction_key = first("mapping", "redaction_key", None)
    return MappingConfig(
        bodies=first("mapping", "bodies", "response"),
        response_headers=RESPONSE_HEADERS + tuple(first("mapping", "response_headers", ())),
        time_policy=profile.time_policy
        if policy is None
        else _named("time policy", parse_time_policy, policy),
        join=first("mapping", "join", "parent"),
        destination_names=first("mapping", "destination_names", {}),
        resource=_resource(first("mapping", "resource_attributes", {})),
        limits=profile.limits,
        redaction_key=Secret(redaction_key) if redaction_key else None,
    )


def resolve_max_content(layers: Sequence[Layer]) -> int:
    """How many bytes one compressed file may unpack to. Raises ConfigError."""
    return _named("max_content", parse_size, _first_said(layers, "run", "max_content", "16GiB"))


def resolve_log_format(layers: Sequence[Layer]) -> Literal["text", "json"]:
    """How messages are written."""
    log_format: Literal["text", "json"] = _first_said(layers, "run", "log_format", "text")
    return log_format


def _first_said(layers: Sequence[Layer], branch: str, name: str, default: Any) -> Any:
    values = (getattr(getattr(layer, branch), name) for layer in layers)
    return next((value for value in values if value is not None), default)


def _segment(layers: Sequence[Layer], first: Callable[[str, str, Any], Any]) -> SegmentConfig:
    url = segment_url(first("segment", "url", "us"))
    until = first("segment", "until", None)
    token, token_file = _token(layers)
    if token and (problem := token_problem(token)):
        raise ConfigError(f"the token {problem}")
    hosts = tuple(first("segment", "download_hosts", ()))
    for host in hosts:
        try:
            parse_host_port(host)
        except ValueError:
            raise ConfigError(
                f"--download-host {host[:80]!r} is no host; write HOST, HOST:PORT or [IPV6-ADDRESS]:PORT"
            ) from None
    proxy = first("segment", "proxy", None)
    if proxy:
        parse_setting(proxy, "[segment] proxy")
    since = first("segment", "since", None)
    return SegmentConfig(
        url=url,
        token=Secret(token) if token else None,
        token_file=token_file,
        collections=tuple(first("segment", "collections", ())),
        is_since_given=since is not None,
        since=DEFAULT_SINCE if since is None else _named("since", parse_moment, since),
        until=None if until is None else _named("until", parse_moment, until),
        download_hosts=hosts,
        certificate=first("segment", "certificate", None),
        proxy=Secret(proxy) if proxy else None,
        requests_per_day=first("segment", "requests_per_day", 120),
        max_requests=first("segment", "max_requests", None),
    )


def _token(layers: Sequence[Layer]) -> tuple[str | None, str | None]:
    """The token, or its file: of the first layer that says one of them; a token wins over a file there."""
    for layer in layers:
        if layer.segment.token is not None:
            return layer.segment.token, None
        if layer.segment.token_file is not None:
            return None, layer.segment.token_file
    return None, None


def _telemetry(first: Callable[[str, str, Any], Any]) -> tuple[TelemetryConfig, list[str]]:
    """Our own metrics, and warnings."""

    def setting(name: str) -> tuple[Any, bool]:
        return first("own", name, first("otlp", "proxy", None) if name == "proxy" else None), False

    if not setting("endpoint")[0]:
        given = [name for name in OwnSettings.__struct_fields__ if first("own", name, None) is not None]
        said = ", ".join(sorted(given))
        return TelemetryConfig(), [
            f"[self] says {said}, and no endpoint: no metrics are sent"
        ] if given else []
    try:
        target = _target_of(setting, "metrics")
        interval = _named("interval", parse_duration, first("own", "interval", "60s"))
    except ConfigError as error:
        raise ConfigError(f"[self], FAILLOG_SELF_OTLP_*: {error}") from None
    if not MIN_INTERVAL_SECONDS <= interval < math.inf:
        raise ConfigError(f"[self], FAILLOG_SELF_OTLP_INTERVAL: from {MIN_INTERVAL_SECONDS:g} s on")
    resource = first("own", "resource_attributes", {})
    return TelemetryConfig(target=target, interval_seconds=interval, resource=tuple(resource.items())), []


def _health(first: Callable[[str, str, Any], Any]) -> HealthConfig:
    file, text = first("run", "health_file", None), first("run", "health_addr", None)
    if text is None:
        return HealthConfig(file=file)
    found = re.fullmatch(r"(?:([^:\[\]]*|\[[0-9A-Fa-f:.]+\]):)?(\d{1,5})", text, re.ASCII)
    if found is None or int(found[2]) > MAX_PORT:
        raise ConfigError(
            "--health-addr takes HOST:PORT ([::]:8080 is everybody's), or a port of this machine only"
        )
    return HealthConfig(address=((found[1] or "127.0.0.1").strip("[]"), int(found[2])), file=file)


def _resource(attributes: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    resource = {"service.name": "segment", **attributes}
    if environment := resource.get("deployment.environment.name"):
        resource["deployment.environment"] = environment  # the older name, which Loki makes a label of
    return tuple(resource.items())


Parsed = TypeVar("Parsed")


def _named(name: str, parse: Callable[[str], Parsed], text: str) -> Parsed:
    """The setting, parsed; an error says which one it is."""
    try:
        return parse(text)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def _first(layers: Sequence[Layer], signal: Signal, name: str) -> tuple[Any, bool]:
    """A signal's setting from the first layer that says it, and whether it was said for this signal alone."""
    for layer in layers:
        own: SignalSettings = getattr(layer.otlp, signal)
        for settings, is_own in ((own, True), (layer.otlp, False)):
            if (value := getattr(settings, name)) is not None:
                return value, is_own
    return None, False


def _writes(layers: Sequence[Layer], signals: Sequence[Signal]) -> Literal["file", "console"] | None:
    protocols: set[Protocol] = {_first(layers, signal, "protocol")[0] for signal in signals}
    writes = protocols & {"file", "console"}
    if not writes:
        return None
    if len(protocols) > 1:
        raise ConfigError(f"the protocols of the signals exclude each other: {', '.join(sorted(protocols))}")
    return "console" if "console" in writes else "file"


def _target(layers: Sequence[Layer], signal: Signal) -> Target:
    return _target_of(lambda name: _first(layers, signal, name), signal)


def _target_of(setting: Callable[[str], tuple[Any, bool]], path: str) -> Target:
    """A target from its settings: each its value, and whether it was said for this signal alone."""

    def first(name: str) -> Any:
        return setting(name)[0]

    protocol: NetworkProtocol = first("protocol") or "http/protobuf"
    endpoint, is_own = setting("endpoint")
    url = endpoint or (DEFAULT_GRPC_ENDPOINT if protocol == "grpc" else DEFAULT_HTTP_ENDPOINT)
    if protocol == "grpc" and "://" not in url:  # the specification: only then does INSECURE decide
        url = f"{'http' if first('insecure') else 'https'}://{url}"
    check_endpoint(url)
    check_path(url, protocol, path, is_own=is_own)
    if protocol != "grpc" and not is_own:
        if re.search("[?#]", url):
            raise ConfigError("the endpoint has a query, and v1/<signal> cannot stand behind one")
        url = f"{url.rstrip('/')}/v1/{path}"
    timeout = _named("timeout", parse_timeout, first("timeout") or "10s")
    headers: dict[str, str] = first("headers") or {}
    check_headers(headers)
    if protocol == "grpc" and (binary := [name for name in headers if name.lower().endswith("-bin")]):
        raise ConfigError(f"the header {binary[0]!r} cannot be set: leave it out")
    return Target(
        url=url,
        protocol=protocol,
        headers=tuple((name.lower(), Secret(value.strip())) for name, value in headers.items()),
        compression=first("compression") or "gzip",
        timeout_seconds=timeout,
        certificate=first("certificate"),
        client_certificate=first("client_certificate"),
        client_key=first("client_key"),
        proxy=_proxy(first("proxy"), protocol, "proxy" if path == "metrics" else "[otlp] proxy"),
    )


def _proxy(setting: str | None, protocol: NetworkProtocol, name: str) -> Secret | None:
    if not setting:
        return None
    proxy = parse_setting(setting, name)
    if proxy and proxy.scheme == "https" and protocol == "grpc":
        raise ConfigError(
            f"the proxy {proxy.url}: gRPC can use http:// proxies only; name one, or use OTLP/HTTP"
        )
    return Secret(setting)
