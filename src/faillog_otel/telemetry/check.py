"""One thing that should be so, and how it stands: our own words and numbers only, for anybody may ask."""

from collections.abc import Callable, Mapping

from msgspec import Struct


class Check(Struct, frozen=True):
    """`why` says what is wrong, or how it stands."""

    ok: bool
    why: str


Checks = Callable[[], Mapping[str, Check]]
"""Name → check."""
