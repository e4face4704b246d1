"""What must not leave: secrets and people's data, replaced in bodies, reasons, URLs and unknown fields.

By name (`named.py`: a key, parameter or header that by its name holds a secret) and by pattern
(`patterns.py`: what looks like a token, an email address, an IP address, a phone number), both in the text
without its escapes (`plain.py`). It works on any text, JSON or not, also on one that Segment cut off in the
middle: a value without its end goes as far as the text. Linear in the length of the text, and the same when
done twice. Ids are never handed to it.
"""

import hashlib
import hmac
from bisect import bisect_left
from collections.abc import Iterator

from msgspec import Struct

from faillog_otel.config import Secret
from faillog_otel.events.named import named_values
from faillog_otel.events.names import MARK, Kind
from faillog_otel.events.patterns import looks
from faillog_otel.events.plain import Plain

_MOST_ROUNDS = 5


class Finding(Struct, frozen=True):
    """One thing that was redacted: what it is, and by which rule."""

    kind: Kind
    rule: str


class _Place(Struct, frozen=True):
    """What is to be replaced in a plain text, with these quotes around the mark."""

    start: int
    end: int
    finding: Finding
    quote: str = ""


def redact_text(text: str, key: Secret | None = None) -> str:
    """The text without secrets and people's data; `[redacted:KIND]` stands in their places.

    With a key, `[redacted:KIND:HASH]`: equal values have equal hashes (HMAC-SHA256 under the key, 16 hex
    digits), however they are escaped, and who has no key cannot try values.
    """
    return _redact(text, key, [])


def findings(text: str) -> list[Finding]:
    """What `redact_text` finds in the text, in no order."""
    found: list[Finding] = []
    _redact(text, None, found)
    return found


def mark(kind: Kind, value: str, key: Secret | None = None) -> str:
    """What stands in the place of the value. One that is redacted already stays as it is."""
    if MARK.fullmatch(value):
        return value
    if key is None:
        return f"[redacted:{kind}]"
    same = value.lower() if kind == "email" else value
    digest = hmac.new(key.reveal().encode(), f"{kind}\n{same}".encode(), hashlib.sha256)
    return f"[redacted:{kind}:{digest.hexdigest()[:16]}]"


def _redact(text: str, key: Secret | None, found: list[Finding]) -> str:
    """Applies all rules until nothing changes: what one has replaced may show another one something."""
    for _ in range(_MOST_ROUNDS):
        before, text = text, _replaced(Plain(text), key, found)
        if text == before:
            return text
    return mark("secret", text, key)  # a text made to keep the rules busy


def _replaced(plain: Plain, key: Secret | None, found: list[Finding]) -> str:
    parts: list[str] = []
    done = 0
    for place in _without_overlaps(_places(plain)):
        value = plain.text[place.start : place.end]
        shown = mark(place.finding.kind, value, key)
        if shown != value:
            found.append(place.finding)
            parts += [plain.source[done : plain.place(place.start)], place.quote, shown, place.quote]
            done = plain.place(place.end)
    return "".join([*parts, plain.source[done:]]) if parts else plain.source


def _places(plain: Plain) -> Iterator[_Place]:
    """What is to be replaced by any rule, the most telling rules first."""
    for value in named_values(plain):
        yield _Place(value.start, value.end, Finding(value.kind, f"the name {value.name}"), value.quote)
    for look in looks(plain):
        for start, end in look.places(plain.text):
            yield _Place(start, end, Finding(look.kind, look.rule))


def _without_overlaps(places: Iterator[_Place]) -> list[_Place]:
    """Of those that overlap the first one, all in the order of the text."""
    kept: list[_Place] = []
    starts: list[int] = []
    for place in places:
        at = bisect_left(starts, place.start)
        is_free = (at == 0 or kept[at - 1].end <= place.start) and (
            at == len(kept) or place.end <= kept[at].start
        )
        if is_free and place.start < place.end:
            starts.insert(at, place.start)
            kept.insert(at, place)
    return kept
