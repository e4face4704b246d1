"""A month of an API that allows one request a minute, refuses in all shapes, and has a dead object a day."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from support.quota_run import START_NS, ago, quota_run

from campaign.parts import Case, Part
from faillog_otel.clock import HOUR_NS
from faillog_otel.sandbox.config import REFUSALS, QuotaConfig

FAULTS = {
    **dict.fromkeys(("listing:html", "listing:500", "listing:reset"), 0.01),
    **dict.fromkeys(("listing:429-html", "listing:429-body", "listing:429-retry-after"), 0.005),
    "download:503": 0.02,
}
MAX_LOST_TIME = 1.1


class SlowQuota(Part):
    """One case; its name is `SEED/DAYS`: so many days of backlog are read, then as many days are polled."""

    title = "one request a minute, and a dead object a day"
    unit = "days"
    size = 28
    short = 4

    def plan(self, size: int, seed: int) -> list[list[str]]:
        """The case."""
        return [[f"{seed}/{size}"]]

    def run(self, names: Sequence[str], folder: Path) -> Iterator[Case]:
        """Runs it."""
        [name] = names
        seed, days = map(int, name.split("/"))
        case = Case(name)
        quota = QuotaConfig(per_day=1, replenish="window", window_seconds=60, refusals=REFUSALS)
        with quota_run(folder, quota, dead=1, faults=FAULTS, seed=seed) as found:
            found.poll("-q", "--since", ago(days * 24))
            seconds = (found.segment.clock.now_ns() - START_NS) / 1e9
            asked = found.segment.quota.asked_to_wait_seconds
            case.counts["seconds that the backlog took"] = round(seconds)
            case.counts["seconds that the server asked to wait"] = round(asked)
            if seconds > MAX_LOST_TIME * asked:
                case.wrong.append(f"{seconds:.0f} s were waited, {asked:.0f} s were asked for")
            found.poll_every(1, days)
            since_ns = START_NS - (days * 24 - 12) * HOUR_NS
            until_ns = found.segment.clock.now_ns() - 10 * HOUR_NS
            if lost := found.readable(since_ns, until_ns) - found.exported():
                case.wrong.append(f"lost: {len(lost)} records that could be downloaded")
            if early := found.segment.quota.too_early:
                case.wrong.append(f"{early} requests came before the time that the server had named")
            if (code := found.run(command="audit").exit_code) != 0:
                case.wrong.append(f"audit: exit code {code}")
            case.counts["objects that can never be downloaded"] = found.dead(since_ns, until_ns)
            case.counts["listings"] = len(found.listings())
            case.counts["requests"] = len(found.listings(granted=False))
        yield case
