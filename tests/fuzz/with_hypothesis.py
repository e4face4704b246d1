"""Files that are nearly right: odd fields, any JSON, damaged bytes, in every form and packing: `make fuzz`.

A file that goes wrong, or takes longer than a second, ends the run with an error and stays, made as small
as can be, in `tests/fuzz/finds/`, where the tests replay it from then on.
"""

import argparse
import hashlib
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz.seeds import PACKINGS
from fuzz.target import check
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.events import attempt, error, event, exchange

FINDS = Path(__file__).parent / "finds"
MAX_SECONDS = 1.0


def repeated(start: str, pieces: list[str]) -> str:
    """As long as redaction reads at the most: what takes more than linear time shows there."""
    unit = "".join(pieces)
    return start + unit * (16_000 // len(unit))


def nested(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


SENSITIVE = st.sampled_from(
    (
        *("jane@shop.example", "jane%2540shop.example", "+1 (415) 555-2671", "tel:4155552671", "203.0.113.7"),
        *("2001:db8::1", "Bearer c4n4ry0123456789", "sk_live_c4n4ry0123456789", "eyJhbGciOiJI.eyJzdWIiOiIx."),
        *("https://u:p@shop.example:99999/?token=a&b=c", '{"password": "a\\"b"}', "token=", "Cookie: a=b; c"),
        *("-----BEGIN PRIVATE KEY-----\nMII", "[redacted:secret]", "[redacted:email:0123456789abcdef]@"),
        *('["apiKey", "v"]', '{"body": "{\\"api_key\\": \\"k', "<token>a</token>", "'secret' => 'x'"),
    )
)
PIECE = st.one_of(
    st.sampled_from(tuple("a1 '\"\\%@.,:=+-(<[{")),
    st.sampled_from(
        ("a@", "%40", "%2540", "token", "token=", "'key' => ", "Basic ", "://", "1.", "eyJ", "<key>")
    ),
    st.text(min_size=1, max_size=2),
)
TEXT = st.one_of(
    st.text(max_size=20),
    SENSITIVE,
    st.lists(st.one_of(SENSITIVE, st.text(max_size=4)), max_size=5).map("".join),
    st.builds(repeated, PIECE, st.lists(PIECE, min_size=1, max_size=3)),
    st.sampled_from(
        ("2025-03-23T20:00:60.123456789123+23:59", "0000-00-00T00:00:00Z", "9999-12-31 23:59:59")
    ),
)
SCALAR = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(10**420), 10**420), st.floats(), TEXT
)
NAME = st.one_of(
    st.sampled_from(
        (
            *("token", "password", "apiKey", "phone", "content-type", "x-ratelimit-a", "Set-Cookie", "a.b"),
            *("to", "from", "id", "type", "status", "headers", "body", "url", "method", "code", "message"),
            *("reason", "error", "event", "version", "properties", "raw", "raw_base64", "context", "name"),
        )
    ),
    TEXT,
)
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(NAME, inner, max_size=4),
        inner.map(json.dumps),  # as the bodies of exchanges are
        st.builds(nested, inner, st.sampled_from((3, 90, 110))),
    ),
    max_leaves=8,
)
KNOWN = st.sampled_from(
    (
        *("routed", "occurredAt", "loggedAt", "messageId", "attempt", "outcome", "discarded", "reason"),
        *("destinationExchangeId", "requestToDestination", "responseFromDestination", "errorCode"),
        *("featureName", "errortype", "errorMessage", "error_reporter"),
    )
)
CARRIER = st.dictionaries(st.sampled_from(("method", "url", "headers", "body", "status", "x")), VALUE)
ODD = st.one_of(
    st.dictionaries(st.one_of(KNOWN, NAME), VALUE, max_size=4),
    st.fixed_dictionaries({}, optional={"requestToDestination": CARRIER, "responseFromDestination": CARRIER}),
)
EVENT = st.one_of(
    st.builds(lambda make, odd: make(**odd), st.sampled_from((error, attempt, exchange)), ODD),
    st.builds(lambda name, odd: event(name, **odd), NAME, ODD),
    st.builds(
        lambda raw, odd: json.dumps(json.loads(raw) | odd).encode(),
        st.sampled_from((error(), attempt(), exchange())),
        st.dictionaries(NAME, VALUE, max_size=3),
    ),
)
RECORD = st.one_of(
    EVENT,
    EVENT.map(lambda raw: json.dumps({"reason": "why", "raw": raw.decode()}).encode()),
    EVENT.map(lambda raw: json.dumps(json.loads(raw), indent=1).encode()),
    VALUE.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=20),
    st.sampled_from((b"", b"  ", b"[", b"]", b"{", b'"', b"\xef\xbb\xbf", b"<html>", b"1e999", b'"\\ud800"')),
)
DAMAGES = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(0, 30),
        st.one_of(
            st.binary(max_size=3),
            st.sampled_from((b'"', b"\\", b"[", b"}", b"\n", b"\\u", b"\\ud83d", b"\0")),
        ),
    ),
    max_size=2,
)


def damaged(data: bytes, damages: list[tuple[float, int, bytes]]) -> bytes:
    """The bytes with some replaced: where (0 is the beginning, 1 the end), how many, by what."""
    for where, length, instead in damages:
        at = int(where * len(data))
        data = data[:at] + instead + data[at + length :]
    return data


def in_a_file(
    records: list[bytes],
    around: tuple[bytes, bytes, bytes],
    inside: list[tuple[float, int, bytes]],
    pack: Callable[[bytes], bytes],
    outside: list[tuple[float, int, bytes]],
) -> bytes:
    before, between, behind = around
    return damaged(pack(damaged(before + between.join(records) + behind, inside)), outside)


AROUND = st.one_of(
    st.sampled_from(
        (
            *(
                (b"", b"\n", b"\n"),
                (b"\xef\xbb\xbf", b"\r\n\r\n", b""),
                (b"", b"", b""),
                (b" ", b" \n ", b" "),
            ),
            *((b"[", b",", b"]"), (b"\n[\n", b",\n", b"\n]\n"), (b"[", b",", b""), (b"[", b"][", b"]")),
        )
    ),
    st.tuples(*[st.text("[], \t\r\n", max_size=20).map(str.encode)] * 3),
)
NO_DAMAGE: st.SearchStrategy[list[tuple[float, int, bytes]]] = st.just([])
FILE = st.builds(
    in_a_file,
    st.lists(RECORD, max_size=4),
    AROUND,
    NO_DAMAGE | DAMAGES,
    st.sampled_from(PACKINGS),
    NO_DAMAGE | DAMAGES,
)


class Watched:
    """Counts the files that were checked, and knows the last one that went wrong."""

    def __init__(self) -> None:
        self.count = 0
        self.slowest = 0.0
        self.failed: bytes | None = None
        signal.signal(signal.SIGPROF, self._too_long)

    def check(self, data: bytes) -> None:
        self.count += 1
        start = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)  # the processor's seconds: others want it, too
        try:
            check(data)
        except Exception:
            self.failed = data
            raise
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self.slowest = max(self.slowest, time.process_time() - start)

    @staticmethod
    def _too_long(*_: object) -> None:
        raise TimeoutError(f"longer than {MAX_SECONDS} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=20_000)
    chosen = parser.parse_args()
    watched, start = Watched(), time.monotonic()

    @settings(
        max_examples=chosen.examples,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(FILE)
    def check_files(data: bytes) -> None:
        watched.check(data)

    try:
        for find in sorted(FINDS.glob("*")):  # what took too long once does not any more
            watched.check(find.read_bytes())
        check_files()
    finally:
        seconds = time.monotonic() - start
        print(f"Done {watched.count} files in {seconds:.0f} s, the slowest in {watched.slowest:.3f} s")
        if watched.failed is not None:
            find = FINDS / f"crash-{hashlib.sha1(watched.failed, usedforsecurity=False).hexdigest()}"
            FINDS.mkdir(exist_ok=True)
            find.write_bytes(watched.failed)
            print(f"What went wrong is in {find}")


if __name__ == "__main__":
    main()
