"""What `doctor` found: one thing that was looked at, and what to do where it is not well."""

from typing import Literal

from msgspec import Struct

Health = Literal["ok", "warn", "fail"]


class Finding(Struct, frozen=True):
    """One thing that was looked at."""

    check: str
    state: Health
    says: str
    do: str = ""
    """What to do; empty where it is ok."""
