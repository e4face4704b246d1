"""The certificates of a target, read again when their files change: rotation needs no restart."""

import logging
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

from faillog_otel.config import Target
from faillog_otel.errors import ConfigError
from faillog_otel.files import read_small_file
from faillog_otel.tls import client_context, watched_files

_log = logging.getLogger(__name__)

Made = TypeVar("Made")


def tls_context(target: Target) -> ssl.SSLContext:
    """The TLS settings of a target: its authorities, its client certificate. Raises ConfigError."""
    if target.client_key and not target.client_certificate:
        raise ConfigError(f"a client key for {target.shown_url}, and no client certificate")
    try:
        for setting in ("certificate", "client_certificate", "client_key"):
            _check_pem(setting, getattr(target, setting))
        return client_context(target.certificate, target.client_certificate, target.client_key)
    except (ConfigError, OSError) as error:
        raise ConfigError(f"the certificates for {target.shown_url} cannot be used: {error}") from None


def _check_pem(setting: str, name: str | None) -> None:
    """Raises ConfigError for what OpenSSL would wait for, or of which it does not name the file."""
    if name is None:
        return
    try:
        content = read_small_file(name)
    except ConfigError as error:
        raise ConfigError(f"{setting} {error}") from None
    if b"-----BEGIN" not in content:
        raise ConfigError(f"{setting} {name}: is not PEM, a text with -----BEGIN; convert it to PEM")


class Rotating(Generic[Made]):
    """Something made from a target's certificates, and made anew when their files change.

    New files that cannot be used (half of them may be there) leave the old thing in place, with a warning;
    they are tried again at the next use. Not safe for several threads at once.
    """

    def __init__(self, target: Target, make: Callable[[Target], Made]) -> None:
        self._target = target
        self._make = make
        self._seen = self._signature()
        self._made = make(target)

    def get(self) -> Made:
        """The thing, as the files are now."""
        signature = self._signature()
        if signature != self._seen:
            try:
                self._made = self._make(self._target)
            except ConfigError as error:
                _log.warning("%s; going on with the old ones", error)
            else:
                self._seen = signature
                _log.info("the certificates for %s have changed and were read again", self._target.shown_url)
        return self._made

    def renew(self) -> None:
        """Makes it anew, from the files as they were when it was made last."""
        with suppress(ConfigError):  # they have changed meanwhile: `get` says so
            self._made = self._make(self._target)

    def _signature(self) -> tuple[tuple[int, int, int] | None, ...]:
        target = self._target
        files = watched_files(target.certificate, target.client_certificate, target.client_key)
        return tuple(map(_stamp, files))


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
