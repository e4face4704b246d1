"""One form for each host, however settings and URLs write it."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faillog_otel.errors import ConfigError
from faillog_otel.network import HostPort, normalise_host, parse_host_port
from faillog_otel.sources import read_flags

LABEL = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,20}[a-z0-9_])?", fullmatch=True)
NAMES = st.lists(LABEL, min_size=1, max_size=4).map(lambda labels: ".".join(labels) + ".x")


@given(NAMES, st.integers(1, 65535))
def test_a_name_is_the_same_in_capitals_and_with_a_dot_behind_it(name: str, port: int) -> None:
    assert parse_host_port(name) == parse_host_port(f"{name.upper()}.") == HostPort(name)
    assert parse_host_port(f"{name.title()}:{port}") == HostPort(name, port)


@given(st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address), st.integers(1, 65535))
def test_an_ipv6_address_is_the_same_long_and_short(address: ipaddress.IPv6Address, port: int) -> None:
    assert parse_host_port(f"[{address.exploded}]:{port}") == HostPort(str(address), port)
    assert parse_host_port(f"[{address.exploded.upper()}]") == parse_host_port(address.exploded)


@given(st.text(max_size=12))
def test_a_host_has_one_normal_form_or_none(text: str) -> None:
    try:
        plain = normalise_host(text)
    except ValueError:
        return
    assert normalise_host(plain) == plain


@pytest.mark.parametrize(
    "text",
    ["", ":80", "a:0", "a:65536", "a:b", "[::1", "[a]:80", "a/b", "http://a", "a b", "[fe80::1%lo]:80"],
)
def test_an_invalid_host_is_a_usage_error_that_names_it(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--download-host: .* write HOST, HOST:PORT or"):
        read_flags({"download_host": (text,)})
