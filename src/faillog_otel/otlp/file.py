"""OTLP JSON Lines: each request one line, as the Collector's file exporter writes and `otlpjsonfile` reads.

OTLP's JSON differs from protobuf's own: ids are hexadecimal, enums are numbers
(opentelemetry.io/docs/specs/otlp, "JSON Protobuf Encoding").
"""

import base64
from collections.abc import Sequence
from typing import IO, Any

import msgspec
from google.protobuf.json_format import MessageToDict

from faillog_otel.config import Signal
from faillog_otel.otlp.encoding import Envelope
from faillog_otel.otlp.outcome import Acknowledged, Outcome, Refused
from faillog_otel.otlp.requests import REQUESTS, Request

_IDS = ("traceId", "spanId", "parentSpanId")


class FileClient:
    """Writes requests to an open file; a line that is written is acknowledged."""

    def __init__(self, file: IO[bytes], envelope: Envelope) -> None:
        self._file = file
        self._envelope = envelope

    def send(self, signal: Signal, records: Sequence[bytes]) -> Outcome:
        """Writes one line."""
        request = REQUESTS[signal].FromString(self._envelope.request(records))
        try:
            self._file.write(to_json(request) + b"\n")
            self._file.flush()
        except OSError as error:
            return Refused(f"the output cannot be written: {error.strerror}")
        return Acknowledged()

    def close(self) -> None:
        """Leaves the file to who opened it."""


def to_json(request: Request) -> bytes:
    """The request in OTLP's JSON encoding, on one line."""
    value = MessageToDict(request, use_integers_for_enums=True)
    _hexadecimal_ids(value)
    return msgspec.json.encode(value)


def _hexadecimal_ids(value: Any) -> None:
    if isinstance(value, list):
        for each in value:
            _hexadecimal_ids(each)
    elif isinstance(value, dict):
        for key in _IDS:
            if isinstance(value.get(key), str):
                value[key] = base64.b64decode(value[key]).hex()
        for each in value.values():
            _hexadecimal_ids(each)
