"""`faillog-otel doctor`: is all there that a run needs?"""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from faillog_otel.cli.looking import line, looking_options, print_json, print_lines, start
from faillog_otel.cli.options import (
    DEFAULT_FLAGS,
    forwarding_options,
    health_options,
    origins,
    polling_options,
)
from faillog_otel.errors import ConfigError

if TYPE_CHECKING:
    from faillog_otel.app.finding import Finding

_HELP = """Look at everything that `run` needs: with the options of `run`, and as the same user.

    The configuration and where it comes from, the state folder, the token, the clock, the collector. What is
    not well says what to do. Segment is asked for nothing that costs a request of the day's quota, the
    collector gets an empty request for each signal; nothing is changed.

    \b
    Exit codes:
      0  nothing fails; there may be warnings
      1  something fails
      2  wrong usage
    """

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


class _SystemClock:
    def now_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()

    def wait(self, seconds: float) -> bool:
        time.sleep(seconds)
        return False


@click.command(short_help="Look at everything that `run` needs.", help=_HELP)
@looking_options("json")
@polling_options
@click.option("--once", "_once", is_flag=True, help="Changes nothing here: for the command line of `run`.")
@health_options
@forwarding_options
@click.pass_context
def doctor(ctx: click.Context, /, *, as_json: bool, _once: bool, **flags: Any) -> None:
    """Reads the options, looks, prints."""
    found = list(_examined(flags, ctx))
    fails = any(each.state == "fail" for each in found)
    if as_json:
        print_json({"well": not fails, "findings": found, "settings": _origins(flags)})
    else:
        print_lines(_text(found))
    ctx.exit(1 if fails else 0)


def _examined(flags: dict[str, Any], ctx: click.Context) -> "Iterator[Finding]":
    from faillog_otel.app.doctor import examine
    from faillog_otel.app.finding import Finding
    from faillog_otel.cli.delivering import USER_AGENT
    from faillog_otel.cli.polling import token_source

    try:
        config = start(flags, says_warnings=False)
    except ConfigError as error:
        yield Finding("config", "fail", str(error), "change the setting that it names")
        return
    settings = _origins(flags)
    said = ", ".join(f"{name} ({source})" for name, source in settings.items()) or "all as by default"
    yield Finding("config", "ok", f"{config.config_file or 'no file'}; {said}")
    for warning in config.warnings:
        yield Finding("config", "warn", warning, "change the setting that it names")
    yield from examine(config, token_source(config.segment), USER_AGENT, ctx.obj or _SystemClock())


def _origins(flags: dict[str, Any]) -> dict[str, str]:
    try:
        return origins(DEFAULT_FLAGS | flags)
    except ConfigError:
        return {}


def _text(found: "list[Finding]") -> Iterator[str]:
    for each in found:
        yield click.style(f"{each.state:<6}", fg=COLOURS[each.state]) + line(each.check, each.says)
        if each.do:
            yield f"{'':<20}" + line("", f"→ {each.do}").lstrip()
