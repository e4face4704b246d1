"""Quarantine and pending files: entries, reason codes, and the JSON that a run over PATHs prints."""

import gzip
import json
from pathlib import Path
from typing import Any

from contract.collector import AWAY, Collector
from contract.events import SPAN, attempt, error, event, exchange
from contract.golden import check, sorted_keys
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceResponse,
)
from support.file_formats import zstd
from support.program import run_program

LINE = error("reasons")
PACKED = gzip.compress(LINE), zstd.compress(LINE)
DAMAGED = {
    "breaks off": b'{"type":',
    "not UTF-8": b'{"a":"\xff"}',
    "an array in JSON Lines": b"[1]\n[2]",
    "no messageId": error("reasons", messageId=None),
    "no time": error("reasons", occurredAt="yesterday"),
    "17 MiB": b'{"a":"' + b"a" * (17 << 20) + b'"}',
    "deep": b'{"a":' + b"[" * 200 + b"]" * 200 + b"}",
    "many values": error("reasons", many=[0] * 300_000),
    "gzip, cut off": PACKED[0][:-9],
    "gzip, changed": PACKED[0][:-8] + bytes(8),
    "zstd, cut off": PACKED[1][:-3],
    "zstd, changed": PACKED[1][:-4] + bytes(4),
    "gzip, and more": PACKED[0] + b"more",
    "gzip, 2 MiB": gzip.compress(LINE + b"\n" * (2 << 20)),
    "zip": b"PK\x03\x04" + bytes(100),
}
"""What is damaged about a file, and the file."""
ANSWERED = exchange(
    "a",
    body='{"errormessage": "no", "errortype": "E_NO", "errorreporter": "DESTINATION"}',
    requestToDestination={"body": json.dumps({"messageId": "no-span", "traceparent": SPAN})},
)
"""What the attempt beside it learns from it is the `context` of its entry."""


def entries(path: Path) -> list[dict[str, Any]]:
    """The entries of a quarantine or pending file."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def answer(signal: str, body: bytes) -> tuple[int, bytes]:
    """A collector that refuses some records, and takes some only partly, or in one signal."""
    if b"too-large" in body:
        return 413, b""
    if b"refused" in body:
        return 400, b""
    if b"no-span" in body and signal == "traces":
        return 503, b""
    if b"rejected" in body and signal == "logs":
        partial = ExportLogsPartialSuccess(rejected_log_records=1, error_message="no")
        return 200, ExportLogsServiceResponse(partial_success=partial).SerializeToString()
    return 200, b""


def test_reason_codes_and_entries(tmp_path: Path) -> None:
    for name, content in DAMAGED.items():
        (tmp_path / name).write_bytes(content)
    for name in ("too-large", "refused", "rejected", "no-span"):
        (tmp_path / name).write_bytes(attempt("a", messageId=name) + b"\n" + ANSWERED)
    with Collector(answer) as collector:
        options = ("--endpoint", collector.url, "--wait", "100ms", "--workers", "1")
        for names in (DAMAGED, ["too-large", "refused"], ["rejected"], ["no-span"]):
            run_program("run", *names, *options, cwd=tmp_path, FAILLOG_MAX_CONTENT="1MiB")
    quarantined = entries(tmp_path / "faillog-quarantine.jsonl")
    pending = entries(tmp_path / "faillog-pending.jsonl")
    found = [f"quarantine  {entry['reason']:<16} {entry['file']}" for entry in quarantined]
    found += [f"pending     {entry['reason']:<16} {entry['file']}" for entry in pending]
    check("reasons.txt", [line.rstrip() for line in dict.fromkeys(found)])
    check("entries.txt", sorted_keys(*quarantined, *pending))


def test_json_of_a_run_over_paths(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(b"\n".join([LINE, attempt("a"), exchange("a"), b"{"]))
    summary = run_program(
        "run", "events", "--endpoint", AWAY, "--wait", "1ms", "--summary", "json", cwd=tmp_path
    )
    check("json/summary.txt", sorted_keys(summary.summary))
    log = run_program(
        "run", "events", "--endpoint", AWAY, "--wait", "1ms", "--log-format", "json", cwd=tmp_path
    )
    check("json/log.txt", sorted_keys(*map(json.loads, log.stderr.splitlines())))
    for name, args in {"failures": (), "failures_message": ("--messages",)}.items():
        failed = run_program("failures", "events", "--json", *args, cwd=tmp_path)
        check(f"json/{name}.txt", sorted_keys(*map(json.loads, failed.stdout.splitlines())))
    (tmp_path / "events").write_bytes(
        b"\n".join([exchange("a", body='{"password": "x"}'), event("a", "b"), b"{"])
    )
    redacted = run_program("redact", "events", cwd=tmp_path)
    check(
        "json/redact.txt",
        sorted_keys(
            *map(json.loads, redacted.stdout.splitlines()), open_maps=("attributes", "redacted", "stays")
        ),
    )
