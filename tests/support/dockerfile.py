"""A Dockerfile's instructions, as far as docker/Dockerfile uses them."""

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from msgspec import Struct, field


class Instruction(Struct, frozen=True):
    """One instruction: `COPY --from=build /a /b` has the flags {"from": "build"} and the rest "/a /b"."""

    name: str
    flags: dict[str, str]
    rest: str


class Stage(Struct):
    """What FROM begins."""

    name: str
    instructions: list[Instruction] = field(default_factory=list)


def stages(text: str) -> list[Stage]:
    """The stages, in order; before the first FROM stands what is about base images."""
    found: list[Stage] = []
    for instruction in _instructions(text):
        if instruction.name == "FROM":
            _, _, name = instruction.rest.partition(" AS ")
            found.append(Stage(name or str(len(found))))
        elif found:
            found[-1].instructions.append(instruction)
    return found


def _instructions(text: str) -> Iterator[Instruction]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", "", "\n".join(lines)).splitlines():
        if not line.strip():
            continue
        name, _, rest = line.strip().partition(" ")
        flags = {}
        while found := re.match(r"\s*--([a-z-]+)=(\S+)\s*", rest):
            flags[found[1]] = found[2]
            rest = rest[found.end() :]
        yield Instruction(name, flags, rest.strip())


def words(text: str) -> list[str]:
    """Of the form with brackets, or of the shell's; the latter as `/bin/sh -c` takes it."""
    if text.startswith("["):
        found: list[str] = json.loads(text)
        return found
    return ["/bin/sh", "-c", text]


def pairs(text: str, known: Mapping[str, str]) -> dict[str, str]:
    """`A=1 B="$A/2"`, as ENV and LABEL have them; `$A` and `${A}` are what is known before."""
    found = (word.partition("=") for word in shlex.split(text))
    return {name: expanded(value, known) for name, _, value in found}


def expanded(text: str, known: Mapping[str, str]) -> str:
    """With `$A` and `${A}` replaced by what is known."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: known.get(found[1] or found[2], ""), text)


def ignores(dockerignore: str, path: PurePosixPath) -> bool:
    """Whether a path of the build context stays behind: the last pattern that fits it or its folder says."""
    ignored = False
    for line in dockerignore.splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        keeps = pattern.startswith("!")
        pattern = pattern.removeprefix("!")
        if any(_fits(pattern, part) for part in (path, *path.parents[:-1])):
            ignored = not keeps
    return ignored


def _fits(pattern: str, path: PurePosixPath) -> bool:
    if pattern.startswith("**/"):
        return fnmatchcase(path.name, pattern.removeprefix("**/"))
    return len(PurePosixPath(pattern).parts) == len(path.parts) and fnmatchcase(str(path), pattern)


def context_files(root: Path) -> Iterator[Path]:
    """The files of the build context that .dockerignore lets through, relative to the root."""
    dockerignore = (root / ".dockerignore").read_text("utf-8")
    for folder, folders, files in os.walk(root):
        here = PurePosixPath(Path(folder).relative_to(root))
        folders[:] = [name for name in folders if not name.startswith(".")]  # large, and never in an image
        for name in files:
            if not ignores(dockerignore, here / name):
                yield Path(here / name)
