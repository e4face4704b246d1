"""A server's word counts until it expires, and no longer; one dead object holds back nothing else."""

import json
import re
import string
from pathlib import Path

import pytest
from support.quota_run import START_NS, ago, quota_run
from support.tiers import slow, swept

from faillog_otel.clock import HOUR_NS
from faillog_otel.sandbox.config import REFUSALS, QuotaConfig, Refusal, Scripted
from faillog_otel.segment.hours import KSUID_EPOCH_SECONDS

ONE_A_MINUTE = QuotaConfig(per_day=1, replenish="window", window_seconds=60)
SILENT = QuotaConfig(per_day=1, replenish="window", window_seconds=60, headers=False)
TROUBLE = {"listing:html": 0.01, "listing:500": 0.01, "listing:reset": 0.01, "listing:429-html": 0.01}


@pytest.mark.parametrize("quota", swept([ONE_A_MINUTE, SILENT], [ONE_A_MINUTE]), ids=["headers", "silent"])
def test_an_api_of_one_request_a_minute_is_asked_nearly_every_minute(
    tmp_path: Path, quota: QuotaConfig
) -> None:
    """By default: nobody said how many requests there are. The minutes are the simulator's."""
    with quota_run(tmp_path, quota, messages=0, faults=TROUBLE) as found:
        found.poll("-q", "--since", ago(120))
        minutes = (found.segment.clock.now_ns() - START_NS) / 60e9
        assert 118 <= len(found.listings()) <= minutes < 1.2 * len(found.listings())
        assert found.segment.quota.too_early == 0


@pytest.mark.thin(3)
@pytest.mark.parametrize("shape", REFUSALS)
def test_however_a_429_says_it_no_request_comes_before_its_time_and_little_is_lost(
    tmp_path: Path, shape: Refusal
) -> None:
    """A server that says nothing of its quota but in 429s; a person set how many requests there are."""
    quota = QuotaConfig(per_day=5, replenish="window", window_seconds=70, headers=False, refusals=(shape,))
    with quota_run(tmp_path, quota, messages=0) as found:
        assert found.poll("--since", ago(103), "--config", _config(tmp_path)).exit_code == 0
        assert len(found.listings()) == 101
        seconds = (found.segment.clock.now_ns() - START_NS) / 1e9
        waits = 101 // 5 * 70  # as the server's windows ask for
        assert found.segment.quota.too_early == 0
        if shape in ("none", "html"):  # nothing is said, and the pauses are ours: 10 s, 20 s, 40 s
            assert seconds < 2 * waits
        else:
            assert seconds < 1.1 * waits


def _config(folder: Path) -> str:
    path = folder / "faillog.toml"
    path.write_text("[segment]\nrequests_per_day = 100000\n")
    return str(path)


@slow
def test_nothing_readable_is_lost_by_a_dead_object_a_day_and_a_slow_api(tmp_path: Path) -> None:
    """Two days, and two before them; the same over 28 days: `make campaign-slow-quota`."""
    with quota_run(tmp_path, ONE_A_MINUTE, dead=4, faults=TROUBLE | {"download:503": 0.02}) as found:
        found.poll("-q", "--since", ago(48))
        waited = (found.segment.clock.now_ns() - START_NS) / 1e9
        assert waited < 1.1 * found.segment.quota.asked_to_wait_seconds
        found.poll_every(1, 2)
        end_ns = found.segment.clock.now_ns() - 10 * HOUR_NS
        assert found.dead(START_NS - 40 * HOUR_NS, end_ns) > 3
        assert found.readable(START_NS - 48 * HOUR_NS, end_ns) <= found.exported()
        assert found.segment.quota.too_early == 0
        assert found.run(command="audit").exit_code == 0


@slow
def test_one_dead_object_costs_few_requests_and_is_reported_when_it_leaves(tmp_path: Path) -> None:
    with quota_run(tmp_path, QuotaConfig(), messages=8) as found:
        world, now = found.segment.world, START_NS // HOUR_NS
        hour = next(
            each for each in range(now - 60, now - 100, -1) if len(world.objects("shop", each, START_NS)) > 1
        )
        window = ("--since", ago(now - hour), "--until", ago(now - hour - 0.5))
        [first, *others] = world.objects("shop", hour, START_NS)
        found.segment.faults.script(Scripted(fault="download:404", object=first.key, times=1000))
        done = found.poll(*window)
        assert done.exit_code == 6
        assert "1 object could not be downloaded: HTTP 404; run again at " in done.stderr
        assert len(found.listings()) == 2, "its URL works no more: one more listing"
        assert len(found.exported()) == sum(len(each.records) for each in others)
        seen = found.status()
        assert [each["object"] for each in seen["missing"]] == [f"/{first.key}"]  # type: ignore[attr-defined]
        found.poll_every(8, 24, *window)
        assert len(found.listings()) < 14
        found.segment.clock.move_to((hour + 1 + 28 * 24) * HOUR_NS)
        last = found.poll(*window)
        assert last.exit_code == 6
        assert f"HTTP 404): /{first.key} is lost" in last.stderr
        assert "1 object deleted by Segment, never downloaded" in last.stderr
        assert found.status()["lost"] == 1
        assert found.poll(*window).exit_code == 0, "it is reported once"


def test_objects_that_our_settings_refused_are_tried_at_once_with_other_settings(tmp_path: Path) -> None:
    with quota_run(tmp_path, QuotaConfig(), messages=8) as found:
        window = ("--since", ago(20), "--until", ago(18))
        refused = found.run(
            *("--once", "--segment-url", found.segment.url, "--collection", "shop", *window),
            *("--endpoint", found.receiver.http_endpoint),
        )
        assert (refused.exit_code, "allow it with --download-host" in refused.stderr) == (6, True)
        assert found.poll(*window).exit_code == 0
        assert found.status()["missing"] == []


def test_a_replay_is_judged_by_the_objects_of_its_hours(tmp_path: Path) -> None:
    with quota_run(tmp_path, QuotaConfig(), messages=8) as found:
        dead, other = ("--since", ago(20), "--until", ago(19)), ("--since", ago(40), "--until", ago(39))
        [first, *_] = found.segment.world.objects("shop", START_NS // HOUR_NS - 20, START_NS)
        found.segment.faults.script(Scripted(fault="download:404", object=first.key, times=1000))
        assert found.poll(*dead).exit_code == 6
        assert found.replay(*other).exit_code == 0
        again = found.replay(*dead)
        assert (again.exit_code, "1 object could not be downloaded: HTTP 404" in again.stderr) == (6, True)


def test_a_dead_object_of_a_collection_that_is_not_polled_fails_no_run(tmp_path: Path) -> None:
    with quota_run(tmp_path, QuotaConfig(), messages=8) as found:
        window = ("--since", ago(20), "--until", ago(19))
        [first, *_] = found.segment.world.objects("shop", START_NS // HOUR_NS - 20, START_NS)
        found.segment.faults.script(Scripted(fault="download:404", object=first.key, times=1000))
        assert found.poll(*window).exit_code == 6
    with quota_run(tmp_path, QuotaConfig(), collection="another") as found:
        assert found.poll(*window).exit_code == 0
        assert "1 object could not be downloaded yet" in found.run(command="status").stdout


@slow
def test_many_dead_objects_hold_up_no_other_hour(tmp_path: Path) -> None:
    """All objects of half a day are dead: they are tried again beside the others."""
    with quota_run(tmp_path, QuotaConfig(), messages=4) as found:
        segment = found.segment
        hours = range(START_NS // HOUR_NS - 24, START_NS // HOUR_NS - 12)
        dead = {each.key for hour in hours for each in segment.world.objects("shop", hour, START_NS)}
        assert len(dead) > 10
        segment.faults.script(
            *(Scripted(fault="download:404", object=key, times=10_000) for key in sorted(dead))
        )
        found.poll_every(1, 2, "--since", ago(24))
        end_ns = segment.clock.now_ns() - 10 * HOUR_NS
        readable = found.readable((hours.stop - 1) * HOUR_NS, end_ns)
        assert len(readable) > 20
        assert readable <= found.exported()
        read = {each.hour for each in segment.requests() if each.status == 200 and each.origin == "api"}
        assert len(read) > 55
        assert sum(each["object"][1:] in dead for each in found.status()["missing"]) > 10  # type: ignore[attr-defined]


def test_max_requests_caps_a_run(tmp_path: Path) -> None:
    with quota_run(tmp_path, QuotaConfig(), messages=0) as found:
        done = found.poll("--since", ago(30), "--max-requests", "7")
        assert done.exit_code == 6
        assert len(found.listings()) == 7
        assert "--max-requests 7 is used up; rerun (" in done.stderr
        assert found.poll("--since", ago(30)).exit_code == 0


def test_a_wait_is_shown_for_what_and_until_when(tmp_path: Path) -> None:
    quota = QuotaConfig(per_day=2, replenish="window", window_seconds=7200)
    with quota_run(tmp_path, quota, messages=0) as found:
        done = found.poll("--since", ago(10))
        until = "2025-11-24T18:07:00Z"
        assert f"1 hour due waits until {until}: Segment reports no remaining requests" in done.stderr
        says = r"Segment reports no remaining requests; rerun after 18:07 UTC \(\d+ hours? due\)"
        assert re.search(says, done.stderr)
        assert found.status()["quota"]["waits"] == {  # type: ignore[index]
            "until": until,
            "why": "Segment reports no remaining requests",
        }
        text = found.run(command="status").stdout
        assert f"paused        until {until}: Segment reports no remaining requests" in text
        planned = found.run("--collection", "shop", "--json", command="plan").stdout
        assert json.loads(planned)["quota"]["waits"]["until"] == until
        assert until in found.run("--collection", "shop", command="plan").stdout


def ksuid(at_ns: int) -> str:
    """An id that was made then."""
    number = (at_ns // 10**9 - KSUID_EPOCH_SECONDS) << 128 | 4711
    digits = ""
    for _ in range(27):
        number, digit = divmod(number, 62)
        digits = (string.digits + string.ascii_uppercase + string.ascii_lowercase)[digit] + digits
    return digits


def test_a_first_run_skips_hours_before_its_collection_was_made_unless_a_person_names_them(
    tmp_path: Path,
) -> None:
    collection = ksuid(START_NS - 10 * HOUR_NS)
    with quota_run(tmp_path, QuotaConfig(), messages=0, collection=collection) as found:
        assert found.poll().exit_code == 0
        assert len(found.listings()) == 8
        assert found.poll().exit_code == 0
        assert len(found.listings()) == 8, "nor does the next run ask for them"
        seen = found.status()["collections"]
        assert seen[collection]["hours"]["waiting"] == 2  # type: ignore[index]  # not complete yet
        assert found.poll("--since", ago(30)).exit_code == 0
        assert len(found.listings()) == 28
        assert found.run("--collection", collection, "--json", command="plan").exit_code == 0
