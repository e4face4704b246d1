"""Values that stand apart from their telling names: in pairs, lists, elements and sentences."""

import re

from faillog_otel.events.names import is_no_secret, looks_random
from faillog_otel.events.plain import Plain
from faillog_otel.events.spans import (
    WINDOW,
    Span,
    TellingName,
    checked,
    end_of,
    line_end,
    string_at,
    value_at,
)

_HOLDS_NAME = re.compile(
    r"(?<!\w)(?:name|key|header|field|param|parameter|id)[\"']?\s*+(?P<by>[:=]|=>)\s*+\Z", re.IGNORECASE
)
_VALUE = re.compile(r"(?<![\w-])val(?:ue)?s?[\"']?\s*+(?:=>|[:=])\s*+", re.IGNORECASE)
_OBJECT = re.compile(r"(?:[^{}]++|\{[^{}]*+\})*+")
_OBJECT_REVERSED = re.compile(r"(?:[^{}]++|\}[^{}]*+\{)*+")
_PART = re.compile(r"[^\r\n]*+(?:\r?\n[^\r\n]++)*+\r?\n\r?\n")


def pair(plain: Plain, name: TellingName) -> Span | None:  # noqa: PLR0911  # one for each way to write it
    """`{"name": NAME, ..., "value": VALUE}` in any order; attributes of a tag; a part of a multipart body."""
    text = plain.text
    before = text[max(0, name.start - 24) : (name.quote or 0)]
    holder = _HOLDS_NAME.search(before)
    if holder is None:
        return None
    after = name.end + 1
    if holder["by"] == "=":
        if part := _PART.match(text, after, after + WINDOW):
            at = part.end()
            return checked(plain, name, (at, line_end(plain, at, at), ""))
        tag_end = text.find(">", after, after + WINDOW)
        if found := _VALUE.search(text, after, tag_end if tag_end >= 0 else after + WINDOW):
            return value_at(plain, TellingName(name.kind, name.name, name.start, name.end), found.end(), None)
        if tag_end >= 0 and text[tag_end - 1] != "/":
            return checked(plain, name, (tag_end + 1, end_of(_TO_TAG, text, tag_end + 1), ""))
        return None
    end = end_of(_OBJECT, text, after, after + WINDOW)
    if found := _VALUE.search(text, after, end):
        return value_at(plain, name, found.end(), None)
    back = _OBJECT_REVERSED.match(text[max(0, name.start - WINDOW) : name.start][::-1])
    start = name.start - (back.end() if back else 0)
    if found := _VALUE.search(text, start, name.start):
        span = value_at(plain, name, found.end(), None)
        return span if span and span[1] <= name.start else None
    return None


_NEXT = re.compile(r"\s*+,\s*+(?=[bBuU]?[\"'])")
_FIRST = re.compile(r"[\[(]\s*+[bBuU]?\Z")
_HEADER = re.compile(r"authorization|cookie|\w+(?:-\w+)+", re.IGNORECASE)
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z_-]*+")


def member(plain: Plain, name: TellingName) -> Span | None:
    """`["X-Api-Key", VALUE]`, `header("X-Api-Key", VALUE)`; a header's name also anywhere in a list."""
    text = plain.text
    comma = _NEXT.match(text, name.end + 1)
    if comma is None or " " in name.name or name.quote is None:
        return None
    is_first = _FIRST.search(text[max(0, name.quote - 8) : name.quote])
    if not is_first and not _HEADER.fullmatch(name.name):
        return None
    span = checked(plain, name, string_at(plain, comma.end()))
    return span if span and not _IDENTIFIER.fullmatch(text[span[0] : span[1]]) else None


_TAG_BEFORE = re.compile(r"<(?:[\w.-]{1,40}:)?\Z")
TAG = re.compile(r"(?:\s[^<>]{0,512}+)?+>")
_TO_TAG = re.compile(r"[^<\"]*+")
_CDATA, _CDATA_END = "<![CDATA[", "]]>"
_CUT_OFF = re.compile(r"(?:[^<\"]++|<[^<>]{0,512}>)*+")
_CLOSERS = re.compile(r"[\"}\]\s]*+\Z")
_TAGS = re.compile(r"<[^<>]*+>")
_NEXT_ELEMENT = re.compile(r"</(?:key|name|string)>\s*+(?:<[\w:.-]{1,40}+>\s*+){1,3}")


def element(plain: Plain, name: TellingName) -> Span | None:
    """`<password>VALUE</password>`, whatever is inside it; or to the end of a text that is cut off."""
    text = plain.text
    before = _TAG_BEFORE.search(text[max(0, name.start - 42) : name.start])
    opened = TAG.match(text, name.end, name.end + 2 * WINDOW)
    if before is None or opened is None or text[opened.end() - 2] == "/":
        return None
    at = opened.end()
    if text.startswith(_CDATA, at):
        end = text.find(_CDATA_END, at)
        return checked(plain, name, (at + len(_CDATA), end if end >= 0 else len(text), ""))
    end = text.find(f"</{before[0][1:]}{text[name.start : name.end]}", at, at + WINDOW)
    if end >= 0:
        said = _TAGS.sub(" ", text[at:end])
        return None if is_no_secret(name.name, said) else (at, end, "")
    end = end_of(_TO_TAG, text, at)
    if text.startswith("</", end):
        return checked(plain, name, (at, end, ""))
    end = end_of(_CUT_OFF, text, at, at + WINDOW)
    is_cut_off = _CLOSERS.match(text, end) and not text[at : at + 1].isspace()
    return (at, end, "") if is_cut_off else None


def after_element(plain: Plain, name: TellingName) -> Span | None:
    """`<key>password</key><string>VALUE</string>`, as in property lists and XML-RPC."""
    found = _NEXT_ELEMENT.match(plain.text, name.end)
    if found is None:
        return None
    return checked(plain, name, (found.end(), end_of(_TO_TAG, plain.text, found.end()), ""))


# -- sentences ------------------------------------------------------------------------------------------

_GAP = r"[\s:=|>\"'`(#→-]{1,4}+"
_OF_AN_ID = (
    r"(?:[a-z]*(?:message|event|request|user|destination|source|trace|span|batch)|ids?\b|for\b|at\b|since\b"
    r"|until\b|on\b|(?-i:\w+(?:Id|ID|_id)s?\b))"
)
"""What such a word is followed by is no key."""
_SENTENCE = re.compile(
    rf"(?:{_GAP}(?!{_OF_AN_ID})[A-Za-z']{{1,15}}(?![\w/.-])){{0,3}}"
    rf"{_GAP}(?P<value>[\w.~+/=|-]++)(?=[\s\"'`,;:)!?<&]|\Z)",
    re.IGNORECASE,
)


def in_sentence(plain: Plain, name: TellingName) -> Span | None:
    """`The token 'VALUE' has expired`: within four words a key by its look."""
    found = _SENTENCE.match(plain.text, name.end, name.end + 4096)
    if found is None or not looks_random(found["value"]):
        return None
    return found.start("value"), found.start("value") + len(found["value"].rstrip(".")), ""
