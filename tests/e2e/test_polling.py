"""`run` without PATHs: from a simulated Segment to a receiver, as users start it."""

import hashlib
import json
import re
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support.program import PROGRAM, Done, environment, run_program, run_script
from support.terminal import on_terminal

from faillog_otel.config import Signal
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.collector import Receiver
from faillog_otel.sandbox.config import QuotaConfig, Scripted, SimulatorConfig, WorldConfig

ON_SEGMENTS_CLOCK = str(Path(__file__).parents[1] / "support" / "program_on_segments_clock.py")
TOKEN = "s3gment-t0ken"  # noqa: S105  # the simulator's


@pytest.fixture
def segment() -> Iterator[Simulator]:
    """In real time; two collections, some lines of theirs are broken."""
    world = WorldConfig(collections=("shop", "app"), damage=0.03, seed=2)
    with Simulator(SimulatorConfig(world=world, token=TOKEN)) as segment:
        yield segment


class Sidecar:
    """How the program is started here."""

    def __init__(self, segment: Simulator, receiver: Receiver, folder: Path) -> None:
        self.segment = segment
        self.receiver = receiver
        self.folder = folder

    def run(self, *more: str, command: str = "run", collections: str = "shop,app", **env: str) -> Done:
        env = {
            "SEGMENT_TOKEN": TOKEN,
            "FAILLOG_COLLECTIONS": collections,
            "FAILLOG_SEGMENT_URL": self.segment.url,
            "FAILLOG_DOWNLOAD_HOSTS": self.segment.download_host,
            "FAILLOG_STATE_DIR": "state",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.receiver.http_endpoint,
            **env,
        }
        once = ["--once"] if command == "run" else []
        given: dict[str, Any] = {name: value for name, value in env.items() if value}
        return run_program(command, *once, "--summary", "json", *more, cwd=self.folder, **given)


@pytest.fixture
def sidecar(segment: Simulator, receiver: Receiver, tmp_path: Path) -> Sidecar:
    return Sidecar(segment, receiver, tmp_path)


def uids(receiver: Receiver) -> list[str]:
    return [
        attribute.value.string_value
        for log in receiver.logs()
        for attribute in log.attributes
        if attribute.key == "log.record.uid"
    ]


def test_every_record_of_segment_arrives_once(sidecar: Sidecar) -> None:
    first = sidecar.run("--since", "-16h")
    assert first.code == 3, first.stderr
    found = first.summary
    assert found["exported"] == len(uids(sidecar.receiver)) == len(set(uids(sidecar.receiver))) > 20
    assert found["quarantined"] > 0
    assert found["records"] == found["exported"] + found["quarantined"] + found["duplicate"]
    again = sidecar.run("--since", "-16h")
    assert (again.code, again.summary["records"]) == (0, 0)


def test_quarantined_records_and_whole_hours_can_be_sent_again(sidecar: Sidecar) -> None:
    first = sidecar.run("--since", "-12h", collections="shop")
    quarantined, exported = first.summary["quarantined"], first.summary["exported"]
    assert quarantined
    once_more = sidecar.run(command="replay")
    assert (once_more.code, once_more.summary["quarantined"]) == (3, quarantined)
    with sqlite3.connect(sidecar.folder / "state" / "ledger.sqlite3") as ledger:  # a person mends them
        for row, entry in ledger.execute("SELECT id, entry FROM kept").fetchall():
            mended = json.loads(entry)
            mended["raw"] = json.dumps(
                {
                    "event": "Mended",
                    "version": "v2",
                    "properties": {"occurredAt": "2025-05-07T23:00:00Z", "row": row},
                }
            )
            mended["sha256"] = hashlib.sha256(mended["raw"].encode()).hexdigest()
            ledger.execute("UPDATE kept SET entry = ? WHERE id = ?", (json.dumps(mended).encode(), row))
    mended_run = sidecar.run("--fail-on", "discarded", command="replay")
    assert (mended_run.code, mended_run.summary["exported"]) == (1, quarantined)
    assert mended_run.summary["unknown_version"] == quarantined
    assert "--fail-on discarded is undecided" in mended_run.stderr
    assert sidecar.run(command="replay").summary["records"] == 0
    before = set(uids(sidecar.receiver))
    hours = sidecar.run("--since", "-12h", command="replay", collections="shop")
    assert hours.summary["exported"] >= exported
    assert set(uids(sidecar.receiver)) >= before
    assert len(uids(sidecar.receiver)) >= len(before) + exported
    audit = run_program("audit", "--state-dir", "state", cwd=sidecar.folder)
    assert audit.code == 0, audit.stdout


@pytest.mark.parametrize(
    ("more", "env", "says"),
    [
        ((), {"SEGMENT_TOKEN": ""}, "no token: set SEGMENT_TOKEN or SEGMENT_TOKEN_FILE"),
        ((), {"SEGMENT_TOKEN": "", "SEGMENT_TOKEN_FILE": "gone"}, "gone: No such file or directory"),
        ((), {"SEGMENT_TOKEN": "two words"}, "contains blanks"),
        ((), {"SEGMENT_TOKEN": "Bearer c4n4ry"}, 'begins with "Bearer"; write the token alone'),
        ((), {"FAILLOG_COLLECTIONS": ""}, "name a PATH, or a collection"),
        (("--since", "yesterday"), {}, "'yesterday' is not a time"),
        (("--segment-url", "http://segment.example"), {}, "http would send the token unencrypted"),
        (("--segment-url", "mars"), {}, "'mars' has no scheme; write us, eu, or https://HOST"),
        ((), {"FAILLOG_SEGMENT_CERTIFICATE": "gone.pem"}, "[segment] certificate: gone.pem: No such file"),
        ((), {"SSL_CERT_FILE": "gone.pem"}, "SSL_CERT_FILE: gone.pem: No such file"),
        (
            ("events.jsonl", "--since", "-9h"),
            {},
            "--once, --since: only for polling; remove it, or the PATHs",
        ),
        (("--quarantine", "q"), {}, "need PATHs"),
    ],
)
def test_wrong_settings_are_named_before_anything_is_asked(
    sidecar: Sidecar, more: tuple[str, ...], env: dict[str, str], says: str
) -> None:
    done = sidecar.run(*more, **env)
    assert done.code == 2, done.stderr
    assert says in done.stderr
    assert sidecar.segment.requests() == []


def test_a_wrong_token_is_exit_6_and_costs_no_request(sidecar: Sidecar) -> None:
    done = sidecar.run(SEGMENT_TOKEN="wr0ng")  # noqa: S106  # a wrong one
    assert done.code == 6
    assert "check the token" in done.stderr
    assert "wr0ng" not in done.stderr
    with sqlite3.connect(sidecar.folder / "state" / "ledger.sqlite3") as ledger:
        assert ledger.execute("SELECT count(*) FROM requests").fetchone() == (0,)


def test_a_token_may_come_from_a_file(sidecar: Sidecar) -> None:
    (sidecar.folder / "token").write_text(f"{TOKEN}\n")
    done = sidecar.run("--since", "-9h", SEGMENT_TOKEN="", SEGMENT_TOKEN_FILE="token")  # noqa: S106  # a file's name
    assert done.code in (0, 3), done.stderr


def test_an_unknown_collection_is_exit_6_and_the_others_are_read(sidecar: Sidecar) -> None:
    done = sidecar.run("--since", "-9h", collections="shop,nobodys")
    assert done.code == 6
    assert re.search(r"nobodys: HTTP 404: .*; next attempt at \S+Z", done.stderr)
    refused = run_program("status", "--json", "--state-dir", "state", cwd=sidecar.folder)
    assert list(json.loads(refused.stdout)["refused"]) == ["nobodys"]
    hours = {each.collection for each in sidecar.segment.requests() if each.status == 200 and each.counted}
    assert "shop" in hours


def test_a_quota_that_is_used_up_is_exit_6_and_says_so(receiver: Receiver, tmp_path: Path) -> None:
    """On the simulator's clock, because the run first waits for a request that is free within a minute."""
    world = WorldConfig(collections=("shop",), messages=1)
    with Simulator(SimulatorConfig(world=world, token=TOKEN, quota=QuotaConfig(per_day=5))) as segment:
        options = ["--segment-url", segment.url, "--download-host", segment.download_host]
        options += ["--endpoint", receiver.http_endpoint, "--collection", "shop", "--since", "-40h"]
        done = run_on_segments_clock(segment, tmp_path, *options)
        assert segment.quota.max_in_24_hours <= 6
    assert done.code == 6
    assert re.search(
        r"\d+ hours? due waits? until \S+Z: Segment reports no remaining requests\n", done.stderr
    )
    assert re.search(r"Segment reports .*; rerun after \d\d:\d\d UTC \(\d+ hours due\)\n", done.stderr)


def test_only_the_form_that_segment_takes_is_asked_again(receiver: Receiver, tmp_path: Path) -> None:
    """Some documentation shows a query, some a body: one refused request finds out, and is remembered."""
    world = WorldConfig(collections=("shop",), messages=3)
    with Simulator(SimulatorConfig(world=world, token=TOKEN, form="body-only")) as segment:
        sidecar = Sidecar(segment, receiver, tmp_path)
        assert sidecar.run("--since", "-9h", collections="shop").code in (0, 3)
        assert sidecar.run("--since", "-14h", collections="shop").code in (0, 3)
        listings = [each.status for each in segment.requests() if each.method == "POST"]
    assert listings.count(415) == 1
    assert listings.count(200) > 2


def test_a_download_of_another_host_is_refused(sidecar: Sidecar) -> None:
    done = sidecar.run("--since", "-9h", FAILLOG_DOWNLOAD_HOSTS="", collections="shop")
    assert "is not a host of S3; allow it with --download-host" in done.stderr
    assert not any(each.origin == "downloads" for each in sidecar.segment.requests())


def test_an_hour_that_has_not_changed_is_not_downloaded_again(sidecar: Sidecar) -> None:
    """A person asks to read it again, and the records are known: nothing is sent but what is new."""
    window = ("--since", "-40h", "--until", "-38h")
    assert sidecar.run(*window).code in (0, 3)
    first = len(sidecar.receiver.logs())
    with sqlite3.connect(sidecar.folder / "state" / "ledger.sqlite3") as ledger:
        ledger.execute("UPDATE hours SET wanted = 1")
    again = sidecar.run(*window)
    assert (again.code, again.summary["records"]) == (0, 0)
    downloads = [each.status for each in sidecar.segment.requests() if each.origin == "downloads"]
    assert downloads.count(304) == downloads.count(200) > 0
    assert len(sidecar.receiver.logs()) == first


def test_an_unreachable_segment_is_exit_6_and_named(receiver: Receiver, tmp_path: Path) -> None:
    with Simulator(SimulatorConfig(token=TOKEN)) as segment:
        sidecar = Sidecar(segment, receiver, tmp_path)
    done = sidecar.run("--since", "-9h", collections="shop")
    assert done.code == 6
    assert "7 hours due could not be listed: " in done.stderr
    assert "Connection refused" in done.stderr


def test_a_terminal_shows_what_is_downloaded_and_forwarded_below_the_log(sidecar: Sidecar) -> None:
    """Of the object that is being forwarded, what the collector acknowledged counts."""
    let = threading.Event()

    def waits(_signal: Signal, _body: bytes) -> None:
        let.wait(60)

    with Receiver(waits) as receiver:
        args = ["run", "--once", "-v", "--since", "-16h", "--state-dir", "state", "--collection", "shop"]
        args += ["--endpoint", receiver.http_endpoint, "--segment-url", sidecar.segment.url]
        args += ["--download-host", sidecar.segment.download_host]
        with on_terminal(*args, cwd=sidecar.folder, columns=120, SEGMENT_TOKEN=TOKEN) as terminal:
            terminal.wait_for(
                lambda shown: any(re.search("forwarding .* 0 %, 0 bytes of", line) for line in shown)
            )
            let.set()
            shown = terminal.end()
    assert terminal.process.returncode in (0, 3), shown
    assert any(line.startswith("downloading, 1 left") for line in terminal.lines_seen)
    assert not any("info: " in line and "forwarding" in line for line in terminal.lines_seen)
    assert not any("forwarding" in line or "downloading" in line for line in shown)


def test_console_and_file_output_show_and_forward_nothing(sidecar: Sidecar) -> None:
    """However often one looks, the next run to a collector sends everything."""
    writes = ("--since", "-30h", "--until", "-26h", "--protocol", "file", "--output", "out.jsonl")
    first = sidecar.run(*writes)
    assert "only shows records" in first.stderr
    written = (sidecar.folder / "out.jsonl").read_bytes()
    shown = written.count(b'"log.record.uid"')
    assert shown > 20
    assert (first.summary["exported"], first.summary["sent"]["logs"]) == (0, shown)
    asked = len([each for each in sidecar.segment.requests() if each.counted])
    again = sidecar.run(*writes)
    assert (sidecar.folder / "out.jsonl").read_bytes() == written
    assert again.summary["pending"] == first.summary["pending"] == first.summary["records"]
    assert len([each for each in sidecar.segment.requests() if each.counted]) == asked > 0
    look = sidecar.run(
        "--since", "-30h", "--until", "-26h", "--protocol", "console", "--all", "--summary", "text"
    )
    assert look.stdout.count(b"  log ") == first.summary["events"]["error"]
    assert f"nothing was sent: {first.summary['pending']} records stay in state" in look.stderr
    assert (
        f"{first.summary['pending']} records: 0 exported, {first.summary['pending']} pending\n" in look.stderr
    )
    assert f"; showed {shown} log records and " in look.stderr
    assert run_program("audit", "--state-dir", "state", cwd=sidecar.folder).code == 0
    sent = sidecar.run("--since", "-30h", "--until", "-26h")
    assert sent.summary["records"] == first.summary["records"]
    assert sent.summary["exported"] == len(uids(sidecar.receiver))
    last = sidecar.run(*writes)
    assert (last.summary["records"], "nothing was sent" in last.stderr) == (0, False)


def test_console_output_to_a_closed_pipe_ends_quietly(sidecar: Sidecar) -> None:
    command = (
        f"{PROGRAM} run --once --since -16h --protocol console --collection shop --collection app | head -1"
    )
    env = environment(
        SEGMENT_TOKEN=TOKEN,
        FAILLOG_SEGMENT_URL=sidecar.segment.url,
        FAILLOG_DOWNLOAD_HOSTS=sidecar.segment.download_host,
        FAILLOG_STATE_DIR="state",
    )
    script = f"{command}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=sidecar.folder, env=env, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 141, done.stderr
    assert b"error" not in done.stderr
    assert sidecar.run("--since", "-16h").summary["exported"] > 20


def test_the_quarantine_can_be_looked_at_and_stays(sidecar: Sidecar) -> None:
    quarantined = sidecar.run("--since", "-12h").summary["quarantined"]
    assert quarantined
    with sqlite3.connect(sidecar.folder / "state" / "ledger.sqlite3") as ledger:  # a person mends them
        for row, entry in ledger.execute("SELECT id, entry FROM kept").fetchall():
            mended = json.loads(entry)
            mended["raw"] = '{"event": "Mended", "properties": {"occurredAt": "2025-05-07T23:00:00Z"}}'
            mended["sha256"] = hashlib.sha256(mended["raw"].encode()).hexdigest()
            ledger.execute("UPDATE kept SET entry = ? WHERE id = ?", (json.dumps(mended).encode(), row))
    look = sidecar.run("--protocol", "file", "--output", "out.jsonl", command="replay")
    assert (sidecar.folder / "out.jsonl").read_bytes().count(b'"log.record.uid"') == quarantined
    assert (look.code, look.summary["exported"], look.summary["quarantined"]) == (0, 0, quarantined)
    assert sidecar.run(command="replay").summary["exported"] == quarantined


def test_hours_are_not_read_again_only_to_be_looked_at(sidecar: Sidecar) -> None:
    done = sidecar.run("--since", "-12h", "--protocol", "file", "--output", "o", command="replay")
    assert (done.code, "show hours: run --once" in done.stderr) == (2, True)
    assert sidecar.segment.requests() == []


def test_a_collection_that_was_refused_is_exit_6_also_while_it_is_not_asked_for(sidecar: Sidecar) -> None:
    assert sidecar.run("--since", "-9h", collections="nobodys").code == 6
    again = sidecar.run("--since", "-9h", collections="nobodys")
    assert (again.code, "nobodys: refused by Segment in an earlier run" in again.stderr) == (6, True)


class Answers(BaseHTTPRequestHandler):
    """A Segment that gives every listing the same answer: what a subclass says."""

    status = 429
    head: ClassVar[dict[str, str]] = {}
    body = b""
    asked: ClassVar[list[bytes]]

    def do_GET(self) -> None:
        self._answer(200, b"{}")

    def do_POST(self) -> None:
        self.asked.append(self.rfile.read(int(self.headers["content-length"])))
        self._answer(self.status, self.body)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        for name, value in {**self.head, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def answering(**said: object) -> Iterator[tuple[str, list[bytes]]]:
    """The URL of such a Segment, and what it was asked."""
    asked: list[bytes] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Said", (Answers,), {**said, "asked": asked}))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def run_on_segments_clock(segment: Simulator, folder: Path, *args: str) -> Done:
    """`run --once` on the simulator's clock: its waits take no time."""
    clock = f"{segment.control_url}clock"
    poll = ("run", "--once", "--state-dir", "state")
    return run_script(
        ON_SEGMENTS_CLOCK, clock, "60", *poll, *args, cwd=folder, timeout=60, SEGMENT_TOKEN=TOKEN
    )


def test_retry_after_zero_causes_no_busy_loop(segment: Simulator, tmp_path: Path) -> None:
    """429 with `Retry-After: 0`, again and again, must not cost the day's quota."""
    with answering(status=429, head={"retry-after": "0"}) as (url, asked):
        args = ("--segment-url", url, "--collection", "shop", "--since", "-40h")
        assert run_on_segments_clock(segment, tmp_path, *args).code == 6
    assert 1 <= len(asked) <= 10


def test_a_token_that_segment_echoes_is_not_shown(segment: Simulator, tmp_path: Path) -> None:
    said = f"upstream got Bearer {TOKEN} for https://x.s3.amazonaws.com/a?X-Amz-Signature=geheim"
    body = json.dumps({"errors": [{"message": said}]}).encode()
    with answering(status=500, body=body) as (url, _):
        done = run_on_segments_clock(
            segment, tmp_path, "--segment-url", url, "--collection", "shop", "--since", "-9h", "-vv"
        )
    assert done.code == 6
    kept = b"".join(path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file())
    for secret in (TOKEN, "geheim"):
        assert secret not in done.stderr
        assert secret.encode() not in kept


def test_a_listing_with_invalid_urls_is_a_failure_and_no_bug(segment: Simulator, tmp_path: Path) -> None:
    body = json.dumps({"data": {"download": {"urls": ["https://[bad/x"]}}}).encode()
    with answering(status=200, body=body) as (url, _):
        done = run_on_segments_clock(
            segment, tmp_path, "--segment-url", url, "--collection", "shop", "--since", "-9h"
        )
    assert done.code == 6
    assert "lists an invalid URL" in done.stderr


def test_a_collection_that_is_forbidden_does_not_stop_the_others(segment: Simulator, tmp_path: Path) -> None:
    segment.faults.script(Scripted(fault="listing:403", collection="shop", times=99))
    args = ["--segment-url", segment.url, "--download-host", segment.download_host, "--since", "-12h"]
    done = run_on_segments_clock(
        segment, tmp_path, *args, "--collection", "shop", "--collection", "app", "--protocol", "file"
    )
    assert done.code == 6
    assert "shop: HTTP 403" in done.stderr
    asked = [each.collection for each in segment.requests() if each.method == "POST"]
    assert asked.count("shop") == 1
    assert asked.count("app") > 3


def test_the_sidecar_ends_when_its_wait_is_over(sidecar: Sidecar) -> None:
    """The collector is away for longer than --wait: what is pending stays in the state folder."""
    done = run_program(
        *(
            "run",
            "--wait",
            "1s",
            "--since",
            "-16h",
            "--state-dir",
            "state",
            "--endpoint",
            "http://127.0.0.1:9",
        ),
        *("--segment-url", sidecar.segment.url, "--download-host", sidecar.segment.download_host),
        *("--collection", "shop", "--summary", "json"),
        cwd=sidecar.folder,
        SEGMENT_TOKEN=TOKEN,
    )
    assert done.code == 4
    assert done.summary["pending"] > 0
