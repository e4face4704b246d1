"""Previews files: what of each event is sent, what is redacted and by which rule, and what is withheld.

Events are mapped as in a run. An explanation never contains a value that was redacted.
"""

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from msgspec import Struct

from faillog_otel.config import Bodies, MappingConfig
from faillog_otel.errors import InputError
from faillog_otel.events.model import BadRecord, Event, Place, RecordContext
from faillog_otel.otlp.attributes import (
    MAX_EXTRAS,
    allowed_extras,
    as_text,
    body_text,
    header_pairs,
    is_allowed,
    leaves,
)
from faillog_otel.otlp.mapping import map_event
from faillog_otel.otlp.wire import Value
from faillog_otel.redact import findings, redact_text
from faillog_otel.redact.vocabulary import MARK
from faillog_otel.reports.records import read_events

_KEYS = "its values, except those of some keys; --bodies is keys"


class Explanation(Struct, frozen=True, kw_only=True):
    """One event's log record, what was redacted in it, and what is withheld."""

    event: str
    body: str
    attributes: dict[str, Value]
    redacted: dict[str, list[str]]
    """Attribute → rules, such as `email address` or `the name password`."""
    stays: dict[str, str]
    """Field of the event → why it is withheld."""


def explain(event: Event, context: RecordContext, config: MappingConfig) -> Explanation:
    """Returns the explanation of one event. Pure, like the mapping."""
    log = map_event(event, context, config).log
    attributes = dict(log.attributes)
    return Explanation(
        event=log.event_name,
        body=log.body,
        attributes=attributes,
        redacted={
            name: _rules(event, name, config.bodies)
            for name, value in attributes.items()
            if _is_redacted(name, value)
        },
        stays={redact_text(field): why for field, why in _staying(event, config, log.dropped_attributes)},
    )


def _is_redacted(name: str, value: Value) -> bool:
    texts = value if isinstance(value, tuple) else (value,)
    return any(isinstance(text, str) and MARK.search(text) for text in (name, *texts))


def _rules(event: Event, attribute: str, bodies: Bodies) -> list[str]:
    """Returns the rules that redacted an attribute."""
    rules = {finding.rule for text in _sources(event, attribute, bodies) for finding in findings(text)}
    for path, _, kind in leaves(event.extras, "segment.extra"):
        if path == attribute and kind:
            rules.add(f"the name {path.rpartition('.')[2]}")
    return sorted(map(redact_text, rules)) or [
        "by its name" if attribute.startswith("segment.extra.") else "by pattern"
    ]


def _sources(event: Event, attribute: str, bodies: Bodies) -> Iterator[str]:
    """Yields the texts that the attribute was made from."""
    request = event.properties.request_to_destination
    response = event.properties.response_from_destination
    if attribute == "segment.reason" and event.reason:
        yield event.reason.text
    elif attribute in ("url.full", "server.address") and request and request.url:
        yield request.url
    elif attribute == "segment.request.body" and request:
        yield as_text(request.body)
    elif attribute == "segment.response.body" and response:
        yield body_text(response.body, bodies)
    elif attribute.startswith("http.response.header.") and response:
        for name, value in header_pairs(response.headers):
            if name.lower() == attribute.removeprefix("http.response.header."):
                yield as_text(value)
    else:
        for path, leaf, kind in leaves(event.extras, "segment.extra"):
            if path == attribute and not kind:
                yield as_text(leaf)


def _staying(event: Event, config: MappingConfig, dropped: int) -> Iterator[tuple[str, str]]:
    request = event.properties.request_to_destination
    response = event.properties.response_from_destination
    for name, carrier, allowed in (
        ("requestToDestination", request, config.bodies == "all"),
        ("responseFromDestination", response, config.bodies != "none"),
    ):
        if carrier is None:
            continue
        if carrier.body is not None and not allowed:
            yield f"{name}.body", f"--bodies is {config.bodies}"
        elif carrier.body is not None and config.bodies == "keys":
            yield f"{name}.body", _KEYS
        elif carrier.body is not None and _is_longer(carrier.body, config.limits.body_bytes):
            yield f"{name}.body", f"truncated to {config.limits.body_bytes} bytes"
    kept = {
        path: leaf for path, leaf, _ in leaves(allowed_extras(event.extras, config.bodies), "segment.extra")
    }
    for path, leaf, _ in leaves(event.extras, "segment.extra"):
        if path not in kept:
            yield path.removeprefix("segment.extra."), f"part of the body; --bodies is {config.bodies}"
        elif kept[path] != leaf:
            yield path.removeprefix("segment.extra."), _KEYS
    yield from _staying_headers("requestToDestination", request.headers if request else None, ())
    yield from _staying_headers(
        "responseFromDestination", response.headers if response else None, config.response_headers
    )
    if dropped:
        why = f"at most {MAX_EXTRAS} are sent, or as many as the backend accepts"
        yield f"{dropped} unknown fields", why


def _staying_headers(name: str, headers: Any, allowed: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    pairs = list(header_pairs(headers))
    if headers and not pairs:
        yield f"{name}.headers", "neither an object nor a list of pairs"
    for header, _ in pairs:
        if not is_allowed(header, allowed):
            why = "not in the list response_headers" if allowed else "request headers are not sent"
            yield f"{name}.headers.{header}", why


def _is_longer(body: Any, max_bytes: int) -> bool:
    return len(as_text(body).encode(errors="replace")) > max_bytes


def preview(
    paths: Sequence[str],
    stdin: BinaryIO,
    config: MappingConfig,
    reference_ns: int,
    max_content_bytes: int,
) -> Iterator[tuple[Place, Explanation | BadRecord] | InputError]:
    """Yields each record of the files with its place, explained; or why it would be quarantined.

    Reads and maps as a run does, without effects. Also yields the errors of files that cannot be read to
    their ends.
    """
    for each in read_events(paths, stdin, reference_ns, max_content_bytes):
        if isinstance(each, InputError):
            yield each
        elif isinstance(each.event, BadRecord):
            yield each.place, each.event
        else:
            yield each.place, explain(each.event, each.context, config)
