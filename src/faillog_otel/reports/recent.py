"""The failures in the ledger as other reports show them: those of a polling run, and the recent ones."""

from collections.abc import Iterator

from msgspec import Struct

from faillog_otel.clock import DAY_NS
from faillog_otel.config import RunConfig
from faillog_otel.ledger import LedgerReader
from faillog_otel.reports.changes import changes_of
from faillog_otel.reports.failures import Failures, Group, View, Window, failures_report
from faillog_otel.reports.failures_text import worst_groups
from faillog_otel.reports.names import names_of
from faillog_otel.text import counted

MAX_GROUPS = 3


def failures_of_run(ledger: LedgerReader, config: RunConfig, now_ns: int) -> Failures:
    """Returns the failures between `--since` and `--until` of a polling run. Raises LedgerBroken."""
    segment = config.segment
    until_ns = segment.until.ns(now_ns) if segment.until else now_ns
    return _failures(ledger, config, _window(segment.since.ns(now_ns), until_ns, now_ns))


class RecentFailures(Struct, frozen=True):
    """The failures of the last 24 hours."""

    groups: list[Group]
    """The worst ones, as in `failures --json`."""
    left_out: int
    """Groups that are not listed."""
    kept_groups: int
    """Groups in the ledger."""
    kept_messages: int
    """Messages whose state is in the ledger."""
    forgotten_messages: int
    """Messages that the ledger forgot because there were too many."""


def recent_failures(ledger: LedgerReader, config: RunConfig, now_ns: int) -> RecentFailures:
    """Returns the failures of the last 24 hours. Raises LedgerBroken."""
    found = _failures(ledger, config, _window(now_ns - DAY_NS, now_ns, now_ns), MAX_GROUPS)
    sizes = ledger.failure_sizes()
    return RecentFailures(found.groups, found.left_out, sizes.groups, sizes.messages, sizes.evicted)


def _window(since_ns: int, until_ns: int, now_ns: int) -> Window:
    return Window(since_ns=since_ns, until_ns=until_ns, now_ns=now_ns, new_within_ns=DAY_NS)


def _failures(ledger: LedgerReader, config: RunConfig, window: Window, limit: int | None = None) -> Failures:
    view = View(
        names=names_of(ledger, config),
        links=config.links,
        join=config.mapping.join,
        changes=changes_of(ledger, config, window.until_ns),
    )
    sums = ledger.failure_sums(window.since_ns, window.until_ns, window.now_ns)
    return failures_report(sums, view, window, limit)


def recent_lines(found: RecentFailures) -> Iterator[tuple[str, str, str | None]]:
    """Yields label, text and colour of each line of `status` about failures."""
    yield from worst_groups(found.groups, found.left_out)
    if found.kept_groups:
        kept = f"{counted(found.kept_groups, 'group')}, {counted(found.kept_messages, 'message')}"
        forgotten = f"; {found.forgotten_messages} forgotten" if found.forgotten_messages else ""
        yield "failures kept", kept + forgotten, None
