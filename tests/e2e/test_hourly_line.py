"""What a healthy sidecar says by default: one line an hour, and one at its end."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.polled_folder import polled_folder
from support.program import environment

from faillog_otel.sandbox.collector import Receiver

ON_SEGMENTS_CLOCK = str(Path(__file__).parents[1] / "support" / "program_on_segments_clock.py")


@pytest.mark.thin(2)
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_healthy_sidecar_says_one_line_an_hour(tmp_path: Path, log_format: str) -> None:
    with polled_folder(tmp_path, standing=True) as polled, Receiver() as receiver:
        command = [
            sys.executable,
            ON_SEGMENTS_CLOCK,
            f"{polled.segment.control_url}clock",
            "300",
            "run",
            *polled.options,
        ]
        command += ["--endpoint", receiver.http_endpoint, "--log-format", log_format]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment(SEGMENT_TOKEN=polled.segment.token), stderr=subprocess.PIPE
        )
        assert process.stderr
        said: list[str] = []
        while sum("in the last" in line for line in said) < 8:
            said.append(process.stderr.readline().decode())
            assert said[-1], said
        process.send_signal(signal.SIGTERM)
        said += process.communicate(timeout=20)[1].decode().splitlines()
    if log_format == "json":
        reports = [each for line in said if "in the last" in (each := json.loads(line))["message"]]
        assert all(each["level"] == "info" for each in reports)
        assert sum(each["sent"]["logs"] for each in reports) == len(receiver.logs()) > 0
        assert sum(each["hours_read"] for each in reports) >= 8 - 2
        assert all(each["hours_expired"] == each["rejected"] == 0 for each in reports)
        assert {each["requests_per_day"] for each in reports} == {120}
        [last] = [json.loads(line) for line in said if '"message":"ended"' in line]
        assert last["quarantined"] == sum(each["quarantined"] for each in reports)
        assert last["records"] == sum(each["records_read"] for each in reports)
        assert [each["message"].startswith("in the last hour: ") for each in reports[:-1]] == [True] * 8
    else:
        number = r"[\d,]+"
        form = (
            rf"info: in the last hour: read {number} collection-hours?, {number} records?; sent {number} log "
            rf"records? and {number} spans?; (0 lost|{number} quarantined)"
            rf"(; {number} records? pending)?; {number} of 120 requests left\n"
        )
        assert sum(re.fullmatch(form, line) is not None for line in said) == 8, said


@pytest.mark.parametrize(("more", "says"), [([], 1), (["-q"], 0)])
def test_a_run_that_lasts_less_says_it_at_its_end(tmp_path: Path, more: list[str], says: int) -> None:
    with polled_folder(tmp_path) as polled, Receiver() as receiver:
        done = polled.run(receiver.http_endpoint, *more)
    assert done.code in (0, 3)
    reports = [line for line in done.stderr.splitlines() if "in the last " in line]
    assert len(reports) == says
    if reports:
        found = re.search(
            r"in the last \d+ s: read (\d+) collection-hours, ([\d,]+) records; sent ([\d,]+) log", reports[0]
        )
        assert found
        read, records, logs = (int(each.replace(",", "")) for each in found.groups())
        assert (read, records) == (len(polled.sql("SELECT 1 FROM hours")), done.summary["records"])
        assert logs == done.summary["sent"]["logs"]
