"""Failure groups and what is known of a failing message.

A failure group is all failures with one cause: the same destination, subscription, code, status and
normalised reason. Its id is `segment.failure.group` of the records (docs/reference/attributes.md).
"""

from collections import defaultdict
from typing import Literal, NamedTuple

from msgspec import Struct

from faillog_otel.reasons import ReasonClass

MessageState = Literal["lost", "pending", "recovered"]
"""Of a message at a destination. `lost`: discarded, or its last known attempt failed more than
`PENDING_SECONDS` ago; `pending`: failed, and may still be retried; `recovered`: a later attempt succeeded."""

PENDING_SECONDS = 6 * 3600
"""Segment retries for about four hours."""
MAX_GROUP_REASON = 200
"""Characters of a group's reason."""
MAX_GROUPS = 500
"""Groups of a destination that begin on one day (UTC); further ones are counted as one group, `other`."""
MAX_MESSAGES = 2_000_000
"""Messages whose state is kept; the oldest are forgotten, and counted."""
KEPT_SECONDS = 35 * 86400
"""After this time groups and messages are forgotten."""


class FailureGroup(Struct, frozen=True, gc=False):
    """The facts that make a group. `reason` is that of one record: redacted, at most 200 characters."""

    id: str
    """16 lower-case hex characters."""
    destination: str
    """The id of the destination; empty if unknown."""
    subscription: str | None
    code: str | None
    """The canonical code (`reasons`); None if there is none."""
    status: int | None
    reason: str | None
    reason_class: ReasonClass
    retryable: bool | None
    """Whether Segment retries; None if unknown."""


class FailedMessage(Struct, frozen=True, gc=False):
    """A message that failed at a destination. Times are nanoseconds since 1970, of occurrence."""

    message_id: str
    group: str
    """The most specific group of its records."""
    code: str | None
    """The most specific code that its records say; perhaps that of another group."""
    state: MessageState
    attempts: int
    """The number of its last failed attempt."""
    first_ns: int
    last_ns: int
    """Its last failure."""


class GroupSums(Struct, frozen=True):
    """A group, and the sums over a window of time. Times are nanoseconds since 1970, of occurrence."""

    group: FailureGroup
    code: str | None
    """The most specific code that the records of its messages say."""
    lost: int
    pending: int
    recovered: int
    attempts: int
    """Failed attempts."""
    requests: int
    """Failing exchanges: one 429 to a batch is one request and a hundred attempts."""
    first_ns: int
    last_ns: int
    seen_ns: int
    """When this program first saw the group."""
    by_hour: dict[int, int]
    """Hour since 1970 → messages that began to fail in it; requests if no message is known."""
    sample: FailedMessage | None
    """One message, a lost one if there is one."""
    reason: str | None = None
    """The most specific reason that the records of its messages say, if the group says none."""
    began_ns: int = 0
    """Its first failure that is known, also before the window; 0: `first_ns`."""


class FailureSums(Struct, frozen=True):
    """All groups of a window."""

    groups: list[GroupSums]
    forgotten: int = 0
    """Messages that were forgotten because more failed than are kept: the sums have them."""


def group_number(group: str) -> int:
    """Returns a group's id as a signed 64-bit number, as the ledger stores it."""
    return int.from_bytes(bytes.fromhex(group), "big", signed=True)


def group_id(number: int) -> str:
    """Returns the id of this number: 16 hex characters."""
    return number.to_bytes(8, "big", signed=True).hex()


class GroupFacts(NamedTuple):
    """What one of several groups of a failure can lack."""

    subscription: str | None
    status: int | None
    reason: str | None
    """Normalised; None if it says no more than the code."""


def group_facts(group: FailureGroup) -> GroupFacts:
    """Returns these facts of a group."""
    from faillog_otel.reason_text import normalise  # its patterns take 15 ms to compile

    reason = None if group.reason in (None, group.code) else normalise(group.reason or "")
    return GroupFacts(group.subscription, group.status, reason)


class KnownFailures:
    """Tells a group of a new failure from one more group of a known failure.

    A failure can have several groups, because an error says less than the exchange of the same failure.
    """

    def __init__(self) -> None:
        self._known: defaultdict[tuple[str, str | None], list[GroupFacts]] = defaultdict(list)
        """Destination and code → the other facts of each known group."""

    def add(self, group: FailureGroup) -> None:
        """Adds a known group."""
        self._known[group.destination, group.code].append(group_facts(group))

    def explain(self, group: FailureGroup) -> bool:
        """Returns whether a group can be of the same failure as a known one.

        A known group that can also be of a different failure explains nothing.
        """
        facts, known = group_facts(group), self._known[group.destination, group.code]
        others = [each for each in known if not _agree(each, facts)]
        alike = [each for each in known if _agree(each, facts)]
        return any(not any(_agree(each, other) for other in others) for each in alike)


def _agree(some: GroupFacts, others: GroupFacts) -> bool:
    """Returns whether no fact differs where both are known."""
    return all(None in pair or pair[0] == pair[1] for pair in zip(some, others, strict=True))
