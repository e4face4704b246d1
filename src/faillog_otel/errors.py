"""Errors, named for the caller's next action. Only `cli` turns them into text and exit codes.

FaillogError
├── ConfigError     a setting is wrong: change it (exit 2)
├── InputError      a PATH cannot be read: continue with the others (exit 2 at the end)
├── LedgerBroken    a file that keeps records cannot be written: stop (exit 5)
├── NoRoom          the disk is full: pause until space is available
│   └── Busy        another process locks the ledger: retry
└── Interrupted     SIGINT or SIGTERM while waiting for input: end cleanly (exit 128 + signal)
"""


class FaillogError(Exception):
    """The base class of all errors that this package raises."""


class ConfigError(FaillogError):
    """A setting is missing, unknown or out of range; the message names it and the allowed values."""


class InputError(FaillogError):
    """A PATH cannot be opened or read; the message names it and says why."""


class LedgerBroken(FaillogError):
    """A file that keeps records (quarantine, pending, spool) cannot be written or trusted."""


class NoRoom(FaillogError):
    """The disk is full; no data is damaged."""


class Busy(NoRoom):
    """Another process locks the ledger; as with a full disk, wait and retry."""


class Interrupted(FaillogError):
    """A signal ended the run while it waited for input; `signal` is its number."""

    def __init__(self, signal: int = 2) -> None:
        super().__init__()
        self.signal = signal
