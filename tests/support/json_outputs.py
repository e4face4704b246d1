"""Real JSON outputs of the program, from many situations, each with the name of its schema."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from msgspec import Struct

from faillog_otel.clock import HOUR_NS, SECOND_NS
from faillog_otel.propagation import message_id_for
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.collector import Receiver, Reply
from faillog_otel.sandbox.config import Scripted, SimulatedClock, SimulatorConfig, WorldConfig
from faillog_otel.sandbox.destinations import DESTINATIONS, destination_of
from faillog_otel.sandbox.incidents import Incident
from support.events import attempt, error, exchange, lines
from support.polled_folder import AWAY, COLLECTION, PolledFolder
from support.program import Done, run_program, run_script, start_program
from support.sidecar import TOKEN, segment_simulator, sidecar, sidecar_options

ON_SEGMENTS_CLOCK = str(Path(__file__).with_name("program_on_segments_clock.py"))
NOW_NS = 1_746_627_420 * SECOND_NS
"""2025-05-07T14:17:00Z."""
PARTIAL = bytes.fromhex("0a020801")
"""An ExportLogsServiceResponse: 1 record rejected."""


class Output(Struct, frozen=True):
    """One JSON value that the program printed."""

    schema: str
    situation: str
    value: Any


def run_on_segments_clock(polled: PolledFolder, *args: str, code: int) -> Done:
    """Runs the program on the simulator's clock; it must end with this exit code."""
    env: dict[str, Any] = {"SEGMENT_TOKEN": polled.segment.token, "FAILLOG_STATE_DIR": str(polled.state)}
    clock = f"{polled.segment.control_url}clock"
    done = run_script(ON_SEGMENTS_CLOCK, clock, "3600", *args, cwd=polled.folder, **env)
    assert done.code == code, done.stderr
    return done


def look(polled: PolledFolder, situation: str, *commands: str) -> Iterator[Output]:
    """The `--json` output of these commands."""
    for command in commands:
        yield Output(
            command, situation, json.loads(run_on_segments_clock(polled, command, "--json", code=0).stdout)
        )


def poll(polled: PolledFolder, situation: str, endpoint: str, *args: str, code: int) -> Output:
    """The summary of `run --once`."""
    done = run_on_segments_clock(polled, "run", *polled.once_options(endpoint), *args, code=code)
    return Output("summary", situation, done.summary)


def of_polling(folder: Path) -> Iterator[Output]:
    """Before the first request, after a polled day, after a replay, and with a damaged ledger."""
    world = WorldConfig(damage=0.05, duplicates=0.05, messages=3.0)
    config = SimulatorConfig(world=world)
    with (
        Simulator(config, SimulatedClock(NOW_NS, standing=True)) as segment,
        Receiver() as receiver,
    ):
        polled = PolledFolder(segment, folder, ("--since", "-24h"))
        planned = run_on_segments_clock(
            polled, "plan", "--json", "--collection", COLLECTION, "--until", "-3h", code=0
        )
        yield Output("plan", "before the first run", json.loads(planned.stdout))
        away = ("--segment-url", AWAY, "--wait", "1s")
        yield poll(polled, "Segment does not answer", AWAY, *away, code=6)
        yield from look(polled, "nothing polled yet", "status", "audit")
        yield poll(polled, "a polled day, records in quarantine", receiver.http_endpoint, code=3)
        yield from look(polled, "after a polled day", "status", "plan", "audit")
        segment.clock.forward(3600)
        asked = ("--fail-on", "quarantined")
        yield poll(polled, "a condition met", receiver.http_endpoint, *asked, code=1)
        hours = ("--summary", "json", "--endpoint", receiver.http_endpoint, *polled.options, "--since", "-5h")
        replayed = run_on_segments_clock(polled, "replay", *hours, code=3)
        yield Output("summary", "replayed hours", replayed.summary)
        polled.sql("UPDATE objects SET exported = exported + 1 WHERE id = (SELECT min(id) FROM objects)")
        found = run_on_segments_clock(polled, "audit", "--json", code=1)
        yield Output("audit", "a wrong count", json.loads(found.stdout))
        [[page]] = polled.sql("SELECT rootpage FROM sqlite_schema WHERE name = 'objects'")
        with polled.state.joinpath("ledger.sqlite3").open("r+b") as ledger:
            ledger.seek((page - 1) * 4096)
            ledger.write(b"\xa5" * 4096)
        found = run_on_segments_clock(polled, "audit", "--json", code=1)
        yield Output("audit", "a damaged ledger", json.loads(found.stdout))


def of_trouble(folder: Path) -> Iterator[Output]:
    """The collector is away; Segment fails, refuses a collection, and asks for a pause."""
    clock = SimulatedClock(NOW_NS, standing=True)
    with Simulator(SimulatorConfig(world=WorldConfig(messages=5.0)), clock) as segment:
        polled, now = PolledFolder(segment, folder, ("--since", "-8h")), ("--wait", "0s")
        yield poll(polled, "no hour can be judged", AWAY, "--since", "-1h", "--fail-on", "empty", code=7)
        yield poll(polled, "the collector is away", AWAY, *now, code=4)
        yield from look(polled, "the collector is away", "status")
        segment.faults.script(
            Scripted(fault="download:404", hour="2025-05-07T05:00:00Z", times=1000),
            Scripted(fault="listing:500", hour="2025-05-07T03:00:00Z", times=1000),
        )
        more = ("--since", "-12h", "--collection", "misspelt", *now)
        yield poll(polled, "Segment fails", AWAY, *more, code=6)
        yield from look(polled, "Segment fails", "status", "plan")
        segment.faults.stop()
        segment.faults.script(Scripted(fault="listing:429-absurd", times=1000))
        yield poll(polled, "Segment asks for a pause", AWAY, "--since", "-14h", *now, code=6)
        yield from look(polled, "Segment asks for a pause", "status")
        segment.rename(DESTINATIONS[0].id, "Mixpanel (new)")
        clock.forward(86_400)
        yield poll(polled, "a renamed destination", AWAY, *now, code=6)
        yield from look(polled, "a renamed destination", "status")


def of_sidecar(folder: Path) -> Iterator[Output]:
    """A running sidecar's health and log, and other commands on its locked state folder."""
    with segment_simulator(COLLECTION) as segment, Receiver() as receiver:
        args = [*sidecar_options(segment, receiver, "-4h"), "--log-format", "json"]
        with sidecar([*args, "--health-addr", "0"], folder) as running:
            found = re.search(r"http://[^/]+", running.wait_for("/healthz"))
            assert found
            running.wait_for("objects")
            for path in ("/healthz", "/readyz", "/nowhere"):
                yield Output("health", f"a sidecar: {path}", httpx.get(found[0] + path).json())
            for command in ("status", "doctor"):
                to = ("--endpoint", receiver.http_endpoint) if command == "doctor" else ()
                done = run_program(command, "--json", "--state-dir", "state", *to, cwd=folder)
                yield Output(command, "a sidecar holds the lock", json.loads(done.stdout))
            done = run_program(*args, "--once", "--summary", "json", cwd=folder, SEGMENT_TOKEN=TOKEN)
            assert (done.code, done.stdout) == (5, b"")
            yield from logged("a second run on a locked state folder", done.stderr)
            assert running.end() == 143
        yield from logged("a sidecar", "".join(running.said))


def logged(situation: str, stderr: str) -> Iterator[Output]:
    """Each line of standard error with `--log-format json`."""
    for line in stderr.splitlines():
        yield Output("log", situation, json.loads(line))


TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ANSWERED = {
    "requestToDestination": {"body": {"messageId": "m", "traceparent": TRACEPARENT}},
    "responseFromDestination": {
        "status": 400,
        "headers": {"Server": "nginx"},
        "body": {"errortype": "BAD_EMAIL", "errormessage": "no mailbox", "errorreporter": "DESTINATION"},
    },
}
"""An exchange with everything that a kept attempt remembers of it."""


def of_files(folder: Path) -> Iterator[Output]:
    """Runs over PATHs with each exit code, their logs and kept records; commands that need no run."""
    (folder / "events").write_bytes(lines(error(reason="jane@shop.example"), attempt(), exchange(**ANSWERED)))
    (folder / "broken").write_bytes(lines(error(), b"{", b"\xff\x00"))
    (folder / "archive").write_bytes(b"PK\x03\x04" + bytes(1000))
    (folder / "httpx.py").write_text("raise RuntimeError('a broken library')")

    def run(situation: str, *args: str, code: int, command: str = "run", **env: Any) -> Iterator[Output]:
        done = run_program(command, *args, cwd=folder, FAILLOG_LOG_FORMAT="json", **env)
        assert done.code == code, done.stderr
        yield from logged(situation, done.stderr)
        schema = command if command == "redact" else "summary"
        for line in done.stdout.splitlines():
            yield Output(schema, situation, json.loads(line))

    def kept(situation: str) -> Iterator[Output]:
        for path in sorted(folder.glob("faillog-*.jsonl")):
            for line in path.read_text("utf-8").splitlines():
                yield Output("kept-record", f"{situation}: {path.name}", json.loads(line))

    yield from run("wrong usage", "--no-such-option", code=2)
    broken = {"SEGMENT_TOKEN": TOKEN, "PYTHONPATH": str(folder)}
    yield from run("an unexpected error", "--once", "--collection=c", code=70, **broken)
    away = ("--endpoint", AWAY, "--wait", "0s")
    yield from run("the collector is away", "events", *away, "--summary", "json", code=4)
    yield from kept("the collector is away")
    with Receiver() as receiver:
        to = ("--endpoint", receiver.http_endpoint)
        summary = (*to, "--summary", "json")
        yield from run("all is well, the summary as a log line", "events", "-v", *to, code=0)
        yield from run("a condition met", "events", "--fail-on", "failure", *summary, code=1)
        yield from run("a file is missing", "events", "missing", *summary, code=2)
        yield from run("records in quarantine", "broken", "archive", *summary, code=3)
        yield from run("nothing is kept", "broken", "--quarantine", "/dev/full", *summary, code=5)
        yield from run("replayed", "faillog-pending.jsonl", *summary, code=0, command="replay")
    with Receiver(lambda _signal, _body: Reply(200, PARTIAL)) as receiver:
        summary = ("--endpoint", receiver.http_endpoint, "--summary", "json")
        yield from run("accepted in part", "events", *summary, code=3)
    yield from kept("after all runs")
    yield from run("redact", "events", "broken", code=3, command="redact")
    for message_id in (message_id_for(TRACEPARENT), "m"):
        done = run_program("ids", message_id, cwd=folder)
        yield Output("ids", message_id, json.loads(done.stdout))
    for code in ((), ("bad_request",), ("599",)):
        done = run_program("explain", *code, "--json", cwd=folder)
        yield Output("explain", " ".join(code) or "the whole table", json.loads(done.stdout))


FAILURES_CONFIG = """
[links]
trace = "jaeger"
url = "http://localhost:16686"
segment = "https://app.segment.com/{workspace}/destinations/{destination_id}"
workspace = "shop"

[mapping]
destination_names = { abc = "Mixpanel (prod)", sub = "Order Completed" }
"""
MAPPED = {"to": [{"type": "destination", "id": "abc"}, {"type": "subscription", "id": "sub"}]}
REFUSED = {
    "responseFromDestination": {"status": 401, "headers": {}, "body": '{"message": "Invalid API key"}'}
}


def of_checks(folder: Path) -> Iterator[Output]:
    """Files that fail and that do not; counts that are not known yet; a refused token."""
    folder.joinpath("faillog-otel.toml").write_text(FAILURES_CONFIG)
    folder.joinpath("events").write_bytes(lines(attempt(), exchange(), error()))
    folder.joinpath("nothing").write_bytes(b"")
    for file, code in (("events", 1), ("nothing", 7)):
        done = run_program("check", file, "--json", cwd=folder)
        assert done.code == code, done.stderr
        yield Output("check", f"a file: {file}", json.loads(done.stdout))
    quiet = SimulatorConfig(world=WorldConfig(messages=0.0))
    with Simulator(quiet, SimulatedClock(NOW_NS, standing=True)) as segment:
        polled = PolledFolder(segment, folder)
        options = ("--json", "--segment-url", segment.url)
        done = run_on_segments_clock(polled, "check", *options, "--destination", DESTINATIONS[0].id, code=7)
        yield Output("check", "nothing was received", json.loads(done.stdout))
        done = run_on_segments_clock(polled, "check", *options, "--destination", "nothing", code=6)
        yield Output("check", "Segment knows no such destination", json.loads(done.stdout))


def of_failures(folder: Path) -> Iterator[Output]:
    """The groups and the messages of a file, and of one without failures."""
    (folder / "faillog-otel.toml").write_text(FAILURES_CONFIG)
    discarded = error(routed=MAPPED, reason="INVALID_SETTINGS")
    failed = attempt(routed=MAPPED, destinationExchangeId="x")
    answered = exchange(routed=MAPPED, destinationExchangeId="x", **REFUSED)
    (folder / "events").write_bytes(lines(discarded, failed, answered))
    (folder / "delivered").write_bytes(lines(attempt(outcome="success")))
    for file in ("events", "delivered"):
        done = run_program("failures", file, "--json", cwd=folder)
        assert done.code == 0, done.stderr
        yield Output("failures", f"a file: {file}", json.loads(done.stdout))
    done = run_program("failures", "events", "--messages", "--json", cwd=folder)
    assert done.code == 0, done.stderr
    for line in done.stdout.splitlines():
        yield Output("failures-message", "a file", json.loads(line))


def of_changes(folder: Path) -> Iterator[Output]:
    """Failures that followed a change of the workspace."""
    (folder / "faillog-otel.toml").write_text("[segment]\naudit = true\naudit_actors = true\n")
    incident = Incident(COLLECTION, "wrong-key", NOW_NS - 8 * HOUR_NS, NOW_NS - 7 * HOUR_NS)
    world = WorldConfig(collections=(COLLECTION,), messages=0, incidents=(incident,), incident_messages=300)
    clock = SimulatedClock(NOW_NS, standing=True)
    with Simulator(SimulatorConfig(world=world), clock) as segment, Receiver() as receiver:
        polled = PolledFolder(segment, folder)
        yield poll(polled, "failures after a change", receiver.http_endpoint, code=0)
        yield from look(polled, "failures after a change", "failures")


def of_completeness(folder: Path) -> Iterator[Output]:
    """Segment counted discards in objects that cannot be downloaded."""
    destination = destination_of(0).id
    (folder / "faillog-otel.toml").write_text(
        f'[segment.collection_destinations]\n"{COLLECTION}" = "{destination}"\n'
    )
    incident = Incident(COLLECTION, "wrong-key", NOW_NS - 30 * HOUR_NS, NOW_NS - 10 * HOUR_NS)
    world = WorldConfig(collections=(COLLECTION,), messages=0, incidents=(incident,), dead=24)
    clock = SimulatedClock(NOW_NS, standing=True)
    with Simulator(SimulatorConfig(world=world), clock) as segment, Receiver() as receiver:
        polled = PolledFolder(segment, folder, ("--since", "-34h"))
        yield poll(polled, "objects that cannot be downloaded", receiver.http_endpoint, code=6)
        yield from look(polled, "objects that cannot be downloaded", "failures", "status")


def of_wrong_counts(folder: Path) -> Iterator[Output]:
    """Segment counted no failures of a destination that has some."""
    destination = destination_of(0).id
    incident = Incident(COLLECTION, "wrong-key", NOW_NS - 30 * HOUR_NS, NOW_NS - 10 * HOUR_NS)
    world = WorldConfig(collections=(COLLECTION,), messages=0, incidents=(incident,))
    config = SimulatorConfig(world=world, lies=(destination,))
    with Simulator(config, SimulatedClock(NOW_NS, standing=True)) as segment, Receiver() as receiver:
        polled = PolledFolder(segment, folder, ("--since", "-34h"))
        yield poll(polled, "counts that are wrong", receiver.http_endpoint, code=0)
        yield from look(polled, "counts that are wrong", "status", "plan")


def of_doctor(folder: Path) -> Iterator[Output]:
    """Every check passes, a setting is wrong, and nearly every check warns or fails."""
    (folder / "state").mkdir(mode=0o700)
    (folder / "state" / "ledger.sqlite3").write_bytes(b"no ledger" * 1000)
    with socket.create_server(("127.0.0.1", 0)) as taken, Simulator() as segment, Receiver() as receiver:
        good: dict[str, Any] = {
            "SEGMENT_TOKEN": segment.token,
            "FAILLOG_SEGMENT_URL": segment.url,
            "FAILLOG_COLLECTIONS": COLLECTION,
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
            "XDG_STATE_HOME": str(folder),
        }
        bad = {
            "FAILLOG_SEGMENT_URL": AWAY,
            "FAILLOG_COLLECTIONS": ",".join(f"c{number}" for number in range(20)),
            "FAILLOG_SINCE": "-40d",
            "FAILLOG_STATE_DIR": "state",
            "FAILLOG_BACKEND": "loki",
            "FAILLOG_HEALTH_ADDR": str(taken.getsockname()[1]),
            "FAILLOG_SELF_OTLP_ENDPOINT": AWAY,
            "HTTP_PROXY": AWAY,
            "OTEL_EXPORTER_OTLP_ENDPOINT": AWAY,
        }
        for situation, env, code in (
            ("all is well", good, 0),
            ("a wrong setting", good | {"FAILLOG_WAIT": "soon"}, 1),
            ("nothing works", good | bad, 1),
        ):
            done = run_program("doctor", "--json", cwd=folder, **env)
            assert done.code == code, done.stdout
            yield Output("doctor", situation, json.loads(done.stdout))


def of_simulator(folder: Path) -> Iterator[Output]:
    """The line that it prints when it is ready, and the answers of its control API."""
    args = ("--start", "2025-05-07T14:17:00Z", "--messages", "5", "--damage", "0.1")
    process = start_program("simulate", *args, "--fault", "download:404=0.2", cwd=folder)
    assert process.stdout
    try:
        ready = json.loads(process.stdout.readline())
        yield Output("simulate", "ready", ready)
        control = ready["control"]
        for name, body in (
            ("clock", {"forward_seconds": 60}),
            ("faults", [{"fault": "listing:503", "nth": 2}]),
        ):
            yield Output(f"simulate-{name}", "asked", httpx.get(f"{control}/{name}").json())
            yield Output(f"simulate-{name}", "set", httpx.post(f"{control}/{name}", json=body).json())
        for hour in ("2025-05-07T08:00:00Z", "2025-05-07T09:00:00Z"):
            answer = httpx.post(
                f"{ready['segment_url']}/customer-insights/download",
                headers={"Authorization": f"Bearer {ready['token']}"},
                params={"collectionId": ready["collections"][0], "hour": hour},
            )
            for url in answer.json().get("data", {}).get("download", {}).get("urls", ()):
                httpx.get(url)
        yield Output("simulate-quota", "asked", httpx.get(f"{control}/quota").json())
        for name in ("requests", "manifest"):
            for line in httpx.get(f"{control}/{name}").text.splitlines():
                yield Output(f"simulate-{name}", "two hours were listed", json.loads(line))
    finally:
        process.kill()
        process.communicate()


SITUATIONS: dict[str, Callable[[Path], Iterator[Output]]] = {
    "polling": of_polling,
    "trouble": of_trouble,
    "sidecar": of_sidecar,
    "files": of_files,
    "failures": of_failures,
    "check": of_checks,
    "changes": of_changes,
    "completeness": of_completeness,
    "wrong counts": of_wrong_counts,
    "doctor": of_doctor,
    "simulator": of_simulator,
}
"""Each works in an empty folder of its own."""
