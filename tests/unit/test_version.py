"""The version has one source, `faillog_otel.__version__`; everything else that names it agrees."""

from importlib.metadata import version

from support.collector import ROOT

from faillog_otel import __version__


def test_the_installed_package_has_the_version_of_the_code() -> None:
    assert version("faillog-otel") == __version__


def test_the_changelog_describes_the_version() -> None:
    headings = [
        line
        for line in ROOT.joinpath("CHANGELOG.md").read_text("utf-8").splitlines()
        if line.startswith("## [")
    ]
    assert headings[0] == "## [Unreleased]"
    assert any(heading.startswith(f"## [{__version__}]") for heading in headings)
