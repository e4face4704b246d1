"""What a disk may show after power was lost, by what a program did to a folder before.

Only what was synced is sure. Of the rest, each sector of 512 bytes may be there or not, a longer file may
have its new length without its content, and of names (made, renamed, removed) there are two models:

- `journal`: as on a file system with a journal, such as ext4: names change in order, and any fsync makes all
  before it sure;
- `harsh`: each change of a name that its folder's fsync did not make sure may be lost by itself.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from crashes.tripwire import Call
from msgspec import Struct, field

SECTOR = 512
NAMES = ("create", "mkdir", "rename", "unlink", "rmdir")
FOLDER = "folder"
Model = Literal["journal", "harsh"]
MODELS: tuple[Model, ...] = ("journal", "harsh")


class Change(Struct):
    """A change of a file's content that was not synced: bytes at a place, or (None) a new length."""

    at: int
    data: bytes | None
    ended: int


class File(Struct, eq=False):
    """A file: what is surely on the disk, and what may be."""

    sure: bytes = b""
    pending: list[Change] = field(default_factory=list)


class NameChange(Struct, eq=False):
    """Entries that change together: path → file, folder, or None where it goes."""

    entries: dict[str, File | str | None]
    ended: int
    is_sure: bool = False


class Disk:
    """Follows the calls of one run."""

    def __init__(self, before: Path, calls: Sequence[Call], data: bytes) -> None:
        """`before`: the folder as it was, all of it sure; it may be missing."""
        self._data = data
        self._live: dict[str, File | str] = {}
        if before.exists():
            self._live["."] = FOLDER
            for path in sorted(before.rglob("*")):
                name = str(path.relative_to(before))
                self._live[name] = FOLDER if path.is_dir() else File(path.read_bytes())
        self._start = dict(self._live)
        self._changes: list[NameChange] = []
        end = max((each.ended or each.begun for each in calls), default=0) + 1
        for call in sorted(calls, key=lambda each: end if each.ended is None else each.ended):
            if (call.ended is None or call.result >= 0) and not (call.fired and call.length == 0):
                self._do(call, call.ended if call.ended is not None else end)

    def _do(self, call: Call, ended: int) -> None:
        if call.call in NAMES:
            self._rename(call, ended)
        elif call.call in ("fsync", "fdatasync"):
            if call.ended is not None:
                self._sync(call)
        elif isinstance(found := self._live.get(call.path), File):
            if call.call in ("write", "pwrite"):
                length = call.result if call.ended is not None else call.length
                if call.fired:  # half of it was written, or nothing: the image decides
                    length //= 2
                found.pending.append(Change(call.at, self._data[call.where : call.where + length], ended))
            elif call.call in ("truncate", "ftruncate", "fallocate"):  # only the ballast is allocated, once
                found.pending.append(Change(call.at, None, ended))

    def _rename(self, call: Call, ended: int) -> None:
        entries: dict[str, File | str | None]
        if call.call == "rename":
            entries = {call.path: None, call.other: self._live.get(call.path, File())}
        elif call.call == "create":
            entries = {call.path: File()}
        else:
            entries = {call.path: FOLDER if call.call == "mkdir" else None}
        for path, entry in entries.items():
            if entry is None:
                self._live.pop(path, None)
            else:
                self._live[path] = entry
        self._changes.append(NameChange(entries, ended))

    def _sync(self, call: Call) -> None:
        """What ended before this call began is sure: of a file its content, of a folder its names."""
        found = self._live.get(call.path)
        if isinstance(found, File):
            left = []
            for change in found.pending:
                if change.ended < call.begun:
                    found.sure = _changed(found.sure, change)
                else:
                    left.append(change)
            found.pending = left
            return
        for name in self._changes:
            if name.ended < call.begun and any(_folder_of(path) == call.path for path in name.entries):
                name.is_sure = True

    def image(self, folder: Path, model: Model, rng: random.Random, synced: Sequence[Call] = ()) -> None:
        """Writes one of the folders that the disk may show. `synced`: the calls, for the journal's order."""
        chance = rng.choice((0.0, 0.3, 0.7, 1.0))
        entries = dict(self._start)
        for change in self._kept(model, rng, chance, synced):
            for path, entry in change.entries.items():
                if entry is None:
                    entries.pop(path, None)
                else:
                    entries[path] = entry
        if "." not in entries:
            return
        folder.mkdir(mode=0o700)
        for path in sorted(entries, key=lambda each: each.count("/")):
            entry, place = entries[path], folder / path
            if not place.parent.is_dir() or path.endswith(
                "-shm"
            ):  # its folder was lost; shared memory is none
                continue
            if isinstance(entry, File):
                place.write_bytes(_content(entry, model, rng, chance))
                place.chmod(0o600)
            elif path != ".":
                place.mkdir(mode=0o700)

    def _kept(
        self, model: Model, rng: random.Random, chance: float, synced: Sequence[Call]
    ) -> Iterator[NameChange]:
        if model == "journal":
            last = max(
                (each.begun for each in synced if each.call == "fsync" and each.ended is not None), default=-1
            )
            numbered = enumerate(self._changes, 1)
            sure = max((n for n, each in numbered if each.ended < last or each.is_sure), default=0)
            yield from self._changes[: rng.randint(sure, len(self._changes))]
            return
        for change in self._changes:
            if change.is_sure or rng.random() < max(chance, 0.9 if "." in change.entries else 0):
                yield change


def _content(file: File, model: Model, rng: random.Random, chance: float) -> bytes:
    content = file.sure
    for change in file.pending:
        content = _torn(content, change, model, rng, chance)
    return content


def _torn(content: bytes, change: Change, model: Model, rng: random.Random, chance: float) -> bytes:
    if change.data is None:
        return _changed(content, change) if rng.random() < chance else content
    end = change.at + len(change.data)
    if end > len(content) and rng.random() < 0.3:  # the length came to the disk, the content perhaps not
        filler = rng.randbytes if model == "harsh" and rng.random() < 0.2 else bytes
        content += filler(end - len(content))
    whole = rng.random()
    for at in range(0, len(change.data), SECTOR):
        is_there = rng.random() < chance if whole < 0.5 else whole < 0.5 + chance / 2
        if is_there:
            piece = change.data[at : at + SECTOR]
            content = _changed(content, Change(change.at + at, piece, change.ended))
    return content


def _changed(content: bytes, change: Change) -> bytes:
    if change.data is None:
        return content[: change.at] + bytes(max(0, change.at - len(content)))
    gap = bytes(max(0, change.at - len(content)))
    return content[: change.at] + gap + change.data + content[change.at + len(change.data) :]


def _folder_of(path: str) -> str:
    folder, slash, _ = path.rpartition("/")
    return folder if slash else ("" if path == "." else ".")
