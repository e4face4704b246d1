"""The exchange indexes that count for a spooled object: its own and those of its collection's other objects.

The ledger says which ones count (`Ledger.indexes_for`); this module joins them, and builds an index of a
spooled object again if its file is missing or damaged.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack, closing

from faillog_otel.files import StrangeEntry
from faillog_otel.hash_table import MEMORY_BYTES
from faillog_otel.inputs.exchange_index import ExchangeIndex, UnusableIndex
from faillog_otel.ledger import Ledger, Spooled
from faillog_otel.ledger.spool import INDEX, NotWhole, SavedIndex, Spool
from faillog_otel.pipeline.requests import INDEX_MEMORY_BYTES

_log = logging.getLogger(__name__)

MAX_LOADED_BYTES = 1024 * 1024
"""If all indexes together exceed the memory, the files of larger ones stay open while they are joined."""

Fill = Callable[[Spooled, ExchangeIndex], object]
"""Adds the exchanges of a spooled object to an index. Raises NotWhole, LedgerBroken, InputError."""


class CollectionIndexes:
    """Joins indexes, and keeps the last joined one: all objects of a listing use the same."""

    def __init__(self, ledger: Ledger, spool: Spool, fill: Fill) -> None:
        self._ledger = ledger
        self._spool = spool
        self._fill = fill
        self._joined = ExchangeIndex()
        self._joined_from: list[int] = []
        """The objects whose indexes are in `_joined`."""
        self._unusable: set[int] = set()
        """The objects whose indexes were found to be unusable."""

    def of(self, spooled: Spooled, *, stores: bool) -> ExchangeIndex:
        """Returns the index for an object; valid until the next call.

        `stores`: for `Ledger.indexes_for`. Raises NoRoom, LedgerBroken, NotWhole, InputError.
        """
        saved = self._ledger.indexes_for(spooled, stores=stores)
        joined_from = [each.object for each in saved]
        if spooled.survey is None or not spooled.survey.is_indexed:
            joined_from.insert(0, spooled.id)
        if joined_from == self._joined_from:
            return self._joined
        self.close()
        self._joined = ExchangeIndex()
        is_small = sum(each.bytes for each in saved) <= MEMORY_BYTES
        memory_bytes = MEMORY_BYTES if is_small else MAX_LOADED_BYTES
        with ExitStack() as stack:
            parts = []
            if len(joined_from) > len(saved):
                parts.append(stack.enter_context(closing(ExchangeIndex())))
                self._fill(spooled, parts[0])
            for index in filter(None, (self._open(each, memory_bytes) for each in saved)):
                parts.append(stack.enter_context(closing(index)))  # noqa: PERF401  # closed if one fails
            self._joined = ExchangeIndex.joined(parts)
        self._joined_from = joined_from
        return self._joined

    def close(self) -> None:
        """Removes the temporary files of the last index."""
        self._joined.close()
        self._joined_from = []

    def _open(self, saved: SavedIndex, memory_bytes: int) -> ExchangeIndex | None:
        """Returns a saved index, built again if need be; None if its object is no longer in the spool."""
        why = "is missing"
        try:
            if (found := self._opened(saved.object, saved.sha256, memory_bytes)) is not None:
                return found
        except UnusableIndex as error:
            why = str(error)
        name = f"spool/{saved.object}{INDEX}"
        if (spooled := self._ledger.spooled_object(saved.object)) is not None:
            _log.info("%s %s; the object is indexed again", name, why)
            return self._rebuilt(spooled)
        if saved.object not in self._unusable:
            self._unusable.add(saved.object)
            _log.warning("%s %s; attempts in other objects lack the answers of its exchanges", name, why)
        return None

    def _rebuilt(self, spooled: Spooled) -> ExchangeIndex | None:
        try:
            with self._spool.rebuilt_index(spooled.id) as file:
                index = ExchangeIndex(INDEX_MEMORY_BYTES, file=file)
                self._fill(spooled, index)
                index.save(file)
        except NotWhole:  # reported when it is forwarded
            return None
        except StrangeEntry as error:
            _log.warning("%s", error)
            index = ExchangeIndex()
            self._fill(spooled, index)
            return index
        try:
            return self._opened(spooled.id, file.sha256, MEMORY_BYTES)
        except UnusableIndex as error:
            _log.warning("spool/%d%s %s", spooled.id, INDEX, error)
            return None

    def _opened(self, number: int, sha256: str, memory_bytes: int) -> ExchangeIndex | None:
        """Returns the index of an object; None if its file is missing. Raises UnusableIndex, LedgerBroken."""
        if (file := self._spool.open_index(number)) is None:
            return None
        try:
            return ExchangeIndex.open(file, sha256, memory_bytes)
        except UnusableIndex:
            file.close()
            raise
