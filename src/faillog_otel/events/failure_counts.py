"""How failures are counted: notes about single events, and what the notes about one message add up to.

The result does not depend on the order of the notes: objects arrive out of order. The ledger and a run over
PATHs use the same rules.
"""

import hashlib
from collections.abc import Iterable, Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from faillog_otel.clock import SECOND_NS
from faillog_otel.events.failure import (
    PENDING_SECONDS,
    FailedMessage,
    FailureGroup,
    MessageState,
    group_id,
    group_number,
)

ERROR, DISCARDED, FAILED, SUCCEEDED, REQUEST = range(5)
"""What a note is about: an error, an error with a discard, an attempt, a failing exchange."""

Note = tuple[int, int, int, int, int, str, int]
"""Key, group, what, number of the attempt, second of occurrence since 1970, messageId, exchange.

`key` is that of the message at its destination; of a REQUEST, that of the exchange. `group` is 0 for a
success. `exchange` is the key of the exchange of a failed attempt whose answer is not known, else 0.
"""


class BatchFailures(Struct):
    """The notes about a batch of records, and the facts of the groups in them."""

    notes: list[Note] = field(default_factory=list)
    packed: list[bytes] = field(default_factory=list)
    """The notes of a run over PATHs, as `otlp.failure_notes` packs them."""
    groups: dict[int, FailureGroup] = field(default_factory=dict)
    samples: dict[int, str] = field(default_factory=dict)
    """Key of a message → its messageId, of some packed notes of each group."""
    times: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Group → its first and last failure, in seconds since 1970; given once for packed notes."""

    def add(self, more: "BatchFailures") -> None:
        """Adds those of the records that follow."""
        self.notes += more.notes
        self.packed += more.packed
        self.groups.update(more.groups)
        self.samples.update(more.samples)
        self.times.update(more.times)


def message_key(destination: str, message_id: str) -> int:
    """Returns the key of a message at a destination: a signed 64-bit number."""
    digest = hashlib.sha256(f"{destination}\n{message_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


_STATUS = 4


class Rank(Struct, frozen=True, gc=False):
    """How much a group says: a status, a code, a reason, in this order."""

    number: int
    words: int
    """2: it has a code that is more than a status; 1: a reason; 0: neither."""

    @property
    def has_status(self) -> bool:
        """Whether it says a status."""
        return self.number >= _STATUS


def rank_of(group: FailureGroup) -> Rank:
    """Returns the rank of a group."""
    number = _STATUS * (group.status is not None) + 2 * (group.code is not None) + (group.reason is not None)
    return Rank(number, 2 if has_own_code(group) else int(group.reason is not None))


def has_own_code(group: FailureGroup) -> bool:
    """Returns whether the group's code is more than a status."""
    return group.code is not None and not group.code.isdigit()


NO_RANK = Rank(-1, 0)

UNKNOWN, PENDING, LOST, RECOVERED = range(4)
"""States of a message; UNKNOWN: no failure is known, only a success."""
STATE_NAMES: dict[int, MessageState] = {PENDING: "pending", LOST: "lost", RECOVERED: "recovered"}


class MessageFacts(Struct):
    """What the notes about a message say. Seconds since 1970; 0 for what did not happen."""

    message_id: str = ""
    group: int = 0
    """The most specific one; of several, that of the last record."""
    group_s: int = 0
    group_rank: int = -1
    code_group: int = 0
    """The group with the most specific code of its own, or else with the most specific reason."""
    code_rank: int = -1
    attempts: int = 0
    """The number of the last failed attempt."""
    first_s: int = 0
    last_s: int = 0
    success_s: int = 0
    is_discarded: bool = False

    def add(self, group: int, what: int, attempt: int, second: int, ranks: Mapping[int, Rank]) -> None:
        """Adds a note about this message."""
        if what == SUCCEEDED:
            self.success_s = max(self.success_s, second)
            return
        self.is_discarded = self.is_discarded or what == DISCARDED
        self.first_s = min(self.first_s or second, second)
        self.last_s = max(self.last_s, second)
        if what == FAILED:
            self.attempts = max(self.attempts, attempt)
        self.learn(group, what, second, ranks)

    def learn(self, group: int, what: int, second: int, ranks: Mapping[int, Rank]) -> None:
        """Takes the group if it is more specific. An attempt goes before an error that says as much."""
        rank = ranks.get(group, NO_RANK)
        number = 2 * rank.number + (what == FAILED)
        self.group_rank, self.group_s, self.group = max(
            (self.group_rank, self.group_s, self.group), (number, second, group)
        )
        if rank.words and (rank.words * _MAX_NUMBER + number, group) > (self.code_rank, self.code_group):
            self.code_rank, self.code_group = rank.words * _MAX_NUMBER + number, group

    def state(self, now_s: int) -> int:
        """Returns the state at a time."""
        if not self.group:
            return UNKNOWN
        if self.success_s and self.success_s >= self.last_s:
            return RECOVERED
        if self.is_discarded or self.last_s < now_s - PENDING_SECONDS:
            return LOST
        return PENDING

    def message(self, message_id: str, state: int, groups: Mapping[int, FailureGroup]) -> FailedMessage:
        """Returns the message for reports. `state`: not UNKNOWN."""
        return FailedMessage(
            message_id=message_id,
            group=group_id(self.group),
            code=said_by(groups[self.group], groups.get(self.code_group)).code,
            state=STATE_NAMES[state],
            attempts=self.attempts,
            first_ns=self.first_s * SECOND_NS,
            last_ns=self.last_s * SECOND_NS,
        )


_MAX_NUMBER = 16
"""More than twice the number of any rank."""


def said_by(group: FailureGroup, words: FailureGroup | None) -> FailureGroup:
    """Returns a group with what its messages' records say: a code of their own, and a reason.

    `words`: the group of `MessageFacts.code_group`.
    """
    if words is None:
        return group
    code = words.code if has_own_code(words) else group.code
    reason = group.reason or (None if words.reason == words.code else words.reason)
    return replace(group, code=code, reason=reason)


def other_group(destination: str) -> FailureGroup:
    """Returns the group of all groups of a destination beyond the maximum."""
    digest = hashlib.sha256(f"segment.failure.other\n{destination}".encode()).digest()
    return FailureGroup(
        id=digest[:8].hex(),
        destination=destination,
        subscription=None,
        code=None,
        status=None,
        reason="other",
        reason_class="unknown",
        retryable=None,
    )


def ranks_of(groups: Iterable[FailureGroup]) -> dict[int, Rank]:
    """Returns number of the group → rank."""
    return {group_number(each.id): rank_of(each) for each in groups}
