"""What `run` says of files, by one process or by workers, is what `failures` says of the same files."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.program import run_program

from faillog_otel.sandbox.collector import Receiver
from faillog_otel.sandbox.generator import failure_events


def groups(found: dict[str, Any]) -> dict[str, tuple[object, ...]]:
    """What both know exactly: a run knows times by the hour."""
    return {
        each["group"]: (
            *(each["destination"]["id"], each["code"], each["status"], each["class"], each["reason"]),
            *(each["messages"], each["attempts"], each["requests"], each["by_hour"]),
        )
        for each in found["groups"]
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files, large enough that each is shared by workers; the messages of one hour are in both."""
    folder = tmp_path_factory.mktemp("files")
    events = list(failure_events(7, 1500))
    for number in range(2):
        (folder / f"events{number}").write_bytes(b"".join(each + b"\n" for each in events[number::2]))
    return folder


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_run_counts_what_failures_counts(workers: str, folder: Path) -> None:
    files = ("events0", "events1")
    done = run_program("failures", *files, "--all", "--json", cwd=folder)
    expected = groups(json.loads(done.stdout))
    with Receiver() as receiver:
        options = ("--endpoint", receiver.http_endpoint, "--summary", "json", "--workers", workers)
        run = run_program("run", *files, *options, cwd=folder)
    assert run.code == 0
    found = groups(json.loads(run.stdout.splitlines()[-1]))
    assert len(expected) > 5
    assert found == expected
    assert sum(each["messages"]["lost"] for each in json.loads(done.stdout)["groups"]) > 100
