"""What was promised: every record of every object that was listed, for whoever checks a forwarder.

One line per record and place where it stood, as an independent checker needs it: a record is the SHA-256
of its bytes within its collection-hour. What has `listed_at` must come out at the other end (or, where
`damaged`, in a quarantine); what has only `served_at` may: its object grew, or was packed anew, between
listing and download. Nothing else must ever come out.
"""

import threading
from collections.abc import Iterator

from msgspec import Struct

from faillog_otel.clock import hour_text, time_text
from faillog_otel.segment.simulator.world import StoredObject, World


class Promise(Struct, frozen=True):
    """One record in one version of one object; times are RFC 3339, by the simulator's clock."""

    collection: str
    hour: str
    sha256: str
    available_at: str
    damaged: bool
    object: str
    etag: str
    line: int
    """Its place in the object, from 1."""
    listed_at: str | None
    """When this version was first listed in a whole, good answer."""
    served_at: str | None
    """When it was first sent, whole or in part."""


class Manifest:
    """Remembers versions only; their records are made up again when they are asked for.

    Safe to use from several threads.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._lock = threading.Lock()
        self._listed: dict[tuple[str, str], int] = {}  # (key, ETag) → when first
        self._served: dict[tuple[str, str], int] = {}

    def listed(self, stored: StoredObject, now_ns: int) -> None:
        """Notes that a version's URL was given out."""
        with self._lock:
            self._listed.setdefault((stored.key, stored.etag), now_ns)

    def served(self, stored: StoredObject, now_ns: int) -> None:
        """Notes that a version was sent."""
        with self._lock:
            self._served.setdefault((stored.key, stored.etag), now_ns)

    def promises(self) -> Iterator[Promise]:
        """All of them, in the order of the object's names."""
        with self._lock:
            listed, served = dict(self._listed), dict(self._served)
        for key, etag in sorted({*listed, *served}):
            listed_ns, served_ns = listed.get((key, etag)), served.get((key, etag))
            at_ns = listed_ns if listed_ns is not None else served_ns
            assert at_ns is not None  # noqa: S101  # it stands in one of the two
            stored = self._world.find(key, at_ns)
            if stored is None:
                continue
            if stored.etag != etag:
                stored = stored.rotated()  # the fault `download:changed`
            for line, record in enumerate(stored.records, 1):
                yield Promise(
                    stored.collection,
                    hour_text(stored.hour),
                    record.sha256,
                    time_text(record.available_ns),
                    record.damaged,
                    key,
                    etag,
                    line,
                    None if listed_ns is None else time_text(listed_ns),
                    None if served_ns is None else time_text(served_ns),
                )
