"""Our own words: logs on standard error, as text or JSON, never with raw control characters.

httpx and httpcore log whole URLs, and presigned URLs are secrets: their loggers are shut.
"""

import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from faillog_otel.events.printable import printable, printable_json
from faillog_otel.text import is_unicode

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
