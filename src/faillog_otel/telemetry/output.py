"""The standard streams: which characters and escapes they take, and how errors are said on them.

A character that a stream's charset lacks is written as an escape, or as ASCII art where it is one that this
program draws with. All that Python or a library would write to standard error by itself is logged instead.
"""

import codecs
import io
import logging
import os
import select
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import click
import msgspec

from faillog_otel.text import is_unicode, printable, printable_json

if TYPE_CHECKING:
    from types import TracebackType

    from _typeshed import ReadableBuffer


# -- logs ----------------------------------------------------------------------------------------------------
#
# Our own words: logs on standard error, as text or JSON, never with raw control characters.
#
# httpx and httpcore log whole URLs, and presigned URLs are secrets: their loggers are shut.


_SHUT = ("httpx", "httpcore", "urllib3", "grpc")
_LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        lines = [f"{record.levelname.lower()}: {printable(record.getMessage())}"]
        if record.exc_info:
            lines += map(printable, self.formatException(record.exc_info).splitlines())
        return "\n".join(lines)


class _Json(logging.Formatter):
    def __init__(self, *, is_ascii: bool) -> None:
        super().__init__()
        self._is_ascii = is_ascii

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": printable(record.getMessage()),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return printable_json(msgspec.json.encode(entry).decode(), is_ascii=self._is_ascii)


class LogStream(Protocol):
    """Where log lines go."""

    def write(self, text: str, /) -> object:
        """Takes text."""

    def flush(self) -> object:
        """Lets it be seen."""


def start_logging(verbosity: int, log_format: str, stream: LogStream | None = None) -> None:
    """Sends our log, and warnings of libraries, to standard error or a stream.

    `verbosity`: -1 errors, 0 warnings, 1 what is done, 2 everything.
    """
    to = stream or sys.stderr
    handler = logging.StreamHandler(to)
    is_ascii = not is_unicode(getattr(to, "encoding", None))
    handler.setFormatter(_Json(is_ascii=is_ascii) if log_format == "json" else _Text())
    logger = logging.getLogger("faillog_otel")
    logger.handlers = [handler]
    logger.setLevel(_LEVELS.get(verbosity, logging.DEBUG))
    logger.propagate = False
    logging.lastResort = handler
    for name in _SHUT:
        logging.getLogger(name).handlers = [logging.NullHandler()]
        logging.getLogger(name).disabled = True
        logging.getLogger(name).propagate = False


def logs_json() -> bool | None:
    """Returns whether our log is JSON; None while it has not been started."""
    handlers = logging.getLogger("faillog_otel").handlers
    return isinstance(handlers[0].formatter, _Json) if handlers else None


def announce(logger: logging.Logger, message: str, fields: Mapping[str, Any]) -> None:
    """Logs at level `info` what is also said by default, but not with -q; JSON lines also have the fields."""
    if logger.isEnabledFor(logging.WARNING):
        extra = {"fields": fields}
        logger.handle(
            logger.makeRecord(logger.name, logging.INFO, "", 0, message, (), exc_info=None, extra=extra)
        )


# -- streams -------------------------------------------------------------------------------------------------
#
# Standard output and standard error as streams whose writes never fail: a report never ends what it reports.
#
# What cannot be written is dropped, and why is noted. A pipe that its reader closed (`| head`) is no error.


CLOSED_PIPE: int = 128 + signal.SIGPIPE
"""The exit code of a run that ended early because the reader of its output closed the pipe."""


class ReportFile(io.FileIO):
    """A file for writing. `error` is the first error; from then on nothing is written."""

    error: OSError | None = None

    def write(self, data: "ReadableBuffer", /) -> int:
        """Writes the data, or drops it; returns its length, or how much a regular short write took."""
        while self.error is None:
            try:
                # FileIO returns None where a non-blocking pipe is full, whatever its type says.
                written: int | None = super().write(data)
            except OSError as error:
                self.error = error
                break
            if written is not None:
                return written
            select.select([], [self], [])
        return memoryview(data).nbytes


def protect_standard_streams() -> None:
    """Replaces `sys.stdout` and `sys.stderr`. To be called once, before anything is written."""
    sys.stdout, sys.stderr = _protected(sys.stdout), _protected(sys.stderr)


def is_output_closed() -> bool:
    """Whether the reader of standard output has closed it: what is printed from now on, nobody reads."""
    return isinstance(_error_of(sys.stdout), ConnectionError)


def unwritten() -> str:
    """Why standard output could not be written; empty if it could, or if its reader closed it."""
    sys.stdout.flush()
    error = _error_of(sys.stdout)
    return "" if error is None or isinstance(error, ConnectionError) else str(error.strerror)


def results_stream() -> TextIO:
    """Standard output for results that must be written: here, writes raise OSError."""
    if _report_of(sys.stdout) is None:
        return sys.stdout
    return open(1, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors, closefd=False)


def _protected(stream: TextIO) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(ReportFile(stream.fileno(), "wb", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=bool(stream.line_buffering),
    )


def _error_of(stream: TextIO) -> OSError | None:
    report = _report_of(stream)
    return None if report is None else report.error


def _report_of(stream: TextIO) -> ReportFile | None:
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, ReportFile) else None


# -- output --------------------------------------------------------------------------------------------------


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
