"""The truth about failing messages: their attempts and their state, from the simulator's own records."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType, field

from faillog_otel.clock import SECOND_NS, parse_rfc3339, time_text
from faillog_otel.sandbox.incidents import Incident
from faillog_otel.sandbox.objects import TrueRecord

MAX_PENDING_NS = 6 * 3600 * SECOND_NS
"""Segment retries for about four hours: a message whose last known attempt failed earlier is lost."""

State = Literal["lost", "pending", "recovered"]


class FailingMessage(Struct):
    """What records say of one message at a destination. Times of failures: RFC 3339, as in the records."""

    id: str
    destination: str
    incident: Incident | None
    failed: set[int] = field(default_factory=set)
    """The numbers of its failed attempts."""
    discarded: bool = False
    first_failure: str = ""
    last_failure: str = ""
    succeeded: bool = False

    def state(self, now_ns: int) -> State:
        """Its state at a time: lost, if it was discarded or failed too long ago."""
        if self.succeeded:
            return "recovered"
        last_ns = parse_rfc3339(self.last_failure) or 0
        return "lost" if self.discarded or now_ns - last_ns > MAX_PENDING_NS else "pending"


class FailureSums(Struct, frozen=True, kw_only=True):
    """The failing messages of one destination, in one incident or outside of all."""

    collection: str | None
    incident: str | None
    """As `--incident` has it; None for what failed outside of all incidents."""
    kind: str | None
    destination: str
    messages: int
    attempts: int
    """Failed ones."""
    exchanges: int
    """Failed ones."""
    first_failure: str
    last_failure: str
    """By time of occurrence."""
    discarded: int
    lost: int
    """The discarded ones, and those that failed more than six hours ago."""
    pending: int
    recovered: int


class Failures:
    """Adds up records. Those that are read again, or are damaged, count for nothing."""

    def __init__(self) -> None:
        self._messages: dict[tuple[str, str], FailingMessage] = {}
        self._exchanges: dict[str, tuple[str, Incident | None]] = {}

    def add(self, records: Iterable[TrueRecord]) -> None:
        """Adds records."""
        for record in records:
            if not record.damaged:
                self._add(_DECODER.decode(record.raw).properties, record.incident)

    def messages(self) -> list[FailingMessage]:
        """All messages that failed at least once; each once for each destination."""
        return [message for message in self._messages.values() if message.first_failure]

    def sums(self, now_ns: int) -> list[FailureSums]:
        """The sums at a time: by incident in the order of their starts, then what is outside of all."""
        groups: defaultdict[tuple[str, Incident | None], list[FailingMessage]] = defaultdict(list)
        for message in self.messages():
            groups[message.destination, message.incident].append(message)
        exchanges: defaultdict[tuple[str, Incident | None], int] = defaultdict(int)
        for failed in self._exchanges.values():
            exchanges[failed] += 1
        sums = [_sums(*key, groups[key], exchanges[key], now_ns) for key in groups]
        return sorted(sums, key=lambda each: (each.incident is None, each.first_failure))

    def _add(self, own: "_Properties", incident: Incident | None) -> None:
        destination = next(party.id for party in own.routed.to if party.type == "destination")
        if not own.message_id:
            answer = own.response
            if own.exchange_id and (answer is None or answer.status >= 400):
                self._exchanges[own.exchange_id] = destination, incident
            return
        key = own.message_id, destination
        if (message := self._messages.get(key)) is None:
            message = self._messages[key] = FailingMessage(*key, incident)
        if own.outcome == "success":
            message.succeeded = True
            return
        if own.outcome == "failure":
            message.failed.add(own.attempt)
        message.discarded |= own.discarded is True
        message.first_failure = min(message.first_failure or own.occurred_at, own.occurred_at)
        message.last_failure = max(message.last_failure, own.occurred_at)


def _sums(
    destination: str, incident: Incident | None, messages: list[FailingMessage], exchanges: int, now_ns: int
) -> FailureSums:
    states = [message.state(now_ns) for message in messages]
    return FailureSums(
        collection=incident.collection if incident else None,
        incident=str(incident) if incident else None,
        kind=incident.kind if incident else None,
        destination=destination,
        messages=len(messages),
        attempts=sum(len(message.failed) for message in messages),
        exchanges=exchanges,
        first_failure=min(message.first_failure for message in messages),
        last_failure=max(message.last_failure for message in messages),
        discarded=sum(message.discarded for message in messages),
        lost=states.count("lost"),
        pending=states.count("pending"),
        recovered=states.count("recovered"),
    )


class FailureTruth(Struct, frozen=True):
    """What `control/failures` answers. States are those at `now`."""

    now: str
    listed: list[FailureSums]
    """From the records that were listed so far, whatever their messages' incident."""
    incidents: list[FailureSums]
    """From all records of the messages that began to fail in incidents so far, also from future ones."""


def failure_truth(listed: Failures, everything: Failures, now_ns: int) -> FailureTruth:
    """Both sums at a time."""
    return FailureTruth(time_text(now_ns), listed.sums(now_ns), everything.sums(now_ns))


class _Party(Struct):
    type: str
    id: str


class _Routed(Struct):
    to: list[_Party]


class _Answer(Struct):
    status: int


class _Properties(Struct, rename="camel"):
    routed: _Routed
    occurred_at: str
    message_id: str = ""
    attempt: int = 0
    outcome: Literal["success", "failure"] | UnsetType = UNSET
    discarded: bool | UnsetType = UNSET
    exchange_id: str = field(default="", name="destinationExchangeId")
    response: _Answer | None = field(default=None, name="responseFromDestination")


class _Logged(Struct):
    properties: _Properties


_DECODER = msgspec.json.Decoder(_Logged)
