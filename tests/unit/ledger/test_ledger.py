"""Results are committed from the position of the object, in the order of T1 to T4; damage costs no quota."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from faillog_otel.clock import DAY_NS, HOUR_NS, hour_of
from faillog_otel.errors import LedgerBroken, NoRoom
from faillog_otel.events.model import JSON_LINES, Survey
from faillog_otel.files import PrivateFolder
from faillog_otel.ledger import Content, Spooled
from faillog_otel.ledger.ledger import SqliteLedger
from faillog_otel.ledger.results import BatchResult
from faillog_otel.ledger.spool import Spool, open_seen_records
from faillog_otel.segment.schedule import ObjectVersion, ScheduleConfig, plan

NOW_NS = 20_000 * DAY_NS
HOUR = hour_of(NOW_NS) - 10


def content(records: int) -> Content:
    return Content(records, 0, records, "", Survey(JSON_LINES, None))


def spool(ledger: SqliteLedger, records: int, listed_ns: int = NOW_NS) -> Spooled:
    """An object of the hour, as a download leaves it."""
    request = ledger.debit("c", HOUR, "fresh", listed_ns)
    ledger.listed(request, "c", HOUR, ["https://h/x"], listed_ns)
    listed = ledger.next_listed(NOW_NS)
    assert listed
    ledger.spooled(listed, ObjectVersion("e", None, 9), content(records), listed_ns)
    spooled = ledger.next_spooled()
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
        download.is_whole = True
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
        download.is_whole = True


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


def test_a_done_object_keeps_its_digests_and_no_spool_file(ledger: SqliteLedger) -> None:
    """The next object of the hour detects its records, even after a crash right after the transaction."""
    spooled = spool(ledger, 1)
    in_spool(ledger, spooled)
    seen = ledger.seen_records(spooled)
    seen.add(7)
    ledger.advance(spooled, 0, exported(1), NOW_NS)
    ledger.done(spooled, 1, seen)
    seen.close()
    assert list(ledger.folder.spool_path.iterdir()) == []
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
