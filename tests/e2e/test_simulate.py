"""`faillog-otel simulate`, as CI starts it: ready line, answers, manifest, end."""

import hashlib
import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.program import run_program, start_program

START = "2024-10-04T00:17:00Z"


@contextmanager
def simulate(folder: Path, *args: str) -> Iterator[tuple["subprocess.Popen[bytes]", dict[str, Any]]]:
    """The running program and what its first line says; ended, should the test not do it."""
    process = start_program("simulate", *args, cwd=folder)
    assert process.stdout
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def ask(ready: dict[str, Any], collection: str, hour: str) -> httpx.Response:
    return httpx.post(
        ready["segment_url"] + "/customer-insights/download",
        headers={"Authorization": f"Bearer {ready['token']}"},
        params={"collectionId": collection, "hour": hour},
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_from_the_ready_line_to_the_manifest(tmp_path: Path, number: signal.Signals) -> None:
    options = ("--start", START, "--formats", "jsonl", "--manifest", "truth.jsonl", "-v")
    with simulate(tmp_path, *options) as (process, ready):
        assert ready.keys() == {"segment_url", "download_host", "token", "collections", "control"}
        assert ready["collections"] == ["shop-mixpanel", "shop-braze", "shop-webhooks"]
        listing = ask(ready, "shop-webhooks", "2024-10-03T12:00:00Z")
        urls = listing.json()["data"]["download"]["urls"]
        content = [httpx.get(url).content for url in urls]
        assert {httpx.URL(url).netloc.decode() for url in urls} == {ready["download_host"]}
        moved = httpx.post(ready["control"] + "/clock", content='{"forward_seconds": 3600}').json()
        assert moved["now"] >= "2024-10-04T01:17:00Z"
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (0, b"")
    told = [json.loads(line) for line in tmp_path.joinpath("truth.jsonl").read_text().splitlines()]
    lines = [line for each in content for line in each.splitlines()]
    assert {each["sha256"] for each in told} == {hashlib.sha256(line).hexdigest() for line in lines}
    assert len(told) == len(lines) > 20
    assert b"POST /customer-insights/download shop-webhooks 2024-10-03T12:00:00Z: 200, counted" in stderr
    assert ready["token"].encode() not in stderr
    assert b"X-Amz" not in stderr


def test_a_fresh_simulator_has_data_right_away(tmp_path: Path) -> None:
    """By the real clock: 28 days are there from the beginning."""
    with simulate(tmp_path, "--collection", "mine", "--token", "t", "--fault", "listing:503=1") as (_, ready):
        assert (ready["collections"], ready["token"]) == (["mine"], "t")
        assert ask(ready, "mine", "2024-10-03T12:00:00Z").status_code == 503
        now = httpx.get(ready["control"] + "/clock").json()["now_ns"]
        assert now > 1_700_000_000 * 10**9


def test_the_same_seed_is_the_same_manifest(tmp_path: Path) -> None:
    manifests = []
    for seed in ("7", "7", "8"):
        options = ("--seed", seed, "--start", START, "--damage", "0.1", "--duplicates", "0.1")
        with simulate(tmp_path, *options) as (_, ready):
            for hour in range(8, 14):
                ask(ready, "shop-mixpanel", f"2024-10-03T{hour:02}:00:00Z")
            told = httpx.get(ready["control"] + "/manifest").text.splitlines()
        manifests.append([{**json.loads(each), "listed_at": None} for each in told])
    assert manifests[0] == manifests[1] != manifests[2]
    assert any(each["damaged"] for each in manifests[0])


@pytest.mark.parametrize(
    ("options", "versions"),
    [
        ((), {1, "v1"}),
        (("--dialect", "mixed"), {1, "v1"}),
        (("--dialect", "draft"), {1}),
        (("--dialect", "page"), {"v1"}),
    ],
)
def test_records_are_written_in_the_dialect_that_is_asked_for(
    tmp_path: Path, options: tuple[str, ...], versions: set[Any]
) -> None:
    with simulate(tmp_path, "--start", START, "--formats", "jsonl", *options) as (_, ready):
        listing = ask(ready, "shop-webhooks", "2024-10-03T12:00:00Z").json()
        content = b"".join(httpx.get(url).content for url in listing["data"]["download"]["urls"])
    assert {json.loads(line)["version"] for line in content.splitlines()} == versions


def test_a_message_that_is_tracked_is_forwarded_hours_later(tmp_path: Path) -> None:
    """As docs/guides/simulate.md says: the simulated clock starts eight hours ago, and is moved to now."""
    start = (datetime.now(UTC) - timedelta(hours=8)).strftime("%Y-%m-%dT%H:%M:%SZ")
    with simulate(tmp_path, "--start", start, "--messages", "0") as (_, ready):
        event = {"userId": "user-1", "event": "Order Completed", "messageId": "order-4711"}
        response = httpx.post(ready["segment_url"] + "/v1/track", auth=("key", ""), json=event)
        assert response.json() == {"success": True}
        httpx.post(ready["control"] + "/clock", json={"forward_seconds": 8 * 3600})
        where = ("--segment-url", ready["segment_url"], "--download-host", ready["download_host"])
        what = ("--once", "--since", "-9h", "--collection", "shop-webhooks", "--state-dir", "state")
        forward = ("--protocol", "file", "--output", "out.jsonl", "--summary", "json")
        done = run_program("run", *what, *where, *forward, cwd=tmp_path, SEGMENT_TOKEN=ready["token"])
        promised = httpx.get(ready["control"] + "/manifest").text.splitlines()
    assert (done.code, done.summary["events"]) == (0, {"error": 2, "attempt": 8, "exchange": 8, "other": 0})
    assert done.summary["records"] == len({json.loads(each)["sha256"] for each in promised})
    assert tmp_path.joinpath("out.jsonl").read_text().count("order-4711") > 8


def test_an_incident_is_all_that_fails_and_the_simulator_says_what_it_was(tmp_path: Path) -> None:
    given = "shop-braze=wrong-key:2024-10-03T12:00:00Z.."
    options = ("--start", START, "--messages", "0", "--incident", given, "--incident-messages", "30")
    with simulate(tmp_path, *options) as (_, ready):
        for collection in ready["collections"]:
            for hour in range(10, 15):
                ask(ready, collection, f"2024-10-03T{hour:02}:00:00Z")
        found = httpx.get(ready["control"] + "/failures").json()
        promised = httpx.get(ready["control"] + "/manifest").text.splitlines()
    assert {json.loads(each)["collection"] for each in promised} == {"shop-braze"}
    [listed], [all_of_it] = found["listed"], found["incidents"]
    assert listed.keys() == all_of_it.keys()
    assert (listed["incident"], listed["kind"]) == (given, "wrong-key")
    assert 0 < listed["lost"] <= listed["messages"] <= all_of_it["messages"]
    assert listed["recovered"] == all_of_it["recovered"] == 0
    assert listed["first_failure"] >= all_of_it["first_failure"] > "2024-10-03T12:00"
    assert listed["messages"] >= listed["exchanges"] > 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--fault", "listing:teapot=0.1"), "listing:429-body"),
        (("--fault", "listing:503=often"), "NAME=RATE"),
        (("--fault", "listing:503=2"), "rates from 0 to 1"),
        (("--growth", "shrink"), "append, rewrite, repack"),
        (("--formats", ""), "gzip, jsonl, zstd, array"),
        (("--start", "yesterday"), "RFC 3339"),
        (("--collection", "a/b"), "a/b"),
        (("--damage", "2"), "damage"),
        (("--quota", "0"), "quota"),
        (("--port", "70000"), "--port"),
        (("--manifest", "missing/truth.jsonl"), "missing/truth.jsonl"),
        (("--nothing",), "--nothing"),
        (("--incident", "shop-braze=down"), "ID=KIND:START..END"),
        (("--incident", "shop-braze=fire:-6h.."), "down, wrong-key, bad-mapping, rate-limit, slow-network"),
        (("--incident", "shop-braze=down:monday.."), "--incident shop-braze=down:monday..: 'monday' is not"),
        (("--incident", "shop=down:-6h.."), "unknown collection; use one of: shop-mixpanel"),
        (("--incident", "shop-braze=down:-3h..-6h"), "ends before it starts"),
        (("--incident-messages", "0"), "incident_messages"),
    ],
)
def test_wrong_options_are_exit_2(tmp_path: Path, options: tuple[str, ...], says: str) -> None:
    done = run_program("simulate", *options, cwd=tmp_path)
    assert (done.code, done.stdout) == (2, b"")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_exit_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for option in ("--port", "--download-port"):
            done = run_program("simulate", option, str(port), cwd=tmp_path)
            assert (done.code, f"port {port}" in done.stderr) == (2, True)
