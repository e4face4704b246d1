"""Was anything lost, invented, misread or changed? An independent look at what a sidecar left behind.

Imports nothing of the program: it reads what the simulated Segment had (truth.jsonl), what the collector got
(received.jsonl), what Segment counted (quota.json) and the state folder, with the standard library and the
official OTLP messages. The formulas are those of docs/concepts/ids.md. Run it by hand: `checker.py FOLDER`.
"""

import base64
import hashlib
import json
import sqlite3
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

EVENT_NAMES = {
    "Error Logged": "segment.error",
    "Delivery Attempt Logged": "segment.attempt",
    "Destination Exchange Logged": "segment.exchange",
}
HAVE_SPANS = ("segment.attempt", "segment.exchange")


class Evidence:
    """What a sidecar left behind, read from a folder. Raises sqlite3.DatabaseError."""

    def __init__(self, folder: Path, state: Path | None = None) -> None:
        self.truth = list(_lines(folder / "truth.jsonl"))
        self.quota = json.loads((folder / "quota.json").read_text())
        self.logs: dict[str, set[bytes]] = defaultdict(set)  # uid → its records' bytes
        self.spans: dict[tuple[bytes, bytes], set[bytes]] = defaultdict(set)
        self.span_of: dict[str, tuple[bytes, bytes]] = {}
        for each in _lines(folder / "received.jsonl"):
            body = base64.b64decode(each["body"])
            if each["signal"] == "logs":
                self._take_logs(ExportLogsServiceRequest.FromString(body))
            else:
                self._take_spans(ExportTraceServiceRequest.FromString(body))
        state = state or folder / "state"
        with closing(sqlite3.connect(state / "ledger.sqlite3")) as ledger:
            ledger.row_factory = sqlite3.Row
            self.objects = [dict(row) for row in ledger.execute("SELECT * FROM objects")]
            self.past = [dict(row) for row in ledger.execute("SELECT * FROM past")]
            self.kept = [dict(row) for row in ledger.execute("SELECT * FROM kept")]
            rows = ledger.execute("SELECT object, sha256 FROM exchange_indexes")
            self.indexes = {f"{row['object']}.exchanges": row["sha256"] for row in rows}
        self.spool = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (state / "spool").iterdir()
        }

    def _take_logs(self, request: ExportLogsServiceRequest) -> None:
        for resource in request.resource_logs:
            for scope in resource.scope_logs:
                for log in scope.log_records:
                    [uid] = [
                        each.value.string_value for each in log.attributes if each.key == "log.record.uid"
                    ]
                    self.logs[uid].add(log.SerializeToString(deterministic=True))
                    if log.event_name in HAVE_SPANS:
                        self.span_of[uid] = (log.trace_id, log.span_id)

    def _take_spans(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    key = (span.trace_id, span.span_id)
                    self.spans[key].add(span.SerializeToString(deterministic=True))


def problems(folder: Path, per_day: int = 120, state: Path | None = None) -> list[str]:
    """All that is wrong, in sentences; nothing where all is well. `state`: in the folder by default."""
    found = Evidence(folder, state)
    wrong = [
        *_lost_or_invented(found),
        *_misread(found),
        *_changed(found),
        *_miscounted(found),
        *_misplaced(found),
    ]
    if found.quota["most_in_24_hours"] > per_day:
        wrong.append(f"the quota was exceeded: {found.quota['most_in_24_hours']} requests in 24 hours")
    return wrong


def _lost_or_invented(found: Evidence) -> Iterator[str]:
    kept = {_raw(json.loads(row["entry"])) for row in found.kept}
    known: set[str] = set()
    whole: set[bytes] = set()
    for record in found.truth:
        raw = base64.b64decode(record["raw"])
        whole.add(raw)
        where = f"{record['collection']} {record['hour']}"
        if record["damaged"]:
            if raw not in kept:
                yield f"lost: a damaged record of {where} is not in quarantine"
            continue
        uid = uid_of(raw)
        known.add(uid)
        if uid not in found.logs and raw not in kept:
            yield f"lost: {uid} of {where} is neither received nor kept"
        elif uid in found.span_of and found.span_of[uid] not in found.spans and raw not in kept:
            yield f"lost: the span of {uid} of {where}"
    yield from (f"invented: {uid} was never in a file" for uid in found.logs.keys() - known)
    yield from ("invented: a kept record was never in a file" for raw in kept - whole)


def _misread(found: Evidence) -> Iterator[str]:
    """Whether records say what they are, whichever dialect of Segment's they are written in."""
    for record in found.truth:
        if record["damaged"]:
            continue
        raw = base64.b64decode(record["raw"])
        severity, attributes = _expected(json.loads(raw))
        for form in found.logs.get(uid_of(raw), ()):
            log = LogRecord.FromString(form)
            said = {each.key: _value(each.value) for each in log.attributes}
            if log.severity_number != severity:
                yield f"misread: {uid_of(raw)} has severity {log.severity_number}, not {severity}"
            for name, value in attributes.items():
                if said.get(name) != value:
                    yield f"misread: {uid_of(raw)}: {name} is {said.get(name)!r}, not {value!r}"
            if extras := [name for name in said if name.startswith("segment.extra.")]:
                yield f"misread: {uid_of(raw)} has {extras}"


def _value(value: AnyValue) -> object:
    return getattr(value, value.WhichOneof("value") or "string_value")


def _expected(record: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Severity, and attributes; None where there is to be none. By docs/reference/attributes.md.

    Records of the draft have a number as the version, and a subscription behind the destination.
    """
    name, properties = record["event"], record["properties"]
    routed = {party["type"]: party["id"] for party in properties["routed"]["to"]}
    severity = 9
    if name == "Error Logged":
        severity = 17 if properties["discarded"] else 13
    elif name == "Delivery Attempt Logged":
        severity = 13 if properties["outcome"] == "failure" else 9
    elif properties.get("responseFromDestination", {}).get("status", 999) >= 400:
        severity = 17
    attributes = {
        "segment.event": EVENT_NAMES[name] if record["version"] in (1, "v1") else "segment.other",
        "segment.destination.id": routed["destination"],
        "segment.destination.ids": None,
        "segment.subscription.id": routed.get("subscription"),
        "segment.delivery.attempt": properties.get("attempt"),
        "segment.feature": properties.get("featureName"),
        "segment.discarded": properties.get("discarded"),
    }
    return severity, attributes


def _changed(found: Evidence) -> Iterator[str]:
    """A record that Segment repeats in another file may have another form there: it learns from its file.

    It is sent from there only where it was forgotten that it was sent before.
    """
    times = Counter(uid_of(base64.b64decode(each["raw"])) for each in found.truth if not each["damaged"])
    spans = {span: times[uid] for uid, span in found.span_of.items()}
    for uid, forms in found.logs.items():
        if len(forms) > max(1, times[uid]):
            yield f"changed: {uid} was sent in {len(forms)} forms"
    for span, span_forms in found.spans.items():
        if len(span_forms) > max(1, spans.get(span, 1)):
            yield f"changed: span {span[1].hex()} in {len(span_forms)} forms"


def _miscounted(found: Evidence) -> Iterator[str]:
    for row in found.objects + found.past:
        ended = row["exported"] + row["rejected"] + row["quarantined"] + row["duplicate"]
        where = f"{row['collection']}, hour {row['hour']}"
        if row["records"] != ended:
            yield f"miscounted: {where}: {row['records']} records, {ended} ended"
    for row in found.objects:
        if row["lines"] and row["lines"] != row["records"] + row["blank"]:
            yield f"miscounted: object {row['id']}: {row['lines']} lines"
    for row in found.past:  # of objects with lines and others together
        if not 0 <= row["lines"] - row["blank"] <= row["records"]:
            yield f"miscounted: {row['collection']}, hour {row['hour']}: {row['lines']} lines"
    total = {
        name: sum(row[name] for row in found.objects + found.past)
        for name in ("exported", "rejected", "quarantined")
    }
    if total["rejected"] + total["quarantined"] != len(found.kept):
        yield f"miscounted: {total} but {len(found.kept)} are kept"
    if total["exported"] < len(found.logs) - total["rejected"]:
        yield f"miscounted: {total['exported']} exported, and {len(found.logs)} received"


def _misplaced(found: Evidence) -> Iterator[str]:
    """Whether the spool has the exchange indexes that the ledger names, and nothing else."""
    if left := found.spool.keys() - found.indexes.keys():
        yield f"left behind in the spool: {sorted(left)}"
    if damaged := [name for name, sha256 in found.indexes.items() if found.spool.get(name) != sha256]:
        yield f"damaged or missing indexes: {sorted(damaged)}"


def uid_of(raw: bytes) -> str:
    """A record's `log.record.uid`, by the formula of docs/concepts/ids.md."""
    name = EVENT_NAMES[json.loads(raw)["event"]]
    return hashlib.sha256(name.encode() + b"\n" + raw).digest()[:16].hex()


def _raw(entry: dict[str, Any]) -> bytes:
    return base64.b64decode(entry["raw_base64"]) if "raw_base64" in entry else str(entry["raw"]).encode()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as file:
        yield from map(json.loads, file)


if __name__ == "__main__":
    wrong = problems(Path(sys.argv[1]))
    print("\n".join(wrong) or "nothing lost, nothing invented, nothing misread, nothing changed")
    sys.exit(bool(wrong))
