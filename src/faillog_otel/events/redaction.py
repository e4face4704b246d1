"""What must not leave: secrets and people's data, replaced in bodies, reasons, URLs and unknown fields.

By name (`named.py`: a key, parameter or header that by its name holds a secret) and by pattern
(`patterns.py`: what looks like a token, an email address, an IP address, a phone number), both in the text
without its escapes (`plain.py`). It works on any text, JSON or not, also on one that Segment cut off in the
middle: a value without its end goes as far as the text. Linear in the length of the text, and the same when
done twice. Ids are never handed to it.
"""

import hashlib
import hmac
from itertools import chain
from operator import attrgetter

from msgspec import Struct

from faillog_otel.config import Secret
from faillog_otel.events.named import named_values
from faillog_otel.events.names import MARK, Kind
from faillog_otel.events.patterns import looks
from faillog_otel.events.plain import Plain
from faillog_otel.events.spans import Place

_MOST_ROUNDS = 5


class Finding(Struct, frozen=True):
    """One thing that was redacted: what it is, and by which rule."""

    kind: Kind
    rule: str


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
    for place in _without_overlaps(plain):
        value = plain.text[place.start : place.end]
        shown = mark(place.kind, value, key)
        if shown != value:
            found.append(Finding(place.kind, place.rule))
            parts += [plain.source[done : plain.place(place.start)], place.quote, shown, place.quote]
            done = plain.place(place.end)
    return "".join([*parts, plain.source[done:]]) if parts else plain.source


def _without_overlaps(plain: Plain) -> list[Place]:
    """What the rules find, in the order of the text; of overlapping places, that of the most telling rule."""
    kept = []
    is_taken = bytearray(len(plain.text))
    for place in chain(named_values(plain), (place for look in looks(plain) for place in look.places(plain))):
        if is_taken.find(1, place.start, place.end) < 0 and place.start < place.end:
            is_taken[place.start : place.end] = b"\1" * (place.end - place.start)
            kept.append(place)
    return sorted(kept, key=attrgetter("start"))
