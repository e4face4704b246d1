"""A small Segment that answers for sources, their destinations, and the counts of events in a table."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from faillog_otel.clock import DAY_NS, HOUR_NS, hour_of, hour_text, parse_rfc3339
from faillog_otel.segment.overview import STAGE_PATHS

STAGES = {path: stage for stage, path in STAGE_PATHS.items()}


class OverviewServer:
    """`counts`: hour, source, destination, stage and reason → events."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self.pairs = pairs
        self.counts: Counter[tuple[int, str, str, str, str]] = Counter()
        self.refuses: dict[str, int] = {}
        """Start of a path, or id → status."""
        self.requests: list[str] = []
        self.disabled: set[str] = set()
        self.now_ns = 0
        self.page_rows = 1000
        self.url = ""

    def answer(self, target: str) -> tuple[int, dict[str, Any]]:
        """Returns status and body."""
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        one = {name: values[0] for name, values in query.items()}
        self.requests.append(path)
        for part, status in self.refuses.items():
            if path.startswith(part) or part in one.values():
                return status, {"errors": [{"message": "no"}]}
        if path == "/sources":
            return 200, {"sources": [{"id": each} for each in dict.fromkeys(pair[0] for pair in self.pairs)]}
        if path.endswith("/connected-destinations"):
            found = [to for source, to in self.pairs if source == path.split("/")[2]]
            return 200, {"destinations": [{"id": to, "enabled": to not in self.disabled} for to in found]}
        return 200, self._counts(STAGES[path.rpartition("/")[2]], one)

    def _counts(self, stage: str, query: dict[str, str]) -> dict[str, Any]:
        start_ns, end_ns = (parse_rfc3339(query[name]) or 0 for name in ("startTime", "endTime"))
        assert 0 < end_ns - start_ns <= 14 * DAY_NS
        assert start_ns >= self.now_ns - 30 * DAY_NS
        assert query["granularity"] == "HOUR"
        of_pair = query["sourceId"], query.get("destinationConfigId", "")
        rows: dict[str, list[dict[str, Any]]] = {}
        for (hour, source, destination, counted, reason), events in sorted(self.counts.items()):
            if (source, destination, counted) != (*of_pair, stage):
                continue
            if hour_of(start_ns) <= hour < hour_of(end_ns) and hour * HOUR_NS <= self.now_ns:
                rows.setdefault(reason, []).append({"time": hour_text(hour), "count": events})
        dataset = [{"discardReason": reason, "series": series} for reason, series in rows.items()]
        first = int(query.get("pagination.cursor", "0"))
        until = first + self.page_rows
        page = {"current": str(first), "next": str(until) if until < len(dataset) else None}
        return {"dataset": dataset[first:until], "pagination": page}


@contextmanager
def overview_server(pairs: list[tuple[str, str]]) -> Iterator[OverviewServer]:
    """Serves on a port of this machine."""
    served = OverviewServer(pairs)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, body = served.answer(self.path)
            content = json.dumps({"data": body} if status == 200 else body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
