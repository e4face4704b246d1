"""The command line: thin. Reads options, builds the parts, calls, prints, and gives the exit code.

Heavy imports stand inside the commands, so that `--help` is quick.
"""

import os
import sys
import traceback

import click

from faillog_otel import __version__
from faillog_otel.cli.audit import audit
from faillog_otel.cli.demo import demo
from faillog_otel.cli.doctor import doctor
from faillog_otel.cli.ids import ids
from faillog_otel.cli.plan import plan
from faillog_otel.cli.redact import redact
from faillog_otel.cli.replay import replay
from faillog_otel.cli.run import run
from faillog_otel.cli.simulate import simulate
from faillog_otel.cli.status import status
from faillog_otel.clock import Clock
from faillog_otel.errors import Busy, ConfigError, InputError, Interrupted, LedgerBroken, NoRoom
from faillog_otel.events.printable import printable

BUG = 70
"""The exit code of a program that failed by itself (sysexits.h: EX_SOFTWARE)."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="faillog-otel")
def cli() -> None:
    """Forwards Twilio Segment failure logs to OpenTelemetry.

    Failed deliveries become OTLP log records and spans, each delivery attempt linked to the exchange
    with the destination that it was part of.
    """


for _command in (run, status, plan, audit, doctor, replay, redact, demo, simulate, ids):
    cli.add_command(_command)


def main(clock: Clock | None = None) -> None:
    """The program: runs a command and exits with its code. `clock`: what Segment's hours go by."""
    _open_standard_streams()
    try:
        code = cli.main(standalone_mode=False, obj=clock)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        code = 2
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (ConfigError, InputError) as error:
        click.echo(f"Error: {printable(str(error))}", err=True)
        code = 2
    except LedgerBroken as error:
        click.echo(f"Error: {printable(str(error))}", err=True)
        code = 5
    except NoRoom as error:
        do = "try again later" if isinstance(error, Busy) else "make room, then start again"
        click.echo(f"Error: {printable(str(error))}; {do}", err=True)
        code = 5
    except (Interrupted, click.Abort):
        code = 130
    except Exception:  # noqa: BLE001  # a bug: its code must not be one that means something else
        traceback.print_exc()
        code = BUG
    sys.exit(code or 0)


def _open_standard_streams() -> None:
    """Under some daemons standard streams are closed; here they are empty then."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
