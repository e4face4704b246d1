"""The standard streams: which characters and escapes they take, and how errors are said on them.

A character that a stream's charset lacks is written as an escape, or as ASCII art where it is one that this
program draws with. All that Python or a library would write to standard error by itself is logged instead.
"""

import codecs
import io
import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

import click

from faillog_otel.events.printable import printable

if TYPE_CHECKING:
    from types import TracebackType

_log = logging.getLogger(__name__)

_DRAWN = str.maketrans({"└": "`", "├": "|", "│": "|", "─": "-", "↳": ">", "→": "->", "—": "--", "…": "..."})
_ASCII = "faillog_ascii"


def set_up_streams() -> None:
    """Makes the standard streams take all characters, and sends to the log what else would be written raw."""
    _open_standard_streams()
    codecs.register(_find_codec)
    codecs.register_error(_ASCII, _escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            is_ascii = codecs.lookup(stream.encoding).name == "ascii" or _is_c_locale()
            stream.reconfigure(encoding=_ASCII if is_ascii else stream.encoding, errors=_ASCII)
    warnings.showwarning = _on_warning
    sys.excepthook = _on_exception
    sys.unraisablehook = _on_unraisable
    threading.excepthook = _on_thread_exception


def takes_escapes(stream: TextIO) -> bool:
    """Returns whether colours and a line that is drawn again may be written: on terminals, if allowed.

    TERM=dumb (or `unknown`) and NO_COLOR forbid it.
    """
    return (
        stream.isatty()
        and os.environ.get("TERM") not in ("dumb", "unknown")
        and not os.environ.get("NO_COLOR")
    )


def say_error(message: str) -> None:
    """Writes why the program ends, several lines perhaps; one line of the log where that is JSON."""
    if _logs_json():
        _log.error("%s", message.removeprefix("Error: "))
    else:
        for line in message.splitlines():
            click.echo(printable(line), err=True)


def say_usage_error(error: click.ClickException) -> None:
    """The same for an error of usage; as text with the command's usage."""
    if _logs_json():
        say_error(error.format_message())
    else:
        text = io.StringIO()
        error.show(text)
        say_error(text.getvalue())


def say_bug(error: BaseException) -> None:
    """The same for an exception that nobody expected, with its traceback."""
    _logs_json()
    what = "".join(traceback.format_exception_only(error)).strip()
    _log.error("a bug in faillog-otel: %s; report it, with what follows", what, exc_info=error)


def _logs_json() -> bool:
    """Whether the log is JSON. Before settings were read, flag and environment say so."""
    from faillog_otel.telemetry.logs import logs_json, start_logging

    if (is_json := logs_json()) is None:
        is_json = _wanted_format(sys.argv[1:]) == "json"
        start_logging(0, "json" if is_json else "text")
    return is_json


def _wanted_format(args: Sequence[str]) -> str:
    wanted = os.environ.get("FAILLOG_LOG_FORMAT", "").strip()
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        if arg == "--log-format":
            wanted = following
        elif arg.startswith("--log-format="):
            wanted = arg.partition("=")[2]
    return wanted


def _open_standard_streams() -> None:
    """Under some daemons standard streams are closed; here they are empty then."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _is_c_locale() -> bool:
    """Whether the locale is C or POSIX, or none: Python takes UTF-8 then (PEP 540), the terminal may not."""
    is_chosen = os.environ.get("PYTHONUTF8") == "1" or os.environ.get("PYTHONIOENCODING")
    return bool(sys.flags.utf8_mode and not is_chosen and sys.version_info < (3, 15))


def _find_codec(name: str) -> codecs.CodecInfo | None:
    """ASCII under another name: click writes UTF-8 to streams whose charset is called `ascii`."""
    if name != _ASCII:
        return None
    ascii_ = codecs.lookup("ascii")
    return codecs.CodecInfo(
        name=_ASCII,
        encode=ascii_.encode,
        decode=ascii_.decode,
        incrementalencoder=ascii_.incrementalencoder,
        incrementaldecoder=ascii_.incrementaldecoder,
        streamreader=ascii_.streamreader,
        streamwriter=ascii_.streamwriter,
    )


def _escape(error: UnicodeError) -> tuple[str, int]:
    """What is written for characters that a charset lacks; JSON understands these escapes, too."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end].translate(_DRAWN)
    return "".join(c if c.isascii() else _escaped(c) for c in lacking), error.end


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _on_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    _logs_json()
    logging.getLogger("py.warnings").warning("%s: %s", category.__name__, message)


def _on_exception(_type: type[BaseException], error: BaseException, _trace: "TracebackType | None") -> None:
    if not isinstance(error, KeyboardInterrupt):
        say_bug(error)


def _on_thread_exception(found: "threading.ExceptHookArgs") -> None:
    if found.exc_value is not None and not isinstance(found.exc_value, SystemExit):
        say_bug(found.exc_value)


def _on_unraisable(found: "sys.UnraisableHookArgs") -> None:
    _logs_json()
    what = found.err_msg or "Exception ignored in"
    _log.warning("%s: %r: %r", what, found.object, found.exc_value)
