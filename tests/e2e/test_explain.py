"""`faillog-otel explain`: what a failure code means, and what to do."""

import json
from pathlib import Path

import pytest
from support.program import run_program


def test_a_code_is_explained_in_any_spelling(tmp_path: Path) -> None:
    done, *others = (
        run_program("explain", code, cwd=tmp_path)
        for code in ("401", "unauthorized", "errors.discarded.UNAUTHORIZED")
    )
    assert (done.code, done.stderr) == (0, "")
    assert [other.stdout for other in others] == [done.stdout] * 2
    head, *lines = done.stdout.decode().splitlines()
    assert head == "401 (also UNAUTHORIZED)"
    assert lines[0] == "  class    credentials; Segment does not retry"
    assert " ".join(" ".join(lines).split()).endswith("enter a valid key or connect the account again.")


def test_a_code_of_functions_and_destinations_has_both_rows(tmp_path: Path) -> None:
    done = run_program("explain", "gateway_timeout", cwd=tmp_path)
    heads = [line for line in done.stdout.decode().splitlines() if not line.startswith(" ")]
    assert heads == ["504 (also GATEWAY_TIMEOUT)", "gateway_timeout"]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("FORBIDEN", '; did you mean "FORBIDDEN"?'),
        ("insert_function", '; did you mean "failed_insert_function"?'),
        ("200", "; `faillog-otel explain` lists all"),
        ("successes.attempt.3", "; `faillog-otel explain` lists all"),
        ("", "; `faillog-otel explain` lists all"),
    ],
)
def test_an_unknown_code_is_wrong_usage(tmp_path: Path, code: str, says: str) -> None:
    done = run_program("explain", code, cwd=tmp_path)
    assert (done.code, done.stdout) == (2, b"")
    assert done.stderr.endswith(f"is not in the table of failure codes{says}\n")


def test_without_a_code_the_table_is_printed_by_class(tmp_path: Path) -> None:
    done = run_program("explain", cwd=tmp_path)
    lines = done.stdout.decode().splitlines()
    assert done.code == 0
    assert max(map(len, lines)) <= 100
    assert [line for line in lines if line and not line.startswith(" ")] == (
        "credentials settings payload rate_limit destination_down network filtered function segment unknown"
    ).split()
    codes = [line.strip() for line in lines if line.startswith("  ") and not line.startswith("   ")]
    rows = json.loads(run_program("explain", "--json", cwd=tmp_path).stdout)["reasons"]
    assert sorted(codes) == sorted(", ".join((row["code"], *row["names"])) for row in rows)
