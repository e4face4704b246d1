"""Links from reports to a message's trace in a backend, and to a destination in Segment.

A link is a URL template with placeholders, or one of the presets, which make a template from a few keys. The
preset for Honeycomb follows its documentation; the others have the URLs that public configurations use.
"""

import json
import re
from collections.abc import Callable, Mapping
from urllib.parse import quote

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS
from faillog_otel.config import LinksConfig
from faillog_otel.errors import ConfigError
from faillog_otel.text import did_you_mean, quoted

OF_TRACE = ("trace_id", "message_id", "destination_id", "workspace", "start", "end")
"""The placeholders of a link to a trace. `start` and `end` are seconds since 1970, around its failures."""
OF_SEGMENT = ("destination_id", "workspace")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_URL = re.compile(r"https?://[!-~]+")
_HOST = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
_DATADOG_SITES = ("datadoghq.com", "datadoghq.eu", "ddog-gov.com")
"""The sites whose web app has the host `app.SITE`; that of others is the site itself."""


def parse_trace(text: str) -> str:
    """Returns a preset's name, or a template of links to traces. Raises ConfigError."""
    if text in PRESETS:
        return text
    if "://" not in text:
        names = f"{', '.join(PRESETS)}, or the URL of a trace with {{trace_id}}"
        raise ConfigError(f"{quoted(text)} is not a URL; write {names}{did_you_mean(text, PRESETS)}")
    return _template(text, OF_TRACE, ("trace_id", "message_id"))


def parse_segment(text: str) -> str:
    """Returns a template of links to destinations. Raises ConfigError."""
    return _template(text, OF_SEGMENT, ("destination_id",))


def links_config(trace: str | None, segment: str | None, keys: Mapping[str, str]) -> LinksConfig:
    """Returns complete templates. Raises ConfigError if a key that they need is missing or wrong.

    `trace` and `segment` are what the parsers above returned; `keys` are the other settings of `[links]`.
    """
    workspace = keys.get("workspace")
    if trace in PRESETS:
        trace = PRESETS[trace](_Keys(trace, keys))
    for name, template in (("trace", trace), ("segment", segment)):
        if template and "{workspace}" in template and not workspace:
            raise ConfigError(f"[links] {name} has {{workspace}}; set [links] workspace to the slug of yours")
    return LinksConfig(trace=trace, segment=segment, workspace=workspace)


def trace_link(
    links: LinksConfig, message_id: str, trace_id: str, destination_id: str, times_ns: tuple[int, int]
) -> str | None:
    """Returns the URL of a message's trace; None without such a link.

    `times_ns`: the first and the last failure of the message. Records of the application and of later
    successes lie around them.
    """
    first_ns, last_ns = times_ns
    return _filled(
        links.trace,
        {
            "trace_id": trace_id,
            "message_id": message_id,
            "destination_id": destination_id,
            "workspace": links.workspace or "",
            "start": str(max(0, first_ns - HOUR_NS) // SECOND_NS),
            "end": str((last_ns + DAY_NS) // SECOND_NS),
        },
    )


def destination_link(links: LinksConfig, destination_id: str) -> str | None:
    """Returns the URL of a destination in Segment; None without such a link, or if the id is unknown."""
    values = {"destination_id": destination_id, "workspace": links.workspace or ""}
    return _filled(links.segment, values) if destination_id else None


def _filled(template: str | None, values: Mapping[str, str]) -> str | None:
    if template is None:
        return None
    return _PLACEHOLDER.sub(lambda found: quote(values[found[1]], safe="", errors="replace"), template)


def _template(text: str, placeholders: tuple[str, ...], needed: tuple[str, ...]) -> str:
    """Returns the text if it is a URL with these placeholders, and at least one of `needed`."""
    if not _URL.fullmatch(text):
        raise ConfigError(
            f"{quoted(text)} is not the URL of a web page; write http:// or https://, no blanks"
        )
    found = _PLACEHOLDER.findall(text)
    for name in found:
        if name not in placeholders:
            hint = did_you_mean(name, placeholders) or "; write other braces as %7B and %7D"
            raise ConfigError(
                f"{quoted(f'{{{name}}}')} is no placeholder; there are {_listed(placeholders)}{hint}"
            )
    if re.search("[{}]", _PLACEHOLDER.sub("", text)):
        raise ConfigError("the URL has a brace of its own; write it as %7B or %7D")
    if not set(found) & set(needed):
        raise ConfigError(f"the URL has no placeholder; write {_listed(needed, ' or ')} where the id belongs")
    return text


def _listed(names: tuple[str, ...], between: str = ", ") -> str:
    return between.join(f"{{{name}}}" for name in names)


class _Keys:
    """The keys that a preset needs."""

    def __init__(self, preset: str, keys: Mapping[str, str]) -> None:
        self._preset, self._keys = preset, keys

    def part(self, name: str) -> str:
        """Returns the value of a key as a part of a URL's path. Raises ConfigError if there is none."""
        return quote(self.text(name), safe="")

    def url(self, default: str | None = None) -> str:
        """Returns the URL of the web app, without a slash at its end."""
        text = self.text("url", default)
        if not _URL.fullmatch(text) or re.search("[{}?#]", text):
            raise ConfigError(f"[links] url: {quoted(text)} is not the URL of a web app; write https://HOST")
        return text.rstrip("/")

    def text(self, name: str, default: str | None = None) -> str:
        """Returns the value of a key as it is. Raises ConfigError if there is none."""
        text = self._keys.get(name) or default
        if text is None:
            raise ConfigError(f"[links] trace is {self._preset}, which needs [links] {name}; set it")
        return text


def _honeycomb(keys: _Keys) -> str:
    path = f"{keys.part('team')}/environments/{keys.part('environment')}"
    if keys.text("dataset", ""):
        path += f"/datasets/{keys.part('dataset')}"
    query = "trace_id={trace_id}&trace_start_ts={start}&trace_end_ts={end}"
    return f"{keys.url('https://ui.honeycomb.io')}/{path}/trace?{query}"


def _datadog(keys: _Keys) -> str:
    site = keys.text("site", _DATADOG_SITES[0])
    if not _HOST.fullmatch(site):
        raise ConfigError(f"[links] site: {quoted(site)} is not a site; write datadoghq.eu, or that of yours")
    host = f"app.{site}" if site in _DATADOG_SITES else site
    return f"https://{host}/apm/trace/{{trace_id}}"


def _grafana(keys: _Keys) -> str:
    """Returns the template of Grafana's Explore with one pane; its times are milliseconds."""
    source = keys.text("datasource")
    query = {
        "refId": "A",
        "datasource": {"type": "tempo", "uid": source},
        "queryType": "traceql",
        "query": "<trace_id>",
    }
    pane = {"datasource": source, "queries": [query], "range": {"from": "<start>000", "to": "<end>000"}}
    panes = re.sub(r"%3C(\w+?)%3E", r"{\1}", quote(json.dumps({"a": pane}, separators=(",", ":")), safe=""))
    return f"{keys.url()}/explore?schemaVersion=1&orgId=1&panes={panes}"


def _jaeger(keys: _Keys) -> str:
    return f"{keys.url()}/trace/{{trace_id}}"


PRESETS: dict[str, Callable[[_Keys], str]] = {
    "honeycomb": _honeycomb,
    "datadog": _datadog,
    "grafana": _grafana,
    "jaeger": _jaeger,
}
"""The presets; each makes the template of links to traces."""
