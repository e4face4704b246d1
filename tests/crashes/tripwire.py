"""The tripwire: what a program does to its state folder and to servers, call by call; it can end at any.

`tripwire.c` is loaded into the program. Every call that changes something is numbered over all threads, and
has a label for what the program does at that moment.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from msgspec import Struct, field
from support.building import Workshop, build

SOURCE = Path(__file__).with_name("tripwire.c")

Action = Literal["kill", "half", "stop"]


class Watch(Struct, frozen=True, kw_only=True):
    """What is written down of a run, and where it ends.

    Before the `at`-th call (of those with a label), or before the `last`-th of all; 0: neither.
    """

    log: Path
    data: Path | None = None
    """Where the bytes go that were written."""
    at: int = 0
    label: str = ""
    last: int = 0
    action: Action = "kill"
    """`half` writes half of the bytes first, `stop` only stops the program (SIGSTOP)."""

    def environment(self, root: Path, ports: Mapping[str, int]) -> dict[str, str]:
        """The environment of the program to be watched. `root`: the state folder."""
        return {
            "LD_PRELOAD": str(library()),
            "TRIPWIRE_ROOT": str(root.resolve()),
            "TRIPWIRE_PORTS": ",".join(f"{name}={port}" for name, port in ports.items()),
            "TRIPWIRE_LOG": str(self.log),
            "TRIPWIRE_DATA": str(self.data or ""),
            "TRIPWIRE_AT": str(self.at),
            "TRIPWIRE_LABEL": self.label,
            "TRIPWIRE_LAST": str(self.last),
            "TRIPWIRE_ACTION": self.action,
        }


class Call(Struct):
    """One call. `path` and `other` (of a rename) are relative to the state folder; empty for servers."""

    number: int
    thread: int
    call: str
    label: str
    path: str
    other: str
    at: int
    length: int
    where: int
    """Where its bytes begin in the file of data; -1 without."""
    begun: int
    """The line of the log that says so: what has a smaller one came before."""
    ended: int | None = None
    """None: the program ended first."""
    result: int = 0
    fired: bool = field(default=False)
    """Whether the tripwire fired here: the call was not made, or half of it."""


def library() -> Path:
    """The library to be loaded; builds it where needed. Raises CannotBuild."""
    return build("tripwire.so", SOURCE.read_bytes(), _compile)


def _compile(workshop: Workshop) -> Path:
    made = workshop.bench / "tripwire.so"
    workshop.run("cc", "-O1", "-shared", "-fPIC", "-o", made, SOURCE, "-ldl", "-lpthread")
    return made


def read_log(log: Path) -> list[Call]:
    """All calls, in the order in which they began. A last line that is cut off does not count."""
    calls: dict[int, Call] = {}
    for line, text in enumerate(_whole_lines(log)):
        kind, *words = text.split("\t")
        number = int(words[0])
        if kind == "B":
            thread, call, label, path, other, at, length, where = words[1:]
            calls[number] = Call(
                number, int(thread), call, label, path, other, int(at), int(length), int(where), line
            )
        elif kind == "F":
            calls[number].fired = True
        else:
            calls[abs(number)].ended, calls[abs(number)].result = line, int(words[1])
    return list(calls.values())


def _whole_lines(log: Path) -> Iterator[str]:
    if log.exists():
        content = log.read_text()
        yield from content[: content.rfind("\n") + 1].splitlines()
