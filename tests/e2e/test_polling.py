"""`run` without PATHs: from a simulated Segment to a receiver, as users start it."""

import json
import os
import pty
import re
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.program import PROGRAM, Done, environment, run_program

from faillog_otel.otlp.receiver import Receiver
from faillog_otel.segment.simulator.config import QuotaConfig, SimulatorConfig, WorldConfig
from faillog_otel.segment.simulator.server import Simulator

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


def test_what_segment_has_arrives_once(sidecar: Sidecar) -> None:
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
                {"event": "Mended", "properties": {"occurredAt": "2025-05-07T23:00:00Z", "row": row}}
            )
            ledger.execute("UPDATE kept SET entry = ? WHERE id = ?", (json.dumps(mended).encode(), row))
    mended_run = sidecar.run(command="replay")
    assert (mended_run.code, mended_run.summary["exported"]) == (0, quarantined)
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
        ((), {"SEGMENT_TOKEN": "two words"}, "holds blanks"),
        ((), {"FAILLOG_COLLECTIONS": ""}, "name a PATH, or a collection to poll"),
        (("--since", "yesterday"), {}, "'yesterday' is no time"),
        (("--segment-url", "http://segment.example"), {}, "the token would not be encrypted"),
        (("--segment-url", "mars"), {}, "--segment-url is us, eu, or https://HOST"),
        (("events.jsonl", "--since", "-9h"), {}, "--once, --since: for polling, without PATHs"),
        (("--quarantine", "q"), {}, "go with PATHs"),
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
    assert "is the token right" in done.stderr
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
    assert "nobodys: HTTP 404" in done.stderr
    hours = {each.collection for each in sidecar.segment.requests() if each.status == 200 and each.counted}
    assert "shop" in hours


def test_a_quota_that_is_used_up_is_exit_6_and_says_so(receiver: Receiver, tmp_path: Path) -> None:
    world = WorldConfig(collections=("shop",), messages=1)
    with Simulator(SimulatorConfig(world=world, token=TOKEN, quota=QuotaConfig(per_day=5))) as segment:
        done = Sidecar(segment, receiver, tmp_path).run("--since", "-40h", collections="shop")
        assert segment.quota.most_in_24_hours <= 6
    assert done.code == 6
    assert re.search(r"hours due, and \d requests left.*: run again later", done.stderr)


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
    assert "is no host of S3; name it by --download-host" in done.stderr
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


def test_a_segment_that_is_away_is_exit_6_and_says_so(receiver: Receiver, tmp_path: Path) -> None:
    with Simulator(SimulatorConfig(token=TOKEN)) as segment:
        sidecar = Sidecar(segment, receiver, tmp_path)
    done = sidecar.run("--since", "-9h", collections="shop")
    assert done.code == 6
    assert "due could not be read: shop, " in done.stderr
    assert "Connection refused" in done.stderr


def test_a_terminal_shows_what_is_downloaded_and_forwarded_below_the_log(sidecar: Sidecar) -> None:
    main, terminal = pty.openpty()
    env = environment(SEGMENT_TOKEN=TOKEN, TERM="xterm", COLUMNS="120")
    command = [PROGRAM, "run", "--once", "-v", "--since", "-16h", "--state-dir", "state"]
    command += ["--endpoint", sidecar.receiver.http_endpoint, "--segment-url", sidecar.segment.url]
    command += ["--download-host", sidecar.segment.download_host, "--collection", "shop"]
    process = subprocess.Popen(command, cwd=sidecar.folder, env=env, stderr=terminal)
    os.close(terminal)
    shown = b""
    with suppress(OSError):  # the terminal's end, once the program has let go of it
        while piece := os.read(main, 65536):
            shown += piece
    os.close(main)
    assert process.wait(60) in (0, 3), shown
    assert b"\r\x1b[Kdownloading, 1 to go" in shown
    assert b"forwarding [####" in shown
    assert b"\r\x1b[Kinfo: " in shown
    assert b"\r\x1b[K\r\n" not in shown
