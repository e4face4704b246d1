"""Who is trusted: one rule for every TLS connection of the program, whatever library makes it.

Trusted are the system's authorities, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name instead, and
beside them the authorities in the file that a setting names. All are read here: gRPC would trust a list of
its own, and OpenSSL passes over a file that is missing or has no certificate in it.
"""

import logging
import os
import re
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

from faillog_otel.config import Target
from faillog_otel.errors import ConfigError
from faillog_otel.files import read_small_file

# -- tls -----------------------------------------------------------------------------------------------------


_KNOWN_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora, RHEL
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # macOS, BSD
)
"""For a Python whose OpenSSL was built to look elsewhere."""

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[\sA-Za-z0-9+/=]+-----END CERTIFICATE-----")


def client_context(
    certificate: str | None = None,
    client_certificate: str | None = None,
    client_key: str | None = None,
    *,
    setting: str = "certificate",
) -> ssl.SSLContext:
    """Returns TLS settings for clients that speak HTTP/1.1. Raises OSError, which SSLError is, too.

    `certificate` is a file of authorities that are trusted, too; `setting` is what errors call it. All files
    are PEM.
    """
    context = ssl.create_default_context(cadata=trusted_authorities(certificate, setting=setting))
    if client_certificate:
        context.load_cert_chain(client_certificate, client_key)
    context.set_alpn_protocols(["http/1.1"])
    return context


def trusted_authorities(certificate: str | None = None, *, setting: str = "certificate") -> str:
    """Returns the certificates of all trusted authorities, PEM. Raises OSError.

    A file that the setting or the environment names must hold certificates, and one of the environment's
    folders must be there; what else cannot be read is passed over, as OpenSSL does.
    """
    folders = os.environ.get("SSL_CERT_DIR", "")
    if folders and not any(Path(each).is_dir() for each in folders.split(os.pathsep)):
        raise OSError(f"SSL_CERT_DIR: {folders}: is no folder; name one with authorities, or unset it")
    found = _named_blocks(certificate, setting)
    found |= _named_blocks(os.environ.get("SSL_CERT_FILE"), "SSL_CERT_FILE")
    readable = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for path in _system_files():
        with suppress(OSError):
            for block in _blocks(path.read_bytes()).keys() - found.keys():
                with suppress(ssl.SSLError):
                    readable.load_verify_locations(cadata=block)
                    found[block] = None
    return "".join(found)


def watched_files(*names: str | None) -> tuple[Path, ...]:
    """Returns these files, and those of the environment: when one changes, connections are made anew."""
    environment = (os.environ.get("SSL_CERT_FILE"), *os.environ.get("SSL_CERT_DIR", "").split(os.pathsep))
    return tuple(Path(name) for name in (*names, *environment) if name)


def _system_files() -> list[Path]:
    """Files that may hold the system's authorities, none for a variable that is set and empty.

    In a folder any name will do; OpenSSL wants hashes.
    """
    default, is_named = ssl.get_default_verify_paths(), "SSL_CERT_FILE" in os.environ
    places = [] if is_named else [Path(default.openssl_cafile)]
    folders = os.environ.get("SSL_CERT_DIR", default.openssl_capath)
    for folder in filter(None, folders.split(os.pathsep)):
        with suppress(OSError):
            places += Path(folder).iterdir()
    found = sorted({Path(os.path.realpath(place)) for place in places if place.is_file()})
    return found if found or is_named else [path for name in _KNOWN_BUNDLES if (path := Path(name)).is_file()]


def _named_blocks(file: str | None, setting: str) -> dict[str, None]:
    """The certificates of a file that a setting names. Raises OSError for a file without certificates."""
    remedy = "name a file of certificates in PEM form"
    if not file:
        return {}
    try:
        blocks = _blocks(read_small_file(file))
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata="".join(blocks))
    except ConfigError as error:
        raise OSError(f"{setting}: {error}; {remedy}") from None
    except (ssl.SSLError, ValueError):  # the latter where there is none
        raise OSError(f"{setting}: {file}: holds no certificate in PEM form; {remedy}") from None
    return blocks


def _blocks(content: bytes) -> dict[str, None]:
    return {f"{block.decode()}\n": None for block in _CERTIFICATE.findall(content)}


# -- tls -----------------------------------------------------------------------------------------------------
#
# The certificates of a target, read again when their files change: rotation needs no restart.


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


class ReloadOnChange(Generic[Made]):
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
