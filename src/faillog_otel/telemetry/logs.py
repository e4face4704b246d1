"""Our own words: logs on standard error, as text or JSON, never with raw control characters.

httpx and httpcore log whole URLs, and presigned URLs are secrets: their loggers are shut.
"""

import logging
import sys
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from faillog_otel.events.printable import printable

_SHUT = ("httpx", "httpcore", "urllib3", "grpc")
_LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {printable(record.getMessage())}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": printable(record.getMessage()),
        }
        return msgspec.json.encode(entry).decode()


class LogStream(Protocol):
    """Where log lines go."""

    def write(self, text: str, /) -> object:
        """Takes text."""

    def flush(self) -> object:
        """Lets it be seen."""


def start_logging(verbosity: int, log_format: str, stream: LogStream | None = None) -> None:
    """Sends our log to standard error, or a stream.

    `verbosity`: -1 errors, 0 warnings, 1 what is done, 2 everything.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json() if log_format == "json" else _Text())
    logger = logging.getLogger("faillog_otel")
    logger.handlers = [handler]
    logger.setLevel(_LEVELS.get(verbosity, logging.DEBUG))
    logger.propagate = False
    for name in _SHUT:
        logging.getLogger(name).disabled = True
        logging.getLogger(name).propagate = False
