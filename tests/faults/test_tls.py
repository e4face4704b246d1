"""TLS, with certificates that are made for the test: who is trusted, who is not, and rotation."""

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
import trustme
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from support.clock import MovedClock
from support.delivery import delivery_to, endpoint_of
from support.events import error, lines
from support.program import run_program

from faillog_otel.config import NetworkProtocol
from faillog_otel.otlp.delivery import SendResults
from faillog_otel.otlp.outcome import Acked, Unsent
from faillog_otel.otlp.wire import EncodedEvent
from faillog_otel.sandbox.collector import Identity, Receiver

PROTOCOLS: list[NetworkProtocol] = ["http/protobuf", "grpc"]
LOG = EncodedEvent(LogRecord(event_name="e").SerializeToString(), b"")
ACKED: list[SendResults] = [{"logs": Acked()}]
UNSENT: list[SendResults] = [{"logs": Unsent()}]
LONG_AGO = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


class Authority:
    """A certificate authority, and files of what it issues."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self._folder = folder
        folder.mkdir()

    @property
    def file(self) -> str:
        """The file of the authority's own certificate."""
        path = self._folder / "ca.pem"
        self.ca.cert_pem.write_to_path(str(path))
        return str(path)

    def identity(
        self, name: str = "127.0.0.1", client_ca: "Authority | None" = None, **more: object
    ) -> Identity:
        """A receiver's identity."""
        issued = self.ca.issue_cert(name, **more)  # type: ignore[arg-type]  # not_after
        chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
        ca = client_ca.ca.cert_pem.bytes() if client_ca else None
        return Identity(chain, issued.private_key_pem.bytes(), ca)

    def client_files(self) -> dict[str, Any]:
        """The files of a client certificate, as settings of a target."""
        issued = self.ca.issue_cert("client.example")
        certificate, key = self._folder / "client.pem", self._folder / "client.key"
        certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return {"client_certificate": str(certificate), "client_key": str(key)}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "stranger")


def send(receiver: Receiver, protocol: NetworkProtocol, **files: Any) -> tuple[list[SendResults], str]:
    """The results of one record, and why nothing is sent any more."""
    endpoint = endpoint_of(receiver, protocol)
    with delivery_to(endpoint, MovedClock(), protocol=protocol, wait_seconds=1, **files) as delivery:
        return delivery.result(delivery.submit([LOG])), delivery.gave_up_because


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_custom_ca_is_trusted(authority: Authority, protocol: NetworkProtocol) -> None:
    with Receiver(identity=authority.identity()) as receiver:
        assert send(receiver, protocol, certificate=authority.file) == (ACKED, "")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_wrong_ca_is_not_trusted(
    authority: Authority, stranger: Authority, protocol: NetworkProtocol
) -> None:
    with Receiver(identity=authority.identity()) as receiver:
        for files in ({"certificate": stranger.file}, {}):
            results, why = send(receiver, protocol, **files)
            assert results == UNSENT
            assert "certificate" in why.lower() or "handshake" in why.lower(), why
        assert receiver.received == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "made", [{"name": "10.0.0.1"}, {"not_before": LONG_AGO, "not_after": LONG_AGO.replace(year=2021)}]
)
def test_a_wrong_name_or_an_expired_certificate_is_refused(
    authority: Authority, protocol: NetworkProtocol, made: dict[str, object]
) -> None:
    with Receiver(identity=authority.identity(**made)) as receiver:  # type: ignore[arg-type]  # see made
        results, why = send(receiver, protocol, certificate=authority.file)
        assert (results, receiver.received) == (UNSENT, [])
        assert why


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_client_certificate_is_shown_where_it_is_asked_for(
    authority: Authority, stranger: Authority, protocol: NetworkProtocol
) -> None:
    with Receiver(identity=authority.identity(client_ca=authority)) as receiver:
        ca = authority.file
        assert send(receiver, protocol, certificate=ca, **authority.client_files()) == (ACKED, "")
        assert send(receiver, protocol, certificate=ca)[0] == UNSENT
        assert send(receiver, protocol, certificate=ca, **stranger.client_files())[0] == UNSENT
        assert len(receiver.received) == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_certificates_that_rotate_are_read_again(
    authority: Authority, stranger: Authority, protocol: NetworkProtocol
) -> None:
    """The client first shows a stranger's certificate and is refused; the files change; it is taken."""
    files = stranger.client_files()
    with Receiver(identity=authority.identity(client_ca=authority)) as receiver:

        class ReloadOnChange(MovedClock):
            """Changes the files at the first pause."""

            def wait(self, seconds: float) -> bool:
                if seconds > 0 and not self.waits:
                    for ours, theirs in zip(files.values(), authority.client_files().values(), strict=True):
                        Path(ours).write_bytes(Path(theirs).read_bytes())
                return super().wait(seconds)

        clock = ReloadOnChange()
        endpoint = endpoint_of(receiver, protocol)
        with delivery_to(endpoint, clock, protocol=protocol, certificate=authority.file, **files) as delivery:
            assert delivery.result(delivery.submit([LOG])) == ACKED
        assert clock.waits


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_half_written_certificates_leave_the_old_ones_in_use(
    authority: Authority, protocol: NetworkProtocol
) -> None:
    """A tool that renews them writes the files one after the other."""
    files = authority.client_files()
    with Receiver(identity=authority.identity(client_ca=authority)) as receiver:
        endpoint = endpoint_of(receiver, protocol)
        with delivery_to(
            endpoint, MovedClock(), protocol=protocol, certificate=authority.file, **files
        ) as delivery:
            assert delivery.result(delivery.submit([LOG])) == ACKED
            Path(files["client_certificate"]).write_bytes(b"-----BEGIN CERT")
            assert delivery.result(delivery.submit([LOG])) == ACKED


def test_the_program_reads_the_environment_and_says_what_is_wrong_with_a_file(
    authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "events").write_bytes(lines(error()))
    with Receiver(identity=authority.identity(client_ca=authority)) as receiver:
        client = authority.client_files()
        environment: dict[str, Any] = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
            "OTEL_EXPORTER_OTLP_CERTIFICATE": authority.file,
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": client["client_certificate"],
            "OTEL_EXPORTER_OTLP_CLIENT_KEY": client["client_key"],
        }
        assert run_program("run", "events", cwd=tmp_path, **environment).code == 0
        assert len(receiver.logs()) == 1
    broken = environment | {"OTEL_EXPORTER_OTLP_CERTIFICATE": "missing.pem"}
    done = run_program("run", "events", cwd=tmp_path, **broken)
    assert (done.code, "certificates" in done.stderr) == (2, True)
