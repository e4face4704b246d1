"""The ledger, everything that a polling run stores: two Protocols, and the types that they exchange.

`LedgerReader` reads, `Ledger` also writes. Each write is one durable transaction. Five of them have names, in
their order: T0 debits a request before it is made, T1 stores the objects that it listed, T2 stores that an
object is in the spool, T3 commits the results of a batch, T4 ends an object. Nothing counts as done before it
is durable here. State is per object: there is no high-water mark. Times are nanoseconds since 1970, hours are
whole hours since 1970.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol

from msgspec import Struct

from faillog_otel.clock import DAY_NS
from faillog_otel.errors import LedgerBroken
from faillog_otel.events.model import Survey
from faillog_otel.ledger.changes import ChangesLedger, ChangesReader
from faillog_otel.ledger.counts import CountsLedger, CountsReader
from faillog_otel.ledger.failures import Changes, FailureReader
from faillog_otel.ledger.names import NamesLedger, NamesReader
from faillog_otel.ledger.results import BatchResult, KeptEntry, ReplayedEntry
from faillog_otel.ledger.spool import IndexFile, SavedIndex, SeenRecords
from faillog_otel.segment.hours import HourView, ObjectVersion
from faillog_otel.segment.quota import Quota, RateLimit, Wait

CollectionHour = tuple[str, int]

HOURS_KEPT_NS = 60 * DAY_NS
"""After this time only the sums of an hour are kept."""
INDEX_HOURS = 30
"""After this time an exchange index is removed, and between hours further apart it does not count: an hour is
listed for up to 26 hours after its end, except by the last call."""
MAX_INDEX_BYTES = 128 * 1024 * 1024
"""Of all exchange indexes of a collection; the oldest ones are removed."""


class Hour(HourView, frozen=True):
    """The state of one collection-hour; the planner reads the fields of `HourView`.

    `database` makes it by position: the order of the fields is that of its query.
    """

    first_listed_ns: int | None = None
    """The first listing of which every object was tried; `listed_ns` is the last one."""
    failed_why: str = ""
    """Why the last failed listing failed."""
    listings: int = 0
    """Number of listings of which every object was tried."""
    unfinished: int = 0
    """Objects that are not done: listed, missing or spooled."""
    lost: int = 0
    """Objects that Segment deleted before they could be downloaded."""


class LastListing(Struct, frozen=True):
    """The last listings of a collection."""

    listed_ns: int
    """The last listing that succeeded; 0 if none did."""
    failed_why: str
    """Why the last failed listing failed."""


class UnfinishedObjects(Struct, frozen=True):
    """Numbers of the objects that are not done."""

    to_download: int
    untried: int
    """Objects of `to_download` that were not tried yet."""
    next_try_ns: int | None
    """When the next download is due; None if there is nothing to download."""
    to_forward: int
    """Objects in the spool."""


class MissingObject(Struct, frozen=True):
    """An object whose download has failed so far."""

    collection: str
    hour: int
    path: str
    why: str
    urls_failed: int
    """Number of its failed URLs, each from a listing of its own."""
    since_ns: int
    """The first failed download; `failed_ns` is the last one."""
    failed_ns: int
    next_ns: int
    """When the next download is due; with `needs_listing`, when its hour may be listed again."""
    needs_listing: bool


class LostObject(Struct, frozen=True):
    """An object that Segment deleted before it could be downloaded."""

    collection: str
    hour: int
    path: str
    why: str


class Totals(Struct, frozen=True):
    """The outcomes of all records of all objects, pruned objects included."""

    records: int
    exported: int
    rejected: int
    quarantined: int
    pending: int
    duplicate: int


class LedgerReader(FailureReader, NamesReader, ChangesReader, CountsReader, Protocol):
    """Reads for reports and read-only commands.

    All methods raise LedgerBroken, and Busy while another process locks the ledger.
    """

    def at_one_moment(self) -> AbstractContextManager[None]:
        """Returns a context in which all reads see one state. Keep it short: writers wait for its end."""

    def check(self) -> None:
        """Raises LedgerBroken if the store finds damage."""

    def damaged(self, why: str) -> LedgerBroken:
        """Returns the error for content that this program did not write; it says what to do."""

    def schema_versions(self) -> tuple[int, int]:
        """Returns the ledger's schema version, and the version that this program writes."""

    def hours(self, after: int = -1) -> dict[str, dict[int, Hour]]:
        """Returns collection → hour → state, ascending; only hours later than `after`."""

    def hours_with_objects(self) -> set[CollectionHour]:
        """Returns the collection-hours that have objects, pruned ones included."""

    def unfinished_hours(self, shown: Collection[int] = ()) -> set[CollectionHour]:
        """Returns the collection-hours with objects that are not done, except the objects in `shown`."""

    def last_listing(self, collection: str) -> LastListing | None:
        """Returns the last listings of a collection; None if it has none. Works on older ledgers."""

    def newest_sent_hour(self) -> int | None:
        """Returns the newest hour with an exported record."""

    def quota(self, per_day: int) -> Quota:
        """Returns the requests that were made, and Segment's last rate limit.

        `per_day` is the size of the quota while Segment reports none.
        """

    def fact(self, name: str) -> str | None:
        """Returns a fact; None if it was never stored. `ledger.facts` has the names."""

    def fact_ns(self, name: str) -> int | None:
        """Returns a fact that is a number of nanoseconds."""

    def facts_ns(self, prefix: str) -> dict[str, int]:
        """Returns all facts whose names have this prefix, by the rest of the name, in nanoseconds."""

    def unfinished_objects(self) -> UnfinishedObjects:
        """Counts the objects that are not done."""

    def missing_objects(self) -> list[MissingObject]:
        """Returns the objects whose download has failed so far, by hour."""

    def totals(self) -> Totals:
        """Sums the outcomes of all records."""

    def time_shifted(self) -> int:
        """Counts the exported records whose time the time policy changed."""

    def pending_lines(self) -> int:
        """Counts the pending records that are lines of JSON Lines."""

    def kept_by_reason(self) -> dict[str, int]:
        """Returns reason → records in the quarantine, the most frequent first."""

    def close(self) -> None:
        """Closes the connection."""


Cause = Literal["other", "url", "name", "forbidden"]
"""Why a download failed. `url`: the URL does not work; `name`: another entry has the object's name in the
spool; `forbidden`: the settings do not allow it."""


class Listed(Struct, frozen=True):
    """An object that was listed and is to be downloaded."""

    id: int
    collection: str
    hour: int
    url: str
    listed_ns: int
    tries: int
    """Downloads with this URL that failed."""
    known: ObjectVersion | None
    """The version that was read at the same path before; it need not be downloaded again."""
    has_failed: bool = False
    """Whether a download failed before, with this URL or an older one."""


class Content(Struct, frozen=True):
    """The content of a downloaded object. `lines` and `blank` are 0 for forms other than JSON Lines."""

    lines: int
    blank: int
    records: int
    sha256: str
    """Of the object's bytes as they were downloaded, in hexadecimal."""
    survey: Survey
    """The form and limits that gave these counts: the forwarder reads the object with them."""
    index: IndexFile | None = None


class Spooled(Struct, frozen=True):
    """An object in the spool. The results of its first `position` records are committed.

    `length`, `sha256` and `survey` are None if version 0.1.0 downloaded it.
    """

    id: int
    collection: str
    hour: int
    path: str
    spooled_ns: int
    position: int
    records: int
    length: int | None
    sha256: str | None
    survey: Survey | None
    indexes_to: int | None
    """Up to which number exchange indexes count for its records; None if that is not decided yet."""
    names_to: int | None = None
    """Up to which number names count for its records; None: none."""


class Ledger(LedgerReader, NamesLedger, ChangesLedger, CountsLedger, Protocol):
    """The single writer. Each method that changes something is one transaction, and also raises NoRoom."""

    def check_room(self) -> None:
        """Raises NoRoom while there is no disk space for more objects."""

    # T0 and T1: requests and listings

    def debit(self, collection: str, hour: int, why: str, now_ns: int) -> int:
        """T0: debits a request that is about to be made; returns its number."""

    def listed(
        self,
        request: int,
        collection: str,
        hour: int,
        urls: Sequence[str],
        now_ns: int,
        *,
        rate_limit: RateLimit | None = None,
        wait: Wait | None = None,
    ) -> None:
        """T1: stores the objects of an hour, and the rest of the answer as `answered` does."""

    def answered(
        self,
        request: int,
        outcome: str,
        now_ns: int,
        *,
        rate_limit: RateLimit | None = None,
        wait: Wait | None = None,
    ) -> None:
        """Stores the outcome of a request, its rate limit, and until when Segment allows no request."""

    def listing_failed(self, collection: str, hour: int, why: str, now_ns: int) -> None:
        """Stores that a listing failed: the hour is due again later."""

    def pause(self, until_ns: int, why: str, now_ns: int) -> None:
        """Stores until when this run makes no request, for a reason of its own."""

    def want(self, collection: str, hours: Sequence[int]) -> None:
        """Makes hours due that a person asked for: all of their records are sent again, with the same ids."""

    # T2: downloads

    def next_listed(self, now_ns: int) -> Listed | None:
        """Returns the next object whose download is due."""

    def spooled(self, listed: Listed, identity: ObjectVersion, content: Content, now_ns: int) -> None:
        """T2: stores that the object is in the spool, durably. Wipes its URL.

        Raises LedgerBroken if the object is no longer listed: then another process works on it.
        """

    def unchanged(self, listed: Listed) -> None:
        """T2, too: stores that the object has the version that was read at its path before."""

    def download_failed(self, listed: Listed, why: str, now_ns: int, cause: Cause = "other") -> None:
        """Stores a failed download: this object is due again later, independent of its hour."""

    # T3 and T4: records

    def next_spooled(self, shown: Collection[int] = (), *, soon_ns: int | None = None) -> Spooled | None:
        """Returns the oldest object in the spool whose id is not in `shown`.

        `soon_ns`: not of an hour with an object whose next download is due by then, so that the exchange
        index of that one counts, too.
        """

    def spooled_object(self, number: int) -> Spooled | None:
        """Returns the object with this id; None if it is not in the spool."""

    def indexes_for(self, spooled: Spooled, *, stores: bool = True) -> list[SavedIndex]:
        """Returns the exchange indexes that count for an object's records, the newest first.

        They are those of its collection, of hours up to `INDEX_HOURS` from its own, that exist at the first
        call. That is stored for all spooled objects of its hour: a re-send after a crash finds the same
        answers. `stores`: else nothing is stored.
        """

    def seen_records(self, spooled: Spooled) -> SeenRecords:
        """Opens the digests of the records of an object's collection-hour."""

    def advance(self, spooled: Spooled, position: int, result: BatchResult, now_ns: int) -> Changes:
        """T3: commits the results of an object's next records, from `position` on, with the kept ones.

        Raises LedgerBroken if the object is at another position: then another process works on it.
        """

    def done(self, spooled: Spooled, position: int, seen: SeenRecords) -> Changes:
        """T4: ends an object that was read to its end. `position` is its number of records.

        Saves its digests before, and removes it from the spool after. Raises LedgerBroken as `advance` does.
        """

    def not_whole(self, spooled: Spooled, why: str, now_ns: int) -> None:
        """Ends an object whose spool file is missing or changed: its hour is listed and downloaded again."""

    def expire_messages(self, now_ns: int) -> Changes:
        """Stores which messages are lost because their last attempt failed too long ago."""

    # the quarantine

    def kept_entries(self) -> Iterator[KeptEntry]:
        """Yields the entries of the quarantine in their order."""

    def replayed(self, entries: Sequence[ReplayedEntry]) -> None:
        """Stores the results of entries that were sent again."""

    # upkeep

    def note(self, name: str, value: str) -> None:
        """Stores a fact."""

    def move_requests(self, since_ns: int, by_ns: int) -> None:
        """Moves the times of requests since `since_ns`: the clock that stamped them was wrong by `by_ns`."""

    def mend_future(self, now_ns: int) -> None:
        """Corrects times later than now, which a clock that was ahead wrote."""

    def recover(self) -> None:
        """Cleans up after a crash: requests without an answer fail, and pauses of the last run end."""

    def sweep(self) -> None:
        """Removes files from the spool and the digests that the ledger does not name."""

    def drop_indexes(self, now_ns: int) -> None:
        """Removes exchange indexes that are old or too many, and that no spooled object needs."""

    def wipe_urls(self, now_ns: int) -> None:
        """Wipes expired URLs; their objects need another listing."""

    def lose(self, now_ns: int) -> list[LostObject]:
        """Gives up objects that Segment deleted before they could be downloaded; returns them.

        `now_ns` must be certain.
        """

    def prune(self, now_ns: int) -> None:
        """Sums up the objects of hours that Segment has deleted, and removes their digests.

        `now_ns` must be certain: an hour that is summed up too early is read and sent again.
        """
