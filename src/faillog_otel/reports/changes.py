"""The change of the workspace that failures followed. Pure; times are nanoseconds since 1970."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable

from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.clock import SECOND_NS, time_text
from faillog_otel.config import RunConfig
from faillog_otel.ledger import LedgerReader
from faillog_otel.segment.answers import Change
from faillog_otel.text import counted

MAX_SECONDS = 30 * 60
"""A group whose first failure is later after a change is not said to follow it."""
_MARK = "[redacted:"


class AfterChange(Struct, frozen=True):
    """The change that the first failure of a group followed."""

    kind: str
    """What was done, such as `Destination Modified`."""
    at: str
    seconds_before: int
    """How long before the first failure, in whole seconds."""
    resource_name: str
    """The name of what was changed; empty if Segment does not say it."""
    by: str | None
    """Who made it, by mail address or id; null without `[segment] audit_actors`."""

    @property
    def text(self) -> str:
        """What people read: `failures began 4 minutes after 'Destination Modified'`."""
        by = f" by {self.by}" if self.by else ""
        return f"failures began {_duration(self.seconds_before)} after '{self.kind}'{by}"


class ChangeIndex:
    """Changes by the resource that was changed."""

    def __init__(self, changes: Iterable[Change] = ()) -> None:
        self._by_resource: defaultdict[str, list[Change]] = defaultdict(list)
        for each in sorted(changes, key=_order):
            if each.resource_id:
                self._by_resource[each.resource_id].append(each)

    def nearest(self, resources: Collection[str], first_ns: int) -> AfterChange | None:
        """Returns the last change of one of the resources before the first failure.

        None if there is none within `MAX_SECONDS`. Failures are known by whole seconds, so a change counts
        with its second, too.
        """
        found = [each for id_ in {*resources} if (each := self._last(id_, first_ns // SECOND_NS))]
        if not found:
            return None
        last = max(found, key=_order)
        seconds = (first_ns // SECOND_NS) - (last.at_ns // SECOND_NS)
        if seconds > MAX_SECONDS:
            return None
        by = last.actor_email or last.actor or None
        return AfterChange(last.kind, time_text(last.at_ns), seconds, last.resource_name, by)

    def _last(self, resource: str, second: int) -> Change | None:
        changes = self._by_resource.get(resource, [])
        end = bisect_right(changes, second, key=lambda each: each.at_ns // SECOND_NS)
        return changes[end - 1] if end else None


def changes_of(ledger: LedgerReader, config: RunConfig, until_ns: int) -> list[Change]:
    """Returns the changes before a time: a group can have begun before the window of a report.

    Without `[segment] audit_actors`, they lack the actors. Raises LedgerBroken.
    """
    found = ledger.changes(0, until_ns)
    shows_actors = config.segment.audit_actors
    return [
        replace(
            each,
            actor=each.actor if shows_actors and not each.actor.startswith(_MARK) else "",
            actor_email=each.actor_email if shows_actors and not each.actor_email.startswith(_MARK) else "",
        )
        for each in found
    ]


def _order(change: Change) -> tuple[int, str]:
    return change.at_ns, change.id


def _duration(seconds: int) -> str:
    return counted(seconds, "second") if seconds < 60 else counted(seconds // 60, "minute")
