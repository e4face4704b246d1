"""What the documentation shows as a console is what the program prints there.

Blocks of the kind `console` need no network: `$ ` begins a command, the other lines are what is printed.
`...` stands for anything, as in doctest.
"""

import re
import subprocess
from doctest import ELLIPSIS, OutputChecker
from pathlib import Path

import pytest
from support.collector import ROOT
from support.program import PROGRAM, environment

DOCS = ROOT / "docs"
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r'^```json title="(events\.ndjson)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
SECONDS = re.compile(r"\d+\.\d s$", re.MULTILINE)

CONSOLES = [
    pytest.param(console, id=f"{page.relative_to(DOCS)}-{number}")
    for page in sorted(DOCS.rglob("*.md"))
    for number, console in enumerate(CONSOLE.findall(page.read_text("utf-8")))
]


@pytest.mark.parametrize("console", CONSOLES)
def test_a_console_of_the_documentation_shows_what_is_printed(tmp_path: Path, console: str) -> None:
    ((name, content),) = FILE.findall((DOCS / "quickstart.md").read_text("utf-8"))
    tmp_path.joinpath(name).write_text(content, "utf-8")
    lines = console.splitlines(keepends=True)
    commands = "".join(line.removeprefix("$ ") for line in lines if line.startswith("$ "))
    shown = "".join(line for line in lines if not line.startswith("$ "))
    env = environment(PATH=f"{Path(PROGRAM).parent}:/usr/bin:/bin", TZ="UTC")
    printed = subprocess.run(
        ["bash", "-c", f"exec 2>&1\n{commands}"], cwd=tmp_path, env=env, stdout=subprocess.PIPE, check=False
    ).stdout.decode()
    shown, printed = (SECONDS.sub("N s", text) for text in (shown, printed))
    assert OutputChecker().check_output(shown, printed, ELLIPSIS), printed


def test_the_front_page_shows_what_the_demo_prints(tmp_path: Path) -> None:
    readme = ROOT.joinpath("README.md").read_text("utf-8")
    (tree,) = re.findall(r"^```text\n(message .*?)^```$", readme, re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        [PROGRAM, "demo"], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, check=True
    )
    printed = done.stdout.decode().splitlines()
    assert [line for line in tree.splitlines() if line not in printed] == []
