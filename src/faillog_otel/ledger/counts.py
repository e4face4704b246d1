"""The counts of a run, and the law that they keep.

`records = exported + rejected + quarantined + pending + duplicate`, and `lines = records + blank`.
"""

from msgspec import Struct, field


class EventCounts(Struct):
    """Events that were understood, by kind."""

    error: int = 0
    attempt: int = 0
    exchange: int = 0
    other: int = 0


class Counts(Struct):
    """What became of the records of a run. `bytes_in` is the content read, decompressed."""

    lines: int = 0
    blank: int = 0
    records: int = 0
    events: EventCounts = field(default_factory=EventCounts)
    exported: int = 0
    rejected: int = 0
    quarantined: int = 0
    pending: int = 0
    duplicate: int = 0
    bytes_in: int = 0
    discarded: int = 0
    """Error Logged events whose message was discarded."""
    failures: int = 0
    """Delivery attempts with outcome `failure`."""
