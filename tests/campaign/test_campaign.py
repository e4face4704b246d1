"""The campaign's own instruments: what a disk may show, and that builds which break promises are caught."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from crashes.launcher import Launcher
from crashes.scene import Scene
from crashes.tripwire import Call
from support.tiers import slow

import faillog_otel
from campaign.bit_flips import damage
from campaign.disk import MODELS, SECTOR, Disk, Model
from campaign.parts import Case, Table
from campaign.power_loss import PoweredScene
from campaign.report import markdown

pytestmark = pytest.mark.timeout(300)
TWO_SECTORS = b"a" * SECTOR + b"b" * SECTOR


class Recording:
    """Calls as a log of the tripwire has them, one after the other, and the bytes that were written."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.data = b""

    def do(self, call: str, path: str, *, other: str = "", at: int = 0, data: bytes = b"") -> None:
        number = len(self.calls) + 1
        where, self.data = len(self.data), self.data + data
        self.calls.append(
            Call(
                number, 1, call, "", path, other, at, len(data), where, 2 * number, 2 * number + 1, len(data)
            )
        )

    def images(self, folder: Path, model: Model) -> Iterator[Path]:
        """Many images of a folder that was empty before."""
        (folder / "before").mkdir(parents=True)
        for seed in range(60):
            image = folder / f"{seed}"
            disk = Disk(folder / "before", self.calls, self.data)
            disk.image(image, model, random.Random(seed), self.calls)
            yield image


@pytest.fixture
def recording() -> Recording:
    found = Recording()
    found.do("create", "x.part")
    found.do("write", "x.part", data=TWO_SECTORS)
    return found


def contents(images: Iterator[Path], name: str) -> set[bytes | None]:
    paths = [image / name for image in images]
    return {path.read_bytes() if path.exists() else None for path in paths}


@pytest.mark.parametrize("model", MODELS)
def test_what_was_synced_is_there(model: Model, recording: Recording, tmp_path: Path) -> None:
    recording.do("fsync", "x.part")
    recording.do("rename", "x.part", other="x")
    recording.do("fsync", ".")
    images = list(recording.images(tmp_path, model))
    assert contents(iter(images), "x") == {TWO_SECTORS}
    assert contents(iter(images), "x.part") == {None}


@pytest.mark.parametrize("model", MODELS)
def test_what_was_not_synced_is_there_or_not_sector_by_sector(
    model: Model, recording: Recording, tmp_path: Path
) -> None:
    recording.do("fsync", ".")
    found = contents(recording.images(tmp_path, model), "x.part")
    assert found >= {b"", TWO_SECTORS, TWO_SECTORS[:SECTOR], bytes(SECTOR) + TWO_SECTORS[SECTOR:]}
    assert None not in found


@pytest.mark.parametrize("model", MODELS)
def test_a_name_may_be_lost_until_its_folder_is_synced(
    model: Model, recording: Recording, tmp_path: Path
) -> None:
    recording.do("fsync", "x.part")
    recording.do("rename", "x.part", other="x")
    images = list(recording.images(tmp_path, model))
    assert contents(iter(images), "x") == {None, TWO_SECTORS}
    assert (None in contents(iter(images), "x.part")) is True


def test_only_the_harsh_disk_loses_a_file_that_was_synced_itself(
    recording: Recording, tmp_path: Path
) -> None:
    recording.do("fsync", "x.part")
    assert None not in contents(recording.images(tmp_path / "1", "journal"), "x.part")
    assert None in contents(recording.images(tmp_path / "2", "harsh"), "x.part")


def test_a_journal_keeps_the_names_before_one_that_is_sure(recording: Recording, tmp_path: Path) -> None:
    """As SQLite syncs its folder: by fdatasync."""
    recording.do("mkdir", "spool")
    recording.do("fsync", ".")
    recording.do("create", "spool/1.part")
    recording.do("create", "journal")
    recording.do("fdatasync", ".")
    expected: dict[Model, set[bytes | None]] = {"journal": {b""}, "harsh": {None, b""}}
    for model, found in expected.items():
        images = list(recording.images(tmp_path / model, model))
        assert contents(iter(images), "journal") == {b""}
        assert contents(iter(images), "spool/1.part") == found


def test_an_overwritten_sector_is_the_old_or_the_new_one(recording: Recording, tmp_path: Path) -> None:
    recording.do("fsync", "x.part")
    recording.do("fsync", ".")
    recording.do("pwrite", "x.part", at=0, data=b"c" * SECTOR)
    found = contents(recording.images(tmp_path, "harsh"), "x.part")
    assert found == {TWO_SECTORS, b"c" * SECTOR + b"b" * SECTOR}


@slow
def test_a_program_that_does_not_sync_is_caught(tmp_path: Path) -> None:
    """With `synchronous = OFF` a ledger does not outlive power loss."""
    package = tmp_path / "build" / "faillog_otel"
    shutil.copytree(Path(faillog_otel.__file__).parent, package)
    source = (package / "ledger" / "database.py").read_text()
    assert "PRAGMA synchronous = {" in source
    source = source.replace("PRAGMA synchronous = {", "PRAGMA synchronous = OFF; -- {")
    (package / "ledger" / "database.py").write_text(source)
    with (
        Launcher(package.parent) as launcher,
        Scene(
            tmp_path,
            seed=5,
            hours=3,
            messages=12,
            faults={},
            journal="delete",
            launcher=launcher,
            per_day=10**9,
        ) as scene,
    ):
        scene.collector_is_moody = False
        cases = [PoweredScene(scene, f"{number}/delete/harsh").case for number in range(30)]
    assert any(case.wrong for case in cases)


def test_damage_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    seen = set()
    for seed in range(30):
        spoilt = []
        for copy in range(2):
            state = tmp_path / f"{seed}-{copy}"
            for path in ("ledger.sqlite3", "spool/7", "digests/d"):
                (state / path).parent.mkdir(parents=True, exist_ok=True)
                (state / path).write_bytes(bytes(range(256)) * 8)
            said = damage(state, random.Random(seed))
            spoilt.append((said, [path.read_bytes() for path in sorted(state.rglob("*")) if path.is_file()]))
        assert spoilt[0] == spoilt[1]
        assert spoilt[0][1] != [bytes(range(256)) * 8] * 3
        seen.add(said.split(":")[0])
    assert len(seen) > 5


def test_a_table_counts_what_is_wrong_by_its_kind() -> None:
    table = Table(part="p", title="t", unit="u", size=1, seed=1, command="make p")
    table.add(Case("1", ["lost: a", "spool, bit: spool/1 at 2: invented: b", "exit code 70"], {"kills": 2}))
    table.add(Case("2", [], {"kills": 1}))
    assert "| t | 2 | 1 | 1 | 0 | 1 |" in markdown([table])
    assert "3 kills" in markdown([table])
    assert list(table.failed) == ["1"]
