"""Whatever is in the file: a clear message, a quarantine entry, everything else delivered, the law kept."""

import gzip
import io
import json
import os
import re
import subprocess
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from support.events import ABSENT, TIMES, attempt, error, event, exchange, lines
from support.file_formats import ENCODINGS, FORMATS, zstd
from support.program import PROGRAM, Done, environment, run_measured, run_program, start_program
from support.tiers import slow, swept

from faillog_otel.propagation import trace_id_of
from faillog_otel.sandbox.collector import Receiver

MIB = 1024 * 1024
GOOD = error(messageId="good")
LAST = attempt(messageId="last")


def run(receiver: Receiver, folder: Path, **env: str) -> Done:
    """`run events`."""
    env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint, "FAILLOG_SUMMARY": "json"}
    return run_program("run", "events", cwd=folder, stdin=b"", timeout=100, **env)


def entries(folder: Path) -> list[dict[str, Any]]:
    path = folder / "faillog-quarantine.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def keeps_the_law(summary: dict[str, Any]) -> bool:
    fates = ("exported", "rejected", "quarantined", "pending", "duplicate")
    is_whole = summary["records"] == sum(summary[fate] for fate in fates)
    return is_whole and summary["lines"] in (0, summary["records"] + summary["blank"])


class Case(Struct, frozen=True):
    """A file; how many records are exported; the reasons of those in quarantine; what is said of them."""

    content: bytes
    exported: int
    reasons: tuple[str, ...] = ()
    said: str = ""


def between(bad: bytes) -> bytes:
    return lines(GOOD, bad, LAST)


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("events.jsonl", lines(GOOD))
    return file.getvalue()


CASES = {
    "empty file": Case(b"", 0),
    "only blank lines": Case(b"\n \r\n\t\n" * 1000, 0),
    "only a byte order mark": Case(b"\xef\xbb\xbf", 0),
    "truncated last line": Case(lines(GOOD, LAST) + GOOD[:-9], 2, ("invalid_json",), "probably truncated"),
    "broken first line": Case(lines(b"{broken", GOOD, LAST), 2, ("invalid_json",), "line 1"),
    "broken line in the middle": Case(between(b'{"a":'), 2, ("invalid_json",), "line 2"),
    "100,000 deep": Case(between(b'{"a":' + b"[" * 100_000), 2, ("too_deep",), "100 levels"),
    "100,000 deep, a whole file": Case(b"[" * 100_000, 0, ("invalid_json",), "probably truncated"),
    "halves of characters": Case(
        lines(
            *(
                error(**{field: "cut?"}).replace(b"?", half)
                for field in ("messageId", "x", "k?", "reason", "featureName")
                for half in (b"\\ud83d", b"\\ude00")
            )
        ),
        10,
    ),
    "a line that breaks off behind half of a character": Case(
        between(error(x="?").replace(b"?", b"\\ud800")[:-9]), 2, ("invalid_json",), "probably truncated"
    ),
    "half of a character in UTF-8": Case(
        between(error(x="ü").replace("ü".encode(), "ü".encode()[:1])), 2, ("invalid_utf8",), "not UTF-8"
    ),
    "null wherever something may be absent": Case(
        lines(
            error(discarded=None, routed=None, errorMessage=None, x=None),
            attempt(outcome=None, destinationExchangeId=None, loggedAt=None, reason=None),
            exchange(requestToDestination=None, responseFromDestination=None),
            exchange(responseFromDestination={"status": None, "headers": None, "body": None, "x": None}),
            error().replace(b'"v1"', b"null").replace(b'"observability"', b"null"),
            error(routed={"to": None, "from": [None, {"type": "source", "id": None}]}),
        ),
        6,
    ),
    "NaN": Case(between(b'{"a": NaN}'), 2, ("invalid_json",), "invalid character"),
    "numbers that no type holds": Case(
        between(error(x=2**63, y=-(2**70), z=0.5).replace(b"0.5", b"1e400")), 3
    ),
    "a number of 5,000 digits": Case(between(error(x=0.5).replace(b"0.5", b"9" * 5000)), 3),
    "2^63 where a number is needed": Case(between(attempt(attempt=2**63)), 2, ("missing_field",), "attempt"),
    "duplicate keys": Case(between(error().replace(b'"messageId"', b'"messageId":"a","messageId"')), 3),
    "missing and wrong-typed fields": Case(
        lines(
            GOOD,
            error(messageId=ABSENT),
            error(messageId=7),
            attempt(attempt="4"),
            exchange(destinationExchangeId=None),
            attempt(outcome=["failure"], destinationExchangeId=7, loggedAt={}, routed="x"),
        ),
        2,
        ("missing_field",) * 4,
        "properties.messageId is missing or of a wrong type",
    ),
    "scalars and arrays as records": Case(
        lines(GOOD, b"7", b'"x"', b"null", b"true", b"[{}]", b"{}"),
        1,
        ("not_an_object",) * 5 + ("missing_field",),
        "the record is JSON, but not an object",
    ),
    "times that cannot be": Case(
        lines(
            GOOD,
            *(error(occurredAt=at) for at in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "soon", "")),
            error(occurredAt="2025-02-30T00:00:00Z"),
            error(occurredAt="2025-03-23T20:00:61Z"),
            error(occurredAt=ABSENT),
            error(occurredAt=None),
        ),
        1,
        ("bad_time",) * 6 + ("missing_field",) * 2,
        "not an RFC 3339 time from 1970 to 2262",
    ),
    "odd times that can be": Case(
        lines(
            *(
                error(occurredAt=at)
                for at in (
                    "2025-03-23T20:00:00",
                    "2025-03-23T20:00:00+05:30",
                    "2025-03-23T23:59:60Z",
                    "2262-04-11T23:47:16.854775807Z",
                    "1970-01-01T00:00:00Z",
                    "2099-01-01T00:00:00Z",
                )
            )
        ),
        6,
    ),
    "a line of 20 MiB": Case(between(b'{"a":"' + b"x" * 20 * MIB + b'"}'), 2, ("too_long",), "16777216"),
    "10,000 properties more": Case(between(error(**{f"p{n}": n for n in range(10_000)})), 3),
    "more values than memory is for": Case(
        between(b'{"a":[' + b"[]," * 5_000_000 + b"1]}"), 2, ("too_many_values",), "250000 values"
    ),
    "more values than memory is for, and it says raw": Case(
        between(b'{"raw":[' + b"[]," * 5_000_000 + b"1]}"), 2, ("too_many_values",), "250000 values"
    ),
    "truncated gzip": Case(
        gzip.compress(lines(GOOD, LAST))[:-9], 2, ("truncated_gzip",), "probably truncated"
    ),
    "garbage behind gzip": Case(
        gzip.compress(lines(GOOD, LAST)) + b"garbage", 2, ("trailing_garbage",), "not gzip"
    ),
    "bad CRC": Case(
        gzip.compress(lines(GOOD, LAST))[:-8] + bytes(8), 2, ("damaged_gzip",), "incorrect data check"
    ),
    "truncated zstd": Case(
        zstd.compress(lines(GOOD)) + zstd.compress(lines(LAST))[:-1],
        1,
        ("truncated_zstd",),
        "probably truncated",
    ),
    "a zip file": Case(zipped(), 0, ("foreign_format",), "a zip archive; unpack it"),
    "UTF-16": Case(lines(GOOD).decode().encode("utf-16"), 0, ("foreign_format",), "iconv -f UTF-16"),
    "HTML": Case(b"<html>\n<body>Sign in</body>\n</html>\n", 0, ("foreign_format",), "download it again"),
    "invalid UTF-8 in a field that is not decoded": Case(
        between(error(routed={"to": "?"}, x="?").replace(b"?", b"\xff\xfe")),
        2,
        ("invalid_utf8",),
        "not UTF-8 at byte",
    ),
    "NUL bytes": Case(lines(GOOD, LAST) + bytes(5000), 2, ("invalid_json",), "NUL bytes"),
    "no event, no version, no type": Case(
        lines(GOOD, event("Other", **TIMES), b'{"properties":{"occurredAt":"2025-03-23T20:00:00Z"}}'), 3
    ),
    "an array that does not end": Case(b"[" + GOOD + b"," + LAST, 2, ("invalid_json",), "array does not end"),
    "an array that breaks": Case(
        b"[" + GOOD + b',{"a":tru},' + LAST + b"]", 1, ("invalid_json",), "rest of the file"
    ),
    "prose": Case(b"Dear all,\nplease find attached\n", 0, ("invalid_json",), "line 1: invalid_json"),
}


HUGE = [name for name in CASES if name.startswith("more values")]
"""Fifteen megabytes of empty arrays take six seconds of a processor."""


@pytest.mark.thin(3)
@pytest.mark.parametrize("name", swept(CASES, CASES.keys() - HUGE))
def test_bad_input_is_named_and_kept_and_the_rest_is_delivered(
    name: str, receiver: Receiver, tmp_path: Path
) -> None:
    case = CASES[name]
    (tmp_path / "events").write_bytes(case.content)
    done = run(receiver, tmp_path)
    summary = done.summary
    assert keeps_the_law(summary)
    assert (summary["exported"], summary["quarantined"]) == (case.exported, len(case.reasons)), done.stderr
    assert len(receiver.logs()) == case.exported
    assert done.code == (3 if case.reasons else 0)
    assert sorted(entry["reason"] for entry in entries(tmp_path)) == sorted(case.reasons)
    assert case.said in done.stderr
    assert ("faillog-quarantine.jsonl" in done.stderr) == bool(case.reasons)
    for entry in entries(tmp_path):
        assert {"reason", "detail", "file", "line", "offset", "sha256"} <= entry.keys()


@pytest.mark.parametrize("packing", swept(ENCODINGS, ["plain"]))
@pytest.mark.parametrize("form", FORMATS)
def test_every_form_comes_through_standard_input(
    form: str, packing: str, receiver: Receiver, tmp_path: Path
) -> None:
    stdin = ENCODINGS[packing](FORMATS[form]([GOOD, LAST, exchange()]))
    flags = ("--endpoint", receiver.http_endpoint, "--summary", "json")
    done = run_program("run", "-", *flags, cwd=tmp_path, stdin=stdin)
    assert (done.code, done.summary["exported"]) == (0, 3)
    assert done.summary["lines"] == (3 if form.endswith("lines") else 0)


def test_numbers_that_no_type_holds_travel_as_texts(receiver: Receiver, tmp_path: Path) -> None:
    content = error(a=2**63, b=-(2**70), c=0.5, d=[2**64]).replace(b"0.5", b"1e400")
    (tmp_path / "events").write_bytes(content)
    assert run(receiver, tmp_path).code == 0
    (log,) = receiver.logs()
    found = {pair.key: pair.value.string_value for pair in log.attributes}
    assert [found[f"segment.extra.{name}"] for name in "abcd"] == [
        "9223372036854775808",
        "-1180591620717411303424",
        "1e400",
        "[18446744073709551616]",
    ]


def test_of_10_000_properties_64_leave_and_the_others_are_counted(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(error(**{f"p{n}": n for n in range(10_000)}))
    assert run(receiver, tmp_path).code == 0
    (log,) = receiver.logs()
    assert sum(pair.key.startswith("segment.extra.") for pair in log.attributes) == 64
    assert log.dropped_attributes_count == 10_000 - 64


ESCAPES = "\x1b[2J\x1b]0;owned\x07 \u202eevil\u2066 \x9b31m \x00"


def test_control_characters_are_exported_as_they_are_and_never_shown_raw(
    receiver: Receiver, tmp_path: Path
) -> None:
    name = "events\x1b[31m\u202e"
    body = {"status": 400, "body": ESCAPES}
    content = lines(
        error(messageId=ESCAPES, reason=ESCAPES), exchange(responseFromDestination=body), b"\x1b[2J", b"{}"
    )
    (tmp_path / name).write_bytes(content)
    flags = ("--endpoint", receiver.http_endpoint, "-vv")
    for command in (
        ("run", name, *flags),
        ("run", name, *flags, "--log-format", "json"),
        ("run", name, "--protocol", "console"),
        ("redact", name),
        ("redact", "--explain", name),
        ("ids", ESCAPES.replace("\x00", "")),
        ("run", f"missing{name}", *flags),
    ):
        done = run_program(*command, cwd=tmp_path)
        shown = done.stdout.decode() + done.stderr
        assert [c for c in shown if not c.isprintable() and c != "\n"] == [], command
    first, second = receiver.logs()[:2]
    found = {pair.key: pair.value.string_value for log in (first, second) for pair in log.attributes}
    assert found["messaging.message.id"] == found["segment.reason"] == ESCAPES
    assert found["segment.response.body"] == ESCAPES
    assert first.trace_id.hex() == trace_id_of(ESCAPES)


def test_a_terminal_gets_no_control_characters_of_otlp_json_either(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(error(messageId=ESCAPES))
    master, slave = os.openpty()
    command = [PROGRAM, "run", "events", "--protocol", "file", "-q"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=slave) as process:
        os.close(slave)
        shown = b""
        try:
            while piece := os.read(master, 65536):
                shown += piece
        except OSError:
            pass  # the terminal's other end is closed
        os.close(master)
    assert process.returncode == 0
    assert [c for c in shown.decode() if not c.isprintable() and c not in "\r\n"] == []
    attributes = json.loads(shown)["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]["attributes"]
    assert {"key": "messaging.message.id", "value": {"stringValue": ESCAPES}} in attributes


def test_a_fifo_is_read_to_its_end(receiver: Receiver, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    process = start_program(
        *("run", "pipe", "--endpoint", receiver.http_endpoint, "--summary", "json"), cwd=tmp_path
    )
    (tmp_path / "pipe").write_bytes(lines(GOOD, b"{", LAST))
    stdout, _ = process.communicate(timeout=60)
    summary = json.loads(stdout.splitlines()[-1])
    assert (process.returncode, summary["exported"], summary["quarantined"]) == (3, 2, 1)


def test_the_cap_on_what_a_file_unpacks_to_is_a_setting(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(gzip.compress(lines(GOOD) * 10_000))
    done = run(receiver, tmp_path, FAILLOG_MAX_CONTENT=str(len(lines(GOOD)) * 5))
    assert (done.code, done.summary["exported"], done.summary["quarantined"]) == (3, 5, 1)
    assert entries(tmp_path)[0]["reason"] == "too_much_content"
    assert "max_content" in done.stderr
    assert run_program("run", "events", cwd=tmp_path, FAILLOG_MAX_CONTENT="much").code == 2


def bomb(piece: bytes, times: int, start: bytes = b"", end: bytes = b"") -> Iterator[bytes]:
    """A gzip file of `start`, so many pieces, and `end`."""
    packer = zlib.compressobj(9, wbits=31)
    yield packer.compress(start)
    for _ in range(times):
        yield packer.compress(piece)
    yield packer.compress(end) + packer.flush()


LONG = exchange(responseFromDestination={"status": 500, "body": "x" * 15 * MIB}) + b"\n"
BOMBS: dict[str, tuple[Callable[[], Iterator[bytes]], int, int, str]] = {
    "one line": (lambda: bomb(b"x" * MIB, 1024, GOOD + b"\n", b"\n" + LAST + b"\n"), 2, 1, "too_long"),
    "one record of an array": (
        lambda: bomb(b"x" * MIB, 1024, b"[" + GOOD + b',{"a":"', b'"},' + LAST + b"]"),
        *(2, 1, "too_long"),
    ),
    "many lines that are no JSON": (
        lambda: bomb(b"x" * (MIB - 1) + b"\n", 1024, GOOD + b"\n"),
        *(1, 1024, "invalid_json"),
    ),
    "many blank lines": (lambda: bomb(b"\n" * MIB, 1024, GOOD + b"\n"), 1, 0, ""),
    "many lines of the longest records": (lambda: bomb(LONG, 69), 69, 0, ""),
    "many lines of NUL bytes": (
        lambda: bomb(bytes(15 * MIB) + b"\n", 69, GOOD + b"\n"),
        *(1, 69, "invalid_json"),
    ),
}


@slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_of_a_gibibyte_takes_less_than_200_mib(name: str, receiver: Receiver, tmp_path: Path) -> None:
    packed, exported, quarantined, reason = BOMBS[name]
    with (tmp_path / "events").open("wb") as file:
        file.writelines(packed())
    assert (tmp_path / "events").stat().st_size < 4 * MIB
    flags = ("--endpoint", receiver.http_endpoint, "--summary", "json")
    done, peak = run_measured("run", "events", *flags, cwd=tmp_path)
    assert done.summary["bytes_in"] >= 1024 * MIB
    assert keeps_the_law(done.summary)
    assert (done.summary["exported"], done.summary["quarantined"]) == (exported, quarantined)
    assert done.code == (3 if quarantined else 0)
    assert peak < 200 * MIB
    with (tmp_path / "faillog-quarantine.jsonl").open("rb") if quarantined else io.BytesIO() as kept:
        assert {json.loads(line)["reason"] for line in kept} == ({reason} if reason else set())


def test_a_summary_for_people_says_what_is_wrong_and_where(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(lines(GOOD, b"{", b"{", b"7"))
    done = run_program("run", "events", "--endpoint", receiver.http_endpoint, cwd=tmp_path)
    assert done.stderr.splitlines()[:3] == [
        "warning: events, line 2: invalid_json: the record is incomplete; the file is probably truncated",
        "warning: events, line 4: not_an_object: the record is JSON, but not an object",
        (
            "warning: 3 records quarantined (2 invalid_json, 1 not_an_object); fix them in"
            " faillog-quarantine.jsonl, then: faillog-otel replay faillog-quarantine.jsonl"
        ),
    ]
    assert re.search(r"4 records: 1 exported, 3 quarantined", done.stderr)


def while_it_is_read(folder: Path, change: Callable[[Path], object]) -> tuple[Done, int]:
    """Runs over a file of 20,000 events that changes when the first request arrives; and what arrived."""
    path = folder / "events"
    path.write_bytes(lines(*(error(messageId=str(n)) for n in range(20_000))))
    once = threading.Lock()  # requests come side by side

    def script(_signal: str, _body: bytes) -> None:
        if once.acquire(blocking=False):
            change(path)

    with Receiver(script) as receiver:
        return run(receiver, folder), len(receiver.logs())


def test_a_file_that_grows_is_read_as_it_was_and_that_is_said(tmp_path: Path) -> None:
    def grow(path: Path) -> None:
        with path.open("ab") as file:
            file.write(GOOD + b"\n" + LAST[:10])

    done, arrived = while_it_is_read(tmp_path, grow)
    assert (done.code, done.summary["exported"], arrived) == (0, 20_000, 20_000)
    assert f"events grew by {len(GOOD) + 11} bytes" in done.stderr
    assert "run it again" in done.stderr


def test_a_file_that_vanishes_is_read_to_its_end(tmp_path: Path) -> None:
    done, arrived = while_it_is_read(tmp_path, Path.unlink)
    assert (done.code, done.summary["exported"], arrived) == (0, 20_000, 20_000)


def test_a_file_that_is_cut_short_is_an_error_and_what_was_read_is_delivered(tmp_path: Path) -> None:
    done, arrived = while_it_is_read(tmp_path, lambda path: os.truncate(path, 3_000_000))
    assert done.code == 2
    assert "events: was truncated while it was read" in done.stderr
    assert keeps_the_law(done.summary)
    assert done.summary["exported"] == arrived > 10_000
    assert (tmp_path / "events").stat().st_size == 3_000_000


def test_a_file_that_vanishes_before_it_is_read_is_an_error_and_the_rest_is_delivered(tmp_path: Path) -> None:
    (tmp_path / "later").write_bytes(GOOD)
    (tmp_path / "events").write_bytes(lines(*(error(messageId=str(n)) for n in range(20_000))))

    def script(_signal: str, _body: bytes) -> None:
        (tmp_path / "later").unlink(missing_ok=True)

    with Receiver(script) as receiver:
        flags = ("--endpoint", receiver.http_endpoint, "--summary", "json")
        done = run_program("run", "events", "later", *flags, cwd=tmp_path)
    assert (done.code, done.summary["exported"]) == (2, 20_000)
    assert "later: No such file" in done.stderr
