"""Clock jumps: tests of their own, which this part runs and counts."""

import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path

from campaign.parts import Case, Part

TESTS = Path(__file__).parents[1]
PATTERN = "test_clock*.py"
"""The files of tests, anywhere below tests/."""


class ClockJumps(Part):
    """A case is a file of tests, by its name; each test in it is counted."""

    title = "clock jumps"
    unit = "all tests in files called test_clock*.py"
    size = 1
    short = 0  # `make test` runs them

    def plan(self, _size: int, _seed: int) -> list[list[str]]:
        """A batch for each file."""
        return [[str(path.relative_to(TESTS))] for path in sorted(TESTS.rglob(PATTERN))]

    def run(self, names: Sequence[str], folder: Path) -> Iterator[Case]:
        """Runs the tests of one file."""
        for name in names:
            case, report = Case(name), folder / "report.xml"
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                f"--junitxml={report}",
                name,
            ]
            done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, check=False)
            tests = ET.parse(report).iter("testcase") if report.exists() else []  # noqa: S314  # pytest wrote it
            for test in tests:
                case.count("tests")
                if test.find("failure") is not None or test.find("error") is not None:
                    case.wrong.append(f"{test.get('name')} failed")
            if done.returncode and not case.wrong:
                case.wrong.append(f"pytest ended with {done.returncode}: {done.stdout[-500:]}")
            yield case
