"""The simulated Segment over real sockets: it behaves as the real one is documented."""

import gzip
import hashlib
import json
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
from msgspec.structs import replace

from faillog_otel.clock import HOUR_NS, SECOND_NS, hour_text
from faillog_otel.errors import ConfigError
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.bookkeeping import ManifestEntry
from faillog_otel.sandbox.config import (
    CATALOGUE,
    QuotaConfig,
    Scripted,
    SimulatedClock,
    SimulatorConfig,
    WorldConfig,
)
from faillog_otel.sandbox.destinations import DESTINATIONS, SOURCE_ID
from faillog_otel.sandbox.free_requests import CREDENTIALS

NOW = 480_000 * HOUR_NS + 17 * 60 * SECOND_NS  # 2024-10-04T00:17:00Z
LISTING = "/customer-insights/download"
VENDOR = "application/vnd.segment.v1alpha+json"
WORLD = WorldConfig(collections=("c",), messages=8.0, growth=("append",), formats=("jsonl",))
NOTHING = "no response"
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # no connection uses TLS; a context takes long to make


def get(url: str, **more: Any) -> httpx.Response:
    return httpx.get(url, verify=NO_TLS, **more)


def head(url: str) -> httpx.Response:
    return httpx.head(url, verify=NO_TLS)


def post(url: str, **more: Any) -> httpx.Response:
    return httpx.post(url, verify=NO_TLS, **more)


def simulator(**config: Any) -> Simulator:
    given = {"world": WORLD, "slow_seconds": 0.05, **config}
    return Simulator(SimulatorConfig(**given), SimulatedClock(NOW, standing=True))


@pytest.fixture
def segment() -> Iterator[Simulator]:
    with simulator() as segment:
        yield segment


def busy_hour(segment: Simulator, age: int = 10) -> int:
    """The newest hour of at least this age, in hours, that has two objects or more."""
    now_ns = segment.clock.now_ns()
    return next(
        hour
        for hour in range(now_ns // HOUR_NS - age, 0, -1)
        if len(segment.world.objects("c", hour, now_ns)) >= 2
    )


def ask(segment: Simulator, hour: int | None = None, **more: Any) -> httpx.Response:
    """Requests a listing, with its arguments in both forms: the query and the body."""
    arguments = {"collectionId": "c", "hour": hour_text(busy_hour(segment) if hour is None else hour)}
    given = {
        "headers": {"Authorization": f"Bearer {segment.token}", "Content-Type": VENDOR},
        "params": arguments,
        "content": json.dumps(arguments),
        **more,
    }
    return post(segment.url + LISTING, **given)


def urls(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    found: list[str] = response.json()["data"]["download"]["urls"]
    return found


def hashes(content: bytes) -> list[str]:
    return [hashlib.sha256(line).hexdigest() for line in content.splitlines()]


# -- listings ------------------------------------------------------------------------------------------


def test_a_listing_gives_urls_whose_content_is_what_the_manifest_says(segment: Simulator) -> None:
    hour = busy_hour(segment)
    content = [get(url).content for url in urls(ask(segment, hour))]
    told = [promise for promise in segment.manifest() if promise.hour == hour_text(hour)]
    assert sorted(h for each in content for h in hashes(each)) == sorted(p.sha256 for p in told)
    assert all(p.listed_at == p.served_at == "2024-10-04T00:17:00Z" for p in told)
    assert not any(promise.damaged for promise in told)


@pytest.mark.parametrize("header", ["", "Bearer wrong", "Basic dDp0", "Bearer"])
def test_a_request_without_the_token_is_refused_and_costs_nothing(segment: Simulator, header: str) -> None:
    response = ask(segment, headers={"Authorization": header})
    assert response.status_code == 401
    (error,) = response.json()["errors"]
    assert error.keys() == {"type", "message", "field", "data", "status"}
    assert segment.quota.max_in_24_hours == 0
    assert get(segment.url, headers={"Authorization": header}).status_code == 401


@pytest.mark.parametrize(
    ("form", "query", "body", "content_type", "status"),
    [
        ("either", True, True, VENDOR, 200),
        ("either", True, False, None, 200),
        ("either", False, True, VENDOR, 200),
        ("either", False, True, "application/json", 422),
        ("either", False, False, None, 422),
        ("query", True, True, VENDOR, 200),
        ("query", False, True, VENDOR, 422),
        ("body", True, True, VENDOR, 200),
        ("body", True, False, None, 422),
        ("body-only", True, True, VENDOR, 422),
        ("body-only", False, True, VENDOR + "; charset=utf-8", 200),
    ],
)
def test_a_listing_is_accepted_only_in_the_configured_form(
    form: str, query: bool, body: bool, content_type: str | None, status: int
) -> None:
    """By the settings of `--form`; each request is counted."""
    with simulator(form=form, refusal=422) as segment:
        arguments = {"collectionId": "c", "hour": hour_text(busy_hour(segment))}
        headers = {"Authorization": f"Bearer {segment.token}"}
        response = ask(
            segment,
            headers=headers | ({"Content-Type": content_type} if content_type else {}),
            params=arguments if query else None,
            content=json.dumps(arguments) if body else None,
        )
        assert response.status_code == status
        assert [each.counted for each in segment.requests()] == [True]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('{"collectionId": "other", "hour": "2024-10-03T00:00:00Z"}', 404),
        ('{"collectionId": "c", "hour": "2024-10-03T00:30:00Z"}', 422),
        ('{"collectionId": "c", "hour": "yesterday"}', 422),
        ('{"collectionId": "c", "hour": 3}', 422),
        ('{"hour": "2024-10-03T00:00:00Z"}', 422),
        ('{"collectionId": "c",', 400),
        ("[" * 5000, 400),
        ("[]", 400),
    ],
)
def test_invalid_arguments_are_refused(segment: Simulator, body: str, status: int) -> None:
    response = ask(segment, params=None, content=body)
    assert (response.status_code, response.json()["errors"][0]["status"]) == (status, status)


def test_requests_other_than_listings_cost_nothing(segment: Simulator) -> None:
    with httpx.Client(base_url=segment.url, headers={"Authorization": f"Bearer {segment.token}"}) as client:
        assert client.get("/").json()["data"]["workspace"]["slug"] == "simulated"
        found = client.get(f"/destinations/{DESTINATIONS[0].id}").json()["data"]["destination"]
        assert found["metadata"]["name"] == DESTINATIONS[0].name
        assert client.get("/destinations/none").status_code == 404
        assert client.get(LISTING).status_code == 405
    assert segment.quota.max_in_24_hours == 0


# -- names ---------------------------------------------------------------------------------------------


def names(segment: Simulator, path: str, kind: str = "v1", **page: str) -> httpx.Response:
    return free(segment, path, kind, **{f"pagination.{key}": value for key, value in page.items()})


def free(segment: Simulator, path: str, kind: str, **query: str) -> httpx.Response:
    headers = {
        "Authorization": f"Bearer {segment.token}",
        "Accept": f"application/vnd.segment.{kind}+json",
    }
    return get(segment.url + path, params={"pagination.count": "1000", **query}, headers=headers)


def test_names_are_listed_in_pages() -> None:
    with simulator(names_per_page=3) as segment:
        first = names(segment, "/destinations").json()["data"]
        assert first["pagination"] == {"current": "0", "next": "3", "totalEntries": len(DESTINATIONS)}
        second = names(segment, "/destinations", cursor="3").json()["data"]
        assert "next" not in second["pagination"]
        found = [each["id"] for each in (*first["destinations"], *second["destinations"])]
        assert found == [each.id for each in DESTINATIONS]
        assert names(segment, "/destinations", count="1001").status_code == 422


def test_destinations_belong_to_a_source_and_have_subscriptions(segment: Simulator) -> None:
    [source] = names(segment, "/sources").json()["data"]["sources"]
    connected = names(segment, f"/sources/{source['id']}/connected-destinations").json()["data"][
        "destinations"
    ]
    assert {each["sourceId"] for each in connected} == {source["id"]}
    path = f"/destinations/{DESTINATIONS[0].id}/subscriptions"
    [subscription] = names(segment, path, "v1alpha").json()["data"]["subscriptions"]
    assert subscription["id"] == DESTINATIONS[0].subscription_id
    assert names(segment, path).status_code == 406


def test_answers_with_names_have_credentials(segment: Simulator) -> None:
    segment.faults.script(Scripted(fault="names:403", nth=4))
    answers = [
        names(segment, "/destinations").text,
        names(segment, "/sources").text,
        names(segment, f"/destinations/{DESTINATIONS[0].id}/subscriptions", "v1alpha").text,
        names(segment, "/sources").text,
    ]
    assert all(any(each in answer for answer in answers) for each in CREDENTIALS)


def test_names_have_a_rate_limit_of_their_own() -> None:
    with simulator(names_per_minute=2) as segment:
        codes = [names(segment, "/sources").status_code for _ in range(3)]
        assert codes == [200, 200, 429]
        segment.clock.forward(20)
        assert names(segment, "/sources").headers["Retry-After"] == "40"
        assert ask(segment).status_code == 200
        segment.clock.forward(40)
        assert names(segment, "/sources").status_code == 200


def test_a_person_can_rename_while_it_runs(segment: Simulator) -> None:
    for id_ in (DESTINATIONS[0].id, SOURCE_ID):
        assert post(f"{segment.control_url}names", json={id_: "New"}).status_code == 200
    assert names(segment, "/destinations").json()["data"]["destinations"][0]["name"] == "New"
    assert names(segment, "/sources").json()["data"]["sources"][0]["name"] == "New"
    refused = post(f"{segment.control_url}names", json={"none": "New"})
    assert (refused.status_code, "no destination" in refused.json()["error"]) == (400, True)


FREE_FAULTS: dict[str, object] = {
    "401": 401,
    "403": 403,
    "404": 404,
    "429": 429,
    "500": 500,
    "reset": NOTHING,
    "slow": 200,
    "html": 200,
    "truncated": 200,
    "wrong-shape": 200,
}


FREE_REQUESTS = {
    "names": ("/sources", "v1"),
    "counts": (f"/delivery-overview/successfully-received?sourceId={SOURCE_ID}&granularity=HOUR", "v1beta"),
    "changes": ("/audit-events", "v1"),
}


@pytest.mark.parametrize("name", FREE_FAULTS)
@pytest.mark.parametrize("kind", FREE_REQUESTS)
def test_each_fault_of_a_free_request_happens_once(segment: Simulator, kind: str, name: str) -> None:
    path, media_type = FREE_REQUESTS[kind]
    path, _, query = path.partition("?")

    def request() -> httpx.Response:
        day = {"startTime": "2024-10-03T00:00:00Z", "endTime": "2024-10-03T23:00:00Z"}
        return free(segment, path, media_type, **day, **dict(parse_qsl(query)))

    segment.faults.script(Scripted(fault=f"{kind}:{name}"))
    assert status_of(request) == FREE_FAULTS[name]
    (asked,) = segment.requests()
    assert (asked.fault, asked.counted) == (f"{kind}:{name}", False)
    assert request().status_code == 200


# -- the quota -----------------------------------------------------------------------------------------


def test_each_listing_reports_the_quota_and_an_exhausted_quota_refuses() -> None:
    with simulator(quota=QuotaConfig(per_day=3, retry_after=True)) as segment:
        left = []
        for _ in range(3):
            headers = ask(segment).headers
            left.append((headers["X-RateLimit-Consumed"], headers["X-RateLimit-Remaining"]))
            reset = parsedate_to_datetime(headers["X-RateLimit-Reset"])
            assert reset.isoformat() == "2024-10-04T01:00:00+00:00"
        assert left == [("1", "2"), ("2", "1"), ("3", "0")]
        refused = ask(segment)
        assert refused.status_code == 429
        (error,) = refused.json()["errors"]
        assert error["data"] == {"remainingPoints": 0, "msBeforeNext": 43 * 60_000, "consumedPoints": 4}
        assert (error["type"], error["message"]) == ("RequestError", "Too many requests")
        assert refused.headers["Retry-After"] == str(43 * 60)
        segment.clock.forward(43 * 60)
        assert ask(segment).status_code == 200
        assert segment.quota.max_in_24_hours == 5


def test_requests_at_the_same_time_do_not_get_more_than_the_quota() -> None:
    with simulator(quota=QuotaConfig(per_day=20)) as segment, ThreadPoolExecutor(8) as clients:
        hour = busy_hour(segment)
        statuses = [each.status_code for each in clients.map(lambda _: ask(segment, hour), range(60))]
        assert (statuses.count(200), statuses.count(429)) == (20, 40)
        assert segment.quota.max_in_24_hours == 60


# -- downloads -----------------------------------------------------------------------------------------


def test_a_url_works_for_two_hours_and_each_listing_signs_anew(segment: Simulator) -> None:
    hour = busy_hour(segment, age=20)
    first, again = urls(ask(segment, hour)), urls(ask(segment, hour))
    assert [url.partition("?")[0] for url in first] == [url.partition("?")[0] for url in again]
    assert not {*first} & {*again}
    segment.clock.forward(7199)
    assert get(first[0]).status_code == 200
    segment.clock.forward(1)
    expired = get(first[0])
    assert (expired.status_code, "<Message>Request has expired</Message>" in expired.text) == (403, True)
    assert "<Code>AccessDenied</Code>" in expired.text
    assert get(urls(ask(segment, hour))[0]).status_code == 200


def test_signatures_are_checked(segment: Simulator) -> None:
    first, second, *_ = urls(ask(segment))
    for wrong in (
        first[:-1] + ("0" if first[-1] != "0" else "1"),
        first.replace("X-Amz-Expires=7200", "X-Amz-Expires=9999"),
        second.partition("?")[0] + "?" + first.partition("?")[2],
    ):
        response = get(wrong)
        assert (response.status_code, "SignatureDoesNotMatch" in response.text) == (403, True)
    assert head(first).status_code == 403
    assert get(first.partition("?")[0]).status_code == 403
    assert post(first).status_code == 403


def test_an_unchanged_object_is_304(segment: Simulator) -> None:
    (url, *_) = urls(ask(segment))
    whole = get(url)
    etag = whole.headers["ETag"]
    assert etag == f'"{hashlib.md5(whole.content).hexdigest()}"'  # noqa: S324  # S3's ETag is an MD5
    assert int(whole.headers["Content-Length"]) == len(whole.content)
    for condition in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        response = get(url, headers={"If-None-Match": condition})
        assert (response.status_code, response.content, response.headers["ETag"]) == (304, b"", etag)
    assert get(url, headers={"If-None-Match": '"other"'}).content == whole.content


def test_the_manifest_says_which_versions_were_sent(segment: Simulator) -> None:
    first, second, *_ = urls(ask(segment))
    etag = get(first).headers["ETag"]
    assert get(second, headers={"If-None-Match": "*"}).status_code == 304
    assert {p.etag for p in segment.manifest() if p.served_at} == {etag}
    assert all(p.listed_at for p in segment.manifest())


def test_the_manifest_says_of_an_attempt_when_its_exchange_was_first_listed() -> None:
    """An hour is listed as often as it grows, so some attempts are listed before their exchanges."""
    lines: dict[str, dict[str, Any]] = {}
    with simulator(world=replace(WORLD, messages=60.0)) as segment:
        hour = busy_hour(segment)
        for half_hours in range(3, 14):
            segment.clock.move_to(hour * HOUR_NS + half_hours * HOUR_NS // 2)
            for url in urls(ask(segment, hour)):
                content = get(url).content
                lines |= dict(zip(hashes(content), map(json.loads, content.splitlines()), strict=True))
        manifest = list(segment.manifest())
    first_listed: dict[str | None, str | None] = {}
    for told in manifest:
        assert lines[told.sha256]["properties"].get("destinationExchangeId") == told.exchange_id
        if lines[told.sha256]["event"] == "Destination Exchange Logged":
            first_listed[told.exchange_id] = told.listed_at
    attempts = [told for told in manifest if lines[told.sha256]["event"] == "Delivery Attempt Logged"]
    assert all(each.exchange_listed_at == first_listed[each.exchange_id] for each in attempts)
    for early, late in (("exchange_listed_at", "listed_at"), ("listed_at", "exchange_listed_at")):
        assert any(getattr(each, early) < getattr(each, late) for each in attempts)


def test_the_failing_messages_are_those_of_the_records_that_were_listed(segment: Simulator) -> None:
    assert segment.failing_messages() == []
    lines = [json.loads(line) for url in urls(ask(segment)) for line in get(url).content.splitlines()]
    listed = [line["properties"] for line in lines if "messageId" in line["properties"]]
    assert {(each.id, number) for each in segment.failing_messages() for number in each.failed} == {
        (each["messageId"], each["attempt"]) for each in listed if each.get("outcome") == "failure"
    }
    assert {each.id for each in segment.failing_messages() if each.discarded} == {
        each["messageId"] for each in listed if each.get("discarded")
    }
    (sums,) = segment.failures().listed
    assert sums.messages == len(segment.failing_messages()) > 0
    assert segment.failures().incidents == []


@pytest.mark.parametrize(
    ("wanted", "status", "begin", "end"),
    [
        ("bytes=0-9", 206, 0, 10),
        ("bytes=10-", 206, 10, None),
        ("bytes=-7", 206, -7, None),
        ("bytes=5-99999999", 206, 5, None),
        ("bytes=9-5", 200, 0, None),
        ("bytes=0-1,4-5", 200, 0, None),
        ("lines=1-2", 200, 0, None),
        ("bytes=-", 200, 0, None),
    ],
)
def test_ranges_are_served_as_rfc_9110_says(
    segment: Simulator, wanted: str, status: int, begin: int, end: int | None
) -> None:
    (url, *_) = urls(ask(segment))
    whole = get(url)
    part = get(url, headers={"Range": wanted, "If-Range": whole.headers["ETag"]})
    assert (part.status_code, part.content) == (status, whole.content[begin:end])
    if status == 206:
        first = begin % len(whole.content)
        expected = f"bytes {first}-{first + len(part.content) - 1}/{len(whole.content)}"
        assert part.headers["Content-Range"] == expected
    changed = get(url, headers={"Range": wanted, "If-Range": '"other"'})
    assert (changed.status_code, changed.content) == (200, whole.content)


@pytest.mark.parametrize("wanted", ["bytes=99999999-", "bytes=-0"])
def test_an_unsatisfiable_range_is_416(segment: Simulator, wanted: str) -> None:
    (url, *_) = urls(ask(segment))
    size = len(get(url).content)
    response = get(url, headers={"Range": wanted})
    assert (response.status_code, response.headers["Content-Range"]) == (416, f"bytes */{size}")


def test_after_28_days_an_hour_is_empty_and_its_objects_are_gone(segment: Simulator) -> None:
    hour = busy_hour(segment, age=27 * 24 + 22)
    (url, *_) = urls(ask(segment, hour))
    assert get(url).status_code == 200
    segment.clock.move_to((hour + 28 * 24) * HOUR_NS - SECOND_NS)
    (url, *_) = urls(ask(segment, hour))
    segment.clock.forward(1)
    assert urls(ask(segment, hour)) == []
    gone = get(url)
    assert (gone.status_code, "NoSuchKey" in gone.text) == (404, True)


@pytest.mark.parametrize("growth", ["append", "rewrite", "repack"])
def test_a_listed_object_can_be_downloaded_for_two_hours_however_the_hour_grows(growth: Any) -> None:
    world = WorldConfig(collections=("c",), messages=20.0, growth=(growth,), formats=("gzip",))
    with simulator(world=world) as segment:
        hour = segment.clock.now_ns() // HOUR_NS
        before: set[str] = set()
        for _ in range(14):
            segment.clock.forward(1800)
            listed = urls(ask(segment, hour))
            due = {p.sha256 for p in segment.manifest() if p.listed_at}
            segment.clock.forward(1800)
            here = {h for url in listed for h in hashes(gzip.decompress(get(url).content))}
            assert before <= due <= here <= {p.sha256 for p in segment.manifest()}
            before = due
        assert before


# -- faults --------------------------------------------------------------------------------------------

LISTING_FAULTS: dict[str, tuple[object, bool]] = {
    "429-body": (429, False),
    "429-headers": (429, False),
    "429-retry-after": (429, False),
    "429-html": (429, False),
    "429-absurd": (429, False),
    "500": (500, True),
    "502": (502, True),
    "503": (503, True),
    "504": (504, True),
    "reset": (NOTHING, False),
    "reset-after": (NOTHING, True),
    "truncated": (NOTHING, True),
    "slow": (200, True),
    "html": (200, True),
    "empty-object": (200, True),
    "wrong-shape": (200, True),
    "empty": (200, True),
    "huge": (200, True),
    "401": (401, False),
    "403": (403, False),
    "404": (404, True),
    "422": (422, True),
    "301": (301, False),
    "302": (302, False),
    "307": (307, False),
}
DOWNLOAD_FAULTS: dict[str, object] = {
    "reset": NOTHING,
    "truncated": NOTHING,
    "slow": 200,
    "wrong-length": 200,
    "expired": 403,
    "404": 404,
    "500": 500,
    "503": 503,
    "html": 200,
    "301": 301,
    "302": 302,
    "307": 307,
    "no-etag": 200,
    "changed": 200,
}


def status_of(call: Any) -> object:
    try:
        return call().status_code
    except httpx.TransportError:
        return NOTHING


def test_the_tables_have_every_fault() -> None:
    tables: dict[str, Any] = {
        "listing": LISTING_FAULTS,
        "download": DOWNLOAD_FAULTS,
        **dict.fromkeys(FREE_REQUESTS, FREE_FAULTS),
    }
    assert {f"{kind}:{name}" for kind, table in tables.items() for name in table} == CATALOGUE.keys()


@pytest.mark.parametrize("name", LISTING_FAULTS)
def test_each_listing_fault_happens_once_and_costs_what_it_says(segment: Simulator, name: str) -> None:
    """The manifest has only what a valid response listed."""
    status, counted = LISTING_FAULTS[name]
    segment.faults.script(Scripted(fault=f"listing:{name}"))
    assert status_of(lambda: ask(segment)) == status
    (asked,) = segment.requests()
    assert (asked.fault, asked.counted) == (f"listing:{name}", counted)
    assert segment.quota.max_in_24_hours == (name != "reset")
    assert bool(list(segment.manifest())) == (name == "slow")
    good = ask(segment)
    assert good.headers["X-RateLimit-Consumed"] == str(1 + counted)
    assert urls(good)


def test_responses_of_listing_faults(segment: Simulator) -> None:
    def answer(name: str) -> httpx.Response:
        segment.faults.script(Scripted(fault=f"listing:{name}"))
        return ask(segment)

    assert answer("429-headers").headers["X-RateLimit-Remaining"] == "0"
    assert answer("429-headers").content == b""
    assert answer("429-retry-after").headers["Retry-After"] == "30"
    assert answer("429-body").json()["errors"][0]["data"]["msBeforeNext"] == 57_647
    assert answer("429-absurd").json()["errors"][0]["data"]["msBeforeNext"] == 10**16
    assert answer("429-html").headers["Content-Type"].startswith("text/html")
    assert answer("html").text.startswith("<!DOCTYPE html>")
    assert urls(answer("empty")) == []
    assert len({*urls(answer("huge"))}) == 100_000
    location = answer("307").headers["Location"]
    assert location == f"http://{segment.download_host}{LISTING}"
    assert post(location).status_code == 403


@pytest.mark.parametrize("name", DOWNLOAD_FAULTS)
def test_each_download_fault_happens_once(segment: Simulator, name: str) -> None:
    (url, *_) = urls(ask(segment))
    segment.faults.script(Scripted(fault=f"download:{name}"))
    assert status_of(lambda: get(url)) == DOWNLOAD_FAULTS[name]
    assert segment.requests()[-1].fault == f"download:{name}"
    assert hashes(get(url).content)
    assert segment.faults.left() == 0


def test_responses_of_download_faults(segment: Simulator) -> None:
    (url, *_) = urls(ask(segment))
    whole = get(url)

    def answer(name: str) -> httpx.Response:
        segment.faults.script(Scripted(fault=f"download:{name}"))
        return get(url)

    half = whole.content[: len(whole.content) // 2]
    assert answer("wrong-length").content == half
    assert answer("slow").content == whole.content
    unnamed = answer("no-etag")
    assert (unnamed.content, "ETag" in unnamed.headers) == (whole.content, False)
    changed = answer("changed")
    assert sorted(hashes(changed.content)) == sorted(hashes(whole.content))
    assert changed.headers["ETag"] != whole.headers["ETag"]
    assert {p.etag for p in segment.manifest() if p.served_at and not p.listed_at} == {
        changed.headers["ETag"]
    }
    assert "Request has expired" in answer("expired").text
    assert answer("302").headers["Location"].startswith(segment.url)


def test_a_scripted_fault_waits_for_its_request(segment: Simulator) -> None:
    hour = busy_hour(segment)
    segment.faults.script(
        Scripted(fault="listing:500", nth=3),
        Scripted(fault="listing:404", collection="other"),
        Scripted(fault="listing:503", hour=hour_text(hour - 1), times=2),
    )
    asked = [hour, hour - 1, hour - 1, hour - 1, hour]
    assert [ask(segment, each).status_code for each in asked] == [200, 503, 500, 503, 200]
    assert segment.faults.left() == 1


def test_faults_by_rate_are_the_same_for_the_same_seed() -> None:
    runs = []
    for _ in range(2):
        with simulator(faults={"listing:503": 0.3, "listing:404": 0.2}) as segment:
            runs.append([ask(segment).status_code for _ in range(40)])
    assert runs[0] == runs[1]
    assert {*runs[0]} == {200, 503, 404}


@pytest.mark.parametrize(
    "faults", [{"listing:418": 0.1}, {"listing:503": 1.1}, {"listing:503": 0.6, "listing:500": 0.6}]
)
def test_invalid_faults_are_refused(faults: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        simulator(faults=faults)


# -- control -------------------------------------------------------------------------------------------


def test_the_control_api_moves_the_clock(segment: Simulator) -> None:
    def move(content: str) -> httpx.Response:
        return post(segment.control_url + "clock", content=content)

    assert get(segment.control_url + "clock").json()["now"] == "2024-10-04T00:17:00Z"
    assert move('{"forward_seconds": 3600}').json()["now"] == "2024-10-04T01:17:00Z"
    assert move('{"now": "2024-12-24T00:00:00Z"}').json()["now"] == "2024-12-24T00:00:00Z"
    for wrong in ("{}", "[]", '{"now": "soon"}', '{"later": 1}', '{"forward_seconds": 1e300}'):
        response = move(wrong)
        assert (response.status_code, "error" in response.json()) == (400, True)
    assert segment.clock.now_ns() == 1_734_998_400 * SECOND_NS


def test_the_control_api_scripts_faults_and_reports_manifest_and_requests(segment: Simulator) -> None:
    control = segment.control_url
    assert post(control + "faults", content='[{"fault": "listing:503"}]').json() == {"left": 1}
    assert post(control + "faults", content='[{"fault": "listing:teapot"}]').status_code == 400
    assert [ask(segment).status_code, ask(segment).status_code] == [503, 200]
    assert get(control + "quota").json()["most_in_24_hours"] == 2
    requests = [json.loads(line) for line in get(control + "requests").text.splitlines()]
    assert [(each["status"], each["fault"]) for each in requests] == [(503, "listing:503"), (200, None)]
    assert {each["collection"] for each in requests} == {"c"}
    told = [json.loads(line) for line in get(control + "manifest").text.splitlines()]
    assert [ManifestEntry(**each) for each in told] == list(segment.manifest())
    assert get(control + "nothing").status_code == 404


def test_the_journal_has_no_secrets(segment: Simulator) -> None:
    (url, *_) = urls(ask(segment))
    get(url)
    told = get(segment.control_url + "requests").text
    assert segment.token not in told
    assert "X-Amz-Signature" not in told
    assert [each.authorized for each in segment.requests()] == [True, False]
