"""Tables as aligned text, for terminals and pipes alike."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from beamwright.core.runs import SECTION_MAX, Interval

Row = dict[str, Any]

# Members of documents that are seconds since the epoch; a whole number that is ``created`` is one of records.
_TIMES = frozenset(
    {"at", "created", "deadline", "ended", "finished", "frozen", "leased", "released", "started", "taken"}
)
_HASH = re.compile(r"((?:[a-z0-9]+[:+])?)([0-9a-f]{12})[0-9a-f]{20,}")


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
        return f"{value:.1f}" if 1e4 <= abs(value) < 1e12 else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(shown(part) for part in value) or "–"
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(part)}" for name, part in value.items()) or "–"
    return str(value)


def member(name: str, value: Any) -> str:
    """Return a member of a document as people read it: times as dates, ranges of keys in short."""
    is_time = isinstance(value, float) or (isinstance(value, int) and name != "created")
    if name in _TIMES and is_time and not isinstance(value, bool):
        return time(value)
    if name == "interval" and isinstance(value, list) and len(value) == 3:
        return interval(value)
    if name == "last_section" and value == SECTION_MAX:
        return "the end"
    return shown(value)


def brief(value: Any) -> Any:
    """Return a value with hashes cut to the length by which things are called."""
    if isinstance(value, str):
        found = _HASH.fullmatch(value)
        return found[1] + found[2] if found else value
    if isinstance(value, dict):
        return {name: brief(part) for name, part in value.items()}
    return [brief(part) for part in value] if isinstance(value, list | tuple) else value


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
            rows = [[_cell(key, part.get(key)) for key in columns] for part in value]
            lines += [f"{indent}{name}", *table(columns, rows, indent=indent + "  ")]
        else:
            told = brief(value) if isinstance(value, list) else value
            lines.append(f"{indent}{name:{width}}  {member(name, told)}")
    return lines


def _cell(name: str, value: Any) -> Any:
    """Return what a table shows of a member: numbers stay such, to be set right."""
    told = member(name, value)
    return brief(value) if told == shown(value) else told


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
