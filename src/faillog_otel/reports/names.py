"""Names for reports; and what `status` says of them: when they were read, and what was renamed."""

from collections.abc import Iterator

from msgspec import Struct

from faillog_otel.clock import DAY_NS, time_text
from faillog_otel.config import RunConfig
from faillog_otel.ledger import LedgerReader
from faillog_otel.ledger.facts import names_state
from faillog_otel.reports import failures
from faillog_otel.segment.answers import NameKind
from faillog_otel.text import counted

RENAMES_SHOWN_NS = 7 * DAY_NS
MAX_SHOWN_RENAMES = 5


class Renamed(Struct, frozen=True):
    """A change of a name."""

    kind: NameKind
    id: str
    before: str
    after: str
    at: str
    """When it was read."""


class Names(Struct, frozen=True):
    """The names of destinations, sources and subscriptions."""

    known: int
    """How many have a name."""
    read: str | None
    """When they were read last; null: never."""
    problem: str
    """Why they are not available, and what to do; empty if they are."""
    renamed: list[Renamed]
    """Of the last 7 days, the newest first."""


def names_report(ledger: LedgerReader, now_ns: int, *, are_read: bool) -> Names:
    """Returns the state of the names. `are_read`: whether the settings allow it. Raises LedgerBroken."""
    state = names_state(ledger)
    return Names(
        known=sum(bool(each.shown) for each in ledger.names().values()),
        read=time_text(state.read_ns) if state.read_ns else None,
        problem=state.problem if are_read else "[segment] names = false: names are not read",
        renamed=[
            Renamed(each.kind, each.id, each.before, each.after, time_text(each.at_ns))
            for each in ledger.renames(now_ns - RENAMES_SHOWN_NS)
        ],
    )


def names_lines(names: Names) -> Iterator[tuple[str, str, str | None]]:
    """Yields label, text and colour of each line of `status` about names."""
    when = f", read at {names.read}" if names.read else ", not read yet"
    yield "names", f"{counted(names.known, 'name')}{when}", None
    if names.problem:
        yield "", names.problem, "yellow"
    for each in names.renamed[:MAX_SHOWN_RENAMES]:
        yield "renamed", f"{each.before} → {each.after}, {each.at[:10]}", None
    if more := len(names.renamed[MAX_SHOWN_RENAMES:]):
        yield "", f"{more} more in the last 7 days (--json lists all)", None


def names_of(ledger: LedgerReader, config: RunConfig) -> failures.Names:
    """Returns Segment's names; those of the settings override them."""
    known = ledger.names()
    shown = {number: each.shown for number, each in known.items() if each.shown}
    sources = {number: each.source for number, each in known.items() if each.kind == "destination"}
    return failures.Names(shown | config.mapping.destination_names, sources)
