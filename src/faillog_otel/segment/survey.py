"""The hours of the planner's window, sorted into pools by purpose."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from faillog_otel.clock import DAY_NS, HOUR_NS, RETENTION_NS, SECOND_NS, hour_of
from faillog_otel.segment.hours import LAST_CALL_NS, READ_AFTER_HOURS, HourView, ScheduleConfig
from faillog_otel.segment.pools import Pool, RankedPool
from faillog_otel.segment.quota import Why
from faillog_otel.segment.scout import RETRY_HOURS, Findings, Scout, is_probe, probe_rank

LEAVING_NS = 36 * HOUR_NS
"""An hour that was never listed is about to expire if Segment deletes it within this time."""
FRESH_NS = DAY_NS
"""An hour is fresh for this time after its first listing is due; then it is backfill."""
MAX_DELAY_NS = 2 * HOUR_NS
"""A fresh hour can be listed this much later without loss: a run makes up for pauses."""
RETRY_AFTER_NS = (10 * SECOND_NS, 60 * SECOND_NS)
"""After the first and the second consecutive failure: three tries (specification 3, T0)."""
PAUSE_NS = tuple(hours * HOUR_NS for hours in (1, 2, 4, 8, 12))
"""After the third and later failures: a broken API must not use up the quota."""


class Survey:
    """All hours of the window, sorted into pools by purpose."""

    def __init__(
        self,
        now_ns: int,
        hours: Mapping[str, Mapping[int, HourView]],
        config: ScheduleConfig,
        reads: int,
        scout: Scout,
        *,
        is_short: bool,
    ) -> None:
        """`is_short`: the quota does not cover one listing of each hour."""
        why = scout.reason
        self.wanted = Pool("wanted", lambda _name, _hour: now_ns, newest_first=False)
        self.leaving = Pool("leaving", self._first_ns, newest_first=False, reason=why, order=self._urgency)
        self.counted = RankedPool(self._first_ns, why)
        self.fresh, self.late, self.probes = (
            Pool("fresh", self._first_ns, newest_first=True, reason=why) for _ in range(3)
        )
        self.again = Pool("again", self._again_ns, newest_first=True)
        self.missing = Pool("missing", self._missing_ns, newest_first=False)
        self.last_call = Pool("last_call", self._last_call_ns, newest_first=False)
        self.backfill = Pool("backfill", self._first_ns, newest_first=True, reason=why)
        self.zero = Pool("backfill", self._first_ns, newest_first=True, reason=why, order=_rank)
        self.coming_ns: list[int] = []
        """When hours with counted failures will be due."""
        self.probed = 0
        """Listings of probes in the last 24 hours."""
        self.retries_ns: list[int] = []
        """Future times at which hours with failures or missing objects are due again."""
        self.reads = reads
        self.is_short = is_short
        self._scout = scout
        self._now_ns = now_ns
        self._hours = hours
        self._after = tuple(hours * HOUR_NS for hours in READ_AFTER_HOURS[reads])
        self._all_read_ns = HOUR_NS + self._after[-1]
        """After the start of an hour; a listing then or later is the last one before the last call."""
        now = hour_of(now_ns)
        self._last_call_before = hour_of(now_ns - LAST_CALL_NS) + 1
        self._begun = range(hour_of(now_ns - RETENTION_NS) + 1, now + 1)
        first_read = READ_AFTER_HOURS[reads][0]
        until = now if config.until_ns is None else -(-config.until_ns // HOUR_NS)
        self._due = range(
            max(self._begun.start, hour_of(config.since_ns)),
            min(now - first_read, until),
        )
        self._since = {each: hour_of(config.since_of(each)) for each in config.collections}
        self._leaving_before = -(-(now_ns + LEAVING_NS - RETENTION_NS) // HOUR_NS)
        self._late_before = hour_of(now_ns - MAX_DELAY_NS) - first_read
        self._backfill_before = hour_of(now_ns - FRESH_NS) - first_read
        collections = list(dict.fromkeys(config.collections))
        findings = {each: scout.findings.get(each) for each in collections}
        newest = self._due.stop - 1
        self.plain = [each for each, found in findings.items() if not found or not found.knows(newest)]
        """Collections whose hours are not chosen by Segment's counts."""
        for collection in collections:
            self._sort(collection, hours.get(collection, {}))
        for collection, views in hours.items():
            for hour, view in views.items():
                if view.wanted and hour in self._begun and self._is_due(hour, view):
                    self.wanted.add(collection, [hour])

    def pools(self) -> tuple[Pool, ...]:
        """Returns the pools but `counted`."""
        return self.wanted, self.leaving, self.probes, self.fresh, *self.rest()

    def rest(self) -> tuple[Pool, ...]:
        """Returns the pools after `fresh`. Last calls follow hours never listed if the quota is too small."""
        never_read = (self.backfill, self.zero)
        last = (self.last_call, *never_read) if self.reads == 4 else (*never_read, self.last_call)
        return self.late, self.again, self.missing, *last

    def _sort(self, collection: str, views: Mapping[int, HourView]) -> None:
        due = range(max(self._due.start, self._since[collection]), self._due.stop)
        never_read = [hour for hour in due if hour not in views]
        for hour, view in views.items():
            listed_ns = view.listed_ns
            is_last_call = hour < self._last_call_before
            if listed_ns is not None and not is_last_call and listed_ns >= hour * HOUR_NS + self._all_read_ns:
                if view.missing_due_ns is not None:
                    self._add_missing(collection, hour, view, view.missing_due_ns)
                continue  # nearly all hours
            if view.wanted or hour not in due or not self._is_due(hour, view):
                continue
            if listed_ns is None or listed_ns < self._first_ns(collection, hour):
                never_read.append(hour)
            elif is_last_call and listed_ns < self._last_call_ns(collection, hour):
                self.last_call.add(collection, [hour])
            elif (
                not is_last_call and not view.is_settled and self._again_ns(collection, hour) <= self._now_ns
            ):
                self.again.add(collection, [hour])
            elif view.missing_due_ns is not None:
                self._add_missing(collection, hour, view, view.missing_due_ns)
        never_read.sort()
        if found := self._scout.findings.get(collection):
            never_read = self._sort_counted(collection, never_read, found)
            day_ns = self._now_ns - DAY_NS
            today = [hour for hour, view in views.items() if view.listed_ns and view.listed_ns > day_ns]
            self.probed += sum(self._is_probe(collection, hour) for hour in today)
        old, late, on_time = (
            bisect_left(never_read, bound)
            for bound in (self._leaving_before, self._backfill_before, self._late_before)
        )
        self.leaving.add(collection, never_read[:old])
        self.backfill.add(collection, never_read[old:late])
        self.late.add(collection, never_read[max(old, late) : on_time])
        self.fresh.add(collection, never_read[max(old, on_time) :])

    def _sort_counted(self, collection: str, never_read: Sequence[int], found: Findings) -> list[int]:
        """Adds the hours that Segment's counts decide about; returns the others."""
        later_ns = RETRY_HOURS * HOUR_NS  # until hours that may explain what was counted later are read
        rest, zero = list(never_read), list[int]()
        if self.is_short:
            rest = [hour for hour in never_read if hour not in found.zero]
            zero = [hour for hour in never_read if hour in found.zero]
        new = [hour for hour in zero if hour >= self._backfill_before]
        probes = [hour for hour in new if is_probe(collection, hour)]
        for hour in [hour for hour in rest if hour in found.missing]:
            missing = found.missing[hour]
            is_due = missing.own or self._first_ns(collection, hour) + later_ns <= self._now_ns
            if is_due or self.is_short:
                rest.remove(hour)
            if is_due and hour < self._leaving_before:
                self.leaving.add(collection, [hour])
            elif is_due:
                why: Why = "backfill" if hour < self._backfill_before else "fresh"
                self.counted.add(collection, hour, missing.score, why)
        if self.is_short:
            zero = [hour for hour in zero if hour not in probes]
            zero += [hour for hour in rest if hour in found.explained]
            rest = [hour for hour in rest if hour not in found.explained]
        self.probes.add(collection, probes)
        self.zero.add(collection, zero)
        if self.is_short:
            coming = range(self._due.stop, self._begun.stop)
            has_own = (hour for hour in coming if (each := found.missing.get(hour)) and each.own)
            self.coming_ns += [self._first_ns(collection, hour) for hour in has_own]
        return rest

    def _is_probe(self, collection: str, hour: int) -> bool:
        found = self._scout.findings.get(collection)
        return found is not None and hour in found.zero and is_probe(collection, hour)

    def _urgency(self, collection: str, hour: int) -> tuple[float, int]:
        """Returns the order of hours that are about to expire: the most failures, then the oldest first."""
        found = self._scout.findings.get(collection)
        missing = found.missing.get(hour) if found else None
        return missing.score if missing else 0, -hour

    def _add_missing(self, collection: str, hour: int, view: HourView, due_ns: int) -> None:
        """Adds an hour that only lacks objects. An empty window admits only hours that a person asked for."""
        if view.wanted or hour not in self._begun or not self._due:
            return
        if due_ns > self._now_ns:
            self.retries_ns.append(due_ns)
        elif self._is_due(hour, view):
            self.missing.add(collection, [hour])

    def _missing_ns(self, collection: str, hour: int) -> int:
        return self._hours[collection][hour].missing_due_ns or self._now_ns

    def _first_ns(self, _collection: str, hour: int) -> int:
        """Returns when an hour can be complete: earlier listings do not count."""
        return (hour + 1) * HOUR_NS + self._after[0]

    def _last_call_ns(self, _collection: str, hour: int) -> int:
        return hour * HOUR_NS + LAST_CALL_NS

    def _again_ns(self, collection: str, hour: int) -> int:
        """Returns the time of the first listing after the last one; the far future if there is none."""
        listed_ns = self._hours[collection][hour].listed_ns or 0
        end_ns = (hour + 1) * HOUR_NS
        later = (end_ns + after for after in self._after if end_ns + after > listed_ns)
        return next(later, end_ns + RETENTION_NS)

    def _is_due(self, hour: int, view: HourView) -> bool:
        """Returns whether the pause after its failures is over."""
        if not view.failures:
            return True
        pauses_ns = RETRY_AFTER_NS + PAUSE_NS
        pause_ns = pauses_ns[min(view.failures, len(pauses_ns)) - 1]
        if hour < self._leaving_before:
            pause_ns = min(pause_ns, HOUR_NS)
        due_ns = min(view.failed_ns, self._now_ns) + pause_ns
        if due_ns > self._now_ns:
            self.retries_ns.append(due_ns)
        return due_ns <= self._now_ns


def _rank(collection: str, hour: int) -> tuple[int, int]:
    """Returns the order of hours that are counted as zero: evenly apart, then the newest first."""
    return -probe_rank(collection, hour), hour
