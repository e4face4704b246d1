"""What the counts in the ledger say of the hours to list: the planner's `Scout`, over a `LedgerReader`."""

import logging
from collections import defaultdict

from faillog_otel.clock import HOUR_NS, RETENTION_NS, SECOND_NS, hour_of
from faillog_otel.config import SegmentConfig
from faillog_otel.ledger import LedgerReader
from faillog_otel.ledger.counts import DestinationHour, destinations_of
from faillog_otel.ledger.facts import counts_state
from faillog_otel.segment.scout import NO_SCOUT, CollectionCounts, CountedHour, Scout, find

_log = logging.getLogger(__name__)

COUNTED_AFTER_NS = 300 * SECOND_NS
"""After its end, an hour without failures counts as counted. Segment counts about 30 s late."""
LOOK_AGAIN_NS = 300 * SECOND_NS
"""Looking takes about 100 ms for 20 collections."""
_NOTHING = CountedHour()


def scout_of(ledger: LedgerReader, config: SegmentConfig, now_ns: int) -> Scout:
    """Returns what the counts say of the collections whose destinations are known. Raises LedgerBroken."""
    state = counts_state(ledger)
    if not config.counts or not (state.read_ns or state.connections_ns):
        return NO_SCOUT
    since_ns, until_ns = now_ns - RETENTION_NS, now_ns + HOUR_NS
    destinations = destinations_of(ledger.learned_destinations(), config.collection_destinations)
    counted = ledger.counted_hours(since_ns, until_ns)
    failures: dict[DestinationHour, list[int]] = {}
    for each in ledger.event_counts(since_ns, until_ns):
        if each.stage == "failed" or each.retried:
            sums = failures.setdefault((each.hour, each.destination), [0, 0])
            sums[0] += each.events if each.stage == "failed" else 0
            sums[1] += each.retried
    read = ledger.discards_read(since_ns, until_ns)
    with_records: defaultdict[str, set[int]] = defaultdict(set)
    for name, hour in ledger.hours_with_failures(hour_of(since_ns)):
        with_records[name].add(hour)
    hours = range(hour_of(since_ns), hour_of(now_ns) + 1)
    findings = {}
    for name, ids in destinations.items():
        counts: dict[int, CountedHour] = {}
        for hour in hours:
            keys = [(hour, each) for each in ids]
            found = [failures[key] for key in keys if key in failures]
            if found:
                counts[hour] = CountedHour(sum(each[0] for each in found), sum(each[1] for each in found))
            elif all(counted.get(key, 0) >= (hour + 1) * HOUR_NS + COUNTED_AFTER_NS for key in keys):
                counts[hour] = _NOTHING
        discards = {hour: sum(read.get((hour, each), 0) for each in ids) for hour in counts}
        findings[name] = find(CollectionCounts(counts, discards, with_records[name]))
    return Scout(findings)


class Scouting:
    """Keeps the scout of a run, and finds it again every five minutes. Warns of counts that are wrong."""

    def __init__(self, ledger: LedgerReader, config: SegmentConfig) -> None:
        self._ledger = ledger
        self._config = config
        self._found_ns = 0
        self._read_ns = -1
        self._scout = NO_SCOUT
        self._warned: set[str] = set()

    def scout(self, now_ns: int) -> Scout:
        """Returns what the counts say now. Raises LedgerBroken."""
        read_ns = counts_state(self._ledger).read_ns
        if read_ns != self._read_ns or not 0 <= now_ns - self._found_ns < LOOK_AGAIN_NS:
            self._read_ns, self._found_ns = read_ns, now_ns
            self._scout = scout_of(self._ledger, self._config, now_ns)
            for name, found in self._scout.findings.items():
                if found.mistrust and found.mistrusts(hour_of(now_ns)) and name not in self._warned:
                    self._warned.add(name)
                    _log.warning("%s: %s", name, found.mistrust.text)
        return self._scout
