"""What was written stays written, also after a power cut."""

import fcntl
import os
from contextlib import suppress


def make_durable(descriptor: int) -> None:
    """Returns when the disk holds everything that was written to a file or folder. Raises OSError."""
    if hasattr(fcntl, "F_FULLFSYNC"):  # macOS: fsync leaves the data in the disk's own cache
        with suppress(OSError):  # not on every file system
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)
