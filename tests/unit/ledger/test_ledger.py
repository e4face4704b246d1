"""Results are committed from the position of the object, in the order of T1 to T4; damage costs no quota."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS, hour_of
from faillog_otel.errors import LedgerBroken, NoRoom
from faillog_otel.events.model import JSON_LINES, Survey
from faillog_otel.files import PrivateFolder
from faillog_otel.ledger import INDEX_HOURS, Content, Spooled
from faillog_otel.ledger.ledger import SqliteLedger
from faillog_otel.ledger.results import BatchResult
from faillog_otel.ledger.spool import IndexFile, Spool, open_seen_records
from faillog_otel.segment.hours import ObjectVersion, ScheduleConfig
from faillog_otel.segment.schedule import plan

NOW_NS = 20_000 * DAY_NS
HOUR = hour_of(NOW_NS) - 10


INDEX_FILE = IndexFile(5, "ab" * 32)


def content(records: int) -> Content:
    return Content(records, 0, records, "", Survey(JSON_LINES, None, is_indexed=True), INDEX_FILE)


def spool(
    ledger: SqliteLedger,
    records: int,
    listed_ns: int = NOW_NS,
    *,
    collection: str = "c",
    hour: int = HOUR,
    path: str = "x",
) -> Spooled:
    """An object of the hour, as a download leaves it."""
    request = ledger.debit(collection, hour, "fresh", listed_ns)
    ledger.listed(request, collection, hour, [f"https://h/{path}"], listed_ns)
    listed = ledger.next_listed(NOW_NS)
    assert listed
    ledger.spooled(listed, ObjectVersion("e", None, 9), content(records), listed_ns)
    spooled = ledger.spooled_object(listed.id)
    assert spooled
    return spooled


def exported(records: int) -> BatchResult:
    result = BatchResult()
    result.counts.records = result.counts.exported = records
    return result


def counts(ledger: SqliteLedger) -> tuple[int, ...]:
    [row] = ledger.rows("SELECT position, records, exported, lines FROM objects")
    return tuple(row)


def test_results_from_another_position_are_refused_and_change_nothing(ledger: SqliteLedger) -> None:
    spooled = spool(ledger, 5)
    seen = ledger.seen_records(spooled)
    ledger.advance(spooled, 0, exported(2), NOW_NS)
    for position in (0, 1, 3, 5):
        with pytest.raises(LedgerBroken, match="another process writes to this ledger"):
            ledger.advance(spooled, position, exported(1), NOW_NS)
        with pytest.raises(LedgerBroken, match="another process writes to this ledger"):
            ledger.done(spooled, position, seen)
    assert counts(ledger) == (2, 5, 2, 5)


def test_a_done_object_accepts_no_results(ledger: SqliteLedger) -> None:
    """They would be of another process on the same folder, and records would count twice."""
    spooled = spool(ledger, 5)
    ledger.advance(spooled, 0, exported(5), NOW_NS)
    ledger.done(spooled, 5, ledger.seen_records(spooled))
    with pytest.raises(LedgerBroken, match="another process"):
        ledger.advance(spooled, 5, exported(1), NOW_NS)
    assert counts(ledger) == (5, 5, 5, 5)


@pytest.mark.parametrize("found", [3, 9])
def test_the_count_of_the_forwarder_replaces_that_of_the_download(ledger: SqliteLedger, found: int) -> None:
    """The disk may have changed the spooled file in between."""
    spooled = spool(ledger, 5)
    ledger.advance(spooled, 0, exported(found), NOW_NS)
    ledger.done(spooled, found, ledger.seen_records(spooled))
    assert counts(ledger) == (found, found, found, found)


def in_spool(ledger: SqliteLedger, spooled: Spooled) -> Path:
    """The object's file, as a download leaves it; its index lies beside it."""
    with Spool(ledger.folder.spool).download(spooled.id) as download:
        download.content.write(b"records")
        download.exchanges.write(b"index")
        download.is_whole = download.has_index = True
    return ledger.folder.spool_path / str(spooled.id)


@pytest.mark.parametrize("writes", [("content",), ("content", "exchanges")])
def test_a_full_disk_leaves_neither_an_object_nor_its_index(tmp_path: Path, writes: tuple[str, ...]) -> None:
    with small_disk(tmp_path / "disk") as disk, closing(PrivateFolder.open(disk)) as folder:
        size = disk_bytes(disk) // len(writes) + 1
        with pytest.raises(NoRoom):
            download(Spool(folder), dict.fromkeys(writes, size))
        assert folder.names() == []


def download(spool: Spool, sizes: dict[str, int]) -> None:
    with spool.download(1) as download:
        for name, size in sizes.items():
            getattr(download, name).write(bytes(size))
        download.is_whole = download.has_index = True


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False).returncode:
        if os.environ.get("CI"):
            pytest.fail("a tmpfs cannot be mounted here")
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def disk_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_bsize


def test_a_done_object_keeps_its_digests_and_its_index_in_the_spool(ledger: SqliteLedger) -> None:
    """The next object of the hour detects its records, even after a crash right after the transaction."""
    spooled = spool(ledger, 1)
    file = in_spool(ledger, spooled)
    seen = ledger.seen_records(spooled)
    seen.add(7)
    ledger.advance(spooled, 0, exported(1), NOW_NS)
    ledger.done(spooled, 1, seen)
    seen.close()
    assert list(ledger.folder.spool_path.iterdir()) == [file.with_name(f"{file.name}.exchanges")]
    with closing(ledger.seen_records(spooled)) as seen:
        assert 7 in seen


def test_an_object_at_another_position_keeps_its_spool_file(ledger: SqliteLedger) -> None:
    spooled = spool(ledger, 2)
    file = in_spool(ledger, spooled)
    with closing(ledger.seen_records(spooled)) as seen, pytest.raises(LedgerBroken):
        ledger.done(spooled, 2, seen)
    assert file.exists()


def test_wanting_an_hour_makes_its_records_new_again(ledger: SqliteLedger) -> None:
    spooled = spool(ledger, 1)
    with closing(ledger.seen_records(spooled)) as seen:
        seen.add(7)
        ledger.advance(spooled, 0, exported(1), NOW_NS)
        ledger.done(spooled, 1, seen)
    ledger.want("c", [HOUR])
    with closing(ledger.seen_records(spooled)) as seen:
        assert 7 not in seen


def test_a_sweep_removes_only_files_that_the_ledger_does_not_name(ledger: SqliteLedger) -> None:
    spooled = spool(ledger, 1)
    file = in_spool(ledger, spooled)
    with closing(open_seen_records(ledger.folder.digests, "gone", HOUR, 9)) as seen:
        seen.add(7)
        seen.save()
    for name in ("99", "99.exchanges", "99.exchanges.part", f"{file.name}.exchanges.part"):
        Path(ledger.folder.spool_path, name).write_bytes(b"")
    ledger.sweep()
    assert sorted(ledger.folder.spool_path.iterdir()) == [file, file.with_name(f"{file.name}.exchanges")]
    assert list(ledger.folder.digests_path.iterdir()) == []


def indexes(ledger: SqliteLedger, spooled: Spooled, *, stores: bool = True) -> list[int]:
    again = ledger.spooled_object(spooled.id)
    assert again
    return [each.object for each in ledger.indexes_for(again, stores=stores)]


def end(ledger: SqliteLedger, spooled: Spooled) -> None:
    ledger.advance(spooled, 0, exported(spooled.records), NOW_NS)
    with closing(ledger.seen_records(spooled)) as seen:
        ledger.done(spooled, spooled.records, seen)


def test_the_indexes_for_an_object_are_those_at_its_first_use(ledger: SqliteLedger) -> None:
    """Of its collection, also of objects that are done, the newest first; a later one changes nothing."""
    spool(ledger, 1, collection="another")
    first = spool(ledger, 1, hour=HOUR - 1)
    end(ledger, first)
    second, third = spool(ledger, 1), spool(ledger, 1, path="y")
    assert indexes(ledger, second, stores=False) == [third.id, second.id, first.id]
    assert indexes(ledger, second) == [third.id, second.id, first.id]
    spool(ledger, 1, hour=HOUR - INDEX_HOURS - 1)
    fourth = spool(ledger, 1, hour=HOUR + 1)
    assert indexes(ledger, second) == indexes(ledger, third) == [third.id, second.id, first.id]
    assert indexes(ledger, fourth) == [fourth.id, third.id, second.id, first.id]


def test_a_new_version_of_an_object_replaces_the_index_of_the_old_one(ledger: SqliteLedger) -> None:
    """The new version holds the old records, too: their attempts would count twice."""
    old = spool(ledger, 1)
    assert indexes(ledger, old) == [old.id]
    new = spool(ledger, 2)
    assert indexes(ledger, new) == [new.id]
    assert indexes(ledger, old) == [old.id]


def test_old_indexes_are_removed_with_their_files_unless_an_object_needs_them(ledger: SqliteLedger) -> None:
    old, pending = spool(ledger, 1), spool(ledger, 1, path="y")
    for each in (old, pending):
        in_spool(ledger, each)
    assert indexes(ledger, pending) == [pending.id, old.id]
    end(ledger, old)
    later_ns = NOW_NS + INDEX_HOURS * HOUR_NS + 1
    ledger.drop_indexes(later_ns)
    assert names_in_spool(ledger) == {str(pending.id), f"{pending.id}.exchanges", f"{old.id}.exchanges"}
    end(ledger, pending)
    ledger.drop_indexes(later_ns - 1)
    assert names_in_spool(ledger) == {f"{pending.id}.exchanges", f"{old.id}.exchanges"}
    ledger.drop_indexes(later_ns)
    assert names_in_spool(ledger) == set()
    assert indexes(ledger, spool(ledger, 1, path="z")) == [3]


def names_in_spool(ledger: SqliteLedger) -> set[str]:
    return {path.name for path in ledger.folder.spool_path.iterdir()}


def test_indexes_that_take_too_much_space_are_removed_the_oldest_first(
    ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faillog_otel.ledger.ledger.MAX_INDEX_BYTES", 2 * INDEX_FILE.bytes)
    objects = [spool(ledger, 1, path=name) for name in "xyz"]
    assert indexes(ledger, objects[0]) == [objects[2].id, objects[1].id]
    for each in objects:
        end(ledger, each)
    ledger.drop_indexes(NOW_NS)
    assert [row["object"] for row in ledger.rows("SELECT object FROM exchange_indexes")] == [2, 3]


def test_an_object_waits_for_others_of_its_hour_that_are_downloaded_soon(ledger: SqliteLedger) -> None:
    """Their exchanges are then known to it. An object that is retried much later delays nothing."""
    request = ledger.debit("c", HOUR, "fresh", NOW_NS)
    ledger.listed(request, "c", HOUR, ["https://h/x", "https://h/y"], NOW_NS)
    first = ledger.next_listed(NOW_NS)
    assert first
    ledger.spooled(first, ObjectVersion("e", None, 9), content(1), NOW_NS)
    assert ledger.next_spooled(soon_ns=NOW_NS) is None
    ready = ledger.next_spooled()
    assert ready
    assert ready.id == first.id
    second = ledger.next_listed(NOW_NS)
    assert second
    ledger.download_failed(second, "HTTP 503", NOW_NS)
    assert ledger.next_spooled(soon_ns=NOW_NS + 2 * SECOND_NS) is None
    assert ledger.next_spooled(soon_ns=NOW_NS) == ready
    ledger.indexes_for(ready)
    assert ledger.next_spooled(soon_ns=NOW_NS + 2 * SECOND_NS)


def test_several_damaged_objects_of_one_listing_are_one_failure(ledger: SqliteLedger) -> None:
    request = ledger.debit("c", HOUR, "fresh", NOW_NS)
    ledger.listed(request, "c", HOUR, [f"https://h/{name}" for name in "xyz"], NOW_NS)
    while listed := ledger.next_listed(NOW_NS):
        ledger.spooled(listed, ObjectVersion("e", None, 9), content(5), NOW_NS)
    while spooled := ledger.next_spooled():
        ledger.not_whole(spooled, "its spool file is gone", NOW_NS)
    [row] = ledger.rows("SELECT failures, wanted FROM hours")
    assert tuple(row) == (1, 1)


def test_a_damaged_object_does_not_delay_the_others_of_its_hour(ledger: SqliteLedger) -> None:
    """It is given up during a new listing: that listing's object is stored, and the hour is listed again."""
    request = ledger.debit("c", HOUR, "fresh", NOW_NS)
    ledger.listed(request, "c", HOUR, ["https://h/x", "https://h/y"], NOW_NS)
    first = ledger.next_listed(NOW_NS)
    assert first
    ledger.spooled(first, ObjectVersion("e", None, 9), content(5), NOW_NS)
    coming, spooled = ledger.next_listed(NOW_NS), ledger.next_spooled()
    assert coming
    assert spooled
    ledger.not_whole(spooled, "its spool file is gone", NOW_NS)
    ledger.spooled(coming, ObjectVersion("e", None, 9), content(5), NOW_NS)
    taken = ledger.next_spooled()
    assert taken
    assert taken.path == "/y"
    assert ledger.hours()["c"][HOUR].wanted


def test_an_hour_whose_objects_are_damaged_repeatedly_is_listed_at_growing_intervals(
    ledger: SqliteLedger,
) -> None:
    """Even if each listing and download succeeds: a broken disk must not use up the quota."""
    config = ScheduleConfig(("c",), since_ns=HOUR * HOUR_NS, until_ns=(HOUR + 1) * HOUR_NS)
    now_ns, times = NOW_NS, []
    for _ in range(8):
        ledger.not_whole(spool(ledger, 5, now_ns), "its spool file is gone", now_ns)
        damaged_ns = now_ns
        while not (found := plan(now_ns, ledger.hours(), ledger.quota(120), config)).requests:
            now_ns = found.next_ns
        assert [(ask.hour, ask.why) for ask in found.requests] == [(HOUR, "wanted")]
        times.append(now_ns - damaged_ns)
    assert times == sorted(times)
    assert sum(times) > DAY_NS
