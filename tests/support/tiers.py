"""The tiers of the tests: `make test` leaves out what is marked slow, `make test-all` runs everything.

A test is slow for its cost, not for its subject: the fast tier has the main path of each feature, and the
slow one has the sweeps over the rest, crashes, mixed faults, memory and the image.
"""

from collections.abc import Container, Iterable
from typing import Any

import pytest

slow = pytest.mark.slow


def swept(values: Iterable[object], fast: Container[object]) -> list[Any]:
    """Parameters of a test, one for each value; those outside `fast` are for the slow tier."""
    return [pytest.param(each, marks=[] if each in fast else [slow]) for each in values]


def slow_case(*values: object) -> Any:
    """A row of parameters that is for the slow tier."""
    return pytest.param(*values, marks=slow)
