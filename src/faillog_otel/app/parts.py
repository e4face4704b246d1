"""What a worker does at a time: parts of the work, in the order of the files. No I/O.

A large file of JSON Lines is cut behind newlines, so that the death of a worker costs little and all of them
end at about the same time; small files are one part together.
"""

from collections.abc import Callable, Iterator

SMALLEST_BYTES = 1024 * 1024
LARGEST_BYTES = 16 * 1024 * 1024
PARTS_PER_WORKER = 8
"""So many parts of a file for each worker: the last one is an eighth of its work at the most."""

MOST_FILES = 16
"""So many small files are one part at the most: all of them are open at once."""


def part_bytes(length: int, workers: int) -> int:
    """How large the parts of a file of so many bytes are."""
    return min(max(length // (workers * PARTS_PER_WORKER), SMALLEST_BYTES), LARGEST_BYTES)


def cuts(length: int, size: int, line_after: Callable[[int], int]) -> Iterator[tuple[int, int]]:
    """Start and end of parts of about `size` bytes; each starts where a line does.

    `line_after` gives the first position from its argument on where a line begins, or `length`.
    """
    start = 0
    while start < length:
        end = length if length - start < 2 * size else line_after(start + size)
        yield start, end
        start = end
