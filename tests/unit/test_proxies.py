"""The proxy of a server, by the settings and the environment."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faillog_otel.config import Secret
from faillog_otel.errors import ConfigError
from faillog_otel.network import SEGMENT, Proxies, parse_proxy, variable_unused
from faillog_otel.sources import read_environment

PROXY = "http://proxy.example:3128"
API = "https://api.segmentapis.com"


def used(host: str = "api.segmentapis.com", scheme: str = "https", **environ: str) -> str:
    """The URL of the proxy that the environment gives."""
    proxy = Proxies(Secret("environment"), environ, SEGMENT).proxy_of(scheme, host, 443)
    return proxy.url if proxy else ""


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize(
    "text", [PROXY, "proxy.example:3128", f" {PROXY}/ ", "http://me:geheim@PROXY.example:3128"]
)
def test_the_environment_names_a_proxy(name: str, text: str) -> None:
    proxy = Proxies(Secret("environment"), {name: text}, SEGMENT).proxy_of(
        "https", "api.segmentapis.com", 443
    )
    assert proxy is not None
    assert proxy.url == PROXY


def test_small_letters_come_first_and_the_scheme_before_all() -> None:
    assert used(https_proxy=PROXY, HTTPS_PROXY="http://b", ALL_PROXY="http://c") == PROXY
    assert used(https_proxy=" ", HTTPS_PROXY=PROXY, all_proxy="http://c") == PROXY
    assert used(HTTP_PROXY=PROXY) == ""
    assert used(scheme="http", http_proxy="http://[::1]:3128") == "http://[::1]:3128"
    assert used(scheme="http", http_proxy=PROXY) == ""  # the token would be readable on the way


@pytest.mark.parametrize(
    "exception",
    [
        "*",
        "segmentapis.com",
        ".segmentapis.com",
        "*.segmentapis.com",
        "API.SegmentAPIs.com",
        "api.segmentapis.com.:443",
        "a.example, api.segmentapis.com",
        "a.example api.segmentapis.com",
    ],
)
def test_no_proxy_names_what_is_reached_directly(exception: str) -> None:
    assert used(HTTPS_PROXY=PROXY, NO_PROXY=exception) == ""
    assert used(HTTPS_PROXY=PROXY, no_proxy=exception, NO_PROXY="b") == ""


@pytest.mark.parametrize(
    "exception",
    ["", "mentapis.com", "api.segmentapis.com:80", "pi.segmentapis.com", "10.0.0.0/8", "/", "[", "a/8"],
)
def test_no_proxy_names_nothing_else(exception: str) -> None:
    assert used(HTTPS_PROXY=PROXY, NO_PROXY=exception) == PROXY


@pytest.mark.parametrize(
    ("host", "exception"),
    [
        ("10.1.2.3", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3"),
        ("fd00::1", "fd00::/8"),
        ("::1", "[::1]"),
        ("::1", "::1"),
    ],
)
def test_no_proxy_names_addresses_and_networks(host: str, exception: str) -> None:
    assert used(host, HTTPS_PROXY=PROXY, NO_PROXY=f"x,{exception}") == ""
    assert (
        used("10.9.9.9" if ":" in host else "8.8.8.8", HTTPS_PROXY=PROXY, NO_PROXY="fe80::/10,::2") == PROXY
    )


WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(WORDS, WORDS)
def test_user_and_password_are_sent_and_never_shown(user: str, password: str) -> None:
    proxy = parse_proxy(f"http://{quote(user, '')}:{quote(password, '')}@proxy.example:3128", "x")
    assert (proxy.user, proxy.password.reveal(), proxy.url) == (user, password, PROXY)
    assert repr(password) not in repr(proxy).replace(repr(user), "")


@pytest.mark.parametrize(
    "text",
    [
        "socks5://proxy.example:1080",
        "SOCKS5H://me:geheim@proxy.example",
        "ftp://me:geheim@proxy.example",
        "http://me:geheim@",
        "http://me:gehe/im@proxy.example",
        "http://me:geheim@proxy.example:99999",
        "http://me:geheim@proxy.example/path",
        "http://me:geheim@[::1",
        "http://me:geheim@proxy.example?x",
    ],
)
def test_an_invalid_proxy_is_a_usage_error_that_shows_no_password(text: str) -> None:
    with pytest.raises(ConfigError, match=r"FAILLOG_SEGMENT_PROXY.* http://HOST:PORT") as raised:
        read_environment({"FAILLOG_SEGMENT_PROXY": text})
    assert "geh" not in str(raised.value)
    with pytest.raises(ConfigError, match=r"HTTPS_PROXY.* http://HOST:PORT") as raised:
        used(HTTPS_PROXY=text)
    assert "geh" not in str(raised.value)


def test_a_variable_that_is_not_used_is_found() -> None:
    assert variable_unused(API, None, {"HTTPS_PROXY": PROXY}) == "HTTPS_PROXY"
    assert variable_unused(API, None, {"all_proxy": "socks5://a"}) == "all_proxy"
    assert variable_unused(API, None, {"HTTPS_PROXY": PROXY, "NO_PROXY": "*"}) == ""
    assert variable_unused(API, None, {"HTTP_PROXY": PROXY}) == ""
    assert variable_unused(API, None, {}) == ""
    assert variable_unused(API, Secret("environment"), {"HTTPS_PROXY": PROXY}) == ""
