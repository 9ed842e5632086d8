"""Read detector files: positions, directions and time offsets of all modules (text detx, binary datx).

Positions in m, times in ns; a time calibrated with `t0` is tdc + t0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from orca.errors import DetectorFileError
from orca.jagged import Array, Floats, Ints

CHANNELS = 31
"""Photomultipliers of one optical module."""

Line = tuple[int, list[str]]
Module = tuple[int, int, int, tuple[float, ...] | None, int]
Pmts = list[tuple[float, ...]]


@dataclass(frozen=True)
class Detector:
    """The optical modules of a detector, sorted by DOM id; d DOMs of 31 channels."""

    id: int
    version: int
    validity: tuple[float, float]
    dom_id: Ints
    line: Ints
    floor: Ints
    centre: Floats
    """(d, 3)"""
    position: Floats
    """(d, 31, 3) of the PMTs"""
    direction: Floats
    """(d, 31, 3) unit vectors the PMTs look along"""
    t0: Floats
    """(d, 31)"""

    def __len__(self) -> int:
        return len(self.dom_id)

    def rows(self, dom_id: Array) -> Ints:
        """Find the row of each DOM id, −1 for a DOM that is not in this detector."""
        index = np.searchsorted(self.dom_id, dom_id)
        index[index == len(self)] = 0
        return np.where(self.dom_id[index] == dom_id, index, -1)

    def mean_t0(self) -> Floats:
        """Give each channel its DOM's mean offset: the start without intra-DOM constants."""
        return np.repeat(self.t0.mean(axis=1, keepdims=True), CHANNELS, axis=1)

    def with_t0(self, t0: Floats) -> Detector:
        return replace(self, t0=t0)


def read_detector(path: Path | str) -> Detector:
    """Read a detector file: text versions 1–5, or binary version 5 (`.datx`)."""
    path = Path(path)
    try:
        return _read_binary(path) if path.suffix == ".datx" else _read_text(path)
    except OSError as error:
        raise DetectorFileError(path, "opening", error.strerror or str(error)) from error


def _read_text(path: Path) -> Detector:
    reader = _TextReader(path)
    head = reader.fields(2, "the header `detector version`", exact=False)
    ident = reader.integer(head[0])
    if head[1][:1] in "vV":
        version = reader.integer(head[1][1:])
        start, end, *_ = reader.numbers(reader.fields(2, "validity `from to`"))
        reader.fields(2, "the UTM reference point", exact=False)
        n = reader.integer(reader.fields(1, "the number of modules")[0])
    else:
        version, start, end, n = 1, 0.0, 9999999999.0, reader.integer(head[1])
    if not 1 <= version <= 5:
        raise reader.error(f"detector file version {version} is not known", "Versions 1 to 5 are")
    modules = [reader.module(version) for _ in range(n)]
    reader.finish()
    return _build(ident, version, (start, end), modules)


class _TextReader:
    def __init__(self, path: Path) -> None:
        self._path, self._number = path, 0
        self._lines = self._content(path.read_text(encoding="utf-8", errors="replace").split("\n"))

    def _content(self, lines: list[str]) -> Iterator[list[str]]:
        for self._number, line in enumerate(lines, 1):
            if line.strip() and not line.lstrip().startswith("#"):
                yield line.split()

    def error(self, cause: str, hint: str = "") -> DetectorFileError:
        return DetectorFileError(self._path, f"line {self._number}", cause, hint)

    def fields(self, n: int, what: str, exact: bool = True) -> list[str]:
        """Give the words of the next line, which must be n (or at least n)."""
        words = next(self._lines, None)
        if words is None:
            raise self.error(f"the file ends where {what} should be", "It is truncated: fetch it again")
        if len(words) < n or (exact and len(words) != n):
            cause = f"{n} words expected for {what}, {len(words)} found"
            raise self.error(cause, "A comment of several lines needs # on each")
        return words

    def numbers(self, words: list[str]) -> tuple[float, ...]:
        try:
            return tuple(map(float, words))
        except ValueError as error:
            raise self.error(f"a number expected: {error}") from None

    def integer(self, word: str) -> int:
        if not word.lstrip("+-").isdigit():
            raise self.error(f"an integer expected, {word!r} found")
        return int(word)

    def module(self, version: int) -> tuple[Module, Pmts]:
        width = 4 + (8 if version >= 4 else 0) + (1 if version >= 5 else 0)
        words = self.fields(width, "a module")
        dom, line, floor, n = (self.integer(words[i]) for i in (0, 1, 2, -1))
        centre = self.numbers(words[3:6]) if version >= 4 else None
        width = 9 if version >= 3 else 8
        pmts = [self.numbers(self.fields(width, f"a PMT of module {dom}")) for _ in range(n)]
        return (dom, line, floor, centre, n), pmts

    def finish(self) -> None:
        if next(self._lines, None) is not None:
            raise self.error("more lines than the modules announced", "Correct the number of modules")


def _build(
    ident: int, version: int, validity: tuple[float, float], modules: list[tuple[Module, Pmts]]
) -> Detector:
    """Keep the optical modules, sorted by id; channels that a short module lacks are NaN."""
    optical = sorted((m for m in modules if m[0][4]), key=lambda m: m[0][0])
    pmts = np.full((len(optical), CHANNELS, 7), np.nan)
    for row, (_, channels) in enumerate(optical):
        pmts[row, : len(channels)] = [channel[1:8] for channel in channels]
    heads = np.array([head[:3] for head, _ in optical], np.int64).reshape(-1, 3)
    given = [head[3] for head, _ in optical]
    position, direction = pmts[..., :3], pmts[..., 3:6]
    centre = np.array([_crossing(position[i], direction[i]) if c is None else c for i, c in enumerate(given)])
    return Detector(
        ident, version, validity, heads[:, 0], heads[:, 1], heads[:, 2],
        centre.reshape(-1, 3), position.copy(), direction.copy(), pmts[..., 6].copy(),
    )  # fmt: skip


def _crossing(position: Floats, direction: Floats) -> Floats:
    """Find the point nearest to all PMT axes (least squares): the centre of the DOM."""
    there = ~np.isnan(position[:, 0])
    axes = direction[there] / np.linalg.norm(direction[there], axis=1, keepdims=True)
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    right = (across @ position[there][:, :, None]).sum(axis=0)
    return np.asarray(np.linalg.lstsq(across.sum(axis=0), right[:, 0], rcond=None)[0])


_PMT = np.dtype([("id", "<i4"), ("values", "<f8", (7,)), ("status", "<i4")])


class _BinaryReader:
    def __init__(self, path: Path) -> None:
        self._path, self._data, self._at = path, path.read_bytes(), 0

    def unpack(self, form: str) -> tuple[Any, ...]:
        size = struct.calcsize(form)
        self._need(size)
        values = struct.unpack_from(form, self._data, self._at)
        self._at += size
        return values

    def _need(self, size: int) -> None:
        if size < 0 or self._at + size > len(self._data):
            where, hint = f"byte {self._at}", "It is truncated or no detector file: fetch it again"
            raise DetectorFileError(self._path, where, f"{size} bytes expected, the file ends", hint)

    def text(self) -> str:
        (size,) = self.unpack("<i")
        self._need(size)
        self._at += size
        return self._data[self._at - size : self._at].decode("ascii", "replace")

    def comments(self) -> None:
        while self._data[self._at : self._at + 4] == b"####":
            self._at += 4
            self.text()

    def module(self) -> tuple[Module, Pmts]:
        dom, line, floor, x, y, z, *_, n = self.unpack("<3i8d2i")
        self._need(n * _PMT.itemsize)
        pmts = np.frombuffer(self._data, _PMT, n, self._at)
        self._at += n * _PMT.itemsize
        rows = [(float(i), *values) for i, values in zip(pmts["id"], pmts["values"].tolist(), strict=True)]
        return (dom, line, floor, (x, y, z), n), rows


def _read_binary(path: Path) -> Detector:
    reader = _BinaryReader(path)
    reader.comments()
    (ident,) = reader.unpack("<i")
    version = reader.text()
    if version != "V5":
        raise DetectorFileError(path, "header", f"binary version {version!r} is not known", "V5 is")
    start, end = reader.unpack("<2d")
    for _ in range(3):
        reader.text()
    *_, n = reader.unpack("<3di")
    modules = [reader.module() for _ in range(n)]
    return _build(ident, 5, (start, end), modules)
