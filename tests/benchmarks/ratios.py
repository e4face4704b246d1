"""Ratios pair by pair: what stood side by side in one round met the same weather on the machine."""

from collections.abc import Sequence
from statistics import median


def ratios(ones: Sequence[float], others: Sequence[float]) -> list[float]:
    """Each of the ones divided by the other of its round."""
    return [one / other for one, other in zip(ones, others, strict=True)]


def median_ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return median(ratios(ones, others))
