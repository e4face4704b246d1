"""`audit`: holds after a run, and finds every kind of damage that is done to a real ledger."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.polled_folder import AWAY, PolledFolder, polled_folder
from support.program import run_program

from faillog_otel.sandbox.collector import Receiver


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PolledFolder]:
    """Some of it delivered, some in quarantine, some in the spool."""
    with polled_folder(tmp_path_factory.mktemp("audit")) as polled:
        with Receiver() as receiver:
            assert polled.run(receiver.http_endpoint).code == 3
        polled.sql("UPDATE hours SET wanted = 1")
        polled.sql("UPDATE objects SET etag = NULL, last_modified = NULL, length = NULL WHERE state = 'done'")
        digests, aside = polled.state / "digests", polled.folder / "aside"
        shutil.copytree(digests, aside)
        for file in digests.iterdir():
            file.unlink()
        assert polled.run(AWAY, "--wait", "0s").code == 4
        shutil.copytree(aside, digests, dirs_exist_ok=True)
        yield polled


@pytest.fixture
def polled(original: PolledFolder, tmp_path: Path) -> PolledFolder:
    """A copy, to be damaged."""
    return original.copied_to(tmp_path)


def test_the_counts_add_up_after_runs(original: PolledFolder) -> None:
    done, found = original.report("audit")
    assert (done.code, found["holds"], found["problems"]) == (0, True, [])
    sums = found["sums"]
    fates = ("exported", "rejected", "quarantined", "pending", "duplicate")
    assert sums["records"] == sum(sums[fate] for fate in fates)
    assert all(sums[fate] for fate in ("exported", "quarantined", "pending", "duplicate"))
    assert sums["kept"] == sums["quarantined"]
    assert sums["lines"] > 0
    assert found["spooled_files"] > 0 < found["digests_files"]
    text = run_program("audit", "--state-dir", original.state, cwd=original.folder).stdout.decode()
    assert f"{sums['records']} = {sums['exported']} exported + 0 rejected" in text
    assert "no problems found" in text


ONE = "(SELECT min(id) FROM objects WHERE state = 'done' AND exported > 1)"
COUNTED = "(SELECT max(object) FROM failure_counts)"
MESSAGE = "(SELECT min(key) FROM messages WHERE state IN (1, 2))"
SUM = "(SELECT min(key) FROM message_sums)"
SPOOLED = "(SELECT min(id) FROM objects WHERE state = 'spooled')"


def sql(statement: str) -> Callable[[PolledFolder], object]:
    words = {"ONE": ONE, "SPOOLED": SPOOLED, "COUNTED": COUNTED, "MESSAGE": MESSAGE, "SUM": SUM}
    for word, query in words.items():
        statement = statement.replace(f"= {word}", f"= {query}")
    return lambda polled: polled.sql(statement)


def a_file(polled: PolledFolder, folder: str, suffix: str = "") -> Path:
    files = sorted(polled.state.joinpath(folder).iterdir())
    return next(path for path in files if path.suffix == suffix and path.stat().st_size >= 16)


def cut(folder: str, by: int, suffix: str = "") -> Callable[[PolledFolder], object]:
    def damage(polled: PolledFolder) -> None:
        path = a_file(polled, folder, suffix)
        os.truncate(path, path.stat().st_size - by)

    return damage


def flipped(folder: str, suffix: str = "") -> Callable[[PolledFolder], object]:
    """One bit in the middle of a file, such as a disk changes it."""

    def damage(polled: PolledFolder) -> None:
        path = a_file(polled, folder, suffix)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    return damage


def swapped(polled: PolledFolder) -> None:
    path = a_file(polled, "digests")
    content = path.read_bytes()
    path.write_bytes(content[8:16] + content[:8] + content[16:])


def added(polled: PolledFolder) -> None:
    path = a_file(polled, "digests")
    path.write_bytes(path.read_bytes() + b"\xff" * 8)


def pruned(polled: PolledFolder) -> None:
    """As hours are forgotten in the end, but for a record."""
    polled.sql(
        "INSERT INTO past SELECT collection, hour, count(*), sum(lines), sum(blank), sum(records),"
        " sum(exported) - 1, sum(rejected), sum(quarantined), sum(duplicate), sum(time_shifted) FROM objects"
        " WHERE state = 'done' GROUP BY collection, hour ORDER BY hour LIMIT 1"
    )
    polled.sql("DELETE FROM objects WHERE state = 'done' AND hour = (SELECT hour FROM past)")


def overwritten(polled: PolledFolder) -> None:
    """A page in the middle of the file, such as a disk forgets it."""
    [[page]] = polled.sql("SELECT rootpage FROM sqlite_schema WHERE name = 'objects_by_hour'")
    with polled.state.joinpath("ledger.sqlite3").open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("damage", "checks"),
    [
        (sql("UPDATE objects SET exported = exported - 1 WHERE id = ONE"), {"object", "hour", "overall"}),
        (
            sql("UPDATE objects SET duplicate = duplicate + 1 WHERE id = ONE"),
            {"object", "hour", "overall"},
        ),
        (sql("UPDATE objects SET records = records + 1 WHERE id = ONE"), {"object"}),
        (sql("UPDATE objects SET lines = lines + 1 WHERE id = ONE"), {"object"}),
        (sql("UPDATE objects SET blank = blank + 1 WHERE id = ONE"), {"object"}),
        (sql("UPDATE objects SET position = 1 WHERE id = SPOOLED"), {"object", "hour", "overall"}),
        (sql("UPDATE objects SET state = 'done' WHERE id = SPOOLED"), {"object"}),
        (sql("DELETE FROM objects WHERE id = SPOOLED"), {"spool"}),
        (sql("DELETE FROM objects WHERE quarantined > 0"), {"kept"}),
        (sql("DELETE FROM kept WHERE id = (SELECT min(id) FROM kept)"), {"kept"}),
        (sql("UPDATE kept SET hour = hour + 1 WHERE id = (SELECT max(id) FROM kept)"), {"kept"}),
        (sql("UPDATE kept SET entry = substr(entry, 1, 30) WHERE id = (SELECT min(id) FROM kept)"), {"kept"}),
        (
            sql("UPDATE kept SET entry = CAST(replace(entry, 'sha256\":\"', 'sha256\":\"0') AS BLOB)"),
            {"kept"},
        ),
        (lambda polled: a_file(polled, "spool").unlink(), {"spool"}),
        (cut("spool", 1), {"spool"}),
        (lambda polled: polled.state.joinpath("spool", "987654").touch(), {"spool"}),
        (flipped("spool"), {"spool"}),
        (lambda polled: a_file(polled, "spool", ".exchanges").unlink(), {"indexes"}),
        (cut("spool", 1, ".exchanges"), {"indexes"}),
        (flipped("spool", ".exchanges"), {"indexes"}),
        (cut("digests", 3), {"digests"}),
        (swapped, {"digests"}),
        (added, {"digests"}),
        (pruned, {"hour", "overall"}),
        (overwritten, {"sqlite"}),
        (sql("UPDATE failure_counts SET records = records + 1 WHERE object = COUNTED"), {"failures"}),
        (sql("UPDATE failure_counts SET attempts = records + 1 WHERE object = COUNTED"), {"failures"}),
        (sql("DELETE FROM failure_counts WHERE object = COUNTED"), {"failures"}),
        (sql("UPDATE objects SET failures = failures + 1 WHERE id = ONE"), {"failures"}),
        (sql("DELETE FROM failure_groups WHERE id = (SELECT max(grp) FROM messages)"), {"failures"}),
        (sql("UPDATE messages SET state = 3 WHERE key = MESSAGE"), {"failures"}),
        (sql("UPDATE messages SET state = 3 - state WHERE key = MESSAGE"), {"failures"}),
        (sql("UPDATE messages SET grp = (SELECT min(id) FROM failure_groups)"), {"failures"}),
        (sql("UPDATE messages SET attempts = attempts + 1 WHERE key = MESSAGE"), {"failures"}),
        (sql("UPDATE messages SET first_s = first_s - 3600 WHERE key = MESSAGE"), {"failures"}),
        (sql("DELETE FROM messages WHERE key = MESSAGE"), {"failures"}),
        (sql("DELETE FROM messages WHERE state = 0"), {"failures"}),
        (sql("UPDATE message_sums SET messages = messages + 1 WHERE key = SUM"), {"failures"}),
        (sql("UPDATE message_sums SET attempts = attempts + 1 WHERE key = SUM"), {"failures"}),
        (sql("DELETE FROM message_sums WHERE key = SUM"), {"failures"}),
        (sql("UPDATE facts SET value = value + 1 WHERE name = 'messages'"), {"failures"}),
    ],
)
def test_damage_is_found(
    polled: PolledFolder, damage: Callable[[PolledFolder], object], checks: set[str]
) -> None:
    damage(polled)
    done, found = polled.report("audit")
    assert (done.code, found["holds"]) == (1, False)
    assert checks <= {problem["check"] for problem in found["problems"]}
    text = run_program("audit", "--state-dir", polled.state, cwd=polled.folder)
    number = len(found["problems"])
    said = "1 problem found" if number == 1 else f"{number} problems found"
    assert (text.code, said in text.stdout.decode()) == (1, True)


@pytest.mark.parametrize("damage", [cut("digests", 8), lambda polled: a_file(polled, "digests").unlink()])
def test_digests_that_are_missing_are_found(tmp_path: Path, damage: Callable[[PolledFolder], object]) -> None:
    """Without them records would be sent again. One is enough."""
    with polled_folder(tmp_path) as polled, Receiver() as receiver:
        polled.run(receiver.http_endpoint)
        assert polled.report("audit")[0].code == 0
        damage(polled)
        done, found = polled.report("audit")
        assert (done.code, {problem["check"] for problem in found["problems"]}) == (1, {"digests"})


def test_leftovers_of_a_crash_are_not_damage(polled: PolledFolder) -> None:
    """A download that broke off, an object that was done before its file was removed, a replay."""
    [[done]] = polled.sql("SELECT max(id) FROM objects WHERE state = 'done'")
    polled.state.joinpath("spool", str(done)).write_bytes(b"all of it was forwarded")
    polled.sql(
        "INSERT INTO objects (id, collection, hour, path, state, url, listed_ns)"
        " SELECT 100000, collection, hour, 'p', 'listed', 'u', 0 FROM hours LIMIT 1"
    )
    polled.state.joinpath("spool", "100000.part").write_bytes(b"half")
    for name in ("100000.exchanges", "100001.exchanges.part"):
        polled.state.joinpath("spool", name).write_bytes(b"index")
    polled.state.joinpath("spool", "replay").write_bytes(b"entries")
    polled.state.joinpath("digests", "half.part").write_bytes(b"half")
    polled.state.joinpath("spool", "letter.txt").write_bytes(b"somebody else's")
    assert polled.report("audit")[0].code == 0
