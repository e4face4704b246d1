"""httpx clients for Segment and S3 with one deadline for each exchange: HTTP/1.1, no redirects or cookies.

httpx limits single reads, not their sum. Here every call that waits for the peer or a proxy gets only the
time left until the `Deadline` in the request's extensions. `network_of` reads TLS and proxy settings,
`explain` turns errors into messages.
"""

import math
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar

import httpcore
import httpx
from msgspec import Struct

from faillog_otel.config import SegmentConfig
from faillog_otel.connections import MAX_IDLE_SECONDS, HttpResponse, decompressed
from faillog_otel.errors import ConfigError
from faillog_otel.network import SEGMENT, Address, Deadline, Proxies, Proxy, addresses_in_turn, resolve
from faillog_otel.text import truncate
from faillog_otel.tls import client_context

_NO_TLS = frozenset(
    (
        "WRONG_VERSION_NUMBER",
        "HTTP_REQUEST",
        "PACKET_LENGTH_TOO_LONG",
        "RECORD_LAYER_FAILURE",
        "UNKNOWN_PROTOCOL",
    )
)
"""OpenSSL's reasons if the peer's first bytes are not TLS."""
_BAD_AUTHORITY = frozenset((18, 19, 20, 21))
"""OpenSSL's X509_V_ERR_*: self-signed, or an unknown issuer."""
_BAD_TIME = frozenset((9, 10))
_BAD_NAME = frozenset((62, 64))


class Failure(Struct, frozen=True):
    """`why` says what happened and what to do. It quotes the peer: mask secrets before showing it."""

    why: str
    is_permanent: bool = False
    """No request can succeed before a setting changes."""


def explain(error: httpx.HTTPError, scheme: str, proxy: Proxy | None) -> Failure:
    """Returns why a request failed, from its error and the causes of that."""
    through = f"through the proxy {proxy.url}: " if proxy else ""
    if isinstance(error, httpx.ProxyError):
        return _proxy_failure(str(error), through)
    found = next((each for each in _causes(error) if isinstance(each, ssl.SSLError)), None)
    if isinstance(found, ssl.SSLCertVerificationError):
        return Failure(f"{through}{_certificate_failure(found)}", is_permanent=True)
    if found is not None and found.reason in _NO_TLS:
        who = "the proxy or the server" if proxy and proxy.scheme == "https" else "the server"
        return Failure(f"{through}{who} does not speak TLS at this port; write http:// or another port", True)
    problem = str(error) or type(error).__name__
    if scheme == "http" and isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
        return Failure(f"{through}{problem}; if the port speaks TLS, write https://")
    return Failure(f"{through}{problem}")


def _proxy_failure(problem: str, through: str) -> Failure:
    if problem.startswith("407"):
        remedy = "set user and password in the proxy's URL: http://USER:PASSWORD@HOST:PORT"
        return Failure(f"{through}it answered {problem}; {remedy}", is_permanent=True)
    return Failure(f"{through}it answered {problem}; allow this host in the proxy")


def _certificate_failure(error: ssl.SSLCertVerificationError) -> str:
    problem = f"its certificate is not trusted: {error.verify_message.rstrip('.')}"
    if error.verify_code in _BAD_AUTHORITY:
        return f"{problem}; name the file of its authority: [segment] certificate or SSL_CERT_FILE"
    if error.verify_code in _BAD_TIME:
        return f"{problem}; check this machine's clock"
    if error.verify_code in _BAD_NAME:
        return f"{problem}; check the URL"
    return problem


def _causes(error: BaseException) -> list[BaseException]:
    found = [error]
    while (cause := found[-1].__cause__ or found[-1].__context__) and cause not in found:
        found.append(cause)
    return [*found, *(each for one in found for each in one.args if isinstance(each, BaseException))]


_CERTIFICATE = "[segment] certificate"


class Network(Struct, frozen=True):
    """TLS and proxy settings of all connections to Segment and S3."""

    context: ssl.SSLContext
    proxies: Proxies


MIN_TIMEOUT_SECONDS = 1.0


def timeout_within(wait_seconds: float, seconds: float) -> float:
    """Returns the time limit of an exchange: `seconds`, or the run's `--wait` if it is shorter."""
    return min(seconds, max(MIN_TIMEOUT_SECONDS, wait_seconds))


def direct_network() -> Network:
    """Returns settings with the system's authorities and without a proxy."""
    return Network(client_context(), Proxies(None, {}, SEGMENT))


def network_of(config: SegmentConfig, environ: Mapping[str, str]) -> Network:
    """Returns the settings from configuration and environment. Raises ConfigError."""
    try:
        context = client_context(config.certificate, setting=_CERTIFICATE)
    except OSError as error:
        raise ConfigError(str(error)) from None
    if config.url.startswith("https:") and not context.cert_store_stats()["x509"]:
        raise ConfigError(
            "this system has no certificate authorities; install the package ca-certificates, or name a file "
            f"of authorities: SSL_CERT_FILE or {_CERTIFICATE}"
        )
    return Network(context, Proxies(config.proxy, environ, SEGMENT))


Result = TypeVar("Result")


def http_client(
    headers: Mapping[str, str], context: ssl.SSLContext, proxy: Proxy | None = None
) -> httpx.Client:
    """Returns a client for one exchange at a time.

    Every request has `headers`; `context` holds the TLS settings. The extensions of a request hold its
    `deadline` (a Deadline), optionally its `target` (path and query, sent byte for byte) and the `addresses`
    to connect to without a look-up. A proxy resolves names itself.
    """
    return httpx.Client(
        transport=_Transport(context, proxy),
        headers={"accept-encoding": "identity", **headers},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        timeout=None,  # noqa: S113  # the deadline takes its place
        trust_env=False,
        follow_redirects=False,
    )


def whole_answer(response: httpx.Response, max_bytes: int) -> HttpResponse:
    """Reads an answer; its body is None if it is longer than `max_bytes`. Raises httpx.HTTPError.

    httpx would decompress without a bound, and as often as the header says.
    """
    received = bytearray()
    for piece in response.iter_raw():
        received += piece
        if len(received) > max_bytes:
            break
    body = bytes(received)
    if body and response.headers.get("content-encoding", "identity").lower() != "identity":
        try:
            body = decompressed(body, max_bytes)
        except HTTPException as error:
            raise httpx.DecodingError(str(error)) from None
    headers = {name: truncate(value) for name, value in response.headers.items()}
    return HttpResponse(response.status_code, headers, None if len(body) > max_bytes else body)


class _Transport(httpx.BaseTransport):
    """httpcore's connection pool over a network with deadlines."""

    def __init__(self, context: ssl.SSLContext, proxy: Proxy | None) -> None:
        self._network = _Network()
        self._pool = httpcore.ConnectionPool(
            context,
            proxy=_httpcore_proxy(proxy, context) if proxy else None,
            keepalive_expiry=MAX_IDLE_SECONDS,
            network_backend=self._network,
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self._network.deadline = request.extensions["deadline"]
        self._network.addresses = request.extensions.get("addresses", ())
        url = request.url
        host = b"[%b]" % url.raw_host if b":" in url.raw_host else url.raw_host  # as CONNECT needs it
        target = request.extensions.get("target", url.raw_path)
        with _translated_errors():
            response = self._pool.handle_request(
                httpcore.Request(
                    request.method,
                    httpcore.URL(scheme=url.raw_scheme, host=host, port=url.port, target=target),
                    headers=request.headers.raw,
                    content=request.stream,
                )
            )
        return httpx.Response(
            response.status, headers=response.headers, stream=_Body(response), extensions=response.extensions
        )

    def close(self) -> None:
        self._pool.close()


def _httpcore_proxy(proxy: Proxy, context: ssl.SSLContext) -> httpcore.Proxy:
    auth = (proxy.user.encode(), proxy.password.reveal().encode()) if proxy.user else None
    return httpcore.Proxy(proxy.url, auth, ssl_context=context if proxy.scheme == "https" else None)


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        with _translated_errors():
            yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Translates errors of httpcore, deadlines and look-ups."""
    try:
        yield
    except TimeoutError as error:
        raise httpx.TimeoutException(str(error)) from error
    except (OSError, UnicodeError) as error:
        raise httpx.ConnectError(str(error)) from error
    except (
        httpcore.TimeoutException,
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.ProxyError,
        httpcore.UnsupportedProtocol,
    ) as error:
        raise getattr(httpx, type(error).__name__)(str(error)) from error  # each has a namesake


class _Network(httpcore.NetworkBackend):
    """Makes connections. `deadline` and `addresses` belong to the current exchange."""

    def __init__(self) -> None:
        self.deadline = Deadline(math.inf)
        self.addresses: Sequence[Address] = ()
        self._system = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002  # the deadline takes its place
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connects to the first address that answers. Also raises TimeoutError, OSError, UnicodeError."""
        host = host.strip("[]")
        failed: Exception = httpcore.ConnectError(f"{host} has no address")
        found = self.addresses or resolve(host, port, self.deadline)
        for (*_, address), seconds in addresses_in_turn(found, self.deadline):
            try:
                stream = self._system.connect_tcp(address[0], port, seconds, local_address, socket_options)
                return _Stream(stream, self)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed


class _Stream(httpcore.NetworkStream):
    """A connection whose calls end with the deadline of the current exchange."""

    def __init__(self, stream: httpcore.NetworkStream, network: _Network) -> None:
        self._stream = stream
        self._network = network

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._stream.read(max_bytes, self._network.deadline.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        """Sends the whole buffer: httpcore's stream would apply the time to each part of it."""
        connected, left = self._stream.get_extra_info("socket"), memoryview(buffer)
        while left:
            connected.settimeout(self._network.deadline.left())
            try:
                left = left[connected.send(left) :]
            except TimeoutError:
                raise
            except OSError as error:
                raise httpcore.WriteError(error) from error

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        host = (server_hostname or "").strip("[]")
        try:
            if isinstance(self.get_extra_info("socket"), ssl.SSLSocket):
                return _InnerTls(self, ssl_context, host)
            left = self._network.deadline.left()
            return _Stream(self._stream.start_tls(ssl_context, host, left), self._network)
        except BaseException:
            self.close()
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def close(self) -> None:
        self._stream.close()


class _InnerTls(httpcore.NetworkStream):
    """TLS with a server through TLS with a proxy; httpcore's own has no deadline for a whole read."""

    def __init__(self, outer: _Stream, context: ssl.SSLContext, host: str) -> None:
        self._outer = outer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._run(self._tls.do_handshake)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        try:
            return self._run(partial(self._tls.read, max_bytes))
        except ssl.SSLZeroReturnError:
            return b""

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        left = memoryview(buffer)
        while left:
            left = left[self._run(partial(self._tls.write, left)) :]

    def get_extra_info(self, info: str) -> Any:
        return self._tls if info == "ssl_object" else self._outer.get_extra_info(info)

    def close(self) -> None:
        self._outer.close()

    def _run(self, step: Callable[[], Result]) -> Result:
        """Repeats a TLS operation until it has read its input; sends its output."""
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._outer.write(self._outgoing.read())
                if piece := self._outer.read(_PIECE_BYTES):
                    self._incoming.write(piece)
                else:
                    self._incoming.write_eof()
            else:
                self._outer.write(self._outgoing.read())
                return result


_PIECE_BYTES = 65536
