"""The outcome of each answer of Segment's API."""

import json
from collections.abc import Mapping
from typing import get_args

import pytest

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS
from faillog_otel.segment.answers import (
    LEDGER_NAMES,
    LISTING,
    Denied,
    Failed,
    FormRejected,
    Listing,
    NotFound,
    Outcome,
    RateLimited,
    Success,
    UnknownCollection,
    read_answer,
)
from faillog_otel.segment.quota import RateLimit

NOW = 1_746_662_400 * SECOND_NS  # Thu, 08 May 2025 00:00:00 GMT
GOOD = json.dumps({"data": {"download": {"urls": ["https://x.s3.amazonaws.com/a?X-Amz-Signature=1"]}}})
TOO_MANY = json.dumps(
    {
        "errors": [
            {
                "type": "RequestError",
                "message": "Too many requests",
                "data": {"remainingPoints": 0, "msBeforeNext": 57647, "consumedPoints": 21},
            }
        ]
    }
)


def outcome(status: int, body: str = "", headers: Mapping[str, str] | None = None) -> Outcome:
    return read_answer(status, headers or {}, body.encode(), NOW, expected=LISTING).outcome


def test_a_listing_gives_its_urls() -> None:
    assert outcome(200, GOOD) == Listing(("https://x.s3.amazonaws.com/a?X-Amz-Signature=1",))
    assert outcome(200, '{"data": {"download": {"urls": []}}}') == Listing(())


@pytest.mark.parametrize(
    "body",
    [
        *("", "<html>", "{}", "[]", '{"data": null}', '{"data":{"download":null}}'),
        *('{"data":{"download":{"urls":[1]}}}', '{"data":{"download":{}}}'),
    ],
)
def test_a_200_without_a_listing_is_a_failure(body: str) -> None:
    assert isinstance(outcome(200, body), Failed)


@pytest.mark.parametrize("urls", ["null", "[]", "[null]"])
def test_null_means_no_urls(urls: str) -> None:
    """Go writes an empty list as null."""
    assert outcome(200, f'{{"data": {{"download": {{"urls": {urls}, "next": null}}}}}}') == Listing(())


def test_a_listing_with_half_a_surrogate_pair_is_read() -> None:
    body = GOOD.replace('"download"', '"note": "\\ud83d", "download"')
    assert outcome(200, body) == outcome(200, GOOD)


@pytest.mark.parametrize("errors", ["null", "[null]", '[{"message": null, "data": null}]'])
def test_null_errors_are_ignored(errors: str) -> None:
    assert outcome(500, f'{{"errors": {errors}}}') == Failed("HTTP 500")


@pytest.mark.parametrize("odd", ["null, ", '{"message": "cut: \\ud83d"}, '])
def test_a_malformed_error_does_not_hide_the_others(odd: str) -> None:
    """The wait is in one of several errors, and the others may have any shape."""
    body = TOO_MANY.replace('"errors": [', f'"errors": [{odd}')
    assert read_answer(429, {}, body.encode(), NOW, expected=LISTING).pause_ns == 57_647_000_000


def test_too_many_urls_are_a_failure_with_a_reason() -> None:
    body = json.dumps({"data": {"download": {"urls": ["u"] * 10_001}}})
    assert outcome(200, body) == Failed("the answer lists 10001 objects, more than 10000")


def test_the_pause_after_a_429_is_read_from_body_or_header() -> None:
    found = read_answer(429, {}, TOO_MANY.encode(), NOW, expected=LISTING)
    assert found.pause_ns == 57_647_000_000
    assert found.outcome == RateLimited("HTTP 429: Too many requests")
    assert found.rate_limit == RateLimit(NOW, 0, NOW + 57_647_000_000, 20, is_refusal=True)
    assert read_answer(429, {"retry-after": "90"}, b"", NOW, expected=LISTING).pause_ns == 90 * SECOND_NS
    later = {"retry-after": "Thu, 08 May 2025 00:05:00 GMT"}
    assert read_answer(429, later, TOO_MANY.encode(), NOW, expected=LISTING).pause_ns == 300 * SECOND_NS


@pytest.mark.parametrize("ms", ["1e300", "-5", "9999999999999999"])
def test_an_absurd_pause_is_bounded(ms: str) -> None:
    """One wrong answer must not stop polling for years."""
    body = f'{{"errors":[{{"data":{{"msBeforeNext":{ms}}}}}]}}'
    assert 0 <= (read_answer(429, {}, body.encode(), NOW, expected=LISTING).pause_ns or 0) <= DAY_NS


def test_a_429_without_a_time_has_no_pause() -> None:
    found = read_answer(429, {}, b"<html>", NOW, expected=LISTING)
    assert (found.pause_ns, found.rate_limit) == (None, None)


@pytest.mark.parametrize("skew_ns", [-DAY_NS, 0, DAY_NS])
def test_a_time_of_the_server_is_measured_by_its_own_clock(skew_ns: int) -> None:
    """Our clock may be a day off: then two seconds would be 86,402."""
    headers = {"date": "Thu, 08 May 2025 00:00:00 GMT", "retry-after": "Thu, 08 May 2025 00:00:02 GMT"}
    headers |= {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "Thu, 08 May 2025 00:00:03 GMT"}
    found = read_answer(429, headers, b"", NOW + skew_ns, expected=LISTING)
    assert found.pause_ns == 2 * SECOND_NS
    assert found.rate_limit == RateLimit(NOW + skew_ns, 0, NOW + skew_ns + 3 * SECOND_NS)


@pytest.mark.parametrize("reset", ["Thu, 08 May 2025 00:01:00 GMT", "1746662460", "60"])
def test_a_reset_is_a_date_or_seconds(reset: str) -> None:
    headers = {"x-ratelimit-remaining": "7", "x-ratelimit-consumed": "3", "x-ratelimit-reset": reset}
    found = read_answer(200, headers, GOOD.encode(), NOW, expected=LISTING)
    assert found.rate_limit == RateLimit(NOW, 7, NOW + 60 * SECOND_NS, 10)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, FormRejected),
        (415, FormRejected),
        (422, FormRejected),
        (401, Denied),
        (403, Denied),
        (404, UnknownCollection),
        (500, Failed),
        (503, Failed),
        (302, Failed),
    ],
)
def test_each_status_has_its_outcome(status: int, kind: type[Outcome]) -> None:
    assert isinstance(outcome(status, '{"errors": [{"message": "no"}]}'), kind)


def test_rate_limit_headers_give_remaining_requests_and_reset() -> None:
    headers = {"x-ratelimit-remaining": "7", "x-ratelimit-reset": "Thu, 08 May 2025 01:00:00 GMT"}
    found = read_answer(200, headers, GOOD.encode(), NOW, expected=LISTING)
    assert found.rate_limit == RateLimit(NOW, 7, NOW + HOUR_NS)


@pytest.mark.parametrize("remaining", ["", "-1", "many", "1e9", "٣"])
def test_invalid_rate_limit_headers_are_ignored(remaining: str) -> None:
    found = read_answer(200, {"x-ratelimit-remaining": remaining}, GOOD.encode(), NOW, expected=LISTING)
    assert found.rate_limit is None


def test_the_ledger_names_of_outcomes_do_not_change() -> None:
    """The ledger stores them in `requests.outcome`, which users query."""
    names = {"listed", "toomany", "misunderstood", "denied", "unknown", "failed"}
    assert set(LEDGER_NAMES.values()) == names
    assert set(LEDGER_NAMES) - {Listing} == set(get_args(Outcome)) - {Success, NotFound}
