"""Why no answer came from Segment or S3, and what to do: for errors of httpx."""

import ssl

import httpx
from msgspec import Struct

from faillog_otel.proxies import Proxy

_NO_TLS = frozenset(
    (
        "WRONG_VERSION_NUMBER",
        "HTTP_REQUEST",
        "PACKET_LENGTH_TOO_LONG",
        "RECORD_LAYER_FAILURE",
        "UNKNOWN_PROTOCOL",
    )
)
"""OpenSSL's reasons where the first bytes of the other side are not TLS."""
_BAD_AUTHORITY = frozenset((18, 19, 20, 21))
"""OpenSSL's X509_V_ERR_*: self-signed, or the issuer is not known."""
_BAD_TIME = frozenset((9, 10))
_BAD_NAME = frozenset((62, 64))


class Failure(Struct, frozen=True):
    """`why` says what happened and what to do. It quotes the peer: for no eyes before secrets are masked."""

    why: str
    is_permanent: bool = False
    """No try succeeds before a setting is changed."""


def explain(error: httpx.HTTPError, scheme: str, proxy: Proxy | None) -> Failure:
    """Returns why a request failed, by its error and all that led to it."""
    through = f"through the proxy {proxy.url}: " if proxy else ""
    if isinstance(error, httpx.ProxyError):
        return _proxy_failure(str(error), through)
    found = next((each for each in _causes(error) if isinstance(each, ssl.SSLError)), None)
    if isinstance(found, ssl.SSLCertVerificationError):
        return Failure(f"{through}{_certificate_failure(found)}", is_permanent=True)
    if found is not None and found.reason in _NO_TLS:
        who = "the proxy or the server" if proxy and proxy.scheme == "https" else "the server"
        return Failure(
            f"{through}{who} does not speak TLS there; write http:// for plain HTTP, or another port", True
        )
    said = str(error) or type(error).__name__
    if scheme == "http" and isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
        return Failure(f"{through}{said}; if it speaks TLS there, write https://")
    return Failure(f"{through}{said}")


def _proxy_failure(said: str, through: str) -> Failure:
    if said.startswith("407"):
        remedy = "set user and password in the proxy's URL: http://USER:PASSWORD@HOST:PORT"
        return Failure(f"{through}it answers {said}; {remedy}", is_permanent=True)
    return Failure(f"{through}it answers {said}; ask who runs it whether it allows this host")


def _certificate_failure(error: ssl.SSLCertVerificationError) -> str:
    said = f"its certificate is not accepted: {error.verify_message.rstrip('.')}"
    if error.verify_code in _BAD_AUTHORITY:
        return f"{said}; if it is right, name its authority: [segment] certificate or SSL_CERT_FILE"
    if error.verify_code in _BAD_TIME:
        return f"{said}; set this machine's clock if it is wrong"
    if error.verify_code in _BAD_NAME:
        return f"{said}; is the URL right?"
    return said


def _causes(error: BaseException) -> list[BaseException]:
    found = [error]
    while (cause := found[-1].__cause__ or found[-1].__context__) and cause not in found:
        found.append(cause)
    return [*found, *(each for one in found for each in one.args if isinstance(each, BaseException))]
