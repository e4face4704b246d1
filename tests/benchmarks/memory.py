"""Peak memory and events a second of `run` for files of different lengths: `make memory`.

The receiver counts the bytes of requests and forgets them. A million events take some minutes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from faillog_otel.segment.generator import failure_events


class Sink(BaseHTTPRequestHandler):
    """Takes everything."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Reads a request and acknowledges it."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's name
        """Says nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, nargs="+", default=[5_000, 50_000, 270_000])
    chosen = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    Thread(target=server.serve_forever, daemon=True).start()
    print(f"{'events':>10} {'MiB file':>9} {'seconds':>8} {'events/s':>9} {'peak MiB':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for messages in chosen.messages:
            path, count = Path(folder, "events"), 0
            with path.open("wb") as file:
                for count, event in enumerate(failure_events(1, messages), 1):  # noqa: B007  # the last one
                    file.write(event + b"\n")
            endpoint = f"http://127.0.0.1:{server.server_address[1]}"
            program = str(Path(sys.prefix, "bin", "faillog-otel"))
            started = time.monotonic()
            process = subprocess.Popen([program, "run", str(path), "--endpoint", endpoint, "-q"], cwd=folder)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            seconds = time.monotonic() - started
            size, peak = path.stat().st_size / 2**20, usage.ru_maxrss / 1024
            print(
                f"{count:>10} {size:>9.0f} {seconds:>8.1f} {count / seconds:>9.0f} {peak:>9.1f}", flush=True
            )
            if process.returncode:
                sys.exit(f"run ended with {process.returncode}")


if __name__ == "__main__":
    main()
