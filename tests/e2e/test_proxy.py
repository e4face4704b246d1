"""The program behind a proxy: what `run` sends through it, and what `doctor` says of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.program import Done, run_program
from support.proxy import HttpProxy
from support.sidecar import TOKEN, segment_simulator, sidecar_options

from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.collector import Receiver

PASSWORD = "geheim-0123"  # noqa: S105  # made up


def names_of(segment: Simulator) -> dict[str, int]:
    hosts = (segment.url.removeprefix("http://"), segment.download_host)
    return {host: int(host.rpartition(":")[2]) for host in hosts}


@pytest.mark.parametrize("setting", ["environment", "URL"])
def test_a_run_goes_through_a_proxy_to_segment_and_to_its_files(
    setting: str, tmp_path: Path, receiver: Receiver
) -> None:
    with segment_simulator("a") as segment, HttpProxy(names_of(segment), login=f"me:{PASSWORD}") as proxy:
        url = proxy.url.replace("://", f"://me:{PASSWORD}@")
        named = url if setting == "URL" else setting
        args = [*sidecar_options(segment, receiver), "--once", "--summary", "json", "-vv"]
        done = run_program(
            *args, cwd=tmp_path, SEGMENT_TOKEN=TOKEN, FAILLOG_SEGMENT_PROXY=named, HTTP_PROXY=url
        )
    assert done.code == 0, done.stderr
    assert done.summary["exported"] > 0
    asked = {line.split(" ")[1].split("/")[2] for line in proxy.asked}
    assert asked == set(names_of(segment))
    assert PASSWORD not in done.stderr + done.stdout.decode()


def test_a_wrong_proxy_ends_the_run_before_it_starts(tmp_path: Path, receiver: Receiver) -> None:
    with segment_simulator("a") as segment:
        done = run_program(
            *sidecar_options(segment, receiver),
            cwd=tmp_path,
            SEGMENT_TOKEN=TOKEN,
            FAILLOG_SEGMENT_PROXY="environment",
            ALL_PROXY=f"socks5://me:{PASSWORD}@127.0.0.1:9",
        )
    assert done.code == 2
    assert "ALL_PROXY uses SOCKS, which is not supported" in done.stderr
    assert PASSWORD not in done.stderr


def doctor(
    segment: Simulator, receiver: Receiver, cwd: Path, http_proxy: str, setting: str = ""
) -> tuple[Done, list[dict[str, Any]]]:
    args = [each for each in sidecar_options(segment, receiver)[1:] if each != "-v"]
    done = run_program(
        *("doctor", "--json", *args),
        cwd=cwd,
        SEGMENT_TOKEN=TOKEN,
        HTTP_PROXY=http_proxy,
        FAILLOG_SEGMENT_PROXY=setting,
    )
    found = json.loads(done.stdout)["findings"]
    return done, [each for each in found if each["check"] in ("proxy", "network")]


def test_doctor_says_which_proxy_is_used_and_which_is_not(tmp_path: Path, receiver: Receiver) -> None:
    with segment_simulator("a") as segment, HttpProxy(names_of(segment)) as proxy:
        url = proxy.url.replace("://", f"://me:{PASSWORD}@")
        unused, (finding,) = doctor(segment, receiver, tmp_path, url)
        says = "HTTP_PROXY is set, but not used for Segment and S3"
        assert (finding["state"], finding["says"]) == ("ok", says)
        used, (finding,) = doctor(segment, receiver, tmp_path, url, "environment")
        assert (finding["state"], finding["says"]) == ("ok", f"{segment.url}: through {proxy.url}")
        wrong, (finding,) = doctor(segment, receiver, tmp_path, f"{url}/x", "environment")
        assert (finding["check"], finding["state"]) == ("network", "fail")
        for done in (unused, used, wrong):
            assert PASSWORD not in done.stdout.decode() + done.stderr


def test_doctor_names_an_unused_proxy_where_segment_cannot_be_reached(
    tmp_path: Path, receiver: Receiver
) -> None:
    with segment_simulator("a") as segment:
        pass
    _, (finding,) = doctor(segment, receiver, tmp_path, "http://127.0.0.1:9")
    assert finding["state"] == "warn"
    assert "FAILLOG_SEGMENT_PROXY=environment" in finding["do"]
