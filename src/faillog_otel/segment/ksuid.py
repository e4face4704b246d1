"""When a collection was made, as its id says: Segment's collection ids are KSUIDs.

A KSUID is 27 base62 digits, a number of 20 bytes; its first four bytes are the seconds since 2014-05-13. Only
one example is known, so it is a hint.
"""

from faillog_otel.clock import SECOND_NS

EPOCH_SECONDS = 1_400_000_000
_DIGITS = {
    digit: value
    for value, digit in enumerate("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
}
_CHARACTERS, _BITS, _RANDOM_BITS = 27, 160, 128


def created_ns(text: str, now_ns: int) -> int | None:
    """When the id was made, in nanoseconds since 1970; None where it is no KSUID, or made later than now."""
    if len(text) != _CHARACTERS or not all(digit in _DIGITS for digit in text):
        return None
    number = 0
    for digit in text:
        number = number * len(_DIGITS) + _DIGITS[digit]
    if number >> _BITS:
        return None
    at_ns = ((number >> _RANDOM_BITS) + EPOCH_SECONDS) * SECOND_NS
    return at_ns if at_ns <= now_ns else None
