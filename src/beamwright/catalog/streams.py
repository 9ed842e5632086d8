"""Streams of records that are to be registered: JSON lines or Parquet, read piece by piece."""

from __future__ import annotations

import gzip
import importlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from beamwright.core.errors import BeamwrightError, ConfigError, FormatError, UsageError

MAX_LINE = 1 << 20
_ROWS = 5000
_GZIP = b"\x1f\x8b"

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of JSON that nobody has looked into yet."""

    source: str
    number: int
    data: bytes

    def members(self) -> Record:
        """Return the members of its object.

        Raises: FormatError, which names the line, for what is no record and where a stream was cut.
        """
        try:
            record = _decode(self.data.decode())
        except (ValueError, RecursionError) as error:
            raise _broken(self.source, self.number, self.data, error) from None
        if not isinstance(record, dict):
            told = f"{self.source}, line {self.number}: no record"
            raise FormatError(told, hint="each line is one JSON object")
        return record


def read_records(path: Path, position: list[int] | None = None) -> Iterator[tuple[int, Record | Line]]:
    """Yield (line or row number, record) of a ``.jsonl`` or ``.parquet`` file; ``-`` is standard input.

    Lines may be gzipped. ``position`` is a list of one number that is kept at the bytes (rows for Parquet)
    read so far.

    Raises: FormatError.
    """
    place = [0] if position is None else position
    if path.suffix == ".parquet":
        yield from _parquet(path, place)
        return
    if str(path) == "-":
        import sys

        yield from _unpacked(sys.stdin.buffer, "standard input", place)
        return
    if Path(path.name.removesuffix(".gz")).suffix not in (".jsonl", ".ndjson"):
        raise UsageError(f"{path.name} is no list of records", hint="give a .jsonl or .parquet file, or -")
    with path.open("rb") as stream:
        yield from _unpacked(stream, path.name, place)


def _unpacked(stream: Any, name: str, position: list[int]) -> Iterator[tuple[int, Line]]:
    """Yield the lines of a stream, which may be gzipped whatever it is called."""
    if stream.peek(2)[:2] != _GZIP:
        yield from read_lines(stream, name, position)
        return
    number, plain, unpacked = 0, [0], cast("IO[bytes]", gzip.GzipFile(fileobj=stream))
    try:
        for number, line in read_lines(unpacked, name, plain):
            position[0] = stream.tell() if stream.seekable() else plain[0]
            yield number, line
    except (EOFError, OSError, zlib.error) as error:
        hint = "what came before is registered; give the same again when it is whole"
        raise FormatError(f"{name} is cut or damaged after line {number}: {error}", hint=hint) from error


def size_of(path: Path) -> int:
    """Return what ``position`` will reach: bytes, or rows of Parquet; 0 where nobody knows."""
    if str(path) == "-" or not path.is_file():
        return 0
    return _opened(path).metadata.num_rows if path.suffix == ".parquet" else path.stat().st_size


def read_lines(stream: IO[bytes], name: str, position: list[int]) -> Iterator[tuple[int, Line]]:
    """Yield (line number, line) of JSON lines; empty lines are left out."""
    number = 0
    while line := stream.readline(MAX_LINE + 1):
        number += 1
        position[0] += len(line)
        if len(line) > MAX_LINE:
            raise FormatError(
                f"{name}, line {number}: more than {MAX_LINE} bytes", hint="a record describes one object"
            )
        if not line.isspace():
            yield number, Line(name, number, line)


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no number that can be kept")


_decode = json.JSONDecoder(parse_constant=_constant).decode


def _broken(name: str, number: int, line: bytes, error: Exception) -> BeamwrightError:
    if not line.endswith(b"\n"):
        return FormatError(
            f"{name}, line {number}: the stream ends inside a record",
            hint="what came before is registered; run the same command again when the rest is there",
        )
    told = "no UTF-8 text" if isinstance(error, UnicodeDecodeError) else error
    return FormatError(f"{name}, line {number}: {told}", hint="each line is one JSON object")


def _parquet(path: Path, position: list[int]) -> Iterator[tuple[int, Record]]:
    number, batches = 0, _opened(path).iter_batches(batch_size=_ROWS)
    while True:
        try:
            batch = next(batches, None)
        except (OSError, ValueError) as error:
            told = str(error).partition("\n")[0]
            hint = "what came before is registered; give the same again when it is whole"
            raise FormatError(f"{path.name} is damaged after row {number}: {told}", hint=hint) from error
        if batch is None:
            return
        for row in batch.to_pylist():
            number += 1
            yield number, _nested(row)
        position[0] = number


def _nested(row: Record) -> Record:
    """Return a row with its columns ``kind.key`` put under ``metadata``; empty cells are left out."""
    found: Record = {}
    for name, value in row.items():
        if value is None:
            continue
        kind, dot, key = name.partition(".")
        if dot:
            found.setdefault("metadata", {}).setdefault(kind, {})[key] = _plain(value)
        else:
            found[name] = value
    place = {name: found.pop(name) for name in ("endpoint", "path") if name in found}
    if place:
        found["replicas"] = [place]
    return found


def _plain(value: Any) -> Any:
    return value.timestamp() if hasattr(value, "timestamp") else value


def _opened(path: Path) -> Any:
    try:
        module = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        hint = "install beamwright with its extra: beamwright[columnar]"
        raise ConfigError("reading Parquet needs pyarrow", hint=hint) from error
    try:
        return module.ParquetFile(path)
    except (OSError, ValueError) as error:
        hint = "give .parquet or .jsonl"
        raise FormatError(f"{path.name} is no Parquet file: {error}", hint=hint) from error
