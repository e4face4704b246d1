"""What a run that was asked to judge (`--fail-on`) says and ends with."""

import os
import re
import shutil
import signal
import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest
from campaign.full_disk import small_disk
from support.events import attempt, error, exchange, lines
from support.polled_folder import AWAY, COLLECTION, polled_folder
from support.program import Done, run_program, start_program
from support.tiers import slow, slow_case

from faillog_otel.clock import HOUR_NS, hour_of, time_text
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.collector import Receiver, Reply
from faillog_otel.sandbox.config import QuotaConfig, SimulatorConfig, WorldConfig

NOT_KNOWN_YET = 7
TOKEN = "t0ken"  # noqa: S105  # the simulator's
COLLECTIONS = ("shop-braze", "shop-mixpanel", "shop-webhooks")


@pytest.fixture
def events(tmp_path: Path) -> Path:
    reason = {"reason": "Service Unavailable"}
    (tmp_path / "events").write_bytes(
        lines(
            error(discarded=False, messageId="a"),
            attempt(outcome="success", messageId="b"),
            attempt(messageId="c"),
            attempt(messageId="d"),
            b"{",
            error(messageId="e", **reason),
            exchange(),
        )
    )
    return tmp_path


def run(folder: Path, receiver: Receiver, *args: str, stdin: bytes = b"") -> Done:
    return run_program("run", *args, "--endpoint", receiver.http_endpoint, cwd=folder, stdin=stdin)


@pytest.mark.parametrize("more", [[], ["--workers", "3"]])
def test_a_condition_that_was_met_is_named_with_the_first_record_and_how_many(
    receiver: Receiver, events: Path, more: list[str]
) -> None:
    conditions = [f"--fail-on={each}" for each in ("failure", "discarded", "quarantined", "empty")]
    (events / "later").write_bytes(lines(attempt(messageId="z"), error(messageId="z")))
    done = run(events, receiver, "events", "later", *conditions, *more, "--summary", "json")
    assert done.code == 1
    said = [line for line in done.stderr.splitlines() if "--fail-on" in line]
    first = (
        "error: --fail-on failure: 3 failed attempts; the first: message c to abc (events, line 3): HTTP 418"
    )
    assert said[0] == first
    assert said[1].startswith(
        "error: --fail-on discarded: 2 discarded messages; the first: message e to abc "
    )
    assert said[1].endswith("(events, line 6): Service Unavailable")
    assert re.search(
        r"quarantined: 1 quarantined record; the first: a record \(events, line 5\): inv", said[2]
    )
    assert len(said) == 3
    found = done.summary
    assert (found["failed_attempts"], found["discarded"]) == (3, 2)
    assert (found["files"], found["hours"]) == ({"found": 2, "read": 2}, None)


def test_a_first_record_shows_the_names_of_the_configuration_and_no_secret(
    receiver: Receiver, tmp_path: Path
) -> None:
    (tmp_path / "faillog-otel.toml").write_text('[mapping.destination_names]\nabc = "Mixpanel"\n')
    (tmp_path / "events").write_bytes(lines(error(reason="Authorization: Bearer abcdef0123456789abcdef\x1b")))
    done = run(tmp_path, receiver, "events", "--fail-on", "discarded", "-q")
    assert "message m to Mixpanel (events, line 1): " in done.stderr
    assert "abcdef0123456789" not in done.stderr
    assert "\x1b" not in done.stderr


def test_the_number_of_judged_records_is_reported(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(lines(error(discarded=False)))
    done = run(tmp_path, receiver, "events", "--fail-on", "discarded")
    assert (done.code, "judged 1 record; 1 of 1 file read to the end" in done.stderr) == (0, True)
    done = run(tmp_path, receiver, "events", "gone", "--fail-on", "discarded", "--summary", "json")
    assert done.code == 2
    assert done.summary["files"] == {"found": 1, "read": 1}


def test_what_is_not_understood_is_not_called_judged(receiver: Receiver, tmp_path: Path) -> None:
    unknown = error().replace(b'"v1"', b'"v2"')
    assert unknown != error()
    (tmp_path / "events").write_bytes(lines(error(discarded=False), unknown, unknown, b"{"))
    done = run(tmp_path, receiver, "events", "--fail-on", "failure")
    assert done.code == 1
    assert "judged 1 of 4 records; 1 of 1 file read to the end" in done.stderr


@pytest.mark.parametrize(
    ("event", "condition", "code"),
    [
        (attempt(outcome="error"), "failure", 1),
        (attempt(outcome="Success"), "failure", 0),
        (error(discarded="yes"), "discarded", 1),
        (error(discarded="false"), "discarded", 0),
        *(
            slow_case(event, condition, code)
            for event, condition, code in (
                *((attempt(outcome=each), "failure", 1) for each in ("FAILURE", "retry", 5, True)),
                *((attempt(outcome=each), "failure", 0) for each in ("success", None)),
                *((error(discarded=each), "discarded", 1) for each in ("true", 1)),
                *((error(discarded=each), "discarded", 0) for each in (False, 0, None)),
            )
        ),
    ],
)
def test_a_value_that_the_page_does_not_name_is_no_good_one(
    receiver: Receiver, tmp_path: Path, event: bytes, condition: str, code: int
) -> None:
    (tmp_path / "events").write_bytes(lines(event))
    assert run(tmp_path, receiver, "events", "--fail-on", condition).code == code


@pytest.mark.parametrize(
    ("paths", "stdin", "code"),
    [
        (["folder"], b"", 1),
        (["-"], b"", 1),
        (["-"], b"\n \n", 1),
        (["-"], lines(error()), 0),
        (["-"], b"{", 1),
    ],
)
def test_empty_fails_what_held_no_event(
    receiver: Receiver, tmp_path: Path, paths: list[str], stdin: bytes, code: int
) -> None:
    (tmp_path / "folder").mkdir()
    done = run(tmp_path, receiver, *paths, "--fail-on", "empty", stdin=stdin)
    assert (done.code, "--fail-on empty: no event was read" in done.stderr) == (code, code == 1)
    assert run(tmp_path, receiver, *paths, stdin=stdin).code in (0, 3)


@pytest.fixture
def young() -> Simulator:
    """A Segment of three collections: what ended less than eight hours ago is not readable yet."""
    world = WorldConfig(collections=COLLECTIONS, messages=3)
    return Simulator(SimulatorConfig(world=world, token=TOKEN))


def poll(segment: Simulator, folder: Path, endpoint: str, *args: str) -> Done:
    collections = [f"--collection={name}" for name in COLLECTIONS]
    return run_program(
        *("run", "--once", "--segment-url", segment.url, "--download-host", segment.download_host),
        *("--state-dir", "state", *collections, "--endpoint", endpoint, *args),
        cwd=folder,
        SEGMENT_TOKEN=TOKEN,
    )


@pytest.mark.parametrize("condition", ["failure", "empty"])
def test_hours_that_are_not_readable_yet_are_not_known_yet(
    receiver: Receiver, young: Simulator, tmp_path: Path, condition: str
) -> None:
    with young:
        done = poll(young, tmp_path, receiver.http_endpoint, "--since", "-8h", "--fail-on", condition)
        now = hour_of(young.clock.now_ns())
        quiet = poll(young, tmp_path, receiver.http_endpoint, "--since", "-8h", "--summary", "json")
    assert done.code == NOT_KNOWN_YET
    at = time_text((now + 1) * HOUR_NS)[11:16]
    assert (
        f"judged 0 of 24 collection-hours; next readable: shop-braze at {at} UTC; --fail-on is undecided"
        in done.stderr
    )
    assert quiet.code == 0
    hours = quiet.summary["hours"]
    assert (hours["window"], hours["judged"], hours["due"], hours["not_readable"]) == (24, 0, 0, 24)
    assert hours["next_readable"]["collection"] == "shop-braze"


def test_judged_hours_are_counted_once_they_are_forwarded(
    receiver: Receiver, young: Simulator, tmp_path: Path
) -> None:
    window = ("--since", "-12h", "--fail-on", "quarantined", "--summary", "json")
    with young:
        away = poll(young, tmp_path, AWAY, *window, "--wait", "0s")
        first = poll(young, tmp_path, receiver.http_endpoint, *window)
        again = poll(young, tmp_path, receiver.http_endpoint, *window, "--fail-on", "empty")
    assert away.code == 4
    hours = away.summary["hours"]
    assert hours["due"] > 0
    assert hours["window"] == hours["judged"] + hours["due"] + hours["not_readable"] == 36
    assert first.code == 0
    assert (first.summary["hours"]["judged"], first.summary["hours"]["due"]) == (12, 0)
    assert 0 < first.summary["hours"]["judged_now"] <= 12
    assert "judged 12 of 36 collection-hours" in first.stderr
    assert (again.summary["hours"]["judged"], again.summary["hours"]["judged_now"]) == (12, 0)
    assert (again.code, "--fail-on empty: no event was read" in again.stderr) == (1, True)


def test_file_output_is_judged_too(young: Simulator, tmp_path: Path) -> None:
    args = (
        "--since",
        "-12h",
        "--until",
        "-9h",
        "--fail-on",
        "failure",
        "--protocol",
        "file",
        "--output",
        "o",
    )
    with young:
        done = poll(young, tmp_path, AWAY, *args, "--summary", "json")
    assert done.summary["hours"]["judged"] == done.summary["hours"]["window"] > 0
    assert done.code == (1 if done.summary["failed_attempts"] else 0)
    assert (
        done.summary["failed_attempts"]
        == done.stderr.count("--fail-on failure") * done.summary["failed_attempts"]
    )


# -- ends that must not look fine ------------------------------------------------------------------------


def held(path: Path, begin: str, seconds: float) -> threading.Timer:
    """Holds the ledger's lock as a backup does; the timer that lets go of it is running."""
    backup = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    backup.execute(begin)

    def let_go() -> None:
        with closing(backup):
            backup.execute("ROLLBACK")

    timer = threading.Timer(seconds, let_go)
    timer.start()
    return timer


@slow
def test_once_waits_for_a_backup_that_holds_the_ledger(tmp_path: Path, receiver: Receiver) -> None:
    with polled_folder(tmp_path) as polled:
        assert polled.run(AWAY, "--wait", "0s").code == 4
        timer = held(polled.state / "ledger.sqlite3", "BEGIN EXCLUSIVE", 4)
        done = polled.run(receiver.http_endpoint, "--wait", "60s")
        timer.join()
    assert done.code == 3, done.stderr
    assert done.summary["pending"] == 0 < done.summary["exported"]


def test_once_ends_with_5_if_the_ledger_stays_held(tmp_path: Path, receiver: Receiver) -> None:
    """Also when the lock comes in the middle of the run, before any hour is listed."""
    with polled_folder(tmp_path) as polled:
        assert polled.run(AWAY, "--wait", "0s", "--until", "-9h").code == 4
        timer = held(polled.state / "ledger.sqlite3", "BEGIN EXCLUSIVE", 600)
        done = polled.run(receiver.http_endpoint, "--wait", "1s")
        timer.cancel()
    assert done.code == 5
    assert "another process locks it" in done.stderr
    assert "again later" in done.stderr


@slow
def test_once_ends_with_5_if_the_ledger_is_held_while_it_lists(tmp_path: Path, receiver: Receiver) -> None:
    with polled_folder(tmp_path) as polled:
        locked: list[threading.Timer] = []

        def hold(_signal: str, _body: bytes) -> Reply | None:
            if not locked:
                locked.append(held(polled.state / "ledger.sqlite3", "BEGIN EXCLUSIVE", 600))
            return None

        with Receiver(hold) as first:
            done = polled.run(first.http_endpoint, "--wait", "1s")
        locked[0].cancel()
        locked[0].function()
        assert done.code == 5, done.stderr
        assert polled.run(receiver.http_endpoint).code == 3
        assert polled.report("audit")[0].code == 0


@slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_once_ends_with_5_if_the_disk_is_full(tmp_path: Path, receiver: Receiver) -> None:
    with polled_folder(tmp_path) as polled, small_disk(tmp_path / "disk") as disk:
        state = ("--state-dir", str(disk / "state"))
        assert polled.run(receiver.http_endpoint, "--until", "-9h", *state).code in (0, 3)
        (disk / "state" / "ballast").unlink()
        with (disk / "filler").open("wb") as filler, suppress(OSError):
            os.posix_fallocate(filler.fileno(), 0, shutil.disk_usage(disk).free - (1 << 20))
        done = polled.run(receiver.http_endpoint, "--wait", "1s", *state)
        asked = len(polled.segment.requests())
        (disk / "filler").unlink()
        again = polled.run(receiver.http_endpoint, *state)
    assert (done.code, "disk full; make room, then run again" in done.stderr) == (5, True)
    assert done.summary["hours"]["due"] > 0
    assert again.code == 3
    assert len(polled.segment.requests()) > asked


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
def test_an_interrupted_run_says_what_it_did_not_read(tmp_path: Path, workers: list[str]) -> None:
    (tmp_path / "a").write_bytes(lines(*(error(messageId=str(n)) for n in range(20_000))))
    (tmp_path / "b").write_bytes(lines(error()))
    process = start_program("run", "a", "b", "--endpoint", AWAY, "--wait", "forever", *workers, cwd=tmp_path)
    assert process.stderr
    assert b"retrying in" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    [said] = re.findall(r"the run ended early: (.*)", stderr.decode())
    assert re.fullmatch(r"a: (read to byte [1-9]\d* of its content|not read); 1 more file .*", said)


def test_interrupted_polling_says_which_hours_are_left(tmp_path: Path) -> None:
    """Ten hours are due, and Segment gives six requests."""
    world = WorldConfig(collections=(COLLECTION,), messages=3)
    with Simulator(SimulatorConfig(world=world, token=TOKEN, quota=QuotaConfig(per_day=6))) as segment:
        process = start_program(
            *("run", "--segment-url", segment.url, "--download-host", segment.download_host, "-v"),
            *("--collection", COLLECTION, "--since", "-12h", "--state-dir", "state", "--endpoint", AWAY),
            cwd=tmp_path,
            SEGMENT_TOKEN=TOKEN,
        )
        assert process.stderr
        while b" objects" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 143
    assert re.search(rf"were not read: {COLLECTION}: (?:[4-9]|10) \(20\S+Z to 20\S+Z\)", stderr.decode())


# -- kept once, and kept at all --------------------------------------------------------------------------


def test_the_same_record_is_kept_once(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(lines(error(), b"{", error(), b"{", attempt()))
    args = ("--endpoint", AWAY, "--wait", "0")
    for paths in (["events"], ["events"], ["events", "events"], ["events", "--workers", "2"]):
        done = run_program("run", *paths, *args, cwd=tmp_path)
        assert done.code == 4
    assert len((tmp_path / "faillog-pending.jsonl").read_bytes().splitlines()) == 3
    assert len((tmp_path / "faillog-quarantine.jsonl").read_bytes().splitlines()) == 2
    assert run_program("replay", "faillog-pending.jsonl", *args, cwd=tmp_path).code == 4
    # Another record in the same place, and the same record in another place.
    (tmp_path / "events").write_bytes(lines(error(messageId="other"), b"{"))
    assert run_program("run", "events", *args, cwd=tmp_path).code == 4
    assert len((tmp_path / "faillog-pending.jsonl").read_bytes().splitlines()) == 4
    assert len((tmp_path / "faillog-quarantine.jsonl").read_bytes().splitlines()) == 3


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
@pytest.mark.parametrize("kept", ["missing/folder/file", "/dev/full"])
def test_what_was_not_kept_is_not_called_pending(tmp_path: Path, kept: str, workers: list[str]) -> None:
    (tmp_path / "events").write_bytes(lines(error(), attempt(), b"{"))
    args = (
        "run",
        "events",
        "--endpoint",
        AWAY,
        "--wait",
        "0",
        "--pending",
        kept,
        "--quarantine",
        kept,
        *workers,
    )
    done = run_program(*args, cwd=tmp_path)
    assert done.code == 5
    assert (
        "3 records: 0 exported, 2 not delivered and not kept, 1 not understood or refused, and not kept"
        in done.stderr
    )
    assert not re.search(r"\d (pending|quarantined)\b", done.stderr)
    found = run_program(*args, "--summary", "json", cwd=tmp_path).summary
    assert found["not_kept"] == {"quarantined": 1, "pending": 2}
    assert found["records"] == found["exported"] + found["quarantined"] + found["pending"]


def test_a_kept_file_that_is_only_looked_at_stays(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(lines(error(), attempt(), exchange()))
    assert run_program("run", "events", "--endpoint", AWAY, "--wait", "0", cwd=tmp_path).code == 4
    before = (tmp_path / "faillog-pending.jsonl").read_bytes()
    for command in ("run", "replay"):
        done = run_program(command, "faillog-pending.jsonl", "--protocol", "console", cwd=tmp_path)
        assert (done.code, done.stdout.count(b"  log ")) == (0, 1)
        assert "not changed" in done.stderr
        assert "3 records: 3 shown" in done.stderr
    assert (tmp_path / "faillog-pending.jsonl").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events", "faillog-pending.jsonl"]


def test_the_count_of_lines_is_for_json_lines_only(tmp_path: Path, receiver: Receiver) -> None:
    """Polling reads objects of all forms; what is pending counts like what was read."""
    with polled_folder(tmp_path) as polled:
        away = polled.run(AWAY, "--wait", "0s").summary
        first = polled.run(receiver.http_endpoint).summary
        sums = polled.report("audit")[1]["sums"]
    for found in (away, first):
        assert 0 < found["lines"] - found["blank"] <= found["records"]
    assert away["lines"] - away["blank"] == first["lines"] - first["blank"] == sums["lines"] - sums["blank"]
    assert away["records"] == first["records"] == sums["records"]


# -- limits of failures ---


def two_destinations(folder: Path) -> None:
    """Two messages are discarded at `abc` and one at `other`; one recovers at `abc`."""
    to_other = {"routed": {"to": [{"type": "destination", "id": "other"}]}}
    (folder / "events").write_bytes(
        lines(
            error(messageId="a"),
            error(messageId="b"),
            error(messageId="c", **to_other),
            attempt(messageId="d", attempt=1),
            attempt(messageId="d", attempt=2, outcome="success", occurredAt="2025-05-07T23:59:59Z"),
        )
    )


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--max-discarded", "3"], 0, ""),
        (["--max-discarded", "2"], 1, "--max-discarded 2: 3 messages lost; the worst group: abc"),
        (["--max-failed", "4"], 0, ""),
        (["--max-failed", "3"], 1, "--max-failed 3: 4 messages failed; the worst group: abc"),
        (["--max-discarded", "1", "--destination", "other"], 0, ""),
        (["--max-discarded", "0", "--destination", "Mixpanel"], 1, "--max-discarded 0: 2 messages lost"),
        (["--max-failed", "2", "--destination", "abc"], 1, "--max-failed 2: 3 messages failed"),
        (["--max-failed", "0", "--destination", "none"], 0, "nothing failed at a destination with this id"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--workers", "2"]])
def test_a_run_with_more_failures_than_its_limits_ends_with_1(
    receiver: Receiver, tmp_path: Path, options: list[str], code: int, says: str, more: list[str]
) -> None:
    two_destinations(tmp_path)
    (tmp_path / "faillog-otel.toml").write_text('[mapping.destination_names]\nabc = "mixpanel"\n')
    says = says.replace("group: abc", "group: mixpanel")
    done = run(tmp_path, receiver, "events", *options, *more)
    assert done.code == code, done.stderr
    assert says in done.stderr
    assert len(receiver.logs()) == 5


def test_a_limit_of_a_polling_run_counts_what_earlier_runs_of_the_window_read(tmp_path: Path) -> None:
    world = WorldConfig(collections=("shop-braze",), messages=5.0)
    config = SimulatorConfig(world=world, token=TOKEN, quota=QuotaConfig(per_day=1000))
    with Simulator(config) as segment, Receiver() as receiver:
        options = ["run", "--once", "--since", "-24h", "--endpoint", receiver.http_endpoint]
        options += ["--segment-url", segment.url, "--download-host", segment.download_host]
        options += ["--collection", "shop-braze", "--state-dir", str(tmp_path / "state")]
        codes = [
            run_program(*options, *more, cwd=tmp_path, SEGMENT_TOKEN=TOKEN).code
            for more in ([], ["--max-discarded", "0"], ["--max-discarded", "100000"])
        ]
        early = run_program(
            *options[:2],
            *["--since", "-1h", *options[4:]],
            "--max-failed",
            "0",
            cwd=tmp_path,
            SEGMENT_TOKEN=TOKEN,
        )
    assert (codes, early.code) == ([0, 1, 0], NOT_KNOWN_YET)
    assert "the limit of failures is undecided" in early.stderr
