"""Counts the failures of a run over PATHs in bounded memory.

It sorts the notes by message in a temporary file, and reads them once at the end: 22 bytes a note, whatever
the number of messages.
"""

import struct
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

from msgspec import Struct, field

from faillog_otel.clock import SECOND_NS
from faillog_otel.events import failure_counts as failures
from faillog_otel.events.failure import (
    MAX_GROUPS,
    FailedMessage,
    FailureGroup,
    FailureSums,
    GroupSums,
    group_number,
)
from faillog_otel.events.failure_counts import (
    LOST,
    BatchFailures,
    MessageFacts,
    other_group,
    ranks_of,
    said_by,
)
from faillog_otel.hash_table import Store
from faillog_otel.otlp.failure_notes import HOUR_SECONDS, MAX_KNOWN_GROUPS, MAX_SAMPLES, NOTE

NOTE_BYTES = NOTE.size
_KEY = struct.Struct("<q")
_KEY_BYTES = _KEY.size
MAX_HELD_NOTES = 32 * 1024
"""Notes in memory: less than 3 MiB."""
MAX_HISTORIES = 16 * 1024
"""Different histories of messages in memory."""
_BUCKETS = 256


class _Sums(Struct):
    """The sums of one group."""

    states: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    codes: Counter[int] = field(default_factory=Counter)
    attempts: int = 0
    requests: int = 0
    by_hour: Counter[int] = field(default_factory=Counter)
    requests_by_hour: Counter[int] = field(default_factory=Counter)
    sample: FailedMessage | None = None

    def add_requests(self, hour: int, number: int) -> None:
        """Adds failing exchanges."""
        self.requests += number
        self.requests_by_hour[hour] += number

    def add_messages(self, facts: MessageFacts, state: int, number: int) -> None:
        """Adds messages with these facts."""
        self.states[state] += number
        self.codes[facts.code_group] += number
        self.attempts += facts.attempts * number
        self.by_hour[facts.first_s // HOUR_SECONDS] += number


class FailureTally:
    """Counts the failures of a run over PATHs.

    Messages with the same history (groups, attempts and hours) are counted together.
    """

    def __init__(self) -> None:
        self._store = Store()
        self._runs: list[tuple[int, list[int]]] = []
        """Of each sorted run: where it begins in the store, and where its buckets begin in it, in notes."""
        self._held: list[bytes] = []
        self._groups: dict[int, FailureGroup] = {}
        self._times: dict[int, tuple[int, int]] = {}
        self._samples: dict[bytes, str] = {}

    def add(self, found: BatchFailures) -> None:
        """Adds the notes of a batch. Raises TemporaryFileError."""
        self._groups.update(found.groups)
        for group, (first_s, last_s) in found.times.items():
            before = self._times.get(group, (first_s, last_s))
            self._times[group] = min(first_s, before[0]), max(last_s, before[1])
        if found.samples and len(self._samples) < MAX_SAMPLES * MAX_KNOWN_GROUPS:
            self._samples.update((_KEY.pack(key), each) for key, each in found.samples.items())
        for packed in found.packed:
            if len(packed) == NOTE_BYTES:
                self._held.append(packed)
            else:
                self._held += _unpacked(packed)  # those of a worker are in one text
        if len(self._held) >= MAX_HELD_NOTES:
            self._spill()

    def _spill(self) -> None:
        held, self._held = sorted(self._held), []
        starts = [bisect_left(held, bytes((number,))) for number in range(_BUCKETS)]
        self._runs.append((self._store.append([b"".join(held)]), [*starts, len(held)]))

    def _buckets(self) -> Iterator[list[bytes]]:
        """Yields the sorted notes of a bucket: all notes about a message are in one."""
        held = sorted(self._held)
        starts = [bisect_left(held, bytes((number,))) for number in range(_BUCKETS)]
        for number, (start, end) in enumerate(pairwise((*starts, len(held)))):
            bucket = held[start:end]
            for at, run in self._runs:
                first, last = run[number : number + 2]
                bucket += _unpacked(self._store.read(at + first * NOTE_BYTES, (last - first) * NOTE_BYTES))
            if self._runs:
                bucket.sort()
            yield bucket

    def sums(self, now_ns: int) -> FailureSums:
        """Returns the sums over all notes; `now_ns` decides whether a message is pending."""
        counting = _Counting(now_ns // SECOND_NS, self._groups, self._times)
        histories, samples, found = counting.histories, self._samples, {}
        for bucket in self._buckets():
            last, history, before = b"", b"", b""
            for note in bucket:
                if note == before:  # it says nothing more, and many records may have no messageId
                    continue
                before, key = note, note[:_KEY_BYTES]
                if key == last:
                    history += note[_KEY_BYTES:]
                else:
                    histories[history] += 1
                    if last in samples:
                        found[last] = history
                    last, history = key, note[_KEY_BYTES:]
            histories[history] += 1
            if last in samples:
                found[last] = history
            if len(histories) > MAX_HISTORIES:
                counting.count()
        counting.count()
        for key, history in found.items():
            counting.sample(samples[key], history)
        return FailureSums(counting.groups())

    def close(self) -> None:
        """Removes the temporary file."""
        self._store.close()


class _Counting:
    """The sums by group, from histories: the notes about a message without its key."""

    def __init__(
        self, now_s: int, groups: dict[int, FailureGroup], times: dict[int, tuple[int, int]]
    ) -> None:
        self.histories: defaultdict[bytes, int] = defaultdict(int)
        """History → how many messages have it."""
        self._sums: defaultdict[int, _Sums] = defaultdict(_Sums)
        self._now_s = now_s
        self._groups = groups
        self._times = times
        self._ranks = ranks_of(groups.values())
        self._counted = _within_limit(groups)

    def count(self) -> None:
        """Counts the histories, and forgets them."""
        for history, number in self.histories.items():
            if not history:
                continue
            group, what, _, hour = _HISTORY.unpack_from(history)
            if what == failures.REQUEST:
                self._sums[self._counted.get(group, group)].add_requests(hour, number)
                continue
            facts = self._facts(history)
            if facts.group:
                self._sums[facts.group].add_messages(facts, facts.state(self._now_s), number)
        self.histories.clear()

    def _facts(self, history: bytes) -> MessageFacts:
        facts = MessageFacts()
        for group, what, attempt, hour in _HISTORY.iter_unpack(history):
            # The attempts of an hour are in the order of their numbers.
            second = hour * HOUR_SECONDS + attempt
            facts.add(self._counted.get(group, group), what, attempt, second, self._ranks)
        return facts

    def sample(self, message_id: str, history: bytes) -> None:
        """Takes the message as the sample of its group, if it says more than the one before."""
        facts = self._facts(history)
        if not facts.group:
            return
        found, state = self._sums[facts.group], facts.state(self._now_s)
        sample = facts.message(message_id, state, self._groups)
        before = found.sample
        if before is None or (state == LOST, -sample.first_ns) > (before.state == "lost", -before.first_ns):
            found.sample = sample

    def groups(self) -> list[GroupSums]:
        """Returns the sums of all groups."""
        return [
            self._group_sums(group, found) for group, found in self._sums.items() if group in self._groups
        ]

    def _group_sums(self, group: int, found: _Sums) -> GroupSums:
        by_hour = dict(sorted((found.by_hour or found.requests_by_hour).items()))
        hours = [*by_hour, *found.requests_by_hour]
        of_hours = min(hours) * HOUR_SECONDS, max(hours) * HOUR_SECONDS
        first_s, last_s = self._times.get(group, of_hours)
        code = next((code for code, _ in found.codes.most_common() if code), group)
        said = said_by(self._groups[group], self._groups[code])
        return GroupSums(
            group=self._groups[group],
            code=said.code,
            reason=said.reason,
            lost=found.states[LOST],
            pending=found.states[failures.PENDING],
            recovered=found.states[failures.RECOVERED],
            attempts=found.attempts,
            requests=found.requests,
            first_ns=first_s * SECOND_NS,
            last_ns=last_s * SECOND_NS,
            seen_ns=first_s * SECOND_NS,
            by_hour=by_hour,
            sample=found.sample,
        )


def _within_limit(groups: dict[int, FailureGroup]) -> dict[int, int]:
    """Returns the groups beyond the maximum of their destination → the group as which they are counted."""
    number: Counter[str] = Counter()
    others = {}
    for group, facts in list(groups.items()):
        number[facts.destination] += 1
        if number[facts.destination] > MAX_GROUPS:
            other = other_group(facts.destination)
            others[group] = group_number(other.id)
            groups.setdefault(others[group], other)
    return others


_HISTORY = struct.Struct("<qBBI")


def _unpacked(notes: bytes) -> list[bytes]:
    """Returns the single notes."""
    return [notes[at : at + NOTE_BYTES] for at in range(0, len(notes), NOTE_BYTES)]
