"""The options that `run` and `replay` share, and how they become settings."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from faillog_otel.errors import ConfigError

if TYPE_CHECKING:
    from faillog_otel.app.summary import RunResult
    from faillog_otel.config import RunConfig
    from faillog_otel.settings import Layer


_log = logging.getLogger(__name__)

DEFAULT_CONFIG_FILE = "faillog-otel.toml"

EXIT_CODES = """
    \b
    Exit codes:
      0  done, everything was acknowledged
      1  a --fail-on condition was met
      2  wrong usage or configuration, or a PATH could not be read
      3  done, but some records are in the quarantine
      4  the collector refused or stayed away: records are pending
      5  what must be remembered could not be written
      6  Segment refused: token, collection, quota or --max-requests (--once); or something that was due could
         not be listed or downloaded
      7  not known yet: with --once and --fail-on, no hour of --since to --until could be judged
      130, 143  interrupted, after a clean stop
      141  the reader of standard output closed it (--protocol console | head)

    Settings: flag > environment (FAILLOG_*, OTEL_*) > config file > default.
"""

bodies_option = click.option(
    "--bodies",
    type=click.Choice(["none", "keys", "response", "all"]),
    help="Which bodies of an exchange leave, redacted and cut; `keys`: the response's structure and "
    "what keys such as `error` and `code` say.  [default: response]",
)

_OPTIONS = (
    click.option(
        "--endpoint",
        metavar="URL",
        help="OTLP base URL.  [default: http://localhost:4318, gRPC http://localhost:4317]",
    ),
    click.option(
        "--protocol",
        type=click.Choice(["http/protobuf", "http/json", "grpc", "file", "console"]),
        help="How to send; `file` writes OTLP JSON Lines, `console` shows trees: both forward nothing that is"
        " in a state folder.  [default: http/protobuf]",
    ),
    click.option("--output", metavar="FILE", help="Where `--protocol file` writes.  [default: stdout]"),
    click.option(
        "--header", "headers", metavar="K=V", multiple=True, help="A header for every request (repeatable)."
    ),
    click.option("--signals", metavar="LIST", help="What to send.  [default: logs,traces]"),
    bodies_option,
    click.option(
        "--backend",
        type=click.Choice(["tempo", "loki", "jaeger", "honeycomb", "datadog", "newrelic", "dynatrace"]),
        help="Where the records end up: sets the time policy and the limits that it needs.",
    ),
    click.option(
        "--time-policy",
        metavar="POLICY",
        help="The time of a record: occurred, arrival, or clamp:AGE (never older).  [default: occurred, or"
        " what --backend needs]",
    ),
    click.option(
        "--join",
        type=click.Choice(["parent", "link", "off"]),
        help="How failures join the application's own trace, where it is known.  [default: parent]",
    ),
    click.option(
        "--fail-on",
        type=click.Choice(["never", "discarded", "failure", "quarantined", "empty"]),
        multiple=True,
        help="Exit with 1 when the run saw such a record; `empty`: no event (repeatable).  [default: never]",
    ),
    click.option(
        "--wait",
        metavar="DURATION",
        help="How long to go on without an acknowledgement: 500ms, 30s, 5m, forever.  [default: 30s]",
    ),
    click.option(
        "--summary",
        type=click.Choice(["text", "json"]),
        help="Text on stderr, or one JSON object as the last line of stdout.  [default: text]",
    ),
    click.option("--config", "config_file", metavar="FILE", help="TOML file.  [default: faillog-otel.toml]"),
    click.option(
        "--log-format", type=click.Choice(["text", "json"]), help="How to log on stderr.  [default: text]"
    ),
    click.option("-v", "--verbose", count=True, help="Say more (repeatable)."),
    click.option("-q", "--quiet", is_flag=True, help="Say errors only."),
)


_POLLING_OPTIONS = (
    click.option(
        "--collection", "collections", metavar="ID", multiple=True, help="A collection to poll (repeatable)."
    ),
    click.option("--since", metavar="TIME", help="Not what is older: RFC 3339, or -36h.  [default: -7d]"),
    click.option("--until", metavar="TIME", help="Not what is newer."),
    click.option(
        "--state-dir",
        metavar="DIR",
        help="What polling remembers.  [default: $XDG_STATE_HOME/faillog-otel]",
    ),
    click.option("--segment-url", metavar="URL", help="Segment's API: us, eu, or a URL.  [default: us]"),
    click.option(
        "--download-host",
        "download_hosts",
        metavar="HOST",
        multiple=True,
        help="A host that presigned URLs may point to, besides S3 (repeatable).",
    ),
    click.option(
        "--max-requests",
        metavar="N",
        type=click.IntRange(1),
        help="What this run may spend of the day's quota.  [default: as much as there is]",
    ),
)
POLLING_FLAGS = (
    *("collections", "since", "until", "state_dir", "segment_url", "download_hosts"),
    "max_requests",
)


_HEALTH_OPTIONS = (
    click.option(
        "--health-addr",
        metavar="HOST:PORT",
        help="When polling: answers /healthz and /readyz there; a port alone is this machine's only.",
    ),
    click.option("--health-file", metavar="FILE", help="When polling: is touched as long as all goes on."),
)
HEALTH_FLAGS = ("health_addr", "health_file")


def health_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of a run that goes on for long."""
    for option in reversed(_HEALTH_OPTIONS):
        command = option(command)
    return command


def polling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of commands that poll, or look at what was polled."""
    for option in reversed(_POLLING_OPTIONS):
        command = option(command)
    return command


def forwarding_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options, in their order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


DEFAULT_FLAGS: dict[str, Any] = {
    **dict.fromkeys(
        ("endpoint", "protocol", "output", "signals", "bodies", "time_policy", "join", "wait", "summary")
    ),
    **dict.fromkeys(("config_file", "log_format", "since", "until", "state_dir", "segment_url")),
    "backend": None,
    "max_requests": None,
    "collections": (),
    "download_hosts": (),
    "headers": (),
    "fail_on": (),
    "verbose": 0,
    "quiet": False,
}
"""The options as they are when none is given, for commands that have a few of them."""


def forward(paths: tuple[str, ...], flags: dict[str, Any], *, sends_rejected: bool = False) -> int:
    """Runs with flags, environment and config file; prints the summary, returns the exit code."""
    from faillog_otel.app.run_files import run_paths

    config = config_of(flags)
    return print_and_code(config, lambda: run_paths(paths, config, sends_rejected=sends_rejected))


def print_and_code(config: "RunConfig", run: "Callable[[], RunResult]") -> int:
    """Runs, prints the summary, returns the exit code."""
    from faillog_otel.app.summary import print_summary
    from faillog_otel.telemetry.output import start_logging

    start_logging(config.verbosity, config.log_format)
    for warning in config.warnings:
        _log.warning("%s", warning)
    result = run()
    print_summary(result, config)
    return int(result.exit_code)


def config_of(flags: dict[str, Any], *, polls_forever: bool = False) -> "RunConfig":
    """The settings of flags, environment and config file. Raises ConfigError, click.UsageError."""
    from faillog_otel.sources import resolve
    from faillog_otel.telemetry.output import start_logging

    layers, warnings, file = read_layers(flags)
    verbosity = -1 if flags["quiet"] else flags["verbose"]
    log_format = next(filter(None, (each.run.log_format for each in layers.values())), "text")
    start_logging(verbosity, log_format)  # what is wrong with the other settings is said in this form
    return resolve(
        list(layers.values()),
        verbosity=verbosity,
        config_file=file,
        warnings=warnings,
        polls_forever=polls_forever,
        home=os.environ.get("XDG_STATE_HOME") or _state_home(),
    )


def _state_home() -> str:
    """Where state lies by default; here, for a user without a home, as a container's may be."""
    try:
        return str(Path("~/.local/state").expanduser())
    except RuntimeError:
        return "."


def read_layers(
    flags: dict[str, Any], is_used: Callable[[str], bool] = lambda _: True
) -> tuple[dict[str, "Layer"], list[str], str | None]:
    """Who says what, the first one first; warnings, and the config file. Raises as `config_of` does.

    `is_used`: whether a variable for this setting's path is read.
    """
    from faillog_otel.settings import read_environment

    texts = [each for flag in flags.values() for each in (flag if isinstance(flag, tuple) else [flag])]
    if not all(_is_unicode(text) for text in texts if isinstance(text, str)):
        raise click.UsageError("an option's value is not UTF-8")
    environment, warnings = read_environment(os.environ, is_used)
    layers = {"flag": _flag_layer(flags), "environment": environment}
    file = flags["config_file"] or os.environ.get("FAILLOG_CONFIG")
    if not file and os.path.isfile(DEFAULT_CONFIG_FILE):  # noqa: PTH113  # Path's raises where it cannot look
        file = DEFAULT_CONFIG_FILE
    if file:
        layers[file] = _file_layer(file)
    return layers, warnings, file


def origins(flags: dict[str, Any]) -> dict[str, str]:
    """Setting → who says it: `flag`, an environment variable, or the config file. Raises as `config_of`."""
    from faillog_otel.settings import VARIABLES, explicit_settings

    layers, _, _ = read_layers(flags)
    variables = {path: name for name, (path, _) in VARIABLES.items() if os.environ.get(name, "").strip()}
    found: dict[str, str] = {}
    for source, layer in layers.items():
        for path in explicit_settings(layer):
            found.setdefault(path, variables.get(path, source) if source == "environment" else source)
    return dict(sorted(found.items()))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _flag_layer(flags: dict[str, Any]) -> "Layer":
    import msgspec

    from faillog_otel.setting_errors import wrong_value
    from faillog_otel.setting_values import parse_pairs
    from faillog_otel.settings import Layer, check_texts

    def given(**values: Any) -> dict[str, Any]:
        return {key: value for key, value in values.items() if value not in (None, (), {})}

    signals = flags["signals"]
    try:
        headers = parse_pairs(flags["headers"])
    except ConfigError as error:
        raise click.UsageError(f"--header: {error}") from None
    said = {
        "otlp": given(
            endpoint=flags["endpoint"],
            headers=headers,
            protocol=flags["protocol"],
            output=flags["output"],
            signals=[part.strip() for part in signals.split(",")] if signals is not None else None,
        ),
        "mapping": given(
            backend=flags["backend"],
            bodies=flags["bodies"],
            time_policy=flags["time_policy"],
            join=flags["join"],
        ),
        "segment": given(
            url=flags["segment_url"],
            collections=list(flags["collections"]) or None,
            since=flags["since"],
            until=flags["until"],
            download_hosts=list(flags["download_hosts"]) or None,
            max_requests=flags["max_requests"],
        ),
        "run": given(
            state_dir=flags["state_dir"],
            fail_on=list(flags["fail_on"]) or None,
            wait=flags["wait"],
            quarantine=flags.get("quarantine"),
            pending=flags.get("pending"),
            summary=flags["summary"],
            log_format=flags["log_format"],
            health_addr=flags.get("health_addr"),
            health_file=flags.get("health_file"),
            workers=flags.get("workers"),
        ),
    }
    for branch, settings in said.items():
        for key, value in settings.items():
            if problem := wrong_value(value, f"{branch}.{key}", Layer):
                raise click.UsageError(f"{_option_of(key)} {problem}")
    layer = msgspec.convert(said, Layer)
    try:
        check_texts(layer, lambda path: _option_of(path.rpartition(".")[2]))
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    return layer


def _option_of(key: str) -> str:
    """The option that says the setting of this name."""
    names = {"url": "segment-url", "headers": "header", "collections": "collection"}
    return f"--{names.get(key) or key.replace('_', '-')}"


def _file_layer(name: str) -> "Layer":
    from faillog_otel.files import read_small_text
    from faillog_otel.settings import read_file

    return read_file(read_small_text(name, may_be_pipe=True), name)
