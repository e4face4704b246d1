"""The protobuf wire format, as far as a request around ready-made records needs it.

Source: protobuf.dev, "Encoding". A message is the concatenation of its fields, so records that are
already encoded can be put into a request, taken out of it and sent again without a byte changing.
"""

from collections.abc import Iterable

_LENGTH_DELIMITED = 2


def varint(number: int) -> bytes:
    """An unsigned integer, seven bits a byte, the least significant first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def tag(field_number: int) -> bytes:
    """What stands before a length-delimited field: a string, bytes or a message."""
    return varint(field_number << 3 | _LENGTH_DELIMITED)


def message_field(field_number: int, payload: bytes) -> bytes:
    """One field that holds an encoded message or a text."""
    return b"".join((tag(field_number), varint(len(payload)), payload))


def repeated_field(field_number: int, payloads: Iterable[bytes]) -> bytes:
    """A repeated field: each payload with its own tag."""
    key = tag(field_number)
    return b"".join(part for each in payloads for part in (key, varint(len(each)), each))
