"""`faillog-otel run`: the main job."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from faillog_otel.errors import ConfigError

if TYPE_CHECKING:
    from faillog_otel.settings import Layer

DEFAULT_CONFIG_FILE = "faillog-otel.toml"


@click.command(short_help="Forward failure logs to a collector.")
@click.argument("paths", nargs=-1, metavar="PATH...")
@click.option("--endpoint", metavar="URL", help="OTLP base URL.  [default: http://localhost:4318]")
@click.option(
    "--protocol",
    type=click.Choice(["http/protobuf", "file"]),
    help="How to send; `file` writes OTLP JSON Lines.  [default: http/protobuf]",
)
@click.option("--output", metavar="FILE", help="Where `--protocol file` writes.  [default: stdout]")
@click.option(
    "--header",
    "headers",
    metavar="K=V",
    multiple=True,
    help="A header for every request (repeatable).",
)
@click.option("--signals", metavar="LIST", help="What to send.  [default: logs,traces]")
@click.option(
    "--bodies",
    type=click.Choice(["none", "response", "all"]),
    help="Which bodies of an exchange leave, redacted and cut.  [default: response]",
)
@click.option(
    "--time-policy",
    metavar="POLICY",
    help="The time of a record: occurred, arrival, or clamp:AGE (never older).  [default: occurred]",
)
@click.option(
    "--fail-on",
    type=click.Choice(["never", "discarded", "failure", "quarantined"]),
    multiple=True,
    help="Exit with 1 when the run saw such a record (repeatable).  [default: never]",
)
@click.option(
    "--quarantine",
    metavar="FILE",
    help="Keeps records that were not understood.  [default: faillog-quarantine.jsonl]",
)
@click.option(
    "--pending",
    metavar="FILE",
    help="Keeps records that were not delivered.  [default: faillog-pending.jsonl]",
)
@click.option(
    "--wait",
    metavar="DURATION",
    help="How long to go on without an acknowledgement: 500ms, 30s, 5m, forever.  [default: 30s]",
)
@click.option(
    "--summary",
    type=click.Choice(["text", "json"]),
    help="Text on stderr, or one JSON object as the last line of stdout.  [default: text]",
)
@click.option("--config", "config_file", metavar="FILE", help="TOML file.  [default: faillog-otel.toml]")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="[default: text]")
@click.option("-v", "--verbose", count=True, help="Say more (repeatable).")
@click.option("-q", "--quiet", is_flag=True, help="Say errors only.")
@click.pass_context
def run(ctx: click.Context, /, paths: tuple[str, ...], **flags: Any) -> None:
    r"""Forward the failure logs in PATH... and exit.

    A PATH is a file, a folder, a glob, or - for standard input: JSON Lines, plain or gzip.

    \b
    Exit codes:
      0  done, everything was acknowledged
      1  a --fail-on condition was met
      2  wrong usage or configuration, or a PATH could not be read
      3  done, but some records are in the quarantine
      4  the collector refused or stayed away: records are pending
      5  the quarantine or pending file could not be written
      130, 143  interrupted, after a clean stop

    Settings: flag > environment (FAILLOG_*, OTEL_*) > config file > default.
    """
    from faillog_otel.cli.forwarding import run_paths
    from faillog_otel.cli.report import print_summary
    from faillog_otel.settings import read_environment, resolve
    from faillog_otel.telemetry import start_logging

    if not paths:
        raise click.UsageError("name at least one PATH (- is standard input)")
    environment, warnings = read_environment(os.environ)
    layers = [_flag_layer(flags), environment]
    file = flags["config_file"] or os.environ.get("FAILLOG_CONFIG")
    if file or Path(DEFAULT_CONFIG_FILE).is_file():
        layers.append(_file_layer(file or DEFAULT_CONFIG_FILE))
    verbosity = -1 if flags["quiet"] else flags["verbose"]
    config = resolve(layers, verbosity=verbosity, warnings=warnings)
    start_logging(config.verbosity, config.log_format)
    ended = run_paths(paths, config)
    print_summary(ended, config)
    ctx.exit(ended["exit"])


def _flag_layer(flags: dict[str, Any]) -> "Layer":
    import msgspec

    from faillog_otel.settings import Layer, parse_header

    def given(**values: Any) -> dict[str, Any]:
        return {key: value for key, value in values.items() if value not in (None, (), {})}

    signals = flags["signals"]
    try:
        headers = dict(parse_header(header) for header in flags["headers"])
        otlp = given(
            protocol=flags["protocol"],
            output=flags["output"],
            signals=[part.strip() for part in signals.split(",")] if signals is not None else None,
        )
        everywhere = given(endpoint=flags["endpoint"], headers=headers)
        layer = {
            "otlp": otlp | everywhere,
            "mapping": given(bodies=flags["bodies"], time_policy=flags["time_policy"]),
            "run": given(
                fail_on=list(flags["fail_on"]) or None,
                wait=flags["wait"],
                quarantine=flags["quarantine"],
                pending=flags["pending"],
                summary=flags["summary"],
                log_format=flags["log_format"],
            ),
        }
        return msgspec.convert(layer, Layer)
    except msgspec.ValidationError as error:
        raise click.UsageError(f"--signals: {error}") from None
    except ConfigError as error:
        raise click.UsageError(f"--header: {error}") from None


def _file_layer(name: str) -> "Layer":
    from faillog_otel.settings import read_file

    try:
        return read_file(Path(name).read_text("utf-8"), name)
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: not UTF-8") from None
