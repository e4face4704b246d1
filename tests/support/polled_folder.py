"""A state folder that the real program filled: `run --once` against the simulated Segment."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from msgspec import Struct

from faillog_otel.cli import cli
from faillog_otel.ledger.database import MIGRATIONS
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.config import SimulatedClock, SimulatorConfig, WorldConfig
from support.program import Done, run_program

COLLECTION = "shop-mixpanel"
AWAY = "http://127.0.0.1:9"  # the port for discarding: nobody listens there


class PolledFolder(Struct, frozen=True):
    """A simulated Segment, and where the program works."""

    segment: Simulator
    folder: Path
    window: tuple[str, ...] = ("--since", "-10h")
    """Options that say which hours are polled."""

    @property
    def state(self) -> Path:
        """The state folder."""
        return self.folder / "state"

    def copied_to(self, folder: Path) -> "PolledFolder":
        """The same in another folder, to be changed or damaged."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return self.in_folder(folder)

    def in_folder(self, folder: Path) -> "PolledFolder":
        """The same Segment for another folder."""
        return PolledFolder(self.segment, folder, self.window)

    @property
    def options(self) -> list[str]:
        """What polls this Segment."""
        return [
            *("--segment-url", self.segment.url, "--download-host", self.segment.download_host),
            *("--collection", COLLECTION, "--state-dir", str(self.state), *self.window),
        ]

    def once_options(self, endpoint: str) -> list[str]:
        """The options of `run --once`."""
        return ["--once", "--endpoint", endpoint, "--summary", "json", *self.options]

    def run(self, endpoint: str, *args: str) -> Done:
        """Polls until nothing is due."""
        return run_program(
            *("run", *self.once_options(endpoint), *args),
            cwd=self.folder,
            SEGMENT_TOKEN=self.segment.token,
        )

    def run_at_segment_time(self, *args: str) -> dict[str, Any]:
        """The program in this process, by the clock of the simulated Segment; its last line of JSON."""
        env = {"SEGMENT_TOKEN": self.segment.token, "FAILLOG_STATE_DIR": str(self.state)}
        done = CliRunner().invoke(cli, args, obj=self.segment.clock, env=env)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def report(self, command: str, *args: str) -> tuple[Done, dict[str, Any]]:
        """Looks at it, as JSON."""
        done = run_program(command, "--json", "--state-dir", self.state, *args, cwd=self.folder)
        return done, json.loads(done.stdout) if done.stdout else {}

    def sql(self, statement: str, *values: object) -> list[Any]:
        """Does something to the ledger that the program would not do."""
        with closing(sqlite3.connect(self.state / "ledger.sqlite3")) as database, database:
            database.execute("PRAGMA ignore_check_constraints = ON")
            return database.execute(statement, values).fetchall()

    def to_version_2(self) -> None:
        """Makes the ledger one of version 0.1.0."""
        to_version_2(self.state / "ledger.sqlite3")


@contextmanager
def polled_folder(folder: Path, *, standing: bool = False) -> Iterator[PolledFolder]:
    """A Segment whose lines are damaged and repeated now and then; its clock may stand still."""
    world = WorldConfig(damage=0.05, duplicates=0.05)
    with Simulator(SimulatorConfig(world=world), SimulatedClock(standing=standing)) as segment:
        yield PolledFolder(segment, folder)


_NEWER_TABLES = (
    *(
        "exchange_indexes",
        "failure_groups",
        "failure_counts",
        "message_notes",
        "messages",
        "unanswered_attempts",
        "message_sums",
        "names",
        "connections",
        "event_counts",
        "counted_hours",
        "changes",
    ),
)


def to_version_2(path: Path) -> None:
    """Makes a ledger one of version 0.1.0."""
    with closing(sqlite3.connect(path)) as ledger, ledger:
        tables = ("requests", "said", "facts", "hours", "objects", "kept", "past")
        for table in _NEWER_TABLES:
            ledger.execute(f"DROP TABLE {table}")
        ledger.execute("DELETE FROM facts WHERE name GLOB 'messages*'")  # how many are kept and forgotten
        for table in tables:
            ledger.execute(f"ALTER TABLE {table} RENAME TO new_{table}")
        for index in ("requests_by_time", "objects_by_hour", "objects_under_way"):
            ledger.execute(f"DROP INDEX {index}")
        for script in MIGRATIONS[:2]:
            for statement in script.split(";\n\n"):
                ledger.execute(statement)
        for table in tables:
            kept = {row[1] for row in ledger.execute(f"PRAGMA table_info(new_{table})")}
            columns = ", ".join({row[1] for row in ledger.execute(f"PRAGMA table_info({table})")} & kept)
            ledger.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM new_{table}")  # noqa: S608  # our own words
            ledger.execute(f"DROP TABLE new_{table}")
        ledger.execute("DELETE FROM facts WHERE name GLOB 'messages*' OR name = 'names'")
        ledger.execute("PRAGMA user_version = 2")
