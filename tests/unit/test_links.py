"""Links: templates, presets, and what is wrong with others."""

import json
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faillog_otel.clock import SECOND_NS
from faillog_otel.config import LinksConfig
from faillog_otel.errors import ConfigError
from faillog_otel.links import PRESETS, destination_link, links_config, parse_segment, parse_trace, trace_link
from faillog_otel.sources import read_environment, read_file, resolve_links

TRACE = "0af7651916cd43dd8448eb211c80319c"
FIRST_NS, LAST_NS = 1_746_600_000 * SECOND_NS, 1_746_610_000 * SECOND_NS


def link(links: LinksConfig, message_id: str = "m") -> str:
    found = trace_link(links, message_id, TRACE, "mixpanel", (FIRST_NS, LAST_NS))
    assert found
    return found


def of_preset(name: str, **keys: str) -> str:
    return link(links_config(parse_trace(name), None, keys))


@given(st.text())
def test_values_are_encoded_so_that_they_come_back(message_id: str) -> None:
    links = LinksConfig(trace="https://t.example/find?id={message_id}&trace={trace_id}")
    query = urlsplit(link(links, message_id)).query
    first, last = query.split("&")
    expected = message_id.encode(errors="replace").decode()
    assert (unquote(first), last) == (f"id={expected}", f"trace={TRACE}")


def test_without_a_setting_there_is_no_link() -> None:
    assert trace_link(LinksConfig(), "m", TRACE, "mixpanel", (0, 0)) is None
    assert destination_link(LinksConfig(), "mixpanel") is None


def test_a_destination_links_to_segment() -> None:
    template = parse_segment("https://app.segment.com/{workspace}/destinations/{destination_id}")
    links = links_config(None, template, {"workspace": "my shop"})
    assert destination_link(links, "a/b") == "https://app.segment.com/my%20shop/destinations/a%2Fb"
    assert destination_link(links, "") is None


# -- presets -----------------------------------------------------------------------------------------------


def test_honeycomb() -> None:
    query = f"trace?trace_id={TRACE}&trace_start_ts=1746596400&trace_end_ts=1746696400"
    keys = {"team": "shop", "environment": "prod & test"}
    base = "shop/environments/prod%20%26%20test"
    assert of_preset("honeycomb", **keys) == f"https://ui.honeycomb.io/{base}/{query}"
    europe = of_preset("honeycomb", **keys, dataset="segment", url="https://ui-eu1.honeycomb.io/")
    assert europe == f"https://ui-eu1.honeycomb.io/{base}/datasets/segment/{query}"


@pytest.mark.parametrize(
    ("site", "host"),
    [
        ({}, "app.datadoghq.com"),
        ({"site": "datadoghq.eu"}, "app.datadoghq.eu"),
        ({"site": "us5.datadoghq.com"}, "us5.datadoghq.com"),
        ({"site": "app.datadoghq.com"}, "app.datadoghq.com"),
    ],
)
def test_datadog(site: dict[str, str], host: str) -> None:
    assert of_preset("datadog", **site) == f"https://{host}/apm/trace/{TRACE}"


def test_grafana() -> None:
    """One pane of Explore: the trace, in the time of its failures."""
    found = urlsplit(of_preset("grafana", url="https://grafana.example/sub/", datasource='te"mpo {1}'))
    query = parse_qs(found.query, strict_parsing=True)
    assert (found.netloc, found.path, query["schemaVersion"]) == ("grafana.example", "/sub/explore", ["1"])
    [pane] = json.loads(query["panes"][0]).values()
    assert pane["range"] == {"from": "1746596400000", "to": "1746696400000"}
    assert pane["datasource"] == 'te"mpo {1}'
    [asked] = pane["queries"]
    assert (asked["query"], asked["datasource"]["type"]) == (TRACE, "tempo")


def test_jaeger() -> None:
    assert of_preset("jaeger", url="http://localhost:16686") == f"http://localhost:16686/trace/{TRACE}"


@pytest.mark.parametrize(
    ("preset", "keys", "problem"),
    [
        ("honeycomb", {}, "[links] trace is honeycomb, which needs [links] team; set it"),
        ("honeycomb", {"team": "t"}, "which needs [links] environment"),
        ("grafana", {"url": "https://g.example"}, "which needs [links] datasource"),
        ("grafana", {"datasource": "d"}, "which needs [links] url"),
        ("jaeger", {}, "which needs [links] url"),
        ("jaeger", {"url": "jaeger.example"}, "[links] url: 'jaeger.example' is not the URL of a web app"),
        ("jaeger", {"url": "https://j.example/?a=b"}, "write https://HOST"),
        ("datadog", {"site": "https://app.datadoghq.com/apm"}, "[links] site: "),
    ],
)
def test_a_preset_says_what_it_needs(preset: str, keys: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        of_preset(preset, **keys)
    assert problem in str(raised.value)


# -- wrong settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("honeycom", 'did you mean "honeycomb"?'),
        ("t.example/{trace_id}", "is not a URL; write honeycomb, datadog, grafana, jaeger, or the URL"),
        ("javascript://t.example/{trace_id}", "write http:// or https://"),
        ("https://t.example/{trace_id}/a b", "no blanks"),
        ("https://t.example/{traceid}", 'did you mean "trace_id"?'),
        ('https://t.example/{"a":"{trace_id}"}', "%7B"),
        ("https://t.example/{trace_id}/{", "%7B"),
        ("https://t.example/{trace_id}{}", "%7B"),
        ("https://t.example/", "write {trace_id} or {message_id} where the id belongs"),
        ("https://t.example/{destination_id}", "write {trace_id} or {message_id}"),
    ],
)
def test_a_wrong_template_says_what_to_write(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_trace(text)
    assert problem in str(raised.value)


def test_a_link_to_segment_needs_the_destination() -> None:
    with pytest.raises(ConfigError, match=r"write \{destination_id\}"):
        parse_segment("https://app.segment.com/{workspace}")
    with pytest.raises(ConfigError, match=r"no placeholder; there are \{destination_id\}"):
        parse_segment("https://app.segment.com/{trace_id}")


@given(st.text(alphabet="htps:/.{}trace_id abc%", max_size=40))
def test_what_is_accepted_makes_links(text: str) -> None:
    try:
        links = links_config(parse_trace(text), None, {})
    except ConfigError:
        return
    assert link(links).startswith(("http://", "https://"))


def test_settings_come_from_file_and_environment() -> None:
    file = read_file('[links]\ntrace = "jaeger"\nurl = "http://localhost:16686"\n', "f.toml")
    environment, warnings = read_environment({"FAILLOG_LINKS_URL": "https://jaeger.example"})
    assert warnings == []
    assert link(resolve_links([environment, file])) == f"https://jaeger.example/trace/{TRACE}"
    assert resolve_links([]) == LinksConfig()


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"FAILLOG_LINKS_TRACE": "https://t.example"}, "FAILLOG_LINKS_TRACE"),
        ({"FAILLOG_LINKS_SEGMENT": "https://s.example"}, "FAILLOG_LINKS_SEGMENT"),
        ({"FAILLOG_LINKS_TRACE": "jaeger"}, "[links] url"),
        ({"FAILLOG_LINKS_TRACE": "https://t.example/{workspace}/{trace_id}"}, "[links] workspace"),
    ],
)
def test_a_wrong_setting_is_named(environ: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as raised:
        resolve_links([read_environment(environ)[0]])
    assert named in str(raised.value)


def test_every_preset_has_a_name_of_its_own() -> None:
    assert [parse_trace(name) for name in PRESETS] == [*PRESETS]
