"""Clusters: cut from the event sequence, sealed into position-independent blobs.

Where a cluster ends depends on the sizes of the events alone, never on the batches they came in or on the
process that sealed them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import xxhash

from beamwright.core.errors import FormatError
from beamwright.event.rntuple.columns import check_columns, cut_columns, entry_bytes, join_columns
from beamwright.event.rntuple.encoding import ENCODINGS, Buffer, compress, encode
from beamwright.event.rntuple.schema import Array, ColumnData, Schema
from beamwright.event.rntuple.wire import PAGE, column_code

PAGE_BYTES = 1 << 18
"""Unpacked bytes of a full page; decided in docs/adr/0010."""
CLUSTER_BYTES = 32 << 20
"""Default in-memory bytes of events after which a cluster is cut."""
CHECKSUM = np.dtype("<u8")
_COUNT, _LENGTH = np.dtype("<i4"), np.dtype("<i8")
_HEAD = struct.Struct("<qqqq")


@dataclass(frozen=True, slots=True)
class SealedCluster:
    """The stored bytes of a cluster with its page table, valid at any place of any file of its schema.

    ``pages`` lists the pages column by column, offsets counted from the begin of ``blob``; ``counts`` and
    ``elements`` give pages and elements per column; ``checksums`` are the xxh3-64 of the stored pages, which
    also follow each page in ``blob``.
    """

    n_entries: int
    level: int
    counts: Array
    elements: Array
    pages: Array
    checksums: Array
    blob: Buffer

    def pack(self) -> list[Buffer]:
        """Return the cluster as buffers whose concatenation ``unpack`` takes."""
        head = _HEAD.pack(self.n_entries, self.level, len(self.counts), len(self.pages))
        tables = (self.counts, self.elements, self.pages, self.checksums)
        return [head, *(table.tobytes() for table in tables), self.blob]

    @classmethod
    def unpack(cls, data: Buffer) -> SealedCluster:
        """Return the cluster out of the bytes of ``pack``; the blob is a view of ``data``."""
        n_entries, level, n_columns, n_pages = _HEAD.unpack_from(data)
        at = _HEAD.size
        tables: list[Array] = []
        for dtype, count in ((_COUNT, n_columns), (_LENGTH, n_columns), (PAGE, n_pages), (CHECKSUM, n_pages)):
            tables.append(np.frombuffer(data, dtype, count, at))
            at += tables[-1].nbytes
        counts, elements, pages, checksums = tables
        return cls(n_entries, level, counts, elements, pages, checksums, memoryview(data)[at:])


@dataclass(frozen=True, slots=True)
class StoredPages:
    """Pages of one column as they are stored, each followed by its checksum in ``data``, none by a gap."""

    elements: Array
    sizes: Array
    checksums: Array
    data: Buffer


class ClusterSealer:
    """Makes a sealed cluster column by column, of values and of pages that are sealed already."""

    def __init__(self, level: int, page_bytes: int = PAGE_BYTES) -> None:
        self.level, self.page_bytes = level, page_bytes
        self._blob = bytearray()
        self._rows: list[tuple[int, int, int]] = []
        self._checksums: list[int] = []
        self._counts: list[int] = []
        self._elements: list[int] = []
        self._length = 0

    def seal(self, code: int, values: Array) -> None:
        """Append values to the column at hand, in pages of their own."""
        encoding = ENCODINGS[code]
        per_page = max(1, self.page_bytes * 8 // encoding.bits)
        for start in range(0, len(values), per_page):
            part = values[start : start + per_page]
            offset = len(self._blob)
            page = encode(encoding, part.view(np.uint64) if encoding.transform == "delta" else part)
            for piece in compress(page.data, self.level):
                self._blob += piece
            self._end_page(len(part), offset)
        self._length += len(values)

    def _end_page(self, elements: int, offset: int) -> None:
        with memoryview(self._blob) as view:
            checksum = xxhash.xxh3_64_intdigest(view[offset:])
        self._rows.append((-elements, len(self._blob) - offset, offset))
        self._checksums.append(checksum)
        self._blob += checksum.to_bytes(8, "little")

    def copy(self, pages: StoredPages) -> None:
        """Append pages to the column at hand as they are stored."""
        ends = np.cumsum(pages.sizes + 8) + len(self._blob)
        offsets = (ends - pages.sizes - 8).tolist()
        self._rows += zip((-pages.elements).tolist(), pages.sizes.tolist(), offsets, strict=True)
        self._checksums += pages.checksums.tolist()
        self._blob += pages.data
        self._length += int(pages.elements.sum())

    def end_column(self) -> None:
        """Go on with the next column."""
        self._counts.append(len(self._rows) - sum(self._counts))
        self._elements.append(self._length)
        self._length = 0

    def finish(self, n_entries: int) -> SealedCluster:
        """Return the cluster."""
        tables = np.array(self._counts, np.int32), np.array(self._elements, np.int64)
        pages, checksums = np.array(self._rows, PAGE), np.array(self._checksums, CHECKSUM)
        return SealedCluster(n_entries, self.level, *tables, pages, checksums, self._blob)


def seal_cluster(
    schema: Schema, arrays: Mapping[str, Array], level: int = 1, page_bytes: int = PAGE_BYTES
) -> SealedCluster:
    """Encode, compress and checksum the columns of one cluster; level 0 stores unpacked.

    Pure: equal arrays give equal bytes in any process or thread. Raises FormatError where the arrays do not
    fit the schema or hold no event.
    """
    ordered = check_columns(schema, arrays)
    n_entries = schema.n_entries(arrays)
    if n_entries == 0:
        raise FormatError("a cluster without events cannot be sealed", hint="an empty tuple has no cluster")
    sealer = ClusterSealer(level, page_bytes)
    for column, array in zip(schema.columns, ordered, strict=True):
        sealer.seal(column_code(schema, column), array[1:] if column.is_index else array)
        sealer.end_column()
    return sealer.finish(n_entries)


class ClusterCutter:
    """Cuts clusters from a stream of batches after every ``target`` in-memory bytes of events."""

    def __init__(self, schema: Schema, target: int = CLUSTER_BYTES) -> None:
        self.schema, self.target = schema, target
        self._parts: list[list[Array]] = []
        self._bytes = 0

    def add(self, arrays: Mapping[str, Array]) -> list[ColumnData]:
        """Take the next batch; return the clusters that it completes."""
        ordered = check_columns(self.schema, arrays)
        n_entries = self.schema.n_entries(arrays)
        weight = entry_bytes(self.schema, ordered, n_entries)
        done: list[ColumnData] = []
        start = 0
        while start < n_entries:
            # a cluster ends with the first event that reaches the target
            stop = int(np.searchsorted(weight, weight[start] + self.target - self._bytes))
            full = stop <= n_entries
            stop = min(stop, n_entries)
            self._parts.append(cut_columns(self.schema, ordered, start, stop))
            self._bytes += int(weight[stop] - weight[start])
            start = stop
            if full:
                done.append(self._take())
        return done

    def finish(self) -> ColumnData | None:
        """Return the last, smaller cluster, or None where there is none."""
        return self._take() if self._parts else None

    def _take(self) -> ColumnData:
        joined = join_columns(self.schema, self._parts)
        self._parts, self._bytes = [], 0
        return dict(zip((column.key for column in self.schema.columns), joined, strict=True))


def split_spans(pages: Array, limit: int) -> list[tuple[int, int]]:
    """Split a page table into runs (first page, last page + 1) without gap, of up to ``limit`` bytes."""
    begins = pages["offset"].astype(np.int64)
    ends = begins + pages["size"] + 8
    breaks = np.flatnonzero(begins[1:] != ends[:-1]) + 1
    spans: list[tuple[int, int]] = []
    for first, last in pairwise([0, *breaks.tolist(), len(pages)]):
        while first < last:
            fitting = int(np.searchsorted(ends[first:last], begins[first] + limit, side="right"))
            spans.append((first, first + max(1, fitting)))
            first = spans[-1][1]
    return spans


def span_bytes(pages: Array, first: int, last: int) -> tuple[int, int]:
    """Return where the run of pages from ``first`` to before ``last`` begins and ends, checksums included."""
    return int(pages["offset"][first]), int(pages["offset"][last - 1]) + int(pages["size"][last - 1]) + 8
