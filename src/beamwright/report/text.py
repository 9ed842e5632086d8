"""Tables as aligned text, for terminals and pipes alike."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from beamwright.core.runs import Interval

Row = dict[str, Any]


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, indent: str = "") -> list[str]:
    """Return the lines of a table: numbers right, all else left, two blanks between."""
    cells = [[shown(value) for value in row] for row in rows]
    widths = [max([_width(name), *(_width(row[n]) for row in cells)]) for n, name in enumerate(columns)]
    right = [_is_numeric(rows, n) for n in range(len(columns))]
    lines = [columns, ["─" * width for width in widths], *cells]
    return [indent + "  ".join(map(_padded, line, widths, right)).rstrip() for line in lines]


def shown(value: Any) -> str:
    """Return one value as people read it."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(shown(part) for part in value) or "–"
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(part)}" for name, part in value.items()) or "–"
    return str(value)


def time(seconds: float | None) -> str:
    """Return a time in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S") if seconds else "–"


def interval(document: Sequence[Any]) -> str:
    """Return the document form of an interval as people write it."""
    return str(Interval.from_document(document))


def pairs(row: Row, indent: str = "") -> list[str]:
    """Return a document as lines ``name  value``; nested documents are indented, lists of them are tables."""
    width = max((len(name) for name, value in row.items() if not _is_nested(value)), default=0)
    lines = []
    for name, value in row.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{name}", *pairs(value, indent + "  ")]
        elif _is_nested(value):
            columns = list(dict.fromkeys(key for part in value for key in part))
            rows = [[part.get(key) for key in columns] for part in value]
            lines += [f"{indent}{name}", *table(columns, rows, indent=indent + "  ")]
        else:
            lines.append(f"{indent}{name:{width}}  {shown(value)}")
    return lines


def _is_nested(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value)
    return isinstance(value, list) and bool(value) and all(isinstance(part, dict) for part in value)


def _is_numeric(rows: Sequence[Sequence[Any]], column: int) -> bool:
    cells = [row[column] for row in rows if row[column] not in (None, "")]
    return bool(cells) and all(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in cells)


def _width(text: str) -> int:
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def _padded(text: str, width: int, right: bool) -> str:
    blank = " " * (width - _width(text))
    return blank + text if right else text + blank
