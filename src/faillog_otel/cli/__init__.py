"""The command line: thin. Reads options, builds the parts, calls, prints, and gives the exit code.

Heavy imports stand inside the commands, so that `--help` is quick.
"""

import sys

import click

from faillog_otel import __version__
from faillog_otel.cli.demo import demo
from faillog_otel.cli.ids import ids
from faillog_otel.cli.run import run
from faillog_otel.errors import ConfigError, InputError, Interrupted, LedgerBroken


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="faillog-otel")
def cli() -> None:
    """Forwards Twilio Segment failure logs to OpenTelemetry.

    Failed deliveries become OTLP log records and spans, each delivery attempt linked to the exchange
    with the destination that it was part of.
    """


for _command in (run, demo, ids):
    cli.add_command(_command)


def main() -> None:
    """The program: runs a command and exits with its code."""
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        code = 2
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (ConfigError, InputError) as error:
        click.echo(f"Error: {error}", err=True)
        code = 2
    except LedgerBroken as error:
        click.echo(f"Error: {error}", err=True)
        code = 5
    except (Interrupted, click.Abort):
        code = 130
    sys.exit(code or 0)
