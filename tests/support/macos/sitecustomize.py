"""Python as it is on macOS, as far as it lacks what Linux has; imported by each interpreter at its start.

Names: the "Availability" notes of Python's documentation. F_FULLFSYNC is there, and Linux refuses it.
"""

import fcntl
import os
import resource
import select
import signal
import sys
import time

del select.epoll  # before `selectors` sees it, which `socket` imports
import socket  # noqa: E402  # see above

assert sys.modules["selectors"].DefaultSelector is sys.modules["selectors"].PollSelector

LINUX_ONLY = {
    os: "pipe2 posix_fallocate posix_fadvise sched_getaffinity sched_setaffinity fdatasync copy_file_range"
    " splice memfd_create eventfd pidfd_open getrandom getxattr setxattr listxattr O_TMPFILE O_PATH O_NOATIME"
    " O_DIRECT O_LARGEFILE SCHED_BATCH getresuid setresuid accept4 unshare setns",
    signal: "pidfd_send_signal sigtimedwait sigwaitinfo SIGRTMIN SIGRTMAX SIGPWR SIGSTKFLT SIGPOLL",
    socket: "SOCK_CLOEXEC SOCK_NONBLOCK MSG_NOSIGNAL MSG_CMSG_CLOEXEC MSG_ERRQUEUE MSG_MORE MSG_CONFIRM"
    " SO_BINDTODEVICE SO_PEERCRED SO_DOMAIN SO_PROTOCOL SO_INCOMING_CPU SO_MARK TCP_KEEPIDLE TCP_USER_TIMEOUT"
    " TCP_QUICKACK TCP_DEFER_ACCEPT TCP_CORK TCP_INFO TCP_SYNCNT AF_NETLINK AF_PACKET",
    time: "CLOCK_BOOTTIME CLOCK_TAI pthread_getcpuclockid",
    resource: "prlimit RLIMIT_RTTIME RUSAGE_THREAD",
    fcntl: "F_OFD_SETLK F_OFD_GETLK F_OFD_SETLKW F_GETPIPE_SZ F_SETPIPE_SZ F_ADD_SEALS F_NOTIFY",
}

for module, names in LINUX_ONLY.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
fcntl.F_FULLFSYNC = 51  # type: ignore[attr-defined]  # macOS only
