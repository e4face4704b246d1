"""Renders what `check` found: text, JUnit, Markdown, annotations of GitHub and GitLab. Pure.

Names, reasons and links come from outside: every form escapes them by its own rules.
"""

import html
import re
import textwrap
from collections.abc import Iterable, Iterator
from xml.etree import ElementTree as ET

import click
import msgspec

from faillog_otel.reports.check import Report
from faillog_otel.reports.check_evidence import Check, Verdict
from faillog_otel.text import counted, printable

MAX_ANNOTATIONS = 10
"""GitHub shows at most 10 errors and 10 warnings of a step."""
MAX_MARKDOWN_BYTES = 900 * 1024
"""GitHub refuses a job summary of more than 1 MiB."""
MAX_CELL_CHARS = 1000
MAX_LINKS = 100
MAX_LABEL_CHARS = 200
SUITE = "faillog-otel check"
_COLOURS: dict[Verdict, str] = {"passed": "green", "failed": "red", "unknown": "yellow"}
_SIGNS: dict[Verdict, str] = {"passed": "✅", "failed": "❌", "unknown": "⏳"}
SHOWN: dict[Verdict, str] = {"passed": "passed", "failed": "failed", "unknown": "not known yet"}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


# -- text ---


def check_text(report: Report, width: int | None = None) -> Iterator[str]:
    """Yields the lines of `check`, worst check first. `width`: columns of a terminal; None: no wrapping."""
    yield click.style(summary(report), fg=_COLOURS[report.verdict], bold=True)
    for each in report.checks:
        label = click.style(f"  {each.verdict:8}", fg=_COLOURS[each.verdict])
        yield f"{label}{printable(each.name)}"
        yield from _wrapped(printable(each.says), width)
        if each.do and each.verdict != "passed":
            yield from _wrapped(f"→ {printable(each.do)}", width)
        if each.link and each.verdict != "passed":
            yield f"{' ' * 10}{printable(each.link)}"
    yield from again(report)


def _wrapped(text: str, width: int | None) -> list[str]:
    indent = " " * 10
    if width is None:
        return [indent + text]
    return textwrap.wrap(text, max(40, width), initial_indent=indent, subsequent_indent=indent)


def summary(report: Report) -> str:
    """Returns one line: the verdict, the window, and how many checks of each verdict there are."""
    numbers = [
        f"{number} {SHOWN[verdict]}"
        for verdict in ("failed", "unknown", "passed")
        if (number := sum(each.verdict == verdict for each in report.checks))
    ]
    if is_refused(report):
        return f"Segment refused; nothing was checked from {report.since} to {report.until}"
    checks = f"{counted(len(report.checks), 'check')}: {', '.join(numbers)}"
    return f"{SHOWN[report.verdict]} from {report.since} to {report.until}; {checks}"


def is_refused(report: Report) -> bool:
    """Returns whether Segment refused, so that nothing could be checked (exit code 6)."""
    return [(each.name, each.verdict) for each in report.checks] == [("Segment", "failed")]


def again(report: Report) -> Iterator[str]:
    """Yields when to ask again, and how."""
    if report.verdict != "unknown" or is_refused(report):
        return
    window = f"--since {report.since} --until {report.until}"
    if report.final_at is None:
        yield f"When the verdict can be final is not known. Ask again: {window}"
    else:
        yield f"The verdict can be final at {report.final_at}. Ask again then: {window}"


# -- JUnit ---


def junit(report: Report, *, of_messages: bool = False) -> bytes:
    """Returns JUnit's XML: a test case for each check; with `of_messages`, for each message.

    What is not known yet is skipped: JUnit has no such state, and the exit code says it.
    """
    cases = [each for each in report.checks if not of_messages or _is_of_message(each)]
    if of_messages:
        cases += [each for each in report.checks if each.verdict == "failed" and not _is_of_message(each)]
    numbers = {
        "tests": len(cases),
        "failures": sum(each.verdict == "failed" for each in cases),
        "errors": 0,
        "skipped": sum(each.verdict == "unknown" for each in cases),
    }
    counts = {name: str(number) for name, number in numbers.items()}
    of_root = {name: number for name, number in counts.items() if name != "skipped"}  # not in the schema
    root = ET.Element("testsuites", {"name": SUITE, **of_root, "time": "0"})
    suite = ET.SubElement(
        root,
        "testsuite",
        {"name": SUITE, **counts, "time": "0", "timestamp": report.until.removesuffix("Z")[:19]},
    )
    for each in cases:
        where = each.destination or SUITE
        case = ET.SubElement(
            suite, "testcase", {"name": _xml(each.name), "classname": _xml(where), "time": "0"}
        )
        if each.verdict == "passed":
            continue
        says = _xml(each.says)
        if each.verdict == "failed":
            failure = ET.SubElement(case, "failure", {"message": says, "type": "failed"})
            failure.text = _xml("\n".join(_details(each)))
        else:
            ET.SubElement(case, "skipped", {"message": f"not known yet: {says}"})
    ET.indent(root)
    text: str = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'.encode()


def _is_of_message(check: Check) -> bool:
    return check.source is None


def _xml(text: str) -> str:
    """Returns a text with the characters that XML 1.0 can have."""
    return _NOT_XML.sub("\ufffd", text)


def _details(check: Check) -> Iterator[str]:
    yield check.says
    if check.expected or check.found:
        yield f"expected: {check.expected}; found: {check.found}"
    if check.do:
        yield f"what to do: {check.do}"
    if check.link:
        yield check.link


# -- GitHub ---


def github(report: Report) -> Iterator[str]:
    """Yields workflow commands that make annotations: errors, and warnings if the verdict is not known yet.

    At most 10; the last one says how many more there are.
    """
    failed = [each for each in report.checks if each.verdict == "failed"]
    unknown = [each for each in report.checks if each.verdict == "unknown"]
    shown = failed or (unknown if report.verdict == "unknown" else [])
    kind = "error" if failed else "warning"
    most = MAX_ANNOTATIONS if len(shown) <= MAX_ANNOTATIONS else MAX_ANNOTATIONS - 1
    for each in shown[:most]:
        parts = [
            printable(each.says),
            f"What to do: {printable(each.do)}" if each.do else "",
            each.link or "",
        ]
        yield _command(kind, each.name, "\n".join(filter(None, parts)))
    if (more := len(shown) - most) > 0:
        yield _command(kind, SUITE, f"{counted(more, 'more check')} {SHOWN[shown[0].verdict]}")


def _command(kind: str, title: str, message: str) -> str:
    return f"::{kind} title={escape_property(printable(title))}::{escape_data(message)}"


def escape_data(text: str) -> str:
    """Returns the message of a workflow command, as GitHub's toolkit escapes it."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escape_property(text: str) -> str:
    """Returns a property of a workflow command, as GitHub's toolkit escapes it."""
    return escape_data(text).replace(":", "%3A").replace(",", "%2C")


# -- GitLab ---


def gitlab(report: Report) -> bytes:
    """Returns the JSON of `artifacts:reports:annotations`: a link for each check that has one."""
    linked = [each for each in report.checks if each.link and each.link.startswith(("https:", "http:"))]
    links = [{"external_link": {"label": _label(each), "url": each.link}} for each in linked[:MAX_LINKS]]
    return msgspec.json.encode({SUITE: links})


def _label(check: Check) -> str:
    return printable(f"{SHOWN[check.verdict]}: {check.name}")[:MAX_LABEL_CHARS]


# -- Markdown ---


def markdown(report: Report, max_bytes: int = MAX_MARKDOWN_BYTES) -> str:
    """Returns a table of the checks, at most so many bytes; says how many are left out."""
    head = [
        f"## {_SIGNS[report.verdict]} Segment deliveries: {SHOWN[report.verdict]}",
        "",
        _cell(summary(report)),
        "",
        *map(_cell, again(report)),
        "",
        "| | check | found | what to do |",
        "|---|---|---|---|",
    ]
    lines, size = head, _size(head)
    for number, each in enumerate(report.checks):
        row = "| " + " | ".join(_row(each)) + " |"
        left_out = f"\n{counted(len(report.checks) - number, 'more check')} left out."
        if size + _size([row, left_out]) > max_bytes:
            return "\n".join([*lines, left_out, ""])
        lines.append(row)
        size += _size([row])
    return "\n".join([*lines, ""])


def _row(check: Check) -> Iterator[str]:
    yield f"{_SIGNS[check.verdict]} {SHOWN[check.verdict]}"
    name = _cell(check.name)
    is_link = check.link and re.fullmatch(r"https?://[^\s<>()]+", check.link)
    yield f"[{name}](<{check.link}>)" if is_link else name
    yield _cell(check.says)
    yield _cell(check.do) if check.verdict != "passed" else ""


def _cell(text: str) -> str:
    """Returns a text that Markdown shows as it is, in one line and one cell."""
    shown = html.escape(printable(text)[:MAX_CELL_CHARS], quote=False)
    return re.sub(r"([\\`*_{}\[\]|~#@!])", r"\\\1", shown)


def _size(lines: Iterable[str]) -> int:
    return sum(len(each.encode("utf-8", "replace")) + 1 for each in lines)
