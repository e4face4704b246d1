"""Runs a command and writes down what it took: `python -S measured.py RESULT COMMAND...`.

A process of its own between the harness and who is measured: a process's peak memory includes that of the
one it was forked from, so that one must be small. Imports nothing that is not needed. SIGTERM is passed on.

RESULT is JSON: `started` (seconds since 1970, as the sink tells the time), `seconds` until it ended,
`cpu_seconds` (user and system, with all descendants that were waited for), `peak_bytes` (resident; the
largest of its processes), `code`.
"""

import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    started, start = time.time(), time.monotonic()
    process = subprocess.Popen(sys.argv[2:])
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    code = process.wait()
    seconds = time.monotonic() - start
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = {
        "started": started,
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
        "code": code,
    }
    Path(sys.argv[1]).write_text(json.dumps(result), "utf-8")


if __name__ == "__main__":
    main()
