"""The state folder: what is not ours is left alone, and what the disk changed is not believed.

A strange entry is anything but a regular file of this user with one name.
"""

import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.polled_folder import AWAY, COLLECTION, PolledFolder
from support.program import Done, run_program, start_program
from support.tiers import swept

from faillog_otel.clock import hour_of, hour_text
from faillog_otel.ledger import database
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.collector import Receiver
from faillog_otel.sandbox.config import QuotaConfig, SimulatedClock, SimulatorConfig, WorldConfig

BROKEN = 5
DELIVERED = 3
"""Some of the simulated records are damaged: they are in quarantine in the end."""
NOBODY = 65534


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PolledFolder]:
    """Seven hours were downloaded, and nothing was delivered."""
    folder, clock = tmp_path_factory.mktemp("state-folder"), SimulatedClock()
    hour = hour_of(clock.now_ns())
    config = SimulatorConfig(
        world=WorldConfig(damage=0.05, duplicates=0.05), quota=QuotaConfig(per_day=100_000)
    )
    with Simulator(config, clock) as segment:
        window = ("--since", hour_text(hour - 10), "--until", hour_text(hour - 3))
        polled = PolledFolder(segment, folder, window)
        assert polled.run(AWAY, "--wait", "0s").code == 4
        yield polled


@pytest.fixture
def pending(original: PolledFolder, tmp_path: Path) -> PolledFolder:
    """A copy, to be damaged."""
    return original.copied_to(tmp_path / "copy")


@pytest.fixture(scope="module")
def expected(original: PolledFolder, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The `log.record.uid`s that come if nothing is damaged. Each tells a record's bytes."""
    copy = original.copied_to(tmp_path_factory.mktemp("undamaged"))
    with Receiver() as receiver:
        assert copy.run(receiver.http_endpoint).code == DELIVERED
        return received(receiver)


def received(receiver: Receiver) -> set[str]:
    """The `log.record.uid`s of all log records."""
    attributes = (each for record in receiver.logs() for each in record.attributes)
    return {each.value.string_value for each in attributes if each.key == "log.record.uid"}


def delivered(polled: PolledFolder, expected: set[str], code: int = DELIVERED) -> Done:
    """A run that delivers everything, after which the ledger adds up."""
    with Receiver() as receiver:
        done = polled.run(receiver.http_endpoint)
        assert (done.code, received(receiver)) == (code, expected), done.stderr
    found = polled.report("audit")[1]
    assert (found["problems"], found["sums"]["pending"]) == ([], 0)
    return done


def first_spooled(polled: PolledFolder) -> Path:
    [[number]] = polled.sql("SELECT min(id) FROM objects WHERE state = 'spooled' AND records > 5")
    return polled.state / "spool" / str(number)


# -- what is not ours -------------------------------------------------------------------------------------


def letters(folder: Path) -> Path:
    """Somebody else's folder, with a letter in it whose name is like one of ours."""
    folder.mkdir()
    (folder / "1").write_text("Dear Ada")
    return folder


@pytest.mark.parametrize("name", ["spool", "digests"])
def test_a_link_in_the_place_of_a_folder_is_refused(pending: PolledFolder, tmp_path: Path, name: str) -> None:
    other = letters(tmp_path / "other")
    mode = other.stat().st_mode
    shutil.rmtree(pending.state / name)
    (pending.state / name).symlink_to(other)
    done = pending.run(AWAY)
    assert (done.code, f"{name}: is a symbolic link" in done.stderr) == (BROKEN, True)
    assert ((other / "1").read_text(), other.stat().st_mode) == ("Dear Ada", mode)


@pytest.mark.parametrize("mode", swept([0o700, 0o755, 0o1777], [0o755]))
@pytest.mark.parametrize(
    "content", ["spool/letter.txt", "spool/1", "digests/1", "letter.txt", "lock", "ballast"]
)
def test_a_folder_that_is_not_ours_is_refused_and_not_touched(
    original: PolledFolder, tmp_path: Path, content: str, mode: int
) -> None:
    folder = tmp_path / "var"
    file = folder / content
    file.parent.mkdir(parents=True)
    file.write_text("Dear Ada")
    folder.chmod(mode)
    before = sorted((path, path.lstat().st_mode, path.lstat().st_mtime_ns) for path in folder.rglob("*"))
    done = original.in_folder(tmp_path).run(AWAY, "--state-dir", str(folder))
    assert (done.code, "name an empty folder" in done.stderr) == (BROKEN, True), done.stderr
    after = sorted((path, path.lstat().st_mode, path.lstat().st_mtime_ns) for path in folder.rglob("*"))
    assert (after, stat.S_IMODE(folder.stat().st_mode)) == (before, mode)
    doctor = run_program("doctor", "--json", "--state-dir", folder, cwd=tmp_path)
    assert (doctor.code, b"name an empty folder" in doctor.stdout) == (1, True)


@pytest.mark.parametrize(
    "name",
    swept(["lock", "ballast", "ballast.part", "spool/1.part", "spool/77", "digests/x"], ["lock", "spool/77"]),
)
@pytest.mark.parametrize("kind", ["hard link", "symbolic link"])
def test_a_file_behind_a_link_is_never_written_or_removed(
    pending: PolledFolder, expected: set[str], tmp_path: Path, name: str, kind: str
) -> None:
    letter, entry = tmp_path / "letter", pending.state / name
    letter.write_text("Dear Ada")
    entry.unlink(missing_ok=True)
    (pending.state / "ballast").unlink(missing_ok=True)
    if kind == "hard link":
        entry.hardlink_to(letter)
    else:
        entry.symlink_to(letter)
    done = delivered(pending, expected)
    assert (letter.read_text(), stat.S_IMODE(letter.stat().st_mode)) == ("Dear Ada", 0o644)
    assert os.path.lexists(entry)
    assert str(entry) in done.stderr


def test_a_strange_lock_file_does_not_stop_those_who_look(pending: PolledFolder) -> None:
    (pending.state / "lock").unlink()
    (pending.state / "lock").symlink_to(pending.folder)
    for command in ("status", "audit", "plan"):
        done = run_program(
            command, "--state-dir", pending.state, cwd=pending.folder, FAILLOG_COLLECTIONS=COLLECTION
        )
        assert done.code == 0, done.stderr


@pytest.mark.parametrize("kind", ["hard link", "symbolic link", "folder"])
@pytest.mark.parametrize(
    "name", swept(["ledger.sqlite3", "ledger.sqlite3-journal", "faillog-otel-state"], ["ledger.sqlite3"])
)
def test_a_ledger_that_is_not_a_file_of_ours_is_refused(
    pending: PolledFolder, tmp_path: Path, name: str, kind: str
) -> None:
    entry, letter = pending.state / name, tmp_path / "letter"
    if entry.exists():
        shutil.copy(entry, letter)
        entry.unlink()
    else:
        letter.write_text("Dear Ada")
    content = letter.read_bytes()
    if kind == "hard link":
        entry.hardlink_to(letter)
    elif kind == "folder":
        entry.mkdir()
    else:
        entry.symlink_to(letter)
    done = pending.run(AWAY)
    assert (done.code, f"{entry}: is a" in done.stderr) == (BROKEN, True), done.stderr
    assert letter.read_bytes() == content


@pytest.mark.parametrize(
    "name",
    swept(["ballast.part", "ballast", "lock", "spool/1.part", "spool/notes", "digests/x"], ["spool/notes"]),
)
def test_a_folder_in_the_place_of_a_file_is_reported_and_does_not_stop_the_run(
    pending: PolledFolder, expected: set[str], name: str
) -> None:
    entry = pending.state / name
    entry.unlink(missing_ok=True)
    (pending.state / "ballast").unlink(missing_ok=True)
    entry.mkdir()
    (entry / "letter").write_text("Dear Ada")
    done = delivered(pending, expected)
    assert str(entry) in done.stderr
    assert (entry / "letter").read_text() == "Dear Ada"


@pytest.mark.parametrize("name", swept(["1", "1.part", "2.part"], ["1"]))
def test_a_folder_that_has_the_name_of_a_coming_download_costs_another_listing(
    original: PolledFolder, expected: set[str], tmp_path: Path, name: str
) -> None:
    fresh = original.in_folder(tmp_path)
    (fresh.state / "spool" / name).mkdir(parents=True)
    (fresh.state / "faillog-otel-state").write_text("faillog-otel state folder 1\n")
    done = delivered(fresh, expected)
    assert f"spool/{name}: is a folder" in done.stderr


def test_a_folder_that_has_the_name_of_digests_to_come_costs_nothing(
    pending: PolledFolder, original: PolledFolder, expected: set[str], tmp_path: Path
) -> None:
    later = original.copied_to(tmp_path / "later")
    delivered(later, expected)
    part = pending.state / "digests" / f"{next((later.state / 'digests').iterdir()).name}.part"
    part.mkdir()
    with Receiver() as receiver:
        done = pending.run(receiver.http_endpoint)
        assert (done.code, received(receiver)) == (DELIVERED, expected), done.stderr
    assert f"{part}: is a folder" in done.stderr


def test_a_folder_that_has_the_name_of_an_hours_digests_costs_duplicates_only(
    pending: PolledFolder, expected: set[str]
) -> None:
    delivered(pending, expected)
    digests = next((pending.state / "digests").iterdir())
    digests.unlink()
    digests.mkdir()
    replay = run_program(
        *("replay", *pending.options, "--endpoint", AWAY, "--wait", "0s"),
        cwd=pending.folder,
        SEGMENT_TOKEN=pending.segment.token,
    )
    assert replay.code == 4
    with Receiver() as receiver:
        done = pending.run(receiver.http_endpoint)
        assert (done.code, received(receiver)) == (DELIVERED, expected)
    assert f"{digests}: is a folder" in done.stderr


def test_a_link_to_a_state_folder_is_refused(pending: PolledFolder) -> None:
    link = pending.folder / "link"
    link.symlink_to(pending.state)
    done = pending.run(AWAY, "--state-dir", str(link))
    assert (done.code, f"{link}: is a symbolic link" in done.stderr) == (BROKEN, True)


@pytest.mark.parametrize("name", swept([".", "spool", "digests", "ledger.sqlite3"], ["."]))
def test_what_belongs_to_another_user_is_refused(pending: PolledFolder, name: str) -> None:
    entry = pending.state / name
    os.chown(entry, NOBODY, NOBODY)
    mode = entry.stat().st_mode
    done = pending.run(AWAY)
    assert (done.code, f"belongs to user {NOBODY}, not to user 0" in done.stderr) == (BROKEN, True)
    assert (entry.stat().st_uid, entry.stat().st_mode) == (NOBODY, mode)


def test_a_new_file_system_counts_as_empty(
    original: PolledFolder, expected: set[str], tmp_path: Path
) -> None:
    fresh = original.in_folder(tmp_path)
    (fresh.state / "lost+found").mkdir(parents=True)
    os.chown(fresh.state / "lost+found", NOBODY, NOBODY)
    delivered(fresh, expected)


def test_a_start_that_was_cut_off_counts_as_empty(
    original: PolledFolder, expected: set[str], tmp_path: Path
) -> None:
    fresh = original.in_folder(tmp_path)
    fresh.state.mkdir()
    (fresh.state / "faillog-otel-state.part").touch(0o600)
    delivered(fresh, expected)


@pytest.mark.parametrize("more", [(), ("notes.txt",)], ids=["alone", "with a person's file"])
def test_a_folder_of_version_0_1_0_is_taken_over(
    pending: PolledFolder, expected: set[str], more: tuple[str, ...]
) -> None:
    """Its ledger had schema version 2, and there was no marker."""
    (pending.state / "faillog-otel-state").unlink()
    pending.to_version_2()
    for name in more:
        (pending.state / name).write_text("Dear Ada")
    delivered(pending, expected)
    assert (pending.state / "faillog-otel-state").is_file()
    assert all((pending.state / name).read_text() == "Dear Ada" for name in more)


def test_another_programs_database_is_refused(original: PolledFolder, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    with closing(sqlite3.connect(folder / "ledger.sqlite3")) as database, database:
        database.execute("CREATE TABLE customers (name)")
    content = (folder / "ledger.sqlite3").read_bytes()
    done = original.in_folder(tmp_path).run(AWAY)
    assert (done.code, "is not a state folder of faillog-otel" in done.stderr) == (BROKEN, True)
    assert (folder / "ledger.sqlite3").read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"text", b"SQLite format 3\0" + bytes(84)])
def test_somebody_elses_ledger_sqlite3_makes_no_folder_ours(
    original: PolledFolder, tmp_path: Path, content: bytes
) -> None:
    folder = tmp_path / "state"
    (folder / "spool").mkdir(parents=True)
    (folder / "ledger.sqlite3").write_bytes(content)
    (folder / "spool" / "77").write_text("Dear Ada")
    folder.chmod(0o755)
    done = original.in_folder(tmp_path).run(AWAY)
    assert (done.code, "name an empty folder" in done.stderr) == (BROKEN, True)
    assert sorted(path.name for path in folder.rglob("*")) == ["77", "ledger.sqlite3", "spool"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_another_programs_database_of_the_same_version_is_refused(
    original: PolledFolder, tmp_path: Path
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    with closing(sqlite3.connect(folder / "ledger.sqlite3")) as other, other:
        other.execute("CREATE TABLE customers (name)")
        other.execute("PRAGMA user_version = 2")
    content = (folder / "ledger.sqlite3").read_bytes()
    assert original.in_folder(tmp_path).run(AWAY).code == BROKEN
    assert [path.name for path in folder.iterdir()] == ["ledger.sqlite3"]
    assert (folder / "ledger.sqlite3").read_bytes() == content


@pytest.mark.parametrize("with_ledger", [False, True])
def test_a_first_start_of_version_0_1_0_that_was_cut_off_is_taken_over(
    original: PolledFolder, expected: set[str], tmp_path: Path, with_ledger: bool
) -> None:
    fresh = original.in_folder(tmp_path)
    for name in ("spool", "digests"):
        (fresh.state / name).mkdir(parents=True)
    (fresh.state / "lock").write_text("4711\n")
    if with_ledger:
        (fresh.state / "ledger.sqlite3").touch()
    delivered(fresh, expected)


def test_a_folder_of_a_newer_version_is_refused(pending: PolledFolder) -> None:
    (pending.state / "faillog-otel-state").write_text("faillog-otel state folder 2\n")
    done = pending.run(AWAY)
    assert (done.code, "is damaged, or a newer faillog-otel made it" in done.stderr) == (BROKEN, True)


def test_files_of_ours_that_the_ledger_does_not_know_are_removed(
    pending: PolledFolder, expected: set[str]
) -> None:
    left = [
        pending.state / "spool" / name
        for name in (
            "987654",
            "987654.part",
            "987654.exchanges",
            "1.exchanges.part",
            "replay",
            "temporary-0a",
        )
    ]
    left.append(pending.state / "digests" / f"{'0' * 16}-2025-05-07T230000Z")
    for path in left:
        path.write_text("left behind")
    delivered(pending, expected)
    assert not any(path.exists() for path in left)


def test_after_the_lock_file_was_deleted_a_second_process_is_still_refused(pending: PolledFolder) -> None:
    lock, token = pending.state / "lock", pending.segment.token
    first = start_program(
        *("run", *pending.options, "--endpoint", AWAY), cwd=pending.folder, SEGMENT_TOKEN=token
    )
    try:
        while first.poll() is None and lock.read_text().split()[:1] != [str(first.pid)]:
            pass
        lock.unlink()
        done = pending.run(AWAY)
        assert (done.code, "holds it; stop that process" in done.stderr) == (BROKEN, True), done.stderr
        assert pending.report("doctor")[1]["findings"]
    finally:
        first.kill()
        first.communicate()


# -- what the disk changed --------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b'\n{"event": "Error Logged"}\n')


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_to_another(path: Path) -> None:
    other = path.parents[2] / "other"
    path.rename(other)
    path.symlink_to(other)


@pytest.mark.parametrize(
    "damage", swept([flip, cut, append, zero, Path.unlink, make_folder, link_to_another], [flip])
)
def test_a_spooled_object_that_the_disk_changed_is_downloaded_again(
    pending: PolledFolder, expected: set[str], damage: Callable[[Path], None]
) -> None:
    damage(first_spooled(pending))
    done = delivered(pending, expected)
    assert done.stderr.count("its hour will be listed again") == 1


def put_another(path: Path) -> None:
    others = sorted(path.parent.glob("*.exchanges"), key=lambda each: each == path)
    shutil.copy(others[0], path)


@pytest.mark.parametrize(
    "damage", swept([flip, cut, append, zero, Path.unlink, make_folder, put_another], [cut, put_another])
)
def test_without_a_usable_exchange_index_the_same_bytes_are_sent(
    pending: PolledFolder, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """Also those records that need the answer or the trace context of an exchange."""
    damaged = pending.copied_to(tmp_path / "damaged")
    for path in list(damaged.state.joinpath("spool").glob("*.exchanges")):
        damage(path)
    assert sent(damaged) == sent(pending)
    assert pending.report("audit")[0].code == 0
    assert damaged.report("audit")[0].code == (1 if damage is make_folder else 0)


def sent(polled: PolledFolder) -> list[bytes]:
    """All records and spans of a run, after which the spool has indexes and entries that are not ours."""
    with Receiver() as receiver:
        done = polled.run(receiver.http_endpoint)
        assert done.code == DELIVERED, done.stderr
        found = [*receiver.logs(), *receiver.spans()]
    assert not [each for each in polled.state.joinpath("spool").glob("*[0-9]") if each.is_file()]
    return sorted(each.SerializeToString(deterministic=True) for each in found)


@pytest.mark.parametrize("limit", ["1KiB", "100"])
def test_an_object_is_forwarded_with_the_limits_it_was_counted_with(
    pending: PolledFolder, expected: set[str], limit: str
) -> None:
    with Receiver() as receiver:
        done = run_program(
            *("run", *pending.once_options(receiver.http_endpoint)),
            cwd=pending.folder,
            SEGMENT_TOKEN=pending.segment.token,
            FAILLOG_MAX_CONTENT=limit,
        )
        assert (done.code, received(receiver)) == (DELIVERED, expected), done.stderr
    assert pending.report("audit")[0].code == 0


@pytest.mark.parametrize("change", swept([-3, +3, +1000], [-3]))
def test_a_wrong_number_of_records_is_reported_once_and_ends_nothing(
    pending: PolledFolder, expected: set[str], change: int
) -> None:
    number = first_spooled(pending).name
    pending.sql(
        "UPDATE objects SET records = records + ?1, lines = iif(lines, lines + ?1, 0) WHERE id = ?2",
        change,
        number,
    )
    done = delivered(pending, expected, code=BROKEN)
    assert done.stderr.count("records were counted at the download") == 1
    assert f"replay --collection {COLLECTION} --since" in done.stderr
    with Receiver() as receiver:
        assert pending.run(receiver.http_endpoint).code == 0


def test_a_ledger_of_version_0_1_0_whose_position_ran_past_its_records_is_mended(
    pending: PolledFolder, expected: set[str]
) -> None:
    """As 0.1.0 left it when FAILLOG_MAX_CONTENT was changed: `pending` was negative, later in `past`, too."""
    delivered(pending, expected)
    pending.to_version_2()
    pending.sql("UPDATE objects SET records = 2, lines = iif(lines, 2 + blank, 0) WHERE records > 5")
    for hour in (-1, 400_000):
        pending.sql("INSERT INTO past VALUES (?, ?, 1, 2, 0, 2, 188, 0, 0, 0, 0)", COLLECTION, hour)
    assert pending.run(AWAY).code == 0
    found = pending.report("audit")[1]
    assert (found["holds"], found["sums"]["pending"]) == (True, 0)


def test_counts_can_never_be_negative(pending: PolledFolder) -> None:
    with closing(sqlite3.connect(pending.state / "ledger.sqlite3")) as ledger:
        for column in ("position", "records", "exported", "rejected", "quarantined", "duplicate", "blank"):
            with pytest.raises(sqlite3.IntegrityError, match="CHECK constraint failed"):
                ledger.execute(f"UPDATE objects SET {column} = -1")  # noqa: S608  # our own words


def test_entries_of_the_quarantine_that_the_disk_changed_are_not_sent(
    pending: PolledFolder, expected: set[str]
) -> None:
    delivered(pending, expected)
    pending.sql("UPDATE kept SET entry = CAST(replace(entry, 'sha256\":\"', 'sha256\":\"0') AS BLOB)")
    done = run_program("replay", "--state-dir", pending.state, "--endpoint", AWAY, cwd=pending.folder)
    assert (done.code, "is damaged and is not sent" in done.stderr) == (0, True), done.stderr


def test_digests_that_know_more_than_the_ledger_are_forgotten(
    original: PolledFolder, pending: PolledFolder, expected: set[str], tmp_path: Path
) -> None:
    """The disk lost the end of the ledger's journal: what it knew of may never have been delivered."""
    later = original.copied_to(tmp_path / "later")
    delivered(later, expected)
    shutil.rmtree(pending.state / "digests")
    shutil.copytree(later.state / "digests", pending.state / "digests")
    done = delivered(pending, expected)
    assert "knows more records than the ledger" in done.stderr


def test_records_that_segment_no_longer_has_are_said_to_be_lost(pending: PolledFolder) -> None:
    """Their spool file is gone, and so is their hour."""
    path = first_spooled(pending)
    pending.sql("UPDATE objects SET hour = hour - 40 * 24 WHERE id = ?", path.name)
    pending.sql(
        "INSERT INTO hours (collection, hour) SELECT collection, hour FROM objects WHERE id = ?", path.name
    )
    [[records]] = pending.sql("SELECT records FROM objects WHERE id = ?", path.name)
    path.unlink()
    with Receiver() as receiver:
        done = pending.run(receiver.http_endpoint)
    assert (done.code, f"Segment no longer has its hour: {records} records are lost" in done.stderr) == (
        5,
        True,
    )


def test_a_run_that_cannot_record_results_ends_and_sends_nothing_again_and_again(
    pending: PolledFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process holds the ledger from the first request on, for good."""
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.01)
    held: list[sqlite3.Connection] = []

    def hold(_signal: str, _body: bytes) -> None:
        if not held:
            held.append(sqlite3.connect(pending.state / "ledger.sqlite3", check_same_thread=False))
            held[0].execute("BEGIN EXCLUSIVE")

    with Receiver(hold) as receiver:
        found = pending.run_at_segment_time(
            "run", *pending.once_options(receiver.http_endpoint), "--wait", "1s"
        )
    held[0].close()
    assert found["exit"] == BROKEN
    assert len(receiver.received) <= 4 * 12
    assert pending.report("audit")[0].code == 0


DAMAGE = [
    "UPDATE facts SET value = '17x' WHERE name = 'since'",
    "UPDATE facts SET value = '-100000000000000000000000' WHERE name = 'since'",
    "INSERT OR REPLACE INTO facts VALUES ('agreed time', '1e9')",
    "INSERT OR REPLACE INTO facts VALUES ('machine ahead', 'x')",
    "INSERT OR REPLACE INTO facts VALUES ('refused until shop-mixpanel', '')",
    "UPDATE objects SET survey = '{\"a'",
    "UPDATE objects SET survey = '{}'",
    "UPDATE objects SET hour = 1 << 60",
    "UPDATE hours SET hour = 1 << 60 WHERE hour = (SELECT max(hour) FROM hours)",
]


@pytest.mark.parametrize("command", ["run", "status", "plan"])
@pytest.mark.parametrize("statement", swept(DAMAGE, DAMAGE[-2:]))
def test_damaged_values_never_end_with_a_traceback(
    pending: PolledFolder, statement: str, command: str
) -> None:
    pending.sql(statement)
    options = ["--once", *pending.options] if command == "run" else ["--state-dir", str(pending.state)]
    done = run_program(
        *(command, *options, *(["--endpoint", AWAY, "--wait", "0s"] if command == "run" else [])),
        cwd=pending.folder,
        SEGMENT_TOKEN=pending.segment.token,
        FAILLOG_COLLECTIONS=COLLECTION,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.code in ((4, BROKEN) if command == "run" else (0, BROKEN))


LOOKS = ("status", "audit", "plan", "doctor")


def damaged_text(path: Path, text: bytes) -> None:
    """Bytes that are not UTF-8, in the place of a text that occurs in the ledger."""
    content = path.read_bytes()
    assert text in content
    path.write_bytes(content.replace(text, b"\xff\xfe" + text[2:]))


@pytest.mark.parametrize(
    "text",
    swept([b"CREATE TABLE requests", b"collection TEXT", COLLECTION.encode(), b"spooled"], [b"spooled"]),
)
@pytest.mark.parametrize("command", ["run", "replay", *LOOKS])
def test_a_ledger_that_holds_damaged_text_never_ends_with_a_traceback(
    pending: PolledFolder, text: bytes, command: str
) -> None:
    damaged_text(pending.state / "ledger.sqlite3", text)
    options = ["--once", *pending.options] if command == "run" else ["--state-dir", str(pending.state)]
    done = run_program(
        command,
        *options,
        cwd=pending.folder,
        SEGMENT_TOKEN=pending.segment.token,
        FAILLOG_COLLECTIONS=COLLECTION,
    )
    assert "Traceback" not in done.stderr
    codes = {"audit": {1, BROKEN}, "doctor": {1}, "replay": {0, BROKEN}}  # it reads the quarantine only
    assert done.code in codes.get(command, {BROKEN}), done
