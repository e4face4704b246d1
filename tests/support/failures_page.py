"""Made-up reports for the page: a realistic one, which is also the README's picture, and hostile ones."""

import hashlib
import random
from collections.abc import Iterator

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS, hour_of, hour_text, time_text
from faillog_otel.ledger import Hour
from faillog_otel.ledger import Totals as Records
from faillog_otel.reasons import ReasonClass
from faillog_otel.reports.changes import AfterChange
from faillog_otel.reports.completeness import CountsSeen
from faillog_otel.reports.failures import Failures, Group, MessageCounts, Named, Sample, Totals
from faillog_otel.reports.names import Names
from faillog_otel.reports.page import PageData
from faillog_otel.reports.recent import RecentFailures
from faillog_otel.reports.status import (
    MARKS,
    Lag,
    Newest,
    Objects,
    QuotaSeen,
    Sizes,
    Status,
    coverage,
)

NOW_NS = 1_795_860_000 * SECOND_NS
"""2026-11-28T10:00:00Z."""
DAYS = 7


def group(
    destination: tuple[str, str | None],
    *,
    destination_link: str | None = None,
    code: str | None = None,
    status: int | None = None,
    reason: str | None = None,
    reason_class: ReasonClass = "unknown",
    retryable: bool | None = None,
    by_hour: dict[int, int] | None = None,
    lost: int = 0,
    pending: int = 0,
    recovered: int = 0,
    attempts: int = 1,
    requests: int = 1,
    subscription: str | None = None,
    meaning: str = "The destination refused the event",
    remedy: str = "Read the reason, and correct the mapping",
    new: bool = False,
    link: str | None = None,
    message_id: str | None = None,
    after_change: AfterChange | None = None,
) -> Group:
    """A group. `by_hour`: hours before now → count."""
    hours = by_hour or {5: 1}
    now = hour_of(NOW_NS)
    id_ = hashlib.sha256(repr((destination, code, status, reason)).encode()).hexdigest()[:16]
    return Group(
        group=id_,
        destination=Named(*destination, destination_link),
        subscription=None if subscription is None else f"{id_}-subscription",
        subscription_name=subscription,
        code=code,
        status=status,
        reason_class=reason_class,
        retryable=retryable,
        reason=reason,
        messages=MessageCounts(lost, pending, recovered),
        attempts=attempts,
        requests=requests,
        first_seen=time_text((now - max(hours)) * HOUR_NS + 247 * SECOND_NS),
        last_seen=time_text((now - min(hours)) * HOUR_NS + 3217 * SECOND_NS),
        new=new,
        by_hour={hour_text(now - ago): count for ago, count in sorted(hours.items(), reverse=True)},
        after_change=after_change,
        meaning=meaning,
        remedy=remedy,
        sample=Sample(message_id, id_ * 2 if link else None, link),
    )


def failures(*groups: Group, left_out: int = 0, forgotten: int = 0) -> Failures:
    """The report of these groups, over the last week."""
    counts = [each.messages for each in groups]
    return Failures(
        since=time_text(NOW_NS - DAYS * DAY_NS),
        until=time_text(NOW_NS),
        generated_at=time_text(NOW_NS),
        totals=Totals(
            messages=MessageCounts(
                *(sum(getattr(each, state) for each in counts) for state in MessageCounts.__struct_fields__)
            ),
            attempts=sum(each.attempts for each in groups),
            requests=sum(each.requests for each in groups),
        ),
        groups=list(groups),
        left_out=left_out,
        forgotten=forgotten,
    )


def incidents() -> Failures:
    """A week of four destinations: a wrong key, a broken mapping, a rate limit, an outage, a slow network."""
    random.seed(19)

    def over(first: int, last: int, level: float) -> dict[int, int]:
        hours = range(last, first + 1)
        found = {
            ago: round(level * random.uniform(0.6, 1.3) * (0.35 if ago % 24 > 15 else 1)) for ago in hours
        }
        return {ago: count for ago, count in found.items() if count}

    link = "https://ui.honeycomb.io/acme/environments/prod/trace?trace_id={}".format
    key, mapping, outage = over(73, 1, 46), over(21, 2, 62), over(109, 107, 900)
    limit, slow = over(150, 30, 21), over(140, 12, 3)
    return failures(
        group(
            ("5f7dd6d21ad74f3842b1fc47", "Mixpanel (prod)"),
            code="INVALID_API_KEY",
            status=401,
            reason="Invalid API key",
            reason_class="credentials",
            retryable=False,
            by_hour=key,
            lost=sum(key.values()),
            attempts=sum(key.values()),
            requests=len(key) * 9,
            meaning="The destination does not accept the key in its settings",
            remedy="Enter a valid key in the destination's settings, then ask Segment for a replay",
            link=link("5b8aa5a2d2c872e8321cf37308d69df2"),
            message_id="3f0a9d1e-1f57-4a3b-9f0e-64b1c5f9d7aa",
            after_change=AfterChange(
                kind="Destination Modified",
                at="2026-11-25T09:00:00Z",
                seconds_before=247,
                resource_name="Mixpanel (prod)",
                by=None,
            ),
        ),
        group(
            ("6091b8d3f7a84b17b0f0a1d2", "HubSpot"),
            code="PAYLOAD_VALIDATION_FAILED",
            status=400,
            reason="'plan_tier' is not one of the allowed options",
            reason_class="payload",
            retryable=False,
            by_hour=mapping,
            lost=sum(mapping.values()),
            attempts=sum(mapping.values()),
            requests=len(mapping) * 14,
            subscription="Upsert company",
            meaning="The destination does not accept the fields that the mapping sends",
            remedy="Correct the field that the reason names, in the mapping",
            new=True,
            link=link("7cc62c9a1f0a4d5d9a3e1b2f6d4c8e01"),
        ),
        group(
            ("5c1f9a77e3b24c00017c4e2b", "Amplitude"),
            code="429",
            status=429,
            reason="Too many requests for some users",
            reason_class="rate_limit",
            retryable=True,
            by_hour=limit,
            lost=31,
            pending=118,
            recovered=sum(limit.values()) - 149,
            attempts=sum(limit.values()) * 3,
            requests=422,
            meaning="The destination gets more requests than it accepts",
            remedy="Wait: Segment retries. If messages are lost, ask for a higher limit",
            link=link("e19d7a3f6b2c48f09a5d1c7e3b8f2a64"),
        ),
        group(
            ("6310cc0f0b5d4a2f8e9c7d11", "Warehouse webhook"),
            code="503",
            status=503,
            reason="Service Unavailable",
            reason_class="destination_down",
            retryable=True,
            by_hour=outage,
            recovered=sum(outage.values()),
            attempts=sum(outage.values()) * 4,
            requests=216,
            meaning="The destination is not available",
            remedy="Wait: Segment retries for about four hours. If it lasts, ask the destination's support",
        ),
        group(
            ("6310cc0f0b5d4a2f8e9c7d11", "Warehouse webhook"),
            code="ETIMEDOUT",
            reason="connect ETIMEDOUT",
            reason_class="network",
            retryable=True,
            by_hour=slow,
            recovered=sum(slow.values()),
            attempts=sum(slow.values()) + 40,
            requests=sum(slow.values()) + 12,
            meaning="The destination did not answer in time",
            remedy="Wait: Segment retries. If it stays, make the endpoint answer within five seconds",
        ),
    )


def status() -> Status:
    """What a run of a week has read: two collections, with every state of an hour."""
    now = hour_of(NOW_NS)

    def hours(seed: int) -> dict[int, Hour]:
        found = {}
        for ago in range(3, DAYS * 24 + 1):
            at = (now - ago) * HOUR_NS
            if (ago + seed) % 53 == 0:
                found[now - ago] = Hour(failed_ns=at, failed_why="HTTP 500 from Segment", failures=2)
            elif (ago + seed) % 47:
                is_closed = ago > 40
                found[now - ago] = Hour(
                    listed_ns=at + (DAY_NS * 26 if is_closed else HOUR_NS * 3),
                    first_listed_ns=at + 3 * HOUR_NS,
                    unfinished=int(ago == 4 + seed),
                )
        return found

    return Status(
        state_dir="/nowhere",
        now=time_text(NOW_NS),
        since=time_text(NOW_NS - DAYS * DAY_NS),
        held_by=None,
        held_on="",
        held_since="",
        collections={
            name: coverage(
                (seen := hours(seed)),
                {hour for hour in seen if hour % 5 != seed},
                now_ns=NOW_NS,
                since_ns=NOW_NS - DAYS * DAY_NS,
                until_ns=None,
                polled=True,
            )
            for seed, name in enumerate(("shop-mixpanel", "shop-hubspot"))
        },
        marks=MARKS,
        quota=QuotaSeen(per_day=120, used=96, left=24, not_before=None, said=None, waits=None),
        refused={},
        lag=Lag(Newest(hour_text(now - 4), 3 * 3600), Newest(hour_text(now - 4), 3 * 3600)),
        records=Records(records=48_231, exported=48_210, rejected=0, quarantined=21, pending=0, duplicate=0),
        time_shifted=0,
        quarantine={"invalid_json": 21},
        objects=Objects(0, 0),
        missing=[],
        lost=0,
        bytes=Sizes(0, 0, 0, 0),
        missed_per_day={},
        scout={},
        failures=RecentFailures([], 0, 12, 3400, 0),
        names=Names(known=12, read=time_text(NOW_NS), problem="", renamed=[]),
        counts=CountsSeen(read=time_text(NOW_NS), problem="", hours=168, rows=1200),
    )


def realistic() -> PageData:
    """The page of a polling run."""
    return PageData(
        failures=incidents(),
        version="0.2.0",
        status=status(),
        attempts_until_success={2: 1412, 3: 866, 4: 391, 5: 120, 6: 44, 7: 12},
        shows_messages=True,
    )


HOSTILE = (
    "<script>document.title='taken'</script>",
    '"><img src="https://attacker.example/x" onerror="document.title=1">',
    "</style></table></section><!--",
    "{{ 7 * 7 }} {% raw %}",
    "\u202egnp.exe\u2066 \u200bzero\x07bell\nline",
    "&lt;b&gt; &amp; 'quoted' `back`",
    "W" * 200,
    "配信に失敗しました" * 22,
    "שלום عالم",
    "\N{PILE OF POO}" * 200,
)
"""Names and reasons that a page must show as text."""


def hostile() -> Iterator[Group]:
    """Groups whose texts, links and codes come from an attacker."""
    for number, text in enumerate(HOSTILE):
        yield group(
            (f"destination-{number}", text),
            code=text[:100],
            status=400 + number,
            reason=text,
            subscription=text,
            link="javascript:alert(1)" if number % 2 else f"https://traces.example/?q={number}&x='\"><b>",
            message_id=text,
            after_change=None
            if len(text) > 100
            else AfterChange(text, time_text(NOW_NS - 6 * HOUR_NS), 60, text, text),
        )


def many(number: int) -> Failures:
    """So many groups of twenty destinations, each with failures in most hours of the week."""
    random.seed(number)
    return failures(
        *(
            group(
                (f"{each % 20:024x}", f"Destination {each % 20} (production)"),
                code=f"ERROR_CODE_NUMBER_{each}",
                status=400 + each % 100,
                reason=f"{each}: the property <name> of the object <id> is not one of the allowed values; "
                "the request was refused; see the documentation of the API for the list of all values",
                reason_class="payload",
                retryable=False,
                by_hour={ago: random.randint(0, 4000) for ago in range(1, DAYS * 24)},
                lost=number - each,
                attempts=12_345 + each,
                requests=1234,
                subscription="Track order completed",
                meaning="The destination does not accept the fields that the mapping sends, or their values",
                remedy="Compare the mapping with what the destination expects: the reason names the field. "
                "Then ask Segment for a replay of the time since the first failure",
                link=f"https://ui.honeycomb.io/acme/environments/production/trace?trace_id={each:032x}",
                message_id=f"{each:08x}-1f57-4a3b-9f0e-64b1c5f9d7aa",
            )
            for each in range(number)
        )
    )
