"""Rotel, a collector in Rust, from PyPI: a server of another make than Go's and C's."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from faillog_otel.sandbox.collector import Receiver
from support.server import Server, unused_port


@contextmanager
def rust_collector(receiver: Receiver, folder: Path, *options: str) -> Iterator[tuple[str, str]]:
    """Its endpoints, HTTP and gRPC, while it runs; it passes everything on to the receiver."""
    found = importlib.util.find_spec("rotel")
    folders = found.submodule_search_locations if found else None
    if not folders:
        if os.environ.get("CI") and sys.version_info < (3, 12):
            pytest.fail("rotel is not installed")
        pytest.skip("PyPI has no rotel for this Python")
    http, grpc = f"127.0.0.1:{unused_port()}", f"127.0.0.1:{unused_port()}"
    command: list[str | Path] = [
        *(Path(folders[0], "rotel-agent"), "start", "--otlp-http-endpoint", http),
        *("--otlp-grpc-endpoint", grpc, "--exporter", "otlp", "--otlp-exporter-protocol", "http"),
        *("--otlp-exporter-endpoint", receiver.http_endpoint),
        *("--pid-file", str(folder / "pid"), "--log-file", str(folder / "log"), *options),
    ]
    with Server(command, "Starting Rotel"):
        yield f"http://{http}", f"http://{grpc}"
