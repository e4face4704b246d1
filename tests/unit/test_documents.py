"""README.md is a front page, and its links lead somewhere. `make docs` checks the links of the site."""

import re
from collections.abc import Iterator
from pathlib import Path

from support.collector import ROOT

from faillog_otel.cli import cli

README = ROOT / "README.md"


def test_the_readme_is_a_front_page() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 150


def test_every_link_of_the_readme_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)(#[^)]+)?\)", README.read_text("utf-8"))
    targets = [target for target, _ in links if not target.startswith("https://")]
    assert {target for target in targets if not ROOT.joinpath(target).is_file()} == set()
    for target, anchor in links:
        if anchor:
            assert anchor[1:] in anchors(ROOT / target)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as mkdocs makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_the_readme_names_every_guide() -> None:
    readme = README.read_text("utf-8")
    guides = {f"docs/guides/{page.name}" for page in (ROOT / "docs" / "guides").glob("*.md")}
    assert {guide for guide in guides if f"({guide})" not in readme} == set()


def test_every_option_that_a_page_uses_exists() -> None:
    pages = [README, *(ROOT / "docs").rglob("*.md")]
    used = [use for page in pages for use in uses(page.read_text("utf-8"))]
    assert ("run", "--once") in used
    for command, option in used:
        assert option in {each for param in cli.commands[command].params for each in param.opts} | {"--help"}


def uses(page: str) -> Iterator[tuple[str, str]]:
    """(command, option) of each `faillog-otel COMMAND ... OPTION` in a page, up to a pipe or a comment."""
    for call in re.findall(r"faillog-otel ([a-z]+\b[^`\n|&#]*)", page.replace("\\\n", " ")):
        command, *words = call.split()
        if command in cli.commands:
            yield from ((command, word.partition("=")[0]) for word in words if word.startswith("--"))
