"""Downloads over real sockets: what is written, what is refused, and what no message shows."""

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from faillog_otel.clock import HOUR_NS, hour_text
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.config import Scripted, SimulatedClock, SimulatorConfig, WorldConfig
from faillog_otel.segment.download import (
    Downloaded,
    Downloader,
    DownloadFailed,
    DownloadOutcome,
    DownloadRefused,
    Expired,
    NotModified,
)
from faillog_otel.segment.hours import ObjectVersion

NOW = 1_746_662_400 * 1_000_000_000


class Presigned:
    """A simulator, and a URL of one of its objects."""

    def __init__(self, segment: Simulator) -> None:
        self.segment = segment
        self.clock = segment.clock
        hour = next(h for h in range(NOW // HOUR_NS - 40, NOW // HOUR_NS) if segment.world.records("a", h))
        answer = httpx.post(
            f"{segment.url}/customer-insights/download",
            params={"collectionId": "a", "hour": hour_text(hour)},
            headers={"authorization": f"Bearer {segment.token}"},
        )
        self.url = answer.json()["data"]["download"]["urls"][0]

    def download(
        self, known: ObjectVersion | None = None, *, hosts: tuple[str, ...] | None = None
    ) -> DownloadOutcome:
        self.file = io.BytesIO()
        downloader = Downloader((self.segment.download_host,) if hosts is None else hosts, "test")
        return downloader.download(self.url, known, self.file, lambda: False)


@pytest.fixture
def asked() -> Iterator[Presigned]:
    config = SimulatorConfig(world=WorldConfig(collections=("a",)), slow_seconds=0.05)
    with Simulator(config, SimulatedClock(NOW, standing=True)) as segment:
        yield Presigned(segment)


def test_an_object_is_written_whole_and_known_again(asked: Presigned) -> None:
    found = asked.download()
    assert isinstance(found, Downloaded)
    assert found.etag
    assert len(asked.file.getvalue()) == found.length > 0
    known = ObjectVersion(found.etag, found.last_modified, found.length)
    assert asked.download(known) == NotModified()
    assert asked.file.getvalue() == b""


def test_an_object_without_etag_is_always_downloaded(asked: Presigned) -> None:
    """Its length alone must not pass for the same version."""
    asked.segment.faults.script(Scripted(fault="download:no-etag", times=2))
    found = asked.download()
    assert isinstance(found, Downloaded)
    assert isinstance(
        asked.download(ObjectVersion(found.etag, found.last_modified, found.length)), Downloaded
    )


@pytest.mark.parametrize("fault", ["reset", "truncated", "500", "503", "html"])
def test_what_breaks_off_may_be_tried_again(asked: Presigned, fault: str) -> None:
    asked.segment.faults.script(Scripted(fault=f"download:{fault}"))
    assert isinstance(asked.download(), DownloadFailed)
    assert isinstance(asked.download(), Downloaded)


@pytest.mark.parametrize("fault", ["expired", "404", "301", "302", "307"])
def test_a_url_that_does_not_work_needs_another_listing(asked: Presigned, fault: str) -> None:
    asked.segment.faults.script(Scripted(fault=f"download:{fault}"))
    assert isinstance(asked.download(), Expired)


def test_a_url_works_for_two_hours(asked: Presigned) -> None:
    asked.clock.forward(7201)
    assert asked.download() == Expired("HTTP 403 (the URL has probably expired)")


def test_a_host_that_was_not_named_is_refused_without_a_connection(asked: Presigned) -> None:
    found = asked.download(hosts=())
    assert found == DownloadRefused(
        "127.0.0.1 is not a host of S3; allow it with --download-host if it is right"
    )
    assert len(asked.segment.requests()) == 1  # the listing


@pytest.mark.parametrize(
    "url",
    [
        "http://bucket.s3.amazonaws.com/a?X-Amz-Signature=geheim",
        "ftp://bucket.s3.amazonaws.com/a?X-Amz-Signature=geheim",
        "https://evil.example/s3.amazonaws.com?X-Amz-Signature=geheim",
        "https://s3.amazonaws.com.evil.example/a?X-Amz-Signature=geheim",
        "https://bucket.s3.amazonaws.com@169.254.169.254/a?X-Amz-Signature=geheim",
        "https://[::1]/a?X-Amz-Signature=geheim",
        "https://[/a?X-Amz-Signature=geheim",
        "file:///etc/passwd",
        "",
    ],
)
def test_other_urls_are_refused_and_not_shown(url: str) -> None:
    downloader = Downloader((), "test")
    found = downloader.download(url, None, io.BytesIO(), lambda: False)
    assert isinstance(found, DownloadRefused | DownloadFailed)
    assert "geheim" not in found.why


def test_a_full_disk_is_raised_to_the_caller(asked: Presigned) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this machine")
    downloader = Downloader((asked.segment.download_host,), "test")
    with Path("/dev/full").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        downloader.download(asked.url, None, file, lambda: False)
