"""Keys and their values in all notations: JSON, XML, YAML, HTML, headers, calls, tables, sentences.

`OF_QUOTED_NAMES` and `OF_BARE_NAMES` are the tables of notations: each finds the start of a value near a
sensitive key and reads the value. `table_at` reads the columns below a row of names (CSV, Markdown). The cost
is linear: the text examined around a key is bounded, and each row of a table is read once.
"""

import re
from collections.abc import Callable, Iterable, Iterator

from msgspec import Struct

from faillog_otel.redact.value_spans import (
    WINDOW,
    Match,
    SensitiveKey,
    UnescapedText,
    ValueSpan,
    bare,
    end_of,
    line_end,
    match_of,
    string_at,
    value_at,
)
from faillog_otel.redact.vocabulary import Kind, classify_key, is_id, is_sensitive, looks_random

# -- tables -------------------------------------------------------------------------------------------------

_CELLS = {
    delimiter: re.compile(
        rf"{blanks}(?:\"(?P<quoted>(?:[^\"\r\n]|\"\"){{0,4096}}+)\"|(?P<bare>[^\"\r\n{delimiter}]{{0,4096}}?))"
        rf"[ ]*+(?:(?P<more>[{delimiter}])|(?=\r?\n|[\"']|\Z))"
    )
    for delimiter, blanks in ((",", ""), (";", ""), ("\t", "[ ]*+"), ("|", "[ ]*+"))
}
"""A blank after a comma belongs to the cell, so that the words of a sentence are not names of columns."""
_DELIMITER = re.compile(r"[,;\t|](?=[^,;\t|\r\n]*\Z)")
_REST = re.compile(r"[\"'*`_]{0,3}[ ]*+(?P<delimiter>[,;\t|])?[\w.()/ \"*`,;\t|-]{0,1000}+\r?\n")
_NAME = re.compile(r"(?:[*`_]{0,3}[^\W\d][\w.()/-]*+(?:[ ][\w.()/-]++){0,3}[*`_]{0,3})?")
_TO_STRING = re.compile(r"[^\n]*[:\[(]\s*[\"']")
_Header = list[tuple[str, Kind | None]]
_LINE_END = re.compile(r"\r?\n")
_HEADER_END = re.compile(r"\r?\n(?:[|+: -]*-[|+: -]*+\r?\n)?")


def table_at(plain: UnescapedText, start: int, end: int) -> tuple[list[Match], int]:
    """Returns the matches in a table whose first sensitive name is here, and the offset up to which no other
    table begins.
    """
    text, first = plain.text, max(0, start - WINDOW)
    line = text.rfind("\n", first, start) + 1
    if first > line or not (rest := _REST.match(text, end)):
        return [], 0
    delimiter = rest["delimiter"] or "".join(_DELIMITER.findall(text, line, start))
    previous = text.count(delimiter, max(first, text.rfind("\n", first, line - 1)), line) + 1 if line else 0
    for at in (line, end_of(_TO_STRING, text, line, start)) if delimiter in _CELLS else ():
        header = _row(text, at, delimiter)
        names = [text[slice(*_span(cell))] for cell in header]
        header_end = _HEADER_END.match(text, header[-1].end()) if header else None
        if (
            header_end
            and len(header) != previous
            and sum(map(bool, names)) > 1
            and all(map(_NAME.fullmatch, names))
        ):
            kinds = [classify_key(name) for name in names]
            return _read_rows(plain, list(zip(names, kinds, strict=True)), delimiter, header_end.end())
    return [], rest.end()


def _row(text: str, at: int, delimiter: str) -> list[re.Match[str]]:
    """Returns the cells of the row that begins here."""
    cells: list[re.Match[str]] = []
    while len(cells) <= WINDOW and (cell := _CELLS[delimiter].match(text, cells[-1].end() if cells else at)):
        cells.append(cell)
        if not cell["more"]:
            break
    return cells


def _span(cell: re.Match[str]) -> tuple[int, int]:
    return cell.span("bare" if cell["quoted"] is None else "quoted")


def _read_rows(plain: UnescapedText, header: _Header, delimiter: str, at: int) -> tuple[list[Match], int]:
    text, matches = plain.text, []
    row = _row(text, at, delimiter)
    while row and len(row) <= len(header):
        line = _LINE_END.match(text, row[-1].end())
        if line and len(row) < len(header):
            break
        for (name, kind), cell in zip(header, row, strict=False):
            start, end = _span(cell)
            if kind and start < end and is_sensitive(kind, name, text[start:end]):
                matches.append(match_of(plain, kind, f"the name {name}", start, end))
        at = row[-1].end()
        row = _row(text, line.end(), delimiter) if line else []
    return matches, at


# -- notations -----------------------------------------------------------------------------------------------

Find = Callable[[UnescapedText, SensitiveKey], Iterable[re.Match[str]]]
"""Yields regular-expression matches that end where the value may begin."""
Read = Callable[[UnescapedText, SensitiveKey, re.Match[str]], ValueSpan | None]
"""Returns the value that begins where the match ends; None if there is none."""


class Notation(Struct, frozen=True):
    """One way to write a sensitive key and its value."""

    find: Find
    read: Read
    has_phones: bool = False
    """Whether the value may be a phone number."""
    is_final: bool = False
    """Whether no other notation is tried after a match of this one."""


def _following(after: str, before: str = "", ends: str = "", name: str = "", flags: int = 0) -> Find:
    """Returns a finder of `after` right after a key (and its quote) that matches `name` and follows `before`.

    `ends` lists the characters with which `before` may end, not counting blanks and string prefixes.
    """
    is_after, is_before = re.compile(after, flags), re.compile(rf"(?:{before})\Z")
    is_name = re.compile(name, re.IGNORECASE)

    def find(plain: UnescapedText, key: SensitiveKey) -> Iterable[re.Match[str]]:
        text = plain.text
        start, end = (key.start, key.end) if key.quote is None else (key.quote, key.end + 1)
        if ends and text[max(0, start - 32) : start].rstrip(_BLANKS_AND_PREFIXES)[-1:] not in ends:
            return ()
        if before and not is_before.search(text, max(0, start - _NEAR), start):
            return ()
        found = is_after.match(text, end, end + 4 * WINDOW)
        return () if found is None or (name and not is_name.fullmatch(key.name)) else (found,)

    return find


_BLANKS_AND_PREFIXES = " \t\r\n\vbBuU"
_NEAR = 48

# Patterns between a key and its value, and the markup around both.

_BLANK = r"[^\S\r\n]"
_MARKS = r"[*_~`]{1,3}"
_HTML = (
    r"</?(?:a|b|big|br|code|dd|div|dt|em|font|h[1-6]|i|kbd|label|li|mark|p|pre|s|samp|small|span|strong|t[dhrt]"
    r"|u|var)(?:[\s/][^<>]{0,200})?>"
)
_COMMENT = r"/\*[^*]{0,200}\*/|<!--[^>]{0,200}-->|(?:\#|//)[ \t][^\n]{0,200}\n"
_BETWEEN = rf"(?:\s++|{_COMMENT}|{_MARKS}|{_HTML}){{0,16}}+"
_BY = rf"(?:[\"'`]?\]|\[\w{{0,20}}\]){{0,3}}{_BETWEEN}(?P<by>:=|=>|--?>|→|==?|:(?![:/])|::(?=[ \t]))"
_NEW_LINE = rf"(?:[|>][+-]?)?{_BLANK}*+\r?\n{_BLANK}*+(?:-[ ])?(?![\w.-]++[\"']?{_BLANK}*+[:=]|\s)"
_AFTER = (
    rf"(?:{_MARKS}(?=\s))?+(?:{_BLANK}++|{_COMMENT}|{_HTML}){{0,16}}+"
    rf"(?:{_NEW_LINE}(?:{_BLANK}++|{_HTML}){{0,16}}+)?+(?P<tag>(?<=[\w\"'/]>))?+"
)
_BY_QUOTED = (
    rf"(?P<tag>(?!))?{_BETWEEN}(?:(?P<by>:=|=>|==?|:(?!:))|\]\s*+(?P<index>=>?)|;(?P<php>s:\d{{1,7}}:))"
    rf"(?:\s++|{_COMMENT}){{0,16}}+"
)

# Pairs such as {"name": NAME, "value": VALUE}.

_VAL = "val(?:ue)?s?"
_INPUT = "v|data|content|text|input|received|actual|given|(?:rejected|invalid|attempted|submitted)_?value"
_PAIRS = {
    "named": ("name|key|header|field|param|parameter|property|attribute|variable|label|k|n", _VAL, _INPUT),
    "id": ("id", _VAL, "content"),
    "path": ("path|loc", _VAL, "input|received|actual"),
    "pointer": ("instance_?path|data_?path", _VAL, "data"),
}
"""Row → the keys of a name, the keys of its value, and those keys whose value is a scalar."""
_NAME_FIELD = re.compile(
    rf"(?<![\w-])(?:{'|'.join(f'(?P<{row}>{names})' for row, (names, _, _) in _PAIRS.items())})[\"']?\s*+"
    r"(?:=>|[:=])\s*+(?:\[(?:\s*+\"[^\"]{0,40}\",)*+\s*+)?[bBuU]?[\"']?\Z",
    re.IGNORECASE,
)
_NAME_FIELD_ENDS = (":", "=", ">", ",]")
_VALUE = {
    row: re.compile(
        rf"(?=[vdctirags])(?<![\w-])(?:(?:{values})[\"']?\s*+(?:=>|[:=])|(?:{scalars})[\"']?\s*+(?:=>|[:=])(?!\s*+[\[{{]))\s*+",
        re.IGNORECASE,
    )
    for row, (_, values, scalars) in _PAIRS.items()
}
_TAG = re.compile(r"[^>]*+")
_OBJECT = re.compile(r"(?:[^{}]++|\{[^{}]*+\})*+")
_OBJECT_REVERSED = re.compile(r"(?:[^{}]++|\}[^{}]*+\{)*+")
_ITEM = re.compile(r"(?:[^\r\n{}]++|\r?\n(?!\s*+(?:-\s|\r?\n|\Z)))*+")


def _paired(plain: UnescapedText, name: SensitiveKey) -> Iterator[re.Match[str]]:
    """Finds `{"name": NAME, ..., "value": VALUE}` in any order, also in a tag's attributes or a YAML item."""
    start = name.start if name.quote is None else name.quote + 1
    ends = plain.text[max(0, start - 32) : start].rstrip(_BLANKS_AND_PREFIXES + "\"'[")[-1:]
    ends += plain.text[name.end + 1 : name.end + 2] if ends == "," else ""
    if ends in _NAME_FIELD_ENDS and (
        name_field := _NAME_FIELD.search(plain.text, max(0, start - 2 * _NEAR), start)
    ):
        for span in _around(plain.text, name):
            yield from _VALUE[name_field.lastgroup or ""].finditer(plain.text, *span)


def _around(text: str, name: SensitiveKey) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns two ranges of the object, tag or item that contains the name: after the name, and before it."""
    first, inside = max(0, name.start - WINDOW), _TAG
    start = text.rfind("<", first, name.start)
    if start < 0 or text.find(">", start, name.start) >= 0:
        start, inside = name.start - end_of(_OBJECT_REVERSED, text[first : name.start][::-1], 0), _OBJECT
        if text[start - 1 : start] != "{":
            start, inside = max(start, text.rfind("\n", first, name.start) + 1), _ITEM
    return (name.end, end_of(inside, text, name.end, name.end + WINDOW)), (start, name.start)


def _read_paired(plain: UnescapedText, name: SensitiveKey, found: re.Match[str]) -> ValueSpan | None:
    span = value_at(plain, name, found.end())
    return None if span is None or found.end() <= name.start < span[1] else span


# Readers of values.

_TO_TAG = re.compile(r"[^<\"\s]*+(?:\s++[^<\"\s]++)*+")
_TO_TAG_IN_LINE = re.compile(r"[^<\"\r\n]*+")
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z_-]*+")
_CDATA, _CDATA_END = "<![CDATA[", "]]>"
_CUT_OFF = re.compile(r"(?:[^<\"]++|<[^<>]{0,512}>)*+")
_CLOSERS = re.compile(r"[\"}\]\s]*+\Z")


def _to(pattern: re.Pattern[str]) -> Read:
    return lambda plain, _, found: (found.end(), end_of(pattern, plain.text, found.end()), "")


def _read_value(plain: UnescapedText, name: SensitiveKey, found: re.Match[str]) -> ValueSpan | None:
    """Returns the value after a separator, or in HTML after a tag."""
    if found["tag"]:
        return _to(_TO_TAG_IN_LINE)(plain, name, found)
    return value_at(plain, name, found.end(), found.start("by") if found["by"] else None)


def _read_unless_name(plain: UnescapedText, _: SensitiveKey, found: re.Match[str]) -> ValueSpan | None:
    """Returns the group `value` or a string, unless it can be a name or an id: lists of names are common."""
    span = (*found.span("value"), "") if "value" in found.re.groupindex else string_at(plain, found.end())
    value = plain.text[span[0] : span[1]] if span else ""
    return None if _IDENTIFIER.fullmatch(value) or is_id(value) else span


def _read_random(_plain: UnescapedText, _: SensitiveKey, found: re.Match[str]) -> ValueSpan | None:
    start, value = found.start("value"), found["value"]
    return (start, start + len(value.rstrip(".")), "") if looks_random(value) else None


_JSON_STRING_END = re.compile(r'"\s*+[,:\]}]')


def _read_element(plain: UnescapedText, name: SensitiveKey, opened: re.Match[str]) -> ValueSpan | None:
    """Returns the content of `<password>VALUE</password>`, or the rest of a text that is cut off."""
    text, at = plain.text, opened.end()
    if text.startswith(_CDATA, at):
        end = text.find(_CDATA_END, at)
        return at + len(_CDATA), end if end >= 0 else len(text), ""
    end = text.find("</" + text[text.rindex("<", 0, name.start) + 1 : name.end], at, at + WINDOW)
    if end < 0:
        end = end_of(_TO_TAG, text, at)
        if not text.startswith("</", end):
            end = end_of(_CUT_OFF, text, at, at + WINDOW)
            if text[at : at + 1].isspace() or not _CLOSERS.match(text, end):
                return None
    return at, _string_end(plain, at, end), ""


def _string_end(plain: UnescapedText, start: int, end: int) -> int:
    """Returns where the JSON string around `start` ends, if before `end`: an element ends with it."""
    if plain.source.lstrip()[:1] in ("{", "[", '"'):
        for quote in _JSON_STRING_END.finditer(plain.text, start, end):
            if plain.source_of(quote.start()) == '"':
                return quote.start()
    return end


# The tables of notations.

_GAP = r"[\s:=|>\"'`(#→-]{1,4}+"
_OF_AN_ID = (
    r"(?:[a-z]*(?:message|event|request|user|destination|source|trace|span|batch)|ids?\b|for\b|at\b|since\b"
    r"|until\b|on\b|(?-i:\w+(?:Id|ID|_id)s?\b))"
)
"""Words that are followed by an id, not by a secret."""
_HOLDS = r"(?i:(?<!\w)(?:name|key|header|field|param|parameter|property|id))[\"']?\s*+=\s*+"
_NEXT = r"\s*+,\s*+(?=[bBuU]?[\"'])"
_OPENS_LIST = r"[\[(]\s*+[bBuU]?"

OF_QUOTED_NAMES = (
    Notation(_following(_BY_QUOTED), _read_value, has_phones=True, is_final=True),
    # --boundary, name="password", an empty line, VALUE
    Notation(
        _following(r"[^\r\n]*+(?:\r?\n[^\r\n]++)*+\r?\n\r?\n", _HOLDS, "="),
        lambda plain, _, found: (found.end(), line_end(plain, found.end(), found.end()), ""),
    ),
    Notation(_paired, _read_paired, has_phones=True),
    # <property name="password">VALUE</property>
    Notation(_following(r"[^<>]{0,512}+(?<!/)>(?:\s*+<\w[^<>]{0,200}>){0,3}", _HOLDS, "="), _to(_TO_TAG)),
    # [["password", VALUE], ...]
    Notation(
        _following(
            _NEXT + r"(?=[bBuU]?([\"'])[^\"']*+\1\s*+[\])])", rf"[\[(,]\s*+{_OPENS_LIST}", "[(", r"\S+"
        ),
        lambda plain, _, found: string_at(plain, found.end()),
    ),
    # ["password", VALUE]; a header's name anywhere in a list
    Notation(_following(_NEXT, _OPENS_LIST, "[(", r"\S+"), _read_unless_name),
    Notation(_following(_NEXT, name=r"authorization|cookie|\w+(?:-\w+)+"), _read_unless_name),
)
OF_BARE_NAMES = (
    Notation(
        _following(r"(?:\s[^<>]{0,512}+)?+(?<!/)>", r"<(?:[\w.-]{1,40}:)?", "<:"),
        _read_element,
        has_phones=True,
    ),
    Notation(_following(_BY + _AFTER), _read_value, has_phones=True),
    # setPassword("VALUE")
    Notation(_following(r"\((?=[\"'])"), lambda plain, name, found: value_at(plain, name, found.end())),
    Notation(
        _following(r"[ ]{1,4}(?![-\s])", name="--.*"),
        lambda plain, name, found: string_at(plain, found.end()) or bare(plain, name, found.end()),
    ),
    # <key>password</key><string>VALUE</string>, <td>password</td><td>VALUE</td>
    Notation(
        _following(
            rf"(?:{_HTML}|\s)*?</(?:key|name|string|t[dh]|dt|label)>\s*+(?:<\w[^<>]{{0,200}}>\s*+){{1,3}}",
            r">\s*+",
            ">",
        ),
        _to(_TO_TAG),
        has_phones=True,
    ),
    Notation(_paired, _read_paired, has_phones=True),
    # the name alone in a cell or line, VALUE alone in the next cell or line
    Notation(
        _following(
            rf"(?:{_MARKS}|[^\S\r\n\t]){{0,8}}+(?:[\t|]|(?:\r?\n){{1,2}})(?:{_BLANK}|{_MARKS}){{0,8}}+"
            rf"(?=(?P<value>[^\s|\"'<>`*:]{{5,}}+)(?:{_MARKS}|{_BLANK}){{0,8}}+(?:[|\r\n\"']|\Z|(?<=\t)))",
            rf"(?:\A|[\n\t|\"'])(?:{_BLANK}|{_MARKS}){{0,8}}",
        ),
        _read_unless_name,
    ),
    # The token 'VALUE' has expired: a word within four words that looks random
    Notation(
        _following(
            rf"(?:{_GAP}(?!{_OF_AN_ID})[A-Za-z']{{1,15}}(?![\w/.-])){{0,3}}"
            rf"{_GAP}(?P<value>[\w.~+/=|-]++)(?=[\s\"'`,;:)!?<&]|\Z)",
            flags=re.IGNORECASE,
        ),
        _read_random,
    ),
)
