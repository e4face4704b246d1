"""`--health-addr` and `--health-file`, as an orchestrator asks them."""

import re
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.program import run_program
from support.sidecar import TOKEN, segment_simulator, sidecar, sidecar_options

from faillog_otel.sandbox.collector import Receiver


def test_a_sidecar_says_that_it_is_alive_and_ready_and_nothing_secret(
    tmp_path: Path, receiver: Receiver
) -> None:
    file = tmp_path / "alive"
    with segment_simulator("mine") as segment:
        args = [*sidecar_options(segment, receiver), "--health-addr", "0", "--health-file", str(file)]
        with sidecar(args, tmp_path) as running:
            line = running.wait_for("/healthz")
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found, line
            url = found[0]
            running.wait_for("objects")
            alive, ready = httpx.get(f"{url}/healthz"), httpx.get(f"{url}/readyz?verbose")
            assert (alive.status_code, ready.status_code) == (200, 200)
            assert alive.json() == {"ok": True, "checks": {"loops": {"ok": True, "why": "running"}}}
            assert {name: check["ok"] for name, check in ready.json()["checks"].items()} == {
                "loops": True,
                "ledger": True,
                "collector": True,
                "hours": True,
            }
            assert httpx.get(f"{url}/nowhere").status_code == 404
            assert httpx.head(f"{url}/readyz").status_code == 200
            assert httpx.post(f"{url}/healthz").status_code == 501
            answered = "".join(f"{each.headers}{each.text}" for each in (alive, ready))
            for secret in (TOKEN, "mine", segment.url, receiver.http_endpoint, str(tmp_path), "Python"):
                assert secret not in answered
            assert file.stat().st_size == 0
            assert running.end() == 143
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{url}/healthz")


def test_hours_that_leave_unread_make_it_unready_but_not_dead(tmp_path: Path, receiver: Receiver) -> None:
    with segment_simulator("mine") as segment:
        args = sidecar_options(segment, receiver, since="-670h")
        args[args.index("--segment-url") + 1] = "http://127.0.0.1:1"
        with sidecar(args, tmp_path, FAILLOG_HEALTH_ADDR="127.0.0.1:0") as running:
            found = re.search(r"http://[^/]+", running.wait_for("/healthz"))
            assert found
            ready = httpx.get(f"{found[0]}/readyz")
            assert ready.status_code == 503
            checks = ready.json()["checks"]
            assert [name for name, check in checks.items() if not check["ok"]] == ["hours"]
            assert "unread" in checks["hours"]["why"]
            assert httpx.get(f"{found[0]}/healthz").status_code == 200


def test_ipv6_has_an_address_too(tmp_path: Path, receiver: Receiver) -> None:
    with segment_simulator("mine") as segment:
        args = [*sidecar_options(segment, receiver), "--health-addr", "[::1]:0"]
        with sidecar(args, tmp_path) as running:
            found = re.search(r"http://\[::1\]:\d+", running.wait_for("/healthz"))
            assert found
            assert httpx.get(f"{found[0]}/healthz").json()["ok"] is True


@pytest.mark.parametrize("address", ["host", "1.2.3.4:", ":99999", "http://h:1", "::1:80", "-1"])
def test_a_wrong_address_is_an_error(tmp_path: Path, address: str) -> None:
    env: dict[str, Any] = {"FAILLOG_HEALTH_ADDR": address, "FAILLOG_COLLECTIONS": "c", "SEGMENT_TOKEN": "t"}
    done = run_program("run", cwd=tmp_path, **env)
    assert (done.code, "FAILLOG_HEALTH_ADDR: " in done.stderr) == (2, True), done.stderr


def test_an_address_that_is_taken_and_a_file_that_cannot_be_made_are_errors(
    tmp_path: Path, receiver: Receiver
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, segment_simulator("mine") as segment:
        for flags in (
            ("--health-addr", str(taken.getsockname()[1])),
            ("--health-file", str(tmp_path / "nowhere" / "alive")),
        ):
            done = run_program(*sidecar_options(segment, receiver), *flags, cwd=tmp_path, SEGMENT_TOKEN=TOKEN)
            assert (done.code, flags[0] in done.stderr) == (2, True), done.stderr
        assert segment.requests() == []


def test_paths_end_soon_and_have_no_health(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(b"")
    assert run_program("run", "events", "--health-addr", "0", cwd=tmp_path).code == 2
    done = run_program(
        *("run", "events", "--protocol", "file", "--output", "out"),
        cwd=tmp_path,
        FAILLOG_HEALTH_ADDR="0",
        FAILLOG_HEALTH_FILE="alive",
    )
    assert (done.code, (tmp_path / "alive").exists()) == (0, False)
