"""What polling leaves and shows: the state folder, the ledger, JSON reports, metrics, the health check."""

import hashlib
import json
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from contract.collector import AWAY, Collector
from contract.events import KINDS
from contract.golden import check, sorted_keys
from msgspec import Struct
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from support.own_failures import report_failures
from support.program import run_program, start_program

from faillog_otel.ledger.database import MIGRATIONS

pytestmark = pytest.mark.xdist_group("polling contract")  # one process polls for all of these

TOKEN = "made-up"  # noqa: S105  # it is


class Segment(Struct):
    """`faillog-otel simulate`, and what its first line says."""

    process: "subprocess.Popen[bytes]"
    ready: dict[str, Any]

    def control(self, what: str, order: object = None) -> bytes:
        """Asks or orders something under `control`."""
        url = f"{self.ready['control']}/{what}"
        return (httpx.get(url) if order is None else httpx.post(url, json=order)).raise_for_status().content

    def once_options(self, state: str, *collections: str) -> list[str]:
        """The options that poll it."""
        hosts = ("--segment-url", self.ready["segment_url"], "--download-host", self.ready["download_host"])
        return [
            *hosts,
            *(f"--collection={each}" for each in collections),
            "--state-dir",
            state,
            "--since=-14h",
        ]


@contextmanager
def simulated(folder: Path, *options: str) -> Iterator[Segment]:
    """A running simulator."""
    process = start_program("simulate", *options, cwd=folder)
    assert process.stdout
    try:
        yield Segment(process, json.loads(process.stdout.readline()))
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segment]:
    """A message was tracked 14 hours ago: its deliveries failed in the four hours that followed."""
    start = (datetime.now(UTC) - timedelta(hours=14)).isoformat(timespec="seconds").replace("+00:00", "Z")
    with simulated(
        tmp_path_factory.mktemp("segment"), "--start", start, "--token", TOKEN, "--quota", "1000"
    ) as segment:
        message = {"userId": "u", "event": "e", "messageId": "m"}
        httpx.post(
            f"{segment.ready['segment_url']}/v1/track", json=message, auth=("key", "")
        ).raise_for_status()
        segment.control("clock", {"forward_seconds": 14 * 3600})
        yield segment


class Seen(Struct, frozen=True):
    """What commands and the health check say while a sidecar pauses, because objects cannot be downloaded."""

    status: dict[str, Any]
    plan: dict[str, Any]
    health: list[str]


class Polled(Struct, frozen=True):
    """A run that reached no collector, a sidecar that did, and what was seen while it ran."""

    folder: Path
    summary: dict[str, Any]
    names: list[str]
    """In the state folder, with spooled objects."""
    seen: Seen
    code: int
    log: list[Any]
    metrics: list[bytes]


@pytest.fixture(scope="module")
def polled(segment: Segment, tmp_path_factory: pytest.TempPathFactory) -> Polled:
    folder = tmp_path_factory.mktemp("polled")
    once = ("--once", "--endpoint", AWAY, "--wait", "1ms", "--summary", "json")
    first = run_program(
        "run", *segment.once_options("state", "shop-mixpanel"), *once, cwd=folder, SEGMENT_TOKEN=TOKEN
    )
    names = names_in(folder / "state")
    segment.control("faults", [{"fault": "download:404", "times": 99, "collection": "shop-braze"}])
    with Collector() as collector:
        sidecar = start_program(
            *("run", *segment.once_options("state", "shop-mixpanel", "shop-braze", "no-such")),
            *("--endpoint", collector.url, "--health-addr", "0", "--log-format", "json", "-v"),
            cwd=folder,
            SEGMENT_TOKEN=TOKEN,
            FAILLOG_SELF_OTLP_ENDPOINT=collector.url,
        )
        try:
            log, seen = watched(sidecar, folder)
            sidecar.send_signal(signal.SIGTERM)
            _, rest = sidecar.communicate(timeout=20)
        finally:
            sidecar.kill()
            sidecar.communicate()
        log += rest.decode().splitlines()
        sent = collector.bodies("metrics")
    lines = [json.loads(line) for line in log]
    return Polled(folder, first.summary, names, seen, sidecar.returncode, lines, sent)


def watched(sidecar: "subprocess.Popen[bytes]", folder: Path) -> tuple[list[str], Seen]:
    """The log so far, and what is seen once records were sent and failures made it pause."""
    assert sidecar.stderr
    log: list[str] = []
    while not (found := re.search(r"http://127\.0\.0\.1:\d+(?=/healthz)", "".join(log))):
        log.append(sidecar.stderr.readline().decode())
    status: dict[str, Any] = {"refused": {}}
    while not (status["refused"] and status["quota"]["waits"] and status["lag"]["sent"]):
        status = look(folder, "status")
    health = [answer(f"{found[0]}{path}") for path in ("/healthz", "/readyz", "/nowhere")]
    return log, Seen(status, look(folder, "plan"), health)


def names_in(state: Path) -> list[str]:
    """Files and folders with their permissions; `*` for names that are numbers of objects."""
    paths = ((path.stat().st_mode, path.relative_to(state)) for path in state.rglob("*"))
    return sorted({f"{stat.filemode(mode)}  {re.sub('(?<=/).*', '*', str(path))}" for mode, path in paths})


def look(folder: Path, command: str, *options: str) -> Any:
    """The JSON that a command prints about the state folder."""
    return json.loads(run_program(command, "--json", "--state-dir", "state", *options, cwd=folder).stdout)


def answer(url: str) -> str:
    """Status and keys of an answer of the health check."""
    response = httpx.get(url)
    return f"{httpx.URL(url).path}  {response.status_code}  {'; '.join(sorted_keys(response.json()))}"


def test_names_in_the_state_folder(polled: Polled) -> None:
    check("state_folder.txt", sorted({*polled.names, *names_in(polled.folder / "state")}))


def test_tables_of_the_ledger_and_released_migrations(polled: Polled) -> None:
    with closing(sqlite3.connect(polled.folder / "state" / "ledger.sqlite3")) as ledger:
        version = ledger.execute("PRAGMA user_version").fetchone()[0]
        scripts = ledger.execute("SELECT sql FROM sqlite_schema WHERE sql NOT NULL ORDER BY name").fetchall()
    found = [f"-- version {version}"]
    for number, text in enumerate(MIGRATIONS, 1):
        found.append(f"-- migration {number}: SHA-256 {hashlib.sha256(text.encode()).hexdigest()}")
    for (script,) in scripts:
        found += ["", *script.splitlines()]
    check("ledger.sql", found)


def without_groups(found: dict[str, Any]) -> dict[str, Any]:
    """What is null in a group depends on what was polled; summary.txt has the keys, of a run over files."""
    return found | {"groups": []} if "groups" in found else found


def test_json_reports(polled: Polled, tmp_path: Path) -> None:
    check("json/summary_polling.txt", sorted_keys(without_groups(polled.summary)))
    status = polled.seen.status
    status["failures"] = without_groups(status["failures"])
    check("json/status.txt", sorted_keys(status, open_maps=("quarantine",)))
    plans = polled.seen.plan, look(tmp_path, "plan", "--collection", "c")
    check("json/plan.txt", sorted_keys(*plans, open_maps=("waiting",)))
    shutil.copytree(polled.folder, tmp_path, dirs_exist_ok=True)
    next(tmp_path.glob("state/digests/*")).unlink()
    check("json/audit.txt", sorted_keys(look(polled.folder, "audit"), look(tmp_path, "audit")))
    check("json/doctor.txt", sorted_keys(look(polled.folder, "doctor"), open_maps=("settings",)))
    check("json/log_polling.txt", sorted_keys(*map(without_groups, polled.log)))


def test_health_check(polled: Polled) -> None:
    check("health.txt", polled.seen.health)
    assert polled.code == 143


def test_metrics(polled: Polled, tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(b"\n".join([*KINDS["ordinary"], *KINDS["unknown"], b"{"]))
    with Collector() as collector:
        endpoints: dict[str, Any] = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "FAILLOG_SELF_OTLP_ENDPOINT": collector.url,
        }
        run_program("run", "events", cwd=tmp_path, **endpoints)
        requests = collector.bodies("metrics")
    with Collector() as collector:
        report_failures(collector.url)
        requests += collector.bodies("metrics")
        events = words_of_events(collector.bodies("logs"))
    values = words_of_metrics(requests, "event", "outcome", "reason", "signal", "state")
    check("log_event.txt", sorted({*events}))
    check("metrics.txt", sorted({*words_of_metrics(polled.metrics), *values}))


def words_of_metrics(requests: Iterable[bytes], *enumerated: str) -> Iterator[str]:
    """Names, kinds, units, descriptions and attributes; of the enumerated attributes the values."""
    for request in map(ExportMetricsServiceRequest.FromString, requests):
        for resource in request.resource_metrics:
            yield from (f"resource  {pair.key}" for pair in resource.resource.attributes)
            for metric in (each for scope in resource.scope_metrics for each in scope.metrics):
                kind = metric.WhichOneof("data") or ""
                yield f"{metric.name}  {kind}  {metric.unit}  {metric.description}"
                for pair in (
                    pair for point in getattr(metric, kind).data_points for pair in point.attributes
                ):
                    value = f" = {pair.value.string_value}" if pair.key in enumerated else ""
                    yield f"{metric.name}  {pair.key}{value}"


def words_of_events(requests: Iterable[bytes]) -> Iterator[str]:
    """Names, severities, bodies and attributes of our own log events."""
    for request in map(ExportLogsServiceRequest.FromString, requests):
        for resource in request.resource_logs:
            for log in (each for scope in resource.scope_logs for each in scope.log_records):
                yield f"{log.event_name}  {log.severity_text}  {log.body.string_value}"
                for pair in log.attributes:
                    yield f"{log.event_name}  {pair.key}  {pair.value.WhichOneof('value')}"


def test_exit_codes_of_polling(segment: Segment, tmp_path: Path) -> None:
    tmp_path.joinpath("foreign").mkdir()
    tmp_path.joinpath("foreign", "file").touch()
    with Collector() as collector:
        here, away = ("--endpoint", collector.url), ("--endpoint", AWAY, "--wait", "1ms")
        cases = {
            "the collector is away": ("shop-mixpanel", TOKEN, *away),
            "Segment refuses the token": ("shop-mixpanel", "wrong", *here),
            "Segment does not know the collection": ("no-such", TOKEN, *here),
            "--max-requests is reached": ("shop-mixpanel", TOKEN, *here, "--max-requests", "1"),
            "no hour was judged": ("shop-mixpanel", TOKEN, *here, "--since=-1h", "--fail-on", "discarded"),
            "the state folder is another program's": (
                "shop-mixpanel",
                TOKEN,
                *here,
                "--state-dir",
                "foreign",
            ),
            "6 before 4": ("shop-mixpanel", TOKEN, *away, "--collection", "no-such", "--since=-14h"),
            "no token": ("shop-mixpanel", "", *here),
        }

        def code(number: int) -> int:
            collection, token, *options = [*cases.values()][number]
            polling = [*segment.once_options(f"state{number}", collection), "--since=-5h"]
            done = run_program("run", "--once", *polling, *options, cwd=tmp_path, SEGMENT_TOKEN=token)
            return done.code

        with ThreadPoolExecutor(3) as pool:
            codes = pool.map(code, range(len(cases)))
            found = [f"{code:>3}  {case}" for case, code in zip(cases, codes, strict=True)]
    check("exit_codes_polling.txt", found)


@pytest.mark.usefixtures("polled")
def test_reports_of_simulate(segment: Segment) -> None:
    check("json/simulate.txt", sorted_keys(segment.ready))
    for what in ("clock", "faults", "quota"):
        check(f"json/simulate_{what}.txt", sorted_keys(json.loads(segment.control(what))))
    for what in ("manifest", "requests", "tracked"):
        lines = map(json.loads, segment.control(what).splitlines())
        check(f"json/simulate_{what}.txt", sorted_keys(*lines))


def test_a_seed_always_makes_the_same_records(tmp_path: Path) -> None:
    options = ("--seed", "7", "--start", "2024-10-04T00:17:00Z", "--manifest", "manifest", "--token", TOKEN)
    found = []
    with simulated(tmp_path, *options) as segment:
        for collection in segment.ready["collections"]:
            asked = {"collectionId": collection, "hour": "2024-10-03T12:00:00Z"}
            url = f"{segment.ready['segment_url']}/customer-insights/download"
            httpx.post(url, params=asked, headers={"Authorization": f"Bearer {TOKEN}"}).raise_for_status()
        segment.process.send_signal(signal.SIGTERM)
        assert segment.process.wait(20) == 0
    for collection in segment.ready["collections"]:
        lines = map(json.loads, (tmp_path / "manifest").read_bytes().splitlines())
        mine = "".join(line["sha256"] for line in lines if line["collection"] == collection)
        found.append(
            f"{collection:<14} {len(mine) // 64:>4} records  {hashlib.sha256(mine.encode()).hexdigest()}"
        )
    check("simulate_seed_7.txt", found)
