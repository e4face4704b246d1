"""The protobuf wire format, as far as OTLP's messages need it.

Source: protobuf.dev, "Encoding". A message is the concatenation of its fields, each behind its tag, so what
is already encoded can be put into a message, taken out of it and sent again without a byte changing.
"""

import struct

VARINT = 0
FIXED64 = 1
LENGTH_DELIMITED = 2
FIXED32 = 5

_SHORT = [bytes((number,)) for number in range(0x80)]


def varint(number: int) -> bytes:
    """An unsigned integer, seven bits a byte, the least significant first."""
    if number < 0x80:
        return _SHORT[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    if number < 0x20_0000:
        return bytes((number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14))
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def int64(number: int) -> bytes:
    """A signed integer as a varint: a negative one takes ten bytes, as its two's complement."""
    return varint(number if number >= 0 else number & 0xFFFF_FFFF_FFFF_FFFF)


fixed32 = struct.Struct("<I").pack
fixed64 = struct.Struct("<Q").pack
double = struct.Struct("<d").pack


def tag(field_number: int, wire_type: int = LENGTH_DELIMITED) -> bytes:
    """What stands before a field's value."""
    return varint(field_number << 3 | wire_type)


def message_field(field_number: int, payload: bytes) -> bytes:
    """One field that holds an encoded message, a text or bytes."""
    return b"".join((tag(field_number), varint(len(payload)), payload))


def text_field(field_number: int, text: str) -> bytes:
    """One field that holds a text; a text that is empty is absent."""
    return message_field(field_number, text.encode()) if text else b""


class Heads(dict[int, bytes]):
    """What stands before a value of so many bytes: tags and lengths, made once for each length.

    The value may stand in messages inside messages: `path` is what stands before each length, from the
    outermost message inwards, and `behind` what follows the last length.
    """

    LONGEST = 4096
    """Heads of longer values are not remembered: memory stays bounded."""

    def __init__(self, *path: bytes, behind: bytes = b"") -> None:
        super().__init__()
        self._path = path
        self._behind = behind

    def __missing__(self, length: int) -> bytes:
        head = self._behind
        for before in reversed(self._path):
            head = before + varint(length + len(head)) + head
        if length <= self.LONGEST:
            self[length] = head
        return head
