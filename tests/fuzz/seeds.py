"""Files to begin with: Segment's events in every form and packing."""

import gzip
import json
import sys
from collections.abc import Callable, Iterator, Sequence

from faillog_otel.events.kept_record import KeptContext, write_entry
from faillog_otel.events.model import Place
from faillog_otel.inputs.files import GZIP_MAGIC, ZSTD_MAGIC
from faillog_otel.sandbox.destinations import DESTINATIONS
from faillog_otel.sandbox.generator import failure_events

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def _json_lines(events: Sequence[bytes]) -> bytes:
    return b"".join(event + b"\n" for event in events)


def _crlf(events: Sequence[bytes]) -> bytes:
    return b"\xef\xbb\xbf" + b"\r\n\r\n".join(events)


def _array(events: Sequence[bytes]) -> bytes:
    return b"[" + b",\n".join(events) + b"]\n"


def _pretty(events: Sequence[bytes]) -> bytes:
    return "\n".join(json.dumps(json.loads(event), indent=2) for event in events).encode()


def _concatenated(events: Sequence[bytes]) -> bytes:
    return b"".join(events)


def _kept(events: Sequence[bytes]) -> bytes:
    return _json_lines(
        [write_entry("refused", "so", Place("f", 1, 0), event, KeptContext(0)) for event in events]
    )


FORMS: tuple[Callable[[Sequence[bytes]], bytes], ...] = (
    _json_lines,
    _crlf,
    _array,
    _pretty,
    _concatenated,
    _kept,
)
PACKINGS: tuple[Callable[[bytes], bytes], ...] = (
    bytes,
    lambda data: gzip.compress(data, mtime=0),
    zstd.compress,
)
"""As it is; gzip; zstd."""


def packing_of(data: bytes) -> Callable[[bytes], bytes]:
    """What packs a content as this file is packed."""
    plain, gzipped, zstandard = PACKINGS
    if data.startswith(GZIP_MAGIC):
        return gzipped
    return zstandard if data.startswith(ZSTD_MAGIC) else plain


def seeds() -> Iterator[bytes]:
    """The files, with one event and with four; the same ones every time."""
    short = [each for each in DESTINATIONS if each.batch == 1]
    for seed, form in enumerate(FORMS):
        events = list(failure_events(seed, 2, destinations=short))[:4]
        for some in (events[-1:], events):
            yield from (pack(form(some)) for pack in PACKINGS)
