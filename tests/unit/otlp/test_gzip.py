"""Requests in gzip: the same content, with isal and without it."""

import gzip
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st
from isal import igzip

from faillog_otel.otlp.http import gzip_body

WITHOUT_ISAL = """
import gzip, sys
sys.modules["isal"] = None
from faillog_otel.otlp.http import gzip_body
body = bytes(range(256)) * 100
assert gzip.decompress(gzip_body(body)) == body
assert gzip_body(body) == gzip.compress(body, compresslevel=1, mtime=0)
"""


def test_isal_is_used_where_it_is_installed() -> None:
    body = bytes(range(256)) * 100
    assert (
        gzip_body(body) == igzip.compress(body, compresslevel=1, mtime=0) != gzip.compress(body, 1, mtime=0)
    )


@given(st.binary(max_size=10_000))
def test_any_body_comes_out_as_it_went_in(body: bytes) -> None:
    assert gzip.decompress(gzip_body(body)) == body
    assert gzip_body(body) == gzip_body(body)


def test_without_isal_zlib_does_it() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_ISAL], check=True)
