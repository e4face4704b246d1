"""What a worker does at a time: parts of the work, in the order of the files. No I/O.

A large file of JSON Lines is cut behind newlines, so that the death of a worker costs little and all of them
end at about the same time; small files are one part together.
"""

from collections.abc import Callable, Iterator

SMALLEST_BYTES = 1024 * 1024
LARGEST_BYTES = 16 * 1024 * 1024
PARTS_PER_WORKER = 16
"""So many parts of a file for each worker: while one does the last part, the others have nothing to do."""

MOST_FILES = 16
"""So many small files are one part at the most: all of them are open at once."""

RESERVED_DESCRIPTORS = 40
"""So many are left for everything but workers and input files: libraries, connections, kept files."""
DESCRIPTORS_PER_WORKER = 3
"""In the parent process: the socket, and what was learned from two files that are cut."""
MIN_OPEN_FILES = 4
MAX_OPEN_FILES = 256
"""Pipes are copied, and the copies stay open until they are read: of many pipes only so many at a time."""


def max_workers(descriptors: int) -> int:
    """How many workers a process may start that may open so many files; at least 1."""
    return max(1, (descriptors - RESERVED_DESCRIPTORS - MIN_OPEN_FILES) // DESCRIPTORS_PER_WORKER)


def max_open_files(descriptors: int, workers: int) -> int:
    """How many input files may be open at a time, with so many workers; at least `MIN_OPEN_FILES`."""
    left = descriptors - RESERVED_DESCRIPTORS - DESCRIPTORS_PER_WORKER * workers
    return max(MIN_OPEN_FILES, min(left, MAX_OPEN_FILES))


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
