"""The page of failures: what `report` writes, and what a polling run serves at `/` of `--health-addr`.

Reads the ledger with connections of its own, so that a run never waits for it.
"""

from faillog_otel import __version__
from faillog_otel.clock import DAY_NS
from faillog_otel.config import RunConfig
from faillog_otel.ledger.database import open_reader
from faillog_otel.ledger.state_dir import StateFolder
from faillog_otel.reports.failures import View, Window, failures_report
from faillog_otel.reports.load import Loaded, load
from faillog_otel.reports.page import PageData, page
from faillog_otel.reports.status import Status, status


def report_page(
    config: RunConfig, loaded: Loaded, view: View, window: Window, *, is_of_files: bool, is_live: bool = False
) -> str:
    """Returns the page of what failed; unless it failed in files, with the status of the state folder.

    Raises Busy, LedgerBroken.
    """
    return page(
        PageData(
            failures=failures_report(loaded.sums, view, window),
            version=__version__,
            covers=loaded.covers,
            problems=loaded.problems,
            status=None if is_of_files else _status(config, window.now_ns),
            attempts_until_success=loaded.attempts_until_success,
            shows_messages=config.health.page_messages,
            is_live=is_live,
        )
    )


def live_page(config: RunConfig, now_ns: int) -> str:
    """Returns the page of all failures that the ledger knows. Raises Busy, LedgerBroken."""
    loaded = load(config, (), None, now_ns, now_ns)
    view = View(names=loaded.names, links=config.links, join=config.mapping.join, changes=loaded.changes)
    window = Window(since_ns=loaded.since_ns, until_ns=now_ns, now_ns=now_ns, new_within_ns=DAY_NS)
    return report_page(config, loaded, view, window, is_of_files=False, is_live=True)


def _status(config: RunConfig, now_ns: int) -> Status:
    folder = StateFolder(config.state_dir)
    ledger = open_reader(folder)
    try:
        return status(folder, ledger, config, (), now_ns)
    finally:
        ledger.close()
