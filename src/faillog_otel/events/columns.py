"""Values below their telling names: tables with a row of names, as CSV and Markdown write them.

Linear: each row is read once, for all telling names above it.
"""

import re

from faillog_otel.events.names import Kind, holds, kind_of_name
from faillog_otel.events.plain import Plain
from faillog_otel.events.spans import WINDOW, Place, end_of, place_of

_CELLS = {
    delimiter: re.compile(
        rf"{blanks}(?:\"(?P<quoted>(?:[^\"\r\n]|\"\"){{0,4096}}+)\"|(?P<bare>[^\"\r\n{delimiter}]{{0,4096}}?))"
        rf"[ ]*+(?:(?P<more>[{delimiter}])|(?=\r?\n|[\"']|\Z))"
    )
    for delimiter, blanks in ((",", ""), (";", ""), ("\t", "[ ]*+"), ("|", "[ ]*+"))
}
"""A blank behind a comma is part of the cell, and so of no name: sentences have it."""
_DELIMITER = re.compile(r"[,;\t|](?=[^,;\t|\r\n]*\Z)")
_REST = re.compile(r"[\"'*`_]{0,3}[ ]*+(?P<delimiter>[,;\t|])?[\w.()/ \"*`,;\t|-]{0,1000}+\r?\n")
_NAME = re.compile(r"(?:[*`_]{0,3}[^\W\d][\w.()/-]*+(?:[ ][\w.()/-]++){0,3}[*`_]{0,3})?")
_TO_STRING = re.compile(r"[^\n]*[:\[(]\s*[\"']")
_Head = list[tuple[str, Kind | None]]
_LINE_END = re.compile(r"\r?\n")
_BELOW = re.compile(r"\r?\n(?:[|+: -]*-[|+: -]*+\r?\n)?")


def table_at(plain: Plain, start: int, end: int) -> tuple[list[Place], int]:
    """What the table holds whose first telling name is here, and up to where no other one begins."""
    text, first = plain.text, max(0, start - WINDOW)
    line = text.rfind("\n", first, start) + 1
    if first > line or not (rest := _REST.match(text, end)):
        return [], 0
    delimiter = rest["delimiter"] or "".join(_DELIMITER.findall(text, line, start))
    above = text.count(delimiter, max(first, text.rfind("\n", first, line - 1)), line) + 1 if line else 0
    for at in (line, end_of(_TO_STRING, text, line, start)) if delimiter in _CELLS else ():
        head = _row(text, at, delimiter)
        names = [text[slice(*_span(cell))] for cell in head]
        below = _BELOW.match(text, head[-1].end()) if head else None
        if below and len(head) != above and sum(map(bool, names)) > 1 and all(map(_NAME.fullmatch, names)):
            kinds = [kind_of_name(name) for name in names]
            return _below(plain, list(zip(names, kinds, strict=True)), delimiter, below.end())
    return [], rest.end()


def _row(text: str, at: int, delimiter: str) -> list[re.Match[str]]:
    """The cells of the row that begins here."""
    cells: list[re.Match[str]] = []
    while len(cells) <= WINDOW and (cell := _CELLS[delimiter].match(text, cells[-1].end() if cells else at)):
        cells.append(cell)
        if not cell["more"]:
            break
    return cells


def _span(cell: re.Match[str]) -> tuple[int, int]:
    return cell.span("bare" if cell["quoted"] is None else "quoted")


def _below(plain: Plain, head: _Head, delimiter: str, at: int) -> tuple[list[Place], int]:
    text, places = plain.text, []
    row = _row(text, at, delimiter)
    while row and len(row) <= len(head):
        line = _LINE_END.match(text, row[-1].end())
        if line and len(row) < len(head):
            break
        for (called, kind), cell in zip(head, row, strict=False):
            start, end = _span(cell)
            if kind and start < end and holds(kind, called, text[start:end]):
                places.append(place_of(plain, kind, f"the name {called}", start, end))
        at = row[-1].end()
        row = _row(text, line.end(), delimiter) if line else []
    return places, at
