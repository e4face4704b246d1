"""What fuzzing found once (`make fuzz`), and the files that it begins with, still go well."""

from pathlib import Path

import pytest
from fuzz.seeds import seeds
from fuzz.target import check

FINDS = sorted(Path(__file__).parents[1].joinpath("fuzz", "finds").glob("*"))


@pytest.mark.parametrize("find", FINDS, ids=lambda find: find.name)
def test_earlier_fuzz_finds_pass(find: Path) -> None:
    """Each file in tests/fuzz/finds is an input that a fuzzer found."""
    check(find.read_bytes())


def test_files_in_every_format_pass() -> None:
    for seed in seeds():
        check(seed)
