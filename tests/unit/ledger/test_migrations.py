"""A ledger of an older version is migrated with its content; sums outlive their objects."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from faillog_otel.clock import DAY_NS, HOUR_NS, hour_of
from faillog_otel.events.model import JSON_LINES, Survey
from faillog_otel.ledger import Content, Totals
from faillog_otel.ledger.audit import audit
from faillog_otel.ledger.database import MIGRATIONS, open_reader
from faillog_otel.ledger.ledger import SqliteLedger, open_ledger
from faillog_otel.ledger.results import BatchResult
from faillog_otel.ledger.state_dir import StateFolder
from faillog_otel.segment.hours import ObjectVersion

NOW_NS = 20_000 * DAY_NS


@pytest.mark.parametrize("version", [1, 2, 4])
def test_a_ledger_of_an_older_version_keeps_its_counts(version: int, tmp_path: Path) -> None:
    """Failures are counted from now on: the audit holds for objects that were read before."""
    with StateFolder(str(tmp_path / "state")) as folder:
        with closing(sqlite3.connect(folder.ledger)) as old, old:
            for script in MIGRATIONS[:version]:
                old.executescript(script)
            old.execute(
                "INSERT INTO objects (collection, hour, path, state, listed_ns, records, position, duplicate)"
                " VALUES ('c', 1, '/p', 'done', 1, 5, 5, 5)"
            )
            old.execute(
                "INSERT INTO past (collection, hour, objects, lines, blank, records, exported, rejected,"
                " quarantined, duplicate) VALUES ('c', -1, 1, 0, 0, 7, 7, 0, 0, 0)"
            )
            old.execute(f"PRAGMA user_version = {version}")
        ledger = open_ledger(folder)
        assert ledger.schema_versions() == (len(MIGRATIONS), len(MIGRATIONS))
        assert ledger.totals() == Totals(12, 7, 0, 0, 0, 5)
        assert ledger.time_shifted() == 0
        assert ledger.failure_sums(0, NOW_NS, NOW_NS).groups == []
        assert ledger.expire_messages(NOW_NS).new_groups == []
        ledger.prune(NOW_NS)
        ledger.close()
        assert audit(folder).problems == []


def test_shifted_records_are_summed_up_with_the_objects_that_are_pruned(tmp_path: Path) -> None:
    """Else `status` would show fewer of them every day."""
    with StateFolder(str(tmp_path / "state")) as folder:
        ledger = SqliteLedger(folder)
        hour = hour_of(NOW_NS) - 10
        request = ledger.debit("c", hour, "last_call", NOW_NS)
        ledger.listed(request, "c", hour, ["https://h/x"], NOW_NS)
        listed = ledger.next_listed(NOW_NS)
        assert listed
        ledger.spooled(
            listed, ObjectVersion("e", None, 9), Content(3, 0, 3, "", Survey(JSON_LINES, None)), NOW_NS
        )
        spooled = ledger.next_spooled()
        assert spooled
        result = BatchResult()
        result.counts.records = result.counts.exported = 3
        result.counts.time_shifted = 2
        ledger.advance(spooled, 0, result, NOW_NS)
        ledger.done(spooled, 3, ledger.seen_records(spooled))
        for later_ns in (0, 30 * DAY_NS, 90 * DAY_NS):
            ledger.prune(NOW_NS + later_ns + HOUR_NS)
            assert ledger.time_shifted() == 2
        assert ledger.rows("SELECT * FROM objects") == []
        ledger.close()
        looked = open_reader(folder)
        assert looked.time_shifted() == 2
        looked.close()
