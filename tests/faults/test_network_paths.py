"""The way to a collector: addresses, authorities, proxies, look-ups; over HTTP and gRPC alike."""

import base64
import re
import signal
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trustme
from support.program import run_program, start_program
from support.raw_server import identity_for_tls
from support.relay import HttpProxy, Relay
from support.server import unused_port
from support.tiers import swept

from faillog_otel.sandbox.collector import Identity, Receiver
from faillog_otel.sandbox.generator import failure_events

PROTOCOLS = ["http/protobuf", "http/json", "grpc"]
SECRET = "s3cret-of-the-proxy"  # noqa: S105  # of no real proxy
OF_GRPC = re.compile(r"[EFIW]\d{4} ")
"""How a line of gRPC's own log begins: its level and the date."""


class Authority:
    """A certificate authority, its file, and what it issues."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self.file = str(folder / "authority.pem")
        self._ca.cert_pem.write_to_path(self.file)

    def identity(self, *names: str) -> Identity:
        issued = self._ca.issue_cert(*names)
        chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
        return Identity(chain, issued.private_key_pem.bytes())


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def events(tmp_path: Path) -> Path:
    path = tmp_path / "events"
    path.write_bytes(b"\n".join(failure_events(1, 20)))
    return path


def endpoint(receiver: Receiver, protocol: str, host: str = "127.0.0.1") -> str:
    found = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
    return found.replace("127.0.0.1", host)


# -- addresses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_all_addresses_of_a_name_are_tried(events: Path, protocol: str) -> None:
    """Where `localhost` is ::1 as well, nobody listens there."""
    with Receiver() as receiver:
        options = ("--endpoint", endpoint(receiver, protocol, "localhost"), "--protocol", protocol)
        done = run_program("run", events, *options, cwd=events.parent)
        assert done.code == 0, done.stderr


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_endpoint_may_be_an_ipv6_address(events: Path, protocol: str) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with Receiver() as receiver, Relay(int(endpoint(receiver, protocol).rpartition(":")[2]), "::1") as relay:
        options = ("--endpoint", f"http://[::1]:{relay.port}", "--protocol", protocol)
        done = run_program("run", events, *options, cwd=events.parent)
        assert done.code == 0, done.stderr
        hosts = {each.headers.get("host") for each in receiver.received} - {None}
        assert hosts <= {f"[::1]:{relay.port}"}


# -- authorities ---------------------------------------------------------------------------------------------


@pytest.mark.thin(3)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_authorities_of_the_environment_are_trusted(
    events: Path, authority: Authority, protocol: str
) -> None:
    with Receiver(identity=authority.identity("127.0.0.1")) as receiver:
        options = ("--endpoint", endpoint(receiver, protocol), "--protocol", protocol)
        done = run_program("run", events, *options, cwd=events.parent, SSL_CERT_FILE=authority.file)
        assert done.code == 0, done.stderr
        done = run_program("run", events, *options, "--wait", "1s", cwd=events.parent)
        assert (done.code, "its certificate is not trusted" in done.stderr) == (4, True), done.stderr


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_unreadable_file_of_authorities_is_named(events: Path, protocol: str) -> None:
    """Else every handshake fails, and nobody sees why."""
    options = ("--endpoint", "https://127.0.0.1:1", "--protocol", protocol)
    done = run_program("run", events, *options, cwd=events.parent, SSL_CERT_FILE="missing.pem")
    assert (done.code, "missing.pem" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_our_own_metrics_trust_the_same_authorities(
    events: Path, authority: Authority, protocol: str
) -> None:
    with Receiver() as receiver, Receiver(identity=authority.identity("127.0.0.1")) as metrics:
        done = run_program(
            *("run", events, "--endpoint", receiver.http_endpoint),
            cwd=events.parent,
            SSL_CERT_FILE=authority.file,
            FAILLOG_SELF_OTLP_ENDPOINT=endpoint(metrics, protocol),
            FAILLOG_SELF_OTLP_PROTOCOL=protocol,
        )
        assert done.code == 0
        assert "certificate" not in done.stderr.lower(), done.stderr


@pytest.mark.thin(2)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_grpcs_own_log_lines_do_not_reach_standard_error(
    events: Path, authority: Authority, workers: str
) -> None:
    """The C core of gRPC writes to it by itself, also between lines of JSON."""
    with Receiver(identity=authority.identity("127.0.0.1")) as receiver:
        done = run_program(
            *("run", events, events, "--endpoint", receiver.grpc_endpoint, "--protocol", "grpc"),
            *("--wait", "2s", "--workers", workers),
            cwd=events.parent,
        )
        assert done.code == 4
        assert [line for line in done.stderr.splitlines() if OF_GRPC.match(line)] == []
        assert "Traceback" not in done.stderr


# -- proxies -------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy_tls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ssl.SSLContext | None, str]:
    """A proxy's TLS settings, where it has any, and the file that trusts it."""
    if request.param == "http":
        return None, ""
    folder = tmp_path / "proxy"
    folder.mkdir()
    return identity_for_tls(folder)


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("proxy_tls", "protocol"),
    [("http", each) for each in PROTOCOLS] + [("https", each) for each in PROTOCOLS if each != "grpc"],
    indirect=["proxy_tls"],
)  # gRPC knows proxies without TLS only: the next test
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("says", swept(["environment", "url"], ["url"]))
def test_a_proxy_is_used_where_it_is_asked_for(
    events: Path,
    authority: Authority,
    proxy_tls: tuple[ssl.SSLContext | None, str],
    protocol: str,
    scheme: str,
    says: str,
) -> None:
    """The collector's name is known to the proxy alone. Its password is told to nobody else."""
    tls, trusted = proxy_tls
    identity = authority.identity("collector.test") if scheme == "https" else None
    expected = "Basic " + base64.b64encode(f"user:{SECRET}".encode()).decode()
    with Receiver(identity=identity) as receiver, HttpProxy(tls=tls, authorization=expected) as proxy:
        url = f"{'https' if tls else 'http'}://user:{SECRET}@127.0.0.1:{proxy.port}"
        environment: dict[str, Any] = {f"{scheme.upper()}_PROXY": url} if says == "environment" else {}
        environment |= {"SSL_CERT_FILE": trusted} if trusted else {}
        target = endpoint(receiver, protocol, "collector.test")
        done = run_program(
            *("run", events, "--endpoint", target, "--protocol", protocol, "-vv"),
            cwd=events.parent,
            FAILLOG_OTLP_PROXY="environment" if says == "environment" else url,
            OTEL_EXPORTER_OTLP_CERTIFICATE=authority.file,
            **environment,
        )
        assert done.code == 0, done.stderr
        assert SECRET not in done.stderr
        assert proxy.asked
        host = target.partition("://")[2]
        is_tunnel = scheme == "https" or protocol == "grpc"
        assert all(
            each.startswith(f"CONNECT {host} " if is_tunnel else f"POST http://{host}/")
            for each in proxy.asked
        )
        assert len(receiver.logs()) > 0


def test_grpc_refuses_a_proxy_that_it_cannot_use(events: Path) -> None:
    """The C core of gRPC ignores an https:// proxy, and would go round it."""
    every: list[dict[str, Any]] = [
        {"FAILLOG_OTLP_PROXY": f"https://user:{SECRET}@proxy.test"},
        {"FAILLOG_OTLP_PROXY": "environment", "HTTPS_PROXY": f"https://user:{SECRET}@proxy.test"},
    ]
    for settings in every:
        done = run_program(
            *("run", events, "--endpoint", "https://collector.test", "--protocol", "grpc"),
            cwd=events.parent,
            **settings,
        )
        assert (done.code, "proxy.test" in done.stderr) == (2, True), done.stderr
        assert SECRET not in done.stderr


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_socks_proxy_is_refused(events: Path, protocol: str) -> None:
    done = run_program(
        *("run", events, "--endpoint", "https://collector.test", "--protocol", protocol),
        cwd=events.parent,
        FAILLOG_OTLP_PROXY=f"socks5://user:{SECRET}@proxy.test",
    )
    assert (done.code, "the proxy uses SOCKS, which is not supported" in done.stderr) == (2, True), (
        done.stderr
    )
    assert SECRET not in done.stderr


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_proxy_of_the_environment_is_not_used_by_default(events: Path, protocol: str) -> None:
    """It is for the way out; a collector is mostly near."""
    with Receiver() as receiver, HttpProxy() as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        names = ("http_proxy", "HTTP_PROXY", "HTTPS_PROXY", "grpc_proxy", "ALL_PROXY")
        variables: dict[str, Any] = dict.fromkeys(names, url)
        options = ("--endpoint", endpoint(receiver, protocol), "--protocol", protocol)
        done = run_program("run", events, *options, cwd=events.parent, **variables)
        assert done.code == 0, done.stderr
        assert proxy.asked == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_another_password_ends_the_run(events: Path, protocol: str, scheme: str) -> None:
    with HttpProxy(authorization="Basic other") as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        done = run_program(
            *("run", events, "--endpoint", f"{scheme}://collector.test:1", "--protocol", protocol),
            cwd=events.parent,
            FAILLOG_OTLP_PROXY=url.replace("://", f"://user:{SECRET}@"),
        )
    assert done.code == 4
    assert f"the proxy {url} requires a user and a password (407); set them in the proxy's URL" in done.stderr
    assert "retrying" not in done.stderr
    assert SECRET not in done.stderr


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("scheme", swept(["http", "https"], ["https"]))
def test_a_proxy_that_is_away_is_named(events: Path, protocol: str, scheme: str) -> None:
    url = f"http://127.0.0.1:{unused_port()}"
    done = run_program(
        *(
            "run",
            events,
            "--endpoint",
            f"{scheme}://collector.test:1",
            "--protocol",
            protocol,
            "--wait",
            "1s",
        ),
        cwd=events.parent,
        FAILLOG_OTLP_PROXY=url.replace("://", f"://user:{SECRET}@"),
    )
    assert done.code == 4
    assert re.search(f"collector.test:1.*: the proxy {url}: .*refused", done.stderr), done.stderr
    assert SECRET not in done.stderr


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_collector_that_is_not_trusted_is_not_taken_for_the_proxy(
    events: Path, authority: Authority, protocol: str
) -> None:
    with Receiver(identity=authority.identity("collector.test")) as receiver, HttpProxy() as proxy:
        target = endpoint(receiver, protocol, "collector.test")
        done = run_program(
            *("run", events, "--endpoint", target, "--protocol", protocol, "--wait", "1s"),
            cwd=events.parent,
            FAILLOG_OTLP_PROXY=f"http://127.0.0.1:{proxy.port}",
        )
    assert re.search(f"{target}[^ ]*: its certificate is not trusted", done.stderr), done.stderr


def test_a_proxys_certificate_may_be_of_the_authority_that_a_setting_names(
    events: Path, tmp_path: Path
) -> None:
    (tmp_path / "proxy").mkdir()
    tls, trusted = identity_for_tls(tmp_path / "proxy")
    with Receiver() as receiver, HttpProxy(tls=tls) as proxy:
        url = f"https://127.0.0.1:{proxy.port}"
        args = ("run", events, "--endpoint", receiver.http_endpoint)
        process = start_program(*args, "--wait", "forever", cwd=events.parent, FAILLOG_OTLP_PROXY=url)
        assert process.stderr is not None
        expected = f"the proxy {url}: its certificate is not trusted"
        assert any(expected in line.decode() for line in process.stderr)
        process.kill()
        settings: dict[str, Any] = {"FAILLOG_OTLP_PROXY": url, "OTEL_EXPORTER_OTLP_CERTIFICATE": trusted}
        done = run_program(*args, cwd=events.parent, **settings)
        assert done.code == 0, done.stderr


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("name", ["FAILLOG_OTLP_PROXY", "FAILLOG_SELF_OTLP_PROXY"])
def test_our_own_metrics_follow_the_setting(events: Path, protocol: str, name: str) -> None:
    """Their own, else that of forwarded data."""
    with Receiver() as receiver, HttpProxy() as proxy:
        setting: dict[str, Any] = {name: f"http://127.0.0.1:{proxy.port}"}
        run_program(
            *("run", events, "--endpoint", receiver.http_endpoint),
            cwd=events.parent,
            FAILLOG_SELF_OTLP_ENDPOINT=endpoint(receiver, protocol, "metrics.test"),
            FAILLOG_SELF_OTLP_PROTOCOL=protocol,
            NO_PROXY="127.0.0.1",
            **setting,
        )
        assert any("metrics.test" in each for each in proxy.asked)


def test_doctor_says_which_proxy_leads_to_the_collector(events: Path) -> None:
    with Receiver() as receiver, HttpProxy() as proxy:
        command = ("doctor", "--endpoint", endpoint(receiver, "http/protobuf", "collector.test"))
        url = f"http://127.0.0.1:{proxy.port}"
        done = run_program(*command, cwd=events.parent, FAILLOG_OTLP_PROXY=url)
        assert f"/v1/logs: through {url}\n" in done.stdout.decode()


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json"])
def test_a_signals_own_endpoint_without_a_path_is_explained(events: Path, protocol: str) -> None:
    """It is used as it is, so a 404 is most likely for want of the path."""
    with Receiver() as receiver:
        done = run_program(
            *("run", events, "--protocol", protocol, "--signals", "logs", "--wait", "1s"),
            cwd=events.parent,
            OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=receiver.http_endpoint,
        )
    assert done.code == 4
    assert f"the endpoint has no path; write {receiver.http_endpoint}/v1/logs" in done.stderr


def test_doctor_says_that_a_proxy_is_not_used(events: Path) -> None:
    command = ("doctor", "--endpoint", "https://collector.invalid:1")
    proxy: dict[str, Any] = {"HTTPS_PROXY": f"http://user:{SECRET}@127.0.0.1:1"}
    done = run_program(*command, cwd=events.parent, **proxy)
    assert "HTTPS_PROXY is set, but not used for https://collector.invalid:1/v1/logs" in done.stdout.decode()
    done = run_program(*command, cwd=events.parent, **proxy, FAILLOG_OTLP_PROXY="environment")
    assert "and not used" not in done.stdout.decode()
    assert SECRET not in done.stdout.decode() + done.stderr


@pytest.mark.parametrize(("protocol", "spoken"), [("grpc", "HTTP/1.1"), ("http/protobuf", "gRPC")])
def test_the_wrong_port_for_our_own_metrics_is_named(events: Path, protocol: str, spoken: str) -> None:
    """The program gives each probe of the port 0.25 s. A run on a busy machine may miss that: run again."""
    with Receiver() as receiver:
        said = f"the port speaks {spoken} without TLS; write FAILLOG_SELF_OTLP_ENDPOINT=http://127.0.0.1:"
        wrong = receiver.http_endpoint if protocol == "grpc" else receiver.grpc_endpoint
        stderr = ""
        while said not in stderr:
            stderr = run_program(
                *("run", events, "--endpoint", receiver.http_endpoint),
                cwd=events.parent,
                FAILLOG_SELF_OTLP_ENDPOINT=wrong,
                FAILLOG_SELF_OTLP_PROTOCOL=protocol,
            ).stderr
            assert "cannot send our own metrics to" in stderr


# -- waiting -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", swept(PROTOCOLS, ["http/protobuf"]))
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stop_ends_all_retries_and_each_reason_is_logged_once(
    tmp_path: Path, protocol: str, workers: str
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(b"\n".join(failure_events(ord(name), 3_000)))
    process = start_program(
        *("run", "a", "b", "c", "--endpoint", f"http://127.0.0.1:{unused_port()}", "--protocol", protocol),
        *("--wait", "1h", "--workers", workers, "--summary", "json"),
        cwd=tmp_path,
    )
    assert process.stderr is not None
    said: list[str] = []
    while len(said) < 4:  # logs and traces, twice each: the later pauses are longer
        line = process.stderr.readline().decode()
        said += [line] if "retrying" in line else []
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert rest.decode().count("retrying") <= 1, rest.decode()
    assert len({line.partition(" in ")[0] for line in said}) == 2, said


@pytest.fixture(scope="session")
def slow_look_ups(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library to preload: names under `silent.test` are looked up for a minute, as with a silent server."""
    folder = tmp_path_factory.mktemp("slow")
    source, library = folder / "slow.c", folder / "slow.so"
    source.write_text(SLOW_LOOK_UPS)
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no C compiler")
    return str(library)


SLOW_LOOK_UPS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
  int (*theirs)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
  *(void **)&theirs = dlsym(RTLD_NEXT, "getaddrinfo");
  if (node && strstr(node, "silent.test")) { sleep(60); return EAI_AGAIN; }
  return theirs(node, service, hints, found);
}
"""


@pytest.mark.thin(3)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_silent_name_server_ends_the_wait_as_any_other_silence(
    events: Path, slow_look_ups: str, protocol: str
) -> None:
    done = run_program(
        *("run", events, "--endpoint", "http://silent.test:4318", "--protocol", protocol, "--wait", "2s"),
        cwd=events.parent,
        timeout=30,
        LD_PRELOAD=slow_look_ups,
        OTEL_EXPORTER_OTLP_TIMEOUT="60000",
        GRPC_DNS_RESOLVER="native",
        FAILLOG_SELF_OTLP_ENDPOINT="http://silent.test:4318",
    )
    assert done.code == 4, done.stderr
