"""Builds the backends of recipes.toml: `make backends` prints the path of each program."""

import shutil
import stat
import sys
import tomllib
from pathlib import Path

import msgspec
from support.building import CannotBuild, Workshop
from support.building import build as build_once
from support.building import built as built_before


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A program of a Go module.

    `cgo`: it has parts in C. `keep`: modules whose replace lines do not count. `sum` and `go_mod_sum` stand
    in where Go's checksum database has none.
    """

    module: str
    version: str
    package: str
    cgo: bool = False
    keep: tuple[str, ...] = ()
    sum: str = ""
    go_mod_sum: str = ""


_FILE = Path(__file__).with_name("recipes.toml")
RECIPES = msgspec.convert(tomllib.loads(_FILE.read_text("utf-8")), dict[str, Recipe])


def built(name: str) -> Path | None:
    """The program of a backend, if it was built before."""
    return built_before(name, msgspec.json.encode(RECIPES[name]))


def build(name: str) -> Path:
    """The program of a backend; builds it first where needed (minutes). Raises CannotBuild."""
    recipe = RECIPES[name]

    def make(workshop: Workshop) -> Path:
        program = workshop.bench / name
        source = _source(workshop, recipe)
        for each in recipe.keep:
            workshop.go("mod", "edit", f"-dropreplace={each}", cwd=source)
        new_sums = ("-mod=mod",) if recipe.keep else ()
        workshop.go("build", *new_sums, "-o", program, recipe.package, cwd=source, cgo=recipe.cgo)
        return program

    return build_once(name, msgspec.json.encode(recipe), make)


def _source(workshop: Workshop, recipe: Recipe) -> Path:
    """A folder with the module's files, to build in: only there do the module's replace lines count."""
    (workshop.bench / "go.mod").write_text("module backends\n")  # without it, go reads no go.sum
    if recipe.sum:
        name = f"{recipe.module} {recipe.version}"
        sums = f"{name} {recipe.sum}\n{name}/go.mod {recipe.go_mod_sum}\n"
        (workshop.bench / "go.sum").write_text(sums)
    found = workshop.go_json("mod", "download", "-json", f"{recipe.module}@{recipe.version}")
    copy = workshop.bench / "source"
    shutil.copytree(found["Dir"], copy)
    for path in (copy, *copy.rglob("*")):  # the module cache is read-only
        path.chmod(path.stat().st_mode | stat.S_IWUSR)
    return copy


if __name__ == "__main__":
    for each in sys.argv[1:] or RECIPES:
        try:
            print(each, build(each))
        except CannotBuild as error:
            sys.exit(f"{each} could not be built: {error}")
