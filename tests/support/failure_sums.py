"""Failure groups, their sums and their messages, as a ledger gives them."""

from typing import Any

from msgspec.structs import replace

from faillog_otel.clock import HOUR_NS, SECOND_NS
from faillog_otel.events.failure import FailedMessage, FailureGroup, GroupSums

NOW_NS = 1_746_627_420 * SECOND_NS
"""2025-05-07T14:17:00Z."""
HOUR = NOW_NS // HOUR_NS


def group(id_: str, **facts: Any) -> FailureGroup:
    """A group of the destination `mixpanel`: an answer 503."""
    usual = FailureGroup(
        id=id_.ljust(16, "0"),
        destination="mixpanel",
        subscription=None,
        code="503",
        status=503,
        reason="Service Unavailable",
        reason_class="destination_down",
        retryable=True,
    )
    return replace(usual, **facts)


def sums(of: FailureGroup, **counts: Any) -> GroupSums:
    """The sums of a group of which one message is lost; it failed from ten to four hours ago."""
    usual = GroupSums(
        group=of,
        code=None,
        lost=1,
        pending=0,
        recovered=0,
        attempts=8,
        requests=8,
        first_ns=NOW_NS - 10 * HOUR_NS,
        last_ns=NOW_NS - 4 * HOUR_NS,
        seen_ns=NOW_NS - 3 * HOUR_NS,
        by_hour={HOUR - 10: 1},
        sample=None,
    )
    return replace(usual, **counts)


def message(id_: str, group_id: str, **facts: Any) -> FailedMessage:
    """A lost message of a group."""
    usual = FailedMessage(
        message_id=id_,
        group=group_id.ljust(16, "0"),
        code=None,
        state="lost",
        attempts=8,
        first_ns=NOW_NS - 10 * HOUR_NS,
        last_ns=NOW_NS - 6 * HOUR_NS,
    )
    return replace(usual, **facts)
