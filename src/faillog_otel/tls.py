"""TLS settings of connections over HTTP and gRPC: trusted authorities, client certificates, reload on change.

The trusted authorities are those of the system, or of `SSL_CERT_FILE` and `SSL_CERT_DIR` if they are set,
plus those in the file that a setting names. This module reads them itself: gRPC would trust its own list, and
OpenSSL ignores a missing or empty file.
"""

import logging
import os
import re
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import urlsplit

from faillog_otel.config import Target
from faillog_otel.errors import ConfigError
from faillog_otel.files import read_small_file

if TYPE_CHECKING:
    import grpc

_log = logging.getLogger(__name__)

Value = TypeVar("Value")

_KNOWN_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora, RHEL
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # macOS, BSD
)
"""For a Python whose OpenSSL was built with other paths."""

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[\sA-Za-z0-9+/=]+-----END CERTIFICATE-----")


def client_context(
    certificate: str | None = None,
    client_certificate: str | None = None,
    client_key: str | None = None,
    *,
    setting: str = "certificate",
) -> ssl.SSLContext:
    """Returns TLS settings for HTTP/1.1 clients. Raises OSError, of which SSLError is a subclass.

    `certificate` is a file of further trusted authorities; `setting` is its name in errors. All files are
    PEM.
    """
    context = ssl.create_default_context(cadata=trusted_authorities(certificate, setting=setting))
    if client_certificate:
        context.load_cert_chain(client_certificate, client_key)
    context.set_alpn_protocols(["http/1.1"])
    return context


def trusted_authorities(certificate: str | None = None, *, setting: str = "certificate") -> str:
    """Returns the certificates of all trusted authorities, PEM. Raises OSError.

    A file that the setting or the environment names must contain certificates, and one of the environment's
    folders must exist; other unreadable files are ignored, as OpenSSL does.
    """
    folders = os.environ.get("SSL_CERT_DIR", "")
    if folders and not any(Path(each).is_dir() for each in folders.split(os.pathsep)):
        raise OSError(f"SSL_CERT_DIR: {folders} is not a folder; name one with authorities, or unset it")
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
    """Returns these files and those of the environment; a change of one requires new connections."""
    environment = (os.environ.get("SSL_CERT_FILE"), *os.environ.get("SSL_CERT_DIR", "").split(os.pathsep))
    return tuple(Path(name) for name in (*names, *environment) if name)


def _system_files() -> list[Path]:
    """Returns the files of the system's authorities; none if the variable is set and empty.

    In a folder, files of any name count; OpenSSL requires hashes as names.
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
    """Returns the certificates of a file that a setting names. Raises OSError if it has none."""
    remedy = "name a file of certificates in PEM form"
    if not file:
        return {}
    try:
        blocks = _blocks(read_small_file(file))
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata="".join(blocks))
    except ConfigError as error:
        raise OSError(f"{setting}: {error}; {remedy}") from None
    except (ssl.SSLError, ValueError):  # ValueError: no certificate
        raise OSError(f"{setting}: {file}: contains no certificate in PEM form; {remedy}") from None
    return blocks


def _blocks(content: bytes) -> dict[str, None]:
    return {f"{block.decode()}\n": None for block in _CERTIFICATE.findall(content)}


def tls_context(target: Target) -> ssl.SSLContext:
    """Returns the TLS settings of a target: authorities and client certificate. Raises ConfigError."""
    if target.client_key and not target.client_certificate:
        remedy = "set client_certificate, too"
        raise ConfigError(f"a client key without a client certificate for {target.shown_url}; {remedy}")
    try:
        for setting in ("certificate", "client_certificate", "client_key"):
            _check_pem(setting, getattr(target, setting))
        return client_context(target.certificate, target.client_certificate, target.client_key)
    except (ConfigError, OSError) as error:
        raise ConfigError(f"the certificates for {target.shown_url} cannot be used: {error}") from None


def _check_pem(setting: str, name: str | None) -> None:
    """Raises ConfigError, which names the file, unless it is PEM. OpenSSL would block on a pipe."""
    if name is None:
        return
    try:
        content = read_small_file(name)
    except ConfigError as error:
        raise ConfigError(f"{setting} {error}") from None
    if b"-----BEGIN" not in content:
        raise ConfigError(f"{setting} {name}: is not PEM (text with -----BEGIN); convert it to PEM")


def channel_credentials(target: Target) -> "grpc.ChannelCredentials | None":
    """Returns the TLS credentials of a target for gRPC; None for plain http. Raises OSError."""
    import grpc  # most runs need no gRPC

    if urlsplit(target.url).scheme == "http":
        return None
    key, certificate = (
        Path(name).read_bytes() if name else None for name in (target.client_key, target.client_certificate)
    )
    return grpc.ssl_channel_credentials(trusted_authorities(target.certificate).encode(), key, certificate)


class ReloadOnChange(Generic[Value]):
    """A value made from a target's certificates, and made again when their files change.

    If the new files are unusable (one of them can still be missing), a warning is logged, the old value
    stays, and the next use tries again. For one thread at a time.
    """

    def __init__(self, target: Target, make: Callable[[Target], Value]) -> None:
        self._target = target
        self._make = make
        self._seen = self._signature()
        self._value = make(target)

    def get(self) -> Value:
        """Returns the value for the current files."""
        signature = self._signature()
        if signature != self._seen:
            try:
                self._value = self._make(self._target)
            except ConfigError as error:
                _log.warning("%s; still using the old certificates", error)
            else:
                self._seen = signature
                _log.info("the certificates for %s changed; reloaded them", self._target.shown_url)
        return self._value

    def renew(self) -> None:
        """Makes the value again, without a change of the files."""
        with suppress(ConfigError):  # the files have changed meanwhile: `get` reports it
            self._value = self._make(self._target)

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
