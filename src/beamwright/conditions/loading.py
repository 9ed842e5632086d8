"""Constants written by hand: a table of channels as text, checked line by line before anything is stored."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from beamwright.conditions.payload import Arrays, Payload
from beamwright.core.errors import ConditionsError, FormatError

KEY = "channel"
SHOWN = 8
# Python's own int() and float() take digits of any script, and underscores between them.
_CHANNEL = re.compile(r"[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|nan|inf|infinity)", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """A line of a table: its number, its channel, its values."""

    line: int
    channel: int
    values: tuple[float, ...]


def load_file(path: Path, before: Arrays | None = None, max_bad: int = 0) -> Payload:
    """Read constants from a file: a table of channels (or ``.json``, a document).

    A table begins with the names of its columns, the first of them ``channel``; blanks or commas part them,
    # begins a comment. Channels without a finite value, and those that ``before`` has and the table has not,
    are bad.
    Raises: FormatError naming lines and channels, ConditionsError for more than ``max_bad`` bad channels.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} cannot be read: {error}", hint="give a text file") from error
    if path.suffix == ".json":
        return _document(text, str(path))
    names, rows = read_table(text, str(path))
    _check_bad(str(path), bad_channels(names, rows, before), max_bad)
    ordered = sorted(rows, key=lambda row: row.channel)
    arrays = {KEY: np.array([row.channel for row in ordered], np.int64)}
    columns = np.array([row.values for row in ordered], np.float64).reshape(len(ordered), len(names))
    return Payload.arrays(arrays | {name: columns[:, i].copy() for i, name in enumerate(names)})


def read_table(text: str, source: str) -> tuple[list[str], list[Row]]:
    """Return the names of a table's columns of values, and its rows.

    Raises: FormatError that names each wrong line and its channel.
    """
    lines = [(n, line.partition("#")[0].strip(" \t")) for n, line in enumerate(text.split("\n"), 1)]
    has_commas = "," in next((line for _, line in lines if line), "")
    filled = [(n, _words(line, has_commas)) for n, line in lines if line]
    names = _names(filled[0][1] if filled else [], f"{source}:{filled[0][0]}" if filled else source)
    rows: list[Row] = []
    problems: list[str] = []
    seen: dict[int, int] = {}
    for number, words in filled[1:]:
        problem, row = _row(number, words, names, seen)
        problems += [f"{source}:{number}: {problem}"] if problem else []
        rows += [row] if row else []
    if problems or not rows:
        left = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        message = "; ".join(problems[:SHOWN]) + left if problems else f"{source} has no channel"
        raise FormatError(message, hint="correct these lines; nothing was stored", problems=problems)
    return names, rows


def bad_channels(names: Sequence[str], rows: Sequence[Row], before: Arrays | None = None) -> dict[int, str]:
    """Return what is wrong by channel: values that are not finite, channels that are missing."""
    found = {}
    for row in rows:
        wrong = [name for name, value in zip(names, row.values, strict=True) if not math.isfinite(value)]
        if wrong:
            found[row.channel] = f"line {row.line}: {', '.join(wrong)} not finite"
    known = {row.channel for row in rows}
    held = [] if before is None or KEY not in before else before[KEY].tolist()
    return found | {int(channel): "missing" for channel in held if channel not in known}


def _words(line: str, has_commas: bool) -> list[str]:
    """Return what blanks part, or commas where the line of names has them; an empty word may stand there."""
    return [word.strip(" \t") for word in line.split(",")] if has_commas else re.split("[ \t]+", line)


def _names(words: Sequence[str], place: str) -> list[str]:
    """Return the names of the columns of values."""
    if len(words) < 2 or words[0] != KEY:
        raise FormatError(f"{place}: no names of columns", hint=f"begin with a line like `{KEY} gain`")
    strange = next((word for n, word in enumerate(words) if not word.isprintable() or word in words[:n]), "")
    if strange or "" in words:
        message = (
            f"{place}: {strange!r} stands twice, or is no name" if strange else f"{place}: a name is empty"
        )
        raise FormatError(message, hint="give each column a name of its own")
    return list(words[1:])


def _row(number: int, words: list[str], names: list[str], seen: dict[int, int]) -> tuple[str, Row | None]:
    """Return what is wrong with a line, or its row."""
    if not _CHANNEL.fullmatch(words[0]):
        return f"{words[0]!r} is no channel", None
    channel = int(words[0])
    if channel in seen:
        return f"channel {channel} stands already in line {seen[channel]}", None
    seen[channel] = number
    if len(words) != len(names) + 1:
        return f"channel {channel} has {len(words) - 1} values for {len(names)} columns", None
    for name, word in zip(names, words[1:], strict=True):
        if not _NUMBER.fullmatch(word):
            return f"channel {channel}: {name} is {word!r}, which is no number", None
    return "", Row(number, channel, tuple(map(float, words[1:])))


def _check_bad(source: str, bad: dict[int, str], limit: int) -> None:
    if len(bad) > limit:
        some = "; ".join(f"channel {channel}: {why}" for channel, why in sorted(bad.items())[:SHOWN])
        raise ConditionsError(
            f"{source}: {len(bad)} bad channels, {limit} are allowed: {some}",
            hint="mend them, or allow more with --max-bad",
        )


def _document(text: str, source: str) -> Payload:
    import json

    def refuse(word: str) -> None:
        raise ValueError(f"{word} stands in it")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for name, value in pairs:
            if name in seen:
                refuse(f"{name!r} twice in one object")
            seen[name] = value
        return seen

    try:
        return Payload.json(json.loads(text, parse_constant=refuse, object_pairs_hook=once))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{source} is no JSON: {error}", hint="correct the line that it names") from error
