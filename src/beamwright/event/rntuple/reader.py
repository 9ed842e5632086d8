"""Read columns of tuple files: lazily by column and event range, every page checked before use."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from beamwright.core.errors import FormatError, UnknownNameError
from beamwright.event.rntuple.encoding import (
    DAMAGED,
    ENCODINGS,
    Encoding,
    decode,
    decode_part,
    decompress,
    most_unpacked,
)
from beamwright.event.rntuple.file import Extents, TupleFile, count_elements, located, page_extents
from beamwright.event.rntuple.layout import Layout, build_layout
from beamwright.event.rntuple.memory import COLUMNS
from beamwright.event.rntuple.schema import Array, ColumnData, Schema
from beamwright.event.rntuple.wire import ColumnPages

Range = tuple[int, int]
OFFSETS = np.dtype(np.int64)
LARGE = 1 << 26
"""Elements from which on it is asked whether they are there before memory is taken for them."""


class NTupleFile(TupleFile):
    """The columns of one tuple of a ROOT file; see ``TupleFile`` for what is checked when."""

    def __init__(
        self, path: str | os.PathLike[str], name: str | None = None, like: NTupleFile | None = None
    ) -> None:
        super().__init__(path, name, like)
        if like is not None and self.description == like.description:
            self.layout = like.layout
        self._recent: dict[int, _Page] = {}
        self._tables: dict[int, _Pages] = {}

    @cached_property
    def layout(self) -> Layout:
        """Return the schema and the physical columns behind it."""
        return build_layout(self.description)

    @cached_property
    def _starts(self) -> list[int]:
        return [cluster.first_entry for cluster in self.clusters]

    @property
    def schema(self) -> Schema:
        """Return the schema: all fields that can be read."""
        return self.layout.schema

    def cluster_bytes(self, cluster: int) -> int:
        """Return the in-memory bytes of a cluster, from its page table."""
        total = 0
        for number, column in enumerate(self.schema.columns):
            total += count_elements(self.stored(number, cluster)[1].pages) * column.itemsize
        return total

    def field_bytes(self) -> dict[str, tuple[int, int]]:
        """Return the bytes of each field at the top, as stored and as they are in memory."""
        found: dict[str, tuple[int, int]] = {}
        for number, column in enumerate(self.schema.columns):
            name = column.key.partition("@")[0].partition(".")[0]
            stored, unpacked = found.get(name, (0, 0))
            for cluster in range(len(self.clusters)):
                pages = self.stored(number, cluster)[1].pages
                stored += int(pages["size"].astype(np.int64).sum()) + 8 * int((pages["elements"] < 0).sum())
                unpacked += count_elements(pages) * column.itemsize
            found[name] = stored, unpacked
        return found

    def select(self, columns: Iterable[str] | None = None) -> list[int]:
        """Return the numbers of the named columns and of the offsets they need, parents first.

        A name is a column key (``Hit.t``) or a field path (``Hit``: all columns in it); None means all.
        """
        if columns is None:
            return list(range(len(self.schema.columns)))
        wanted: set[int] = set()
        for name in columns:
            for number in self._matching(name):
                while number >= 0:
                    wanted.add(number)
                    number = self.schema.columns[number].parent
        return sorted(wanted)

    def _matching(self, name: str) -> list[int]:
        found = [
            number
            for number, column in enumerate(self.schema.columns)
            if column.key == name or column.key.startswith((f"{name}.", f"{name}@"))
        ]
        if found:
            return found
        for path, reason in self.layout.unsupported.items():
            if path == name or name.startswith(f"{path}."):
                raise FormatError(
                    f"{self.path}: column {name} cannot be read: {reason}",
                    hint="leaves, strings, vectors and records can; write the column as one of them",
                )
        raise UnknownNameError(f"column of {self.path}", name, self.schema.index)

    def read(
        self, columns: Iterable[str] | None = None, start: int = 0, stop: int | None = None
    ) -> ColumnData:
        """Return columns of the events ``start`` to ``stop`` with the offsets that count them.

        Raises ChecksumError, naming column, cluster, page and place, before any damaged value is returned.
        """
        wanted = self.select(columns)
        stop = self.n_entries if stop is None else min(stop, self.n_entries)
        pieces = self._pieces(max(start, 0), stop)
        ranges = {-1: [(first, last) for _, first, last in pieces]}
        clusters = [number for number, _, _ in pieces]
        out: ColumnData = {}
        with located(self.path):
            for number in wanted:
                column = self.schema.columns[number]
                spans = ranges[column.parent]
                if column.is_index:
                    out[column.key], ranges[number] = self._read_offsets(number, clusters, spans)
                else:
                    out[column.key] = self._read_values(number, clusters, spans)
        return out

    def _pieces(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Return (cluster, first event, last event), events counted in the cluster."""
        pieces = []
        begin = max(bisect_right(self._starts, start) - 1, 0)
        for number in range(begin, bisect_left(self._starts, stop)):
            cluster = self.clusters[number]
            first = max(start - cluster.first_entry, 0)
            last = min(stop - cluster.first_entry, cluster.n_entries)
            if first < last:
                pieces.append((number, first, last))
        return pieces

    def _read_values(self, number: int, clusters: Sequence[int], spans: Sequence[Range]) -> Array:
        out = COLUMNS.empty(self._count(number, clusters, spans), self.schema.columns[number].dtype)
        at = 0
        for cluster, (first, last) in zip(clusters, spans, strict=True):
            self.fill(number, cluster, first, last, out[at : at + last - first])
            at += last - first
        return out

    def _count(self, number: int, clusters: Sequence[int], spans: Sequence[Range]) -> int:
        """Return the number of elements in spans of clusters; so many that memory matters must be there."""
        n = sum(last - first for first, last in spans)
        if n >= LARGE:
            for cluster, (_, last) in zip(clusters, spans, strict=True):
                self._check_held(number, cluster, last)
        return n

    def _read_offsets(
        self, number: int, clusters: Sequence[int], spans: Sequence[Range]
    ) -> tuple[Array, list[Range]]:
        """Return joined offsets from 0, and the element range of the children per cluster."""
        out = COLUMNS.empty(self._count(number, clusters, spans) + 1, OFFSETS)
        children: list[Range] = []
        out[0], at = 0, 1
        for cluster, (first, last) in zip(clusters, spans, strict=True):
            ends = out[at : at + last - first]
            self.fill(number, cluster, first, last, ends)
            begin = self._element(number, cluster, first - 1) if first and last > first else 0
            finish = int(ends[-1]) if last > first else begin
            if finish < begin:
                key = self.schema.columns[number].key
                raise FormatError(f"offsets {key} fall in cluster {cluster}", hint=DAMAGED)
            children.append((begin, finish))
            ends += out[at - 1] - begin
            at += last - first
        return out, children

    def _element(self, number: int, cluster: int, position: int) -> int:
        value = np.empty(1, self.schema.columns[number].dtype)
        self.fill(number, cluster, position, position + 1, value)
        return int(value[0])

    def stored(self, number: int, cluster: int) -> tuple[Encoding, ColumnPages]:
        """Return the pages that hold a column in a cluster, and their encoding.

        Raises: FormatError where there are none, or where they are said to hold more than they can.
        """
        pages = self.clusters[cluster].columns
        key = self.schema.columns[number].key
        for physical in self.layout.physical[number]:
            if physical < len(pages) and pages[physical].first >= 0:
                encoding, found = ENCODINGS[self.description.columns[physical].code], pages[physical]
                claimed = np.abs(found.pages["elements"].astype(np.int64)) * encoding.bits // 8
                if bool((claimed > most_unpacked(found.pages["size"].astype(np.int64))).any()):
                    raise FormatError(
                        f"a page of column {key} in cluster {cluster} is too small for its elements",
                        hint=DAMAGED,
                    )
                return encoding, found
        raise FormatError(f"column {key} has no pages in cluster {cluster}", hint=DAMAGED)

    def fill(self, number: int, cluster: int, first: int, last: int, out: Array) -> None:
        """Decode elements ``first`` to ``last`` of a column of a cluster into ``out``."""
        first, out = self._from_recent(number, cluster, first, out)
        if first == last:
            return
        pages = self._pages(number, cluster)
        what = self.schema.columns[number].key
        self._check_held(number, cluster, last)
        begin, stop = bisect_right(pages.ends, first), bisect_left(pages.ends, last) + 1
        stored, encoding = self.fetch(what, cluster, pages.extents, begin, stop), pages.encoding
        position = pages.ends[begin] - pages.counts[begin]
        for data, count in zip(stored, pages.counts[begin:stop], strict=True):
            page = decompress(data, encoding.page_bytes(count))
            low, high = max(first, position), min(last, position + count)
            if high - low == count:
                decode(encoding, page, out[low - first : high - first])
            else:
                recent = _Page(cluster, position, count, encoding, bytes(page))
                self._recent[number] = recent
                recent.fill(low, out[low - first : high - first])
            position += count

    def _check_held(self, number: int, cluster: int, last: int) -> None:
        """Refuse to read more elements than a column has in a cluster."""
        pages = self._pages(number, cluster)
        if last > (pages.ends[-1] if pages.ends else 0):
            key = self.schema.columns[number].key
            raise FormatError(f"column {key} has too few elements in cluster {cluster}", hint=DAMAGED)

    def _pages(self, number: int, cluster: int) -> _Pages:
        """Return what the page table says of a column in a cluster; batches ask for one cluster in a row."""
        held = self._tables.get(number)
        if held is None or held.cluster != cluster:
            encoding, column = self.stored(number, cluster)
            held = self._tables[number] = _Pages.of(cluster, encoding, column)
        return held

    def _from_recent(self, number: int, cluster: int, first: int, out: Array) -> tuple[int, Array]:
        """Take what the page read last has of the elements wanted; return what remains."""
        recent = self._recent.get(number)
        if recent is None or recent.cluster != cluster or not 0 <= first - recent.position < recent.count:
            return first, out
        held = min(len(out), recent.position + recent.count - first)
        recent.fill(first, out[:held])
        return first + held, out[held:]


class _Pages(NamedTuple):
    """The page table of a column in a cluster, as plain numbers."""

    cluster: int
    encoding: Encoding
    counts: list[int]
    ends: list[int]
    extents: Extents

    @classmethod
    def of(cls, cluster: int, encoding: Encoding, column: ColumnPages) -> _Pages:
        counts = np.abs(column.pages["elements"].astype(np.int64))
        return cls(cluster, encoding, counts.tolist(), np.cumsum(counts).tolist(), page_extents(column.pages))


class _Page:
    """An unpacked page that was read in part: the rest may be wanted next."""

    def __init__(self, cluster: int, position: int, count: int, encoding: Encoding, data: bytes) -> None:
        self.cluster, self.position, self.count = cluster, position, count
        self._encoding, self._data = encoding, data
        self._values: Array | None = None

    def fill(self, first: int, out: Array) -> None:
        """Decode elements of the cluster from ``first`` on into ``out``."""
        start = first - self.position
        if decode_part(self._encoding, self._data, self.count, start, out):
            return
        values = self._values
        if values is None or values.dtype != out.dtype:
            values = np.empty(self.count, out.dtype)
            decode(self._encoding, self._data, values)
            self._values = values  # only now: other threads may read the same page
        out[:] = values[start : start + len(out)]
