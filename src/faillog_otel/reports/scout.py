"""What `status` and `plan` say of the scout: failures that are counted and not read, and wrong counts."""

from collections.abc import Collection, Iterator, Mapping

from msgspec import Struct

from faillog_otel.clock import hour_of, hour_text
from faillog_otel.segment.hours import HourView
from faillog_otel.segment.scout import Scout
from faillog_otel.text import counted


class MistrustSeen(Struct, frozen=True):
    """Counts that were wrong, and are not used."""

    hours: int
    """Hours that have records though Segment counted no failure."""
    newest: str
    """The newest of them."""
    until: str
    """The first hour whose counts are used again."""
    text: str


class ScoutSeen(Struct, frozen=True):
    """What Segment's counts say of the hours of a collection that were never read."""

    hours: int
    """With counted failures."""
    discards: int
    """Counted in them and not read yet."""
    retried: int
    """Deliveries after retries that were counted in them."""
    zero: int
    """Without any. If the quota is too small, they are listed last, and one in twenty to test the counts."""
    mistrust: MistrustSeen | None
    """Null unless the counts of some hours were wrong."""


def scout_seen(
    scout: Scout, hours: Mapping[str, Mapping[int, HourView]], names: Collection[str], now_ns: int
) -> dict[str, ScoutSeen]:
    """Returns what is known of these collections; without those that are not counted."""
    return {name: _seen(scout, name, hours.get(name, {}), now_ns) for name in names if name in scout.findings}


def _seen(scout: Scout, name: str, views: Mapping[int, HourView], now_ns: int) -> ScoutSeen:
    found = scout.findings[name]
    unread = {hour for hour in {*found.missing, *found.zero} if _is_unread(views.get(hour))}
    missing = [each for hour, each in found.missing.items() if hour in unread and each.own]
    mistrust = found.mistrust
    return ScoutSeen(
        hours=len(missing),
        discards=sum(each.discarded for each in missing),
        retried=sum(each.retried for each in missing),
        zero=sum(hour in unread for hour in found.zero),
        mistrust=None
        if mistrust is None or not found.mistrusts(hour_of(now_ns))
        else MistrustSeen(
            mistrust.hours, hour_text(mistrust.newest), hour_text(mistrust.until), mistrust.text
        ),
    )


def _is_unread(view: HourView | None) -> bool:
    return view is None or view.listed_ns is None


def scout_text(found: ScoutSeen) -> Iterator[str]:
    """Yields sentences without their full stops."""
    if found.hours:
        what = counted(found.discards, "discard")
        if found.retried:
            what += f" and {found.retried} of the deliveries after retries"
        yield f"{what} counted in {counted(found.hours, 'hour')} not read yet"
    if found.mistrust:
        yield found.mistrust.text
