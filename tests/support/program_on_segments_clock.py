"""The program as users start it, but Segment's hours go by a simulator's clock (first argument: its URL).

Waiting moves that clock on, at most by as many seconds at once as the second argument says, so hours pass in
no time. Everything else is the real thing.
"""

import json
import sys
import time
import urllib.request

from faillog_otel.cli import main


class SegmentsClock:
    """The time of a running simulator."""

    def __init__(self, url: str, step_seconds: float) -> None:
        self._url = url
        self._step_seconds = step_seconds

    def now_ns(self) -> int:
        with urllib.request.urlopen(self._url) as answer:  # noqa: S310  # loopback http
            return int(json.load(answer)["now_ns"])

    def monotonic(self) -> float:
        return self.now_ns() / 1e9

    def wait(self, seconds: float) -> bool:
        time.sleep(0.001)  # others are to have a turn, as they would while an hour passes
        body = json.dumps({"forward_seconds": max(0.0, min(seconds, self._step_seconds))}).encode()
        with urllib.request.urlopen(self._url, data=body):  # noqa: S310  # loopback http
            return False


if __name__ == "__main__":
    url, step_seconds = sys.argv.pop(1), float(sys.argv.pop(1))
    main(SegmentsClock(url, step_seconds))
