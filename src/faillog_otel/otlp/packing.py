"""gzip for requests: by isal where it is installed (`faillog-otel[isal]`), else by zlib, both at level 1."""

import gzip
from collections.abc import Callable

try:
    from isal import igzip
except ImportError:  # an optional dependency, without wheels for some machines
    igzip = None  # type: ignore[assignment]  # there is no module then

_LEVEL = 1


def packed(body: bytes) -> bytes:
    """The body as one gzip member without a time: the same for the same body."""
    return _compress(body, compresslevel=_LEVEL, mtime=0)


_compress: Callable[..., bytes] = igzip.compress if igzip is not None else gzip.compress
