"""The standard streams and the log: what the program writes, in which charset, and which errors it survives.

The log goes to standard error as text or JSON, never with raw control characters. Whatever Python or a
library would write to standard error is logged instead. Writes to the standard streams never raise: a failed
write is dropped and its error kept, so that a report never ends what it reports. A character that the
charset lacks becomes an escape, or ASCII if this program draws with it.
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

_log = logging.getLogger(__name__)

_SILENCED = ("httpx", "httpcore", "urllib3", "grpc")
"""Libraries that log whole URLs: presigned URLs are secrets."""
_LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}

CLOSED_PIPE: int = 128 + signal.SIGPIPE
"""The exit code of a run that ended early because the reader of its output closed the pipe."""
_ASCII_ART = str.maketrans(
    {"└": "`", "├": "|", "│": "|", "─": "-", "↳": ">", "→": "->", "—": "--", "…": "..."}
)
_ASCII = "faillog_ascii"


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
    """What log lines are written to."""

    def write(self, text: str, /) -> object:
        """Writes text."""

    def flush(self) -> object:
        """Flushes it."""


def start_logging(verbosity: int, log_format: str, stream: LogStream | None = None) -> None:
    """Sends our log, and warnings of libraries, to standard error or to `stream`.

    `verbosity`: -1 errors, 0 warnings, 1 information, 2 everything.
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
    for name in _SILENCED:
        logging.getLogger(name).handlers = [logging.NullHandler()]
        logging.getLogger(name).disabled = True
        logging.getLogger(name).propagate = False


def logs_json() -> bool | None:
    """Returns whether our log is JSON; None before `start_logging`."""
    handlers = logging.getLogger("faillog_otel").handlers
    return isinstance(handlers[0].formatter, _Json) if handlers else None


def announce(logger: logging.Logger, message: str, fields: Mapping[str, Any]) -> None:
    """Logs a message at level `info` that only -q hides; a JSON line also has the fields."""
    if logger.isEnabledFor(logging.WARNING):
        extra = {"fields": fields}
        logger.handle(
            logger.makeRecord(logger.name, logging.INFO, "", 0, message, (), exc_info=None, extra=extra)
        )


class ReportFile(io.FileIO):
    """A file whose writes never raise. `error` is the first error; after it, data is dropped."""

    error: OSError | None = None

    def write(self, data: "ReadableBuffer", /) -> int:
        """Writes or drops the data; returns its length, or the length of a short write."""
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
    """Replaces `sys.stdout` and `sys.stderr`. Call it once, before anything is written."""
    sys.stdout, sys.stderr = _protected(sys.stdout), _protected(sys.stderr)


def is_output_closed() -> bool:
    """Returns whether the reader of standard output has closed the pipe (`| head`), which is no error."""
    return isinstance(_error_of(sys.stdout), ConnectionError)


def unwritten() -> str:
    """Returns why standard output could not be written; empty if it was, or if its reader closed the pipe."""
    sys.stdout.flush()
    error = _error_of(sys.stdout)
    return "" if error is None or isinstance(error, ConnectionError) else str(error.strerror)


def results_stream() -> TextIO:
    """Returns standard output for results that must be written: its writes raise OSError."""
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


def set_up_streams() -> None:
    """Makes the standard streams accept all characters; logs what Python would write to standard error."""
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
    """Returns whether to use colours and redraw lines: on a terminal, if NO_COLOR and TERM allow it."""
    return (
        stream.isatty()
        and os.environ.get("TERM") not in ("dumb", "unknown")
        and not os.environ.get("NO_COLOR")
    )


def say_error(message: str) -> None:
    """Writes why the program ends, as lines of text, or as one log line if the log is JSON."""
    if _is_json_log():
        _log.error("%s", message.removeprefix("Error: "))
    else:
        for line in message.splitlines():
            click.echo(printable(line), err=True)


def say_usage_error(error: click.ClickException) -> None:
    """Writes a usage error; as text, with the command's usage."""
    if _is_json_log():
        say_error(error.format_message())
    else:
        text = io.StringIO()
        error.show(text)
        say_error(text.getvalue())


def say_bug(error: BaseException) -> None:
    """Logs an unexpected exception with its traceback."""
    _is_json_log()
    what = "".join(traceback.format_exception_only(error)).strip()
    _log.error("a bug in faillog-otel: %s; report it with the traceback below", what, exc_info=error)


def _is_json_log() -> bool:
    """Returns whether the log is JSON; before the settings are read, by option and environment."""
    if (is_json := logs_json()) is None:
        is_json = _requested_format(sys.argv[1:]) == "json"
        start_logging(0, "json" if is_json else "text")
    return is_json


def _requested_format(args: Sequence[str]) -> str:
    requested = os.environ.get("FAILLOG_LOG_FORMAT", "").strip()
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        if arg == "--log-format":
            requested = following
        elif arg.startswith("--log-format="):
            requested = arg.partition("=")[2]
    return requested


def _open_standard_streams() -> None:
    """Opens the null device for standard streams that a daemon has closed."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _is_c_locale() -> bool:
    """Returns whether the locale is C, POSIX or unset: Python then writes UTF-8 (PEP 540), maybe wrongly."""
    is_chosen = os.environ.get("PYTHONUTF8") == "1" or os.environ.get("PYTHONIOENCODING")
    return bool(sys.flags.utf8_mode and not is_chosen and sys.version_info < (3, 15))


def _find_codec(name: str) -> codecs.CodecInfo | None:
    """Returns ASCII under another name: click writes UTF-8 to streams whose charset is called `ascii`."""
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
    """Returns the replacement of characters that a charset lacks; JSON parsers understand these escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end].translate(_ASCII_ART)
    return "".join(c if c.isascii() else _escaped(c) for c in lacking), error.end


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _on_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    _is_json_log()
    logging.getLogger("py.warnings").warning("%s: %s", category.__name__, message)


def _on_exception(_type: type[BaseException], error: BaseException, _trace: "TracebackType | None") -> None:
    if not isinstance(error, KeyboardInterrupt):
        say_bug(error)


def _on_thread_exception(found: "threading.ExceptHookArgs") -> None:
    if found.exc_value is not None and not isinstance(found.exc_value, SystemExit):
        say_bug(found.exc_value)


def _on_unraisable(found: "sys.UnraisableHookArgs") -> None:
    _is_json_log()
    what = found.err_msg or "Exception ignored in"
    _log.warning("%s: %r: %r", what, found.object, found.exc_value)
