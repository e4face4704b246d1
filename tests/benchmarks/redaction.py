"""Redaction's time per byte by the length of the text, for texts of every kind:
`PYTHONPATH=tests .venv/bin/python -m benchmarks.redaction`.

The bar: no text of 1 MiB takes longer per byte than twice the mean of its lengths, so no rule is quadratic:
a quadratic one would take three times the mean. Takes about ten minutes. The program itself redacts no text
of more than 17 KiB: longer ones are cut before.
"""

import random
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from statistics import mean

import msgspec

from faillog_otel.redact import redact_text

KIB = 1024
LENGTHS = (16 * KIB, 64 * KIB, 256 * KIB, 1024 * KIB)
MAX_TO_MEAN = 2.0
_MAX_US_PER_BYTE = 100
"""A text that takes longer is not tried any longer: it breaks the bar as it is."""
_TRIES = 3
_BEFORE = ("", 'token="', '{"token":["', "cookie: ")
"""What precedes a repeated unit: nothing, or the beginning of a value that does not end."""
_WORDS = "the request field was rejected: mapping value discarded inside hotel 12.5 s at 10:00 größer".split()
UNITS = (
    *("token,a\n", "token,token\nx1,x2\n", "| token | a |\n", "password: a;b,", "password: a b "),
    *('[["token","a"],', '{"v":1,"k":"token",', '"loc":["a","token"],', "<input value=1 name=token "),
    *("- name: token\n", "**token** ", "<td>token</td>", "\x1b[1m", "token: # a\n", "DE89 3704 ", "4242 "),
    *('"a b"@', "dXNlcjpwYXNz", "1.2.3.4-", "phone=", '"phone":[', 'phone:{"', "<phone>", '"token":['),
    *('"token":{"a":[', "token=", "token: ", "token ", 'token="', 'token="\\', "token=a&", "token=a%26"),
    *("token%3D", "'cookie: <token>x", "cookie: a\n ", "cookie:", '{"name":"token",'),
    *('"value":"token","name":', 'name="token"\r\n\r\n', "<token>", "<token a ", "<token><b>"),
    *("<token><![CDATA[", '["token","', "headers:[", '"token","a",', "api key is ", "api api "),
    *("token is the a ", "\\", "\\\\u", "%25", "%5C", "&amp", "%22", "a@", ".a@", "a'", "://a@", "+1 "),
    *("00 1 ", "1.1.", "::", "2001:", "eyJaaaaaaaa.", "-----BEGIN PRIVATE KEY-----", "Bearer ", "sk-"),
    *("sk-aB", "xoxb-", "[redacted:", "[redacted:secret]", "token" + " " * 50, "hooks.slack.com/services/"),
    *("bot123456:", "-u a:", "?key=", "Aa1", "\u0130", "(415) 555-"),
)
"""Texts are these, over and over: the beginnings of what rules look for."""


def texts() -> Iterator[tuple[str, str]]:
    """Yields the name of each kind of text, and the longest text of it; shorter ones are its beginning."""
    longest = LENGTHS[-1]
    for name, write in _ORDINARY.items():
        rng, parts, size = random.Random(name), list[str](), 0
        while size < longest:
            parts.append(write(rng))
            size += len(parts[-1])
        yield name, "".join(parts)[:longest]
    for before, unit in product(_BEFORE, UNITS):
        yield f"{before!r} + {unit!r} * n", (before + unit * (longest // len(unit) + 1))[:longest]


def _sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(_WORDS, k=12)) + "\n"


def _record(rng: random.Random) -> str:
    record = {
        "id": f"{rng.getrandbits(128):032x}",
        "error": _sentence(rng),
        "email": f"{_word(rng)}@a.example",
    }
    return msgspec.json.encode(record).decode() + ","


def _word(rng: random.Random) -> str:
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=16)) + " "


_ORDINARY: dict[str, Callable[[random.Random], str]] = {
    "sentences": _sentence,
    "JSON with an email address in each record": _record,
    "words that look random": _word,
    "one word without an end": lambda rng: _word(rng).strip(),
    "HTML": lambda rng: f"<tr><td>{_word(rng)}</td><td class='a'>{_sentence(rng)}</td></tr>\n",
    "a form": lambda rng: f"name={_word(rng).strip()}&token={_word(rng).strip()}&",
    "JSON in a string": lambda rng: msgspec.json.encode(_record(rng)).decode(),
}


def us_per_byte(text: str, tries: int = 1) -> float:
    """Returns the least CPU time of some tries, per character (all but a few are ASCII)."""
    least = float("inf")
    for _ in range(tries):
        start = time.process_time()
        redact_text(text)
        least = min(least, time.process_time() - start)
    return least / len(text) * 1e6


def measure(text: str) -> list[float]:
    """Returns the time per byte for each length; fewer where one takes far too long."""
    found: list[float] = []
    for length in LENGTHS:
        found.append(us_per_byte(text[:length]))
        if found[-1] > _MAX_US_PER_BYTE:
            break
    if to_mean(found) > MAX_TO_MEAN and len(found) == len(LENGTHS):  # perhaps others took the processor
        found = [us_per_byte(text[:length], _TRIES) for length in LENGTHS]
    return found


def to_mean(found: list[float]) -> float:
    """Returns the time per byte of the longest text, divided by the mean of all lengths."""
    return found[-1] / mean(found)


def main() -> None:
    measured = {name: measure(text) for name, text in texts()}
    longest = {name: found[-1] for name, found in measured.items()}
    print(f"{'µs/byte':>8} {'to mean':>8}  at the longest length; the slowest texts of {len(measured)}")
    for name in sorted(longest, key=longest.__getitem__, reverse=True)[:10]:
        print(f"{longest[name]:>8.2f} {to_mean(measured[name]):>8.2f}  {name}")
    ordinary = mean(longest[name] for name in _ORDINARY)
    print(f"mean of ordinary texts {ordinary:.2f} µs/byte, of all texts {mean(longest.values()):.2f} µs/byte")
    broken = {
        name: found
        for name, found in measured.items()
        if len(found) < len(LENGTHS) or to_mean(found) > MAX_TO_MEAN
    }
    for name, found in broken.items():
        print(f"NOT MET: {', '.join(f'{each:.2f}' for each in found)} µs/byte: {name}")
    worst = max(map(to_mean, measured.values()))
    print(f"the longest text takes {worst:.2f} times its mean per byte at the worst; at most {MAX_TO_MEAN}")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
