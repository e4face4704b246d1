"""The bytes of records and the words in them, as a collector receives them."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from contract.collector import Collector, Record, records
from contract.events import KINDS, entry
from contract.golden import check
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from support.program import run_program


class Run(NamedTuple):
    """How the files are sent. `by_kind`: whether each kind of events has a line of its own."""

    options: str = ""
    environment: Mapping[str, Any] = MappingProxyType({})
    config: str = ""
    by_kind: bool = False
    is_late: bool = False
    """Whether the records are entries of a pending file, so that shifted times are the same each time."""


NAMES = '[mapping.destination_names]\n"to-ordinary" = "Mixpanel (Actions)"\nsubscription-1 = "Track"\n'
BACKENDS = ("tempo", "loki", "jaeger", "honeycomb", "datadog", "newrelic", "dynatrace")
RUNS = {
    "http/protobuf": Run(by_kind=True),
    "grpc": Run("--protocol grpc"),
    "http/json": Run("--protocol http/json"),
    "file": Run("--protocol file --output out"),
    "logs only": Run("--signals logs"),
    "traces only": Run("--signals traces"),
    "join link, bodies all": Run("--join link --bodies all"),
    "join off, bodies none": Run("--join off --bodies none"),
    "bodies keys": Run("--bodies keys"),
    "names, headers, key": Run(
        environment={"FAILLOG_RESPONSE_HEADERS": "cf-*", "FAILLOG_REDACTION_KEY": "0123456789abcdef"},
        config=NAMES,
    ),
    "time policy clamp:1h": Run("--time-policy clamp:1h", is_late=True),
    **{f"backend {name}": Run(f"--backend {name}", is_late=True) for name in BACKENDS},
}


def test_bytes_of_records(tmp_path: Path) -> None:
    """The columns tell changes apart: a new text in the body of a log record changes the first one only."""
    found = [f"{'':<24} {'logs':<21} {'without their bodies':<21} spans"]
    with ThreadPoolExecutor(3) as pool:
        all_sent = [
            pool.submit(_sent, run, tmp_path / str(number)) for number, run in enumerate(RUNS.values())
        ]
    for (name, run), future in zip(RUNS.items(), all_sent, strict=True):
        sent = future.result()
        found.append(_row(name, sent))
        if run.by_kind:
            for kind in KINDS:
                mine = [record for record in sent if f"to-{kind}".encode() in record.whole]
                found.append(_row(f"  {kind}", mine))
    check("records.txt", found)


def _sent(run: Run, folder: Path) -> list[Record]:
    """The records that arrive when all files are sent so."""
    folder.mkdir()
    for kind, lines in KINDS.items():
        (folder / kind).write_bytes(
            b"".join(line + b"\n" for line in (map(entry, lines) if run.is_late else lines))
        )
    (folder / "faillog-otel.toml").write_text(run.config)
    with Collector() as collector:
        endpoint = collector.grpc_url if "grpc" in run.options else collector.url
        options = [*run.options.split(), "--endpoint", endpoint]
        done = run_program("run", *KINDS, *options, cwd=folder, **run.environment)
        assert done.code == 0, done.stderr
        if "--output" in run.options:
            return [record for line in (folder / "out").read_bytes().splitlines() for record in records(line)]
        return collector.records()


def _row(name: str, sent: Iterable[Record]) -> str:
    logs, spans = ([each for each in sent if each.is_log is is_log] for is_log in (True, False))
    sums = ([log.whole for log in logs], [log.without_body for log in logs], [span.whole for span in spans])
    columns = [
        f"{len(each):>3} {hashlib.sha256(b''.join(sorted(each))).hexdigest()[:16] if each else ''}"
        for each in sums
    ]
    return f"{name:<24} {' '.join(f'{column:<21}' for column in columns)}".rstrip()


def test_words_of_records(tmp_path: Path) -> None:
    for kind, lines in KINDS.items():
        (tmp_path / kind).write_bytes(b"\n".join(lines))
    with Collector() as collector:
        (tmp_path / "faillog-otel.toml").write_text(NAMES)
        run_program(
            "run",
            *KINDS,
            "--endpoint",
            collector.url,
            "--bodies",
            "all",
            "--time-policy",
            "arrival",
            cwd=tmp_path,
        )
        logs = [ExportLogsServiceRequest.FromString(body) for body in collector.bodies("logs")]
        spans = [ExportTraceServiceRequest.FromString(body) for body in collector.bodies("traces")]
    check("attributes.txt", sorted({*_words_of_logs(logs), *_words_of_spans(spans)}))


def _words_of_logs(requests: Iterable[ExportLogsServiceRequest]) -> Iterator[str]:
    for resource in (each for request in requests for each in request.resource_logs):
        yield from (
            f"resource  {pair.key} = {pair.value.string_value}" for pair in resource.resource.attributes
        )
        for scope in resource.scope_logs:
            yield f"scope     {scope.scope.name}"
            for log in scope.log_records:
                yield f"event     {log.event_name}"
                yield from (f"log       {_shown(pair)}" for pair in log.attributes)


def _words_of_spans(requests: Iterable[ExportTraceServiceRequest]) -> Iterator[str]:
    for resource in (each for request in requests for each in request.resource_spans):
        yield from (
            f"resource  {pair.key} = {pair.value.string_value}" for pair in resource.resource.attributes
        )
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield from (f"span      {_shown(pair)}" for pair in span.attributes)
                yield from (f"link      {_shown(pair)}" for link in span.links for pair in link.attributes)


ENUMERATED = {"segment.link.type", "segment.trace.origin", "segment.event", "segment.error.reporter"}
"""Attributes whose values are words of ours, or of Segment's."""


def _shown(pair: KeyValue) -> str:
    """An attribute's name; its value, too, where that is a word of ours."""
    if pair.key in ENUMERATED or pair.key.startswith("messaging.operation"):
        return f"{pair.key} = {pair.value.string_value}"
    return re.sub(r"^(segment\.extra|http\.response\.header)\..*", r"\1.*", pair.key)


def test_log_record_uid_is_computed_from_the_event_and_its_bytes(tmp_path: Path) -> None:
    names = {
        "Error Logged": "error",
        "Delivery Attempt Logged": "attempt",
        "Destination Exchange Logged": "exchange",
    }
    lines = KINDS["ordinary"]
    (tmp_path / "events").write_bytes(b"\n".join(lines))
    with Collector() as collector:
        run_program("run", "events", "--endpoint", collector.url, cwd=tmp_path)
        request = ExportLogsServiceRequest.FromString(collector.bodies("logs")[0])
    uids = [
        pair.value.string_value
        for log in request.resource_logs[0].scope_logs[0].log_records
        for pair in log.attributes
        if pair.key == "log.record.uid"
    ]
    hashed = [f"segment.{names[json.loads(line)['event']]}\n".encode() + line for line in lines]
    assert uids == [hashlib.sha256(each).hexdigest()[:32] for each in hashed]
