"""Waits that a signal ends."""

import fcntl
import os
import resource
import signal

from faillog_otel.cli.shutdown import Shutdown


def test_descriptors_beyond_1023_can_be_waited_for() -> None:
    """`select` takes none of them."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    reader, writer = os.pipe()
    high = fcntl.fcntl(reader, fcntl.F_DUPFD_CLOEXEC, 2000)
    try:
        with Shutdown((signal.SIGUSR1,)) as shutdown:
            assert shutdown.readable([high], 0) == []
            os.write(writer, b"x")
            assert shutdown.readable([high], 60) == [high]
            with shutdown.interruptible() as until_readable:
                until_readable(high)
    finally:
        for each in (reader, writer, high):
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
