"""Waits that a signal ends, whatever thread the system gives it to."""

import fcntl
import os
import resource
import signal
import threading

from faillog_otel.app.signals import Shutdown


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


def test_a_signal_that_another_thread_gets_ends_its_wait_as_a_stop() -> None:
    """The main thread sees it a moment later: a wait that ends before looks like one that is over."""
    found: list[bool] = []
    with Shutdown((signal.SIGUSR2,)) as shutdown:
        waiting = threading.Thread(target=lambda: found.append(shutdown.wait(60)))
        waiting.start()
        assert waiting.ident is not None
        signal.pthread_kill(waiting.ident, signal.SIGUSR2)
        while waiting.is_alive():
            waiting.join(0.2)  # which the signal does not interrupt
    assert found == [True]


def test_a_wait_for_nothing_ends() -> None:
    with Shutdown((signal.SIGUSR2,)) as shutdown:
        assert not shutdown.wait(0)
        assert not shutdown.wait(0.01)
