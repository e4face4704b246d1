"""What `doctor` says of the readings besides listings: Segment's own counts, and changes of the workspace."""

from collections.abc import Iterator
from typing import Literal

from faillog_otel.clock import time_text
from faillog_otel.config import SegmentConfig
from faillog_otel.ledger import LedgerReader
from faillog_otel.ledger.facts import changes_state, counts_state

Checked = tuple[str, Literal["ok", "warn"], str, str]
"""Name of the check, its state, a sentence, and what to do."""


def reading_checks(ledger: LedgerReader, config: SegmentConfig) -> Iterator[Checked]:
    """Yields the state of the readings that are switched on, and that of counts."""
    if config.counts:
        state = counts_state(ledger)
        yield _checked("counts", "Segment's own counts", state.read_ns, state.problem)
    else:
        yield "counts", "ok", "not read: [segment] counts = false", ""
    if config.audit:
        read = changes_state(ledger)
        yield _checked("changes", "the workspace's audit events", read.read_to_ns, read.problem)


def _checked(name: str, what: str, read_ns: int, problem: str) -> Checked:
    if problem:
        says, _, do = problem.rpartition("; ")
        return name, "warn", says or do, do if says else "run `doctor` again later"
    if not read_ns:
        return name, "ok", f"{what} are not read yet; `run` reads them when polling", ""
    return name, "ok", f"{what} were read at {time_text(read_ns)}", ""
