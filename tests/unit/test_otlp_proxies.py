"""The proxy of a connection to a collector: the setting, the environment, and NO_PROXY."""

import ipaddress
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faillog_otel.config import Secret
from faillog_otel.errors import ConfigError
from faillog_otel.network import OTLP, Proxy, parse_proxy, proxy_to, variable_unused

URL = "https://collector.example:4318/v1/logs"
PROXY = "http://proxy.example:3128"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def found(setting: str | None, url: str) -> Proxy | None:
    return proxy_to(url, Secret(setting) if setting else None, os.environ)


def shown(setting: str | None, url: str) -> str | None:
    proxy = found(setting, url)
    return proxy.url if proxy else None


def unused_proxy(setting: str | None, url: str) -> str | None:
    return variable_unused(url, Secret(setting) if setting else None, os.environ, OTLP) or None


def test_the_environment_counts_only_where_the_setting_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    assert shown(None, URL) is None
    assert unused_proxy(None, URL) == "HTTPS_PROXY"
    assert shown("environment", URL) == PROXY
    assert unused_proxy("environment", URL) is None
    assert shown("http://other.example:1", URL) == "http://other.example:1"


def test_an_unused_proxy_is_not_reported_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for proxy in (PROXY, f"{PROXY}/unusable"):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        assert unused_proxy(None, "http://127.0.0.1:4318/v1/logs") is None
        assert unused_proxy(None, "http://collector.example/v1/logs") == "HTTP_PROXY"


@pytest.mark.parametrize(
    ("variable", "scheme"),
    [("HTTPS_PROXY", "https"), ("https_proxy", "https"), ("http_proxy", "http"), ("HTTP_PROXY", "http")],
)
def test_each_scheme_has_its_variable(monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str) -> None:
    monkeypatch.setenv(variable, PROXY)
    found = {each: shown("environment", f"{each}://collector.example") for each in ("http", "https")}
    assert found == {"http": None, "https": None, scheme: PROXY}


def test_all_proxy_is_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "proxy.example:3128")  # without a scheme, as curl takes it
    assert shown("environment", "http://a.example") == shown("environment", "https://a.example") == PROXY


@pytest.mark.parametrize(
    ("no_proxy", "host"),
    [
        ("*", "collector.example"),
        ("other, collector.example", "collector.example"),
        (".example", "collector.example"),
        ("example", "collector.example"),
        ("collector.example:4318", "collector.example"),
        ("10.0.0.0/8", "10.1.2.3"),
        ("10.1.2.3", "10.1.2.3"),
        ("10.1.2.3:4318", "10.1.2.3"),
        ("fd00::/8", "[fd00::1]"),
        ("::1,fd00::1", "[fd00::1]"),
        ("[fd00::1]", "[fd00::1]"),
    ],
)
@pytest.mark.parametrize("setting", ["environment", PROXY])
def test_no_proxy_excepts(monkeypatch: pytest.MonkeyPatch, setting: str, no_proxy: str, host: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    url = f"https://{host}:4318"
    assert shown(setting, url) == PROXY
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert shown(setting, url) is None
    assert unused_proxy(None, url) is None
    assert shown(setting, "https://another.test:4318") == (None if no_proxy == "*" else PROXY)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_this_machine_is_reached_without_the_environments_proxy(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", PROXY)
    assert shown("environment", f"http://{host}:4318") is None
    assert unused_proxy(None, f"http://{host}:4318") is None


@given(st.ip_addresses(), st.integers(1, 65535))
def test_a_proxy_can_have_any_kind_of_address(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    host = f"[{address}]" if address.version == 6 else str(address)
    proxy = parse_proxy(f"https://{host}:{port}", "x")
    assert (proxy.scheme, ipaddress.ip_address(proxy.host), proxy.port) == ("https", address, port)


def test_user_and_password_are_secrets() -> None:
    proxy = parse_proxy("http://user:p%40ss@proxy.example", "x")
    assert proxy.url == "http://proxy.example:80"
    assert proxy.authorization is not None
    assert proxy.authorization.reveal() == "Basic dXNlcjpwQHNz"
    assert proxy.whole_url.reveal() == "http://user:p%40ss@proxy.example:80"
    assert "p%40ss" not in repr(proxy)


@pytest.mark.parametrize("text", ["socks5://user:s3cret@h", "http://user:s3cret@", "ftp://h", "http://h:x"])
def test_the_error_about_an_invalid_proxy_shows_no_secret(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_proxy(text, "x")
    assert "HOST:PORT" in str(raised.value)
    assert "s3cret" not in str(raised.value)


def test_an_unusable_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "socks5://proxy.example")
    with pytest.raises(ConfigError, match="https_proxy"):
        found("environment", URL)
