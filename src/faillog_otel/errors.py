"""Errors, named for the caller's next move. Only `cli` turns them into text and exit codes.

FaillogError
├── ConfigError     a setting is wrong: change it (exit 2)
├── InputError      a PATH cannot be read: the rest goes on (exit 2 in the end)
├── LedgerBroken    what must be remembered cannot be written: stop (exit 5)
├── NoRoom          the disk is full: take nothing in until there is room again
│   └── Busy        another process looks at the ledger: try again
└── Interrupted     SIGINT or SIGTERM while waiting for input: end cleanly (exit 128 + signal)
"""


class FaillogError(Exception):
    """The root of all errors that this package raises on purpose."""


class ConfigError(FaillogError):
    """A setting is missing, unknown or out of range; the message names it and says what it takes."""


class InputError(FaillogError):
    """A PATH that cannot be opened or read; the message names it and says why."""


class LedgerBroken(FaillogError):
    """A file that keeps records (quarantine, pending, spool) cannot be written or trusted."""


class NoRoom(FaillogError):
    """The disk is full; nothing is spoilt."""


class Busy(NoRoom):
    """Another process looks at the ledger just now: as with a full disk, wait, and try again."""


class Interrupted(FaillogError):
    """A signal asked for the end of the run while nothing was in flight; its number is `signal`."""

    def __init__(self, signal: int = 2) -> None:
        super().__init__()
        self.signal = signal
