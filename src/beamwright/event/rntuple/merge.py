"""Join tuple files by copying their sealed pages.

Pages are position independent, so a merge writes new page lists and copies the bytes. Runs of clusters
below a quarter of the target become larger ones: of each column, pages of a good size are copied, smaller
ones and offsets are unpacked and sealed again. The bytes that were checked are those that are written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import numpy as np

from beamwright.core.errors import FormatError, SchemaMismatchError
from beamwright.event.rntuple import tfile
from beamwright.event.rntuple.cluster import (
    CHECKSUM,
    CLUSTER_BYTES,
    PAGE_BYTES,
    ClusterSealer,
    SealedCluster,
    StoredPages,
    split_spans,
)
from beamwright.event.rntuple.columns import join_offsets
from beamwright.event.rntuple.encoding import DAMAGED, ENCODINGS, Encoding, decode, decompress
from beamwright.event.rntuple.file import located, page_extents
from beamwright.event.rntuple.reader import NTupleFile
from beamwright.event.rntuple.schema import Array, Schema
from beamwright.event.rntuple.wire import PAGE, column_code
from beamwright.event.rntuple.writer import FileWriter

PORTION = 1 << 20
"""Bytes read, checked and written at a time."""
FOREIGN = "pages are copied between files of beamwright only; process the file into one first"
MIN_PAGE = PAGE_BYTES // 4
"""Mean unpacked bytes of a column's pages from which on they are copied into a larger cluster."""


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What a merge made: identity, events, and how many clusters it copied and sealed again."""

    uuid: UUID
    n_entries: int
    copied: int
    resealed: int


@dataclass(slots=True)
class _Part:
    """A small cluster that waits for company; ``columns`` are read once it has some."""

    path: Path
    cluster: int
    n_entries: int
    columns: list[Array | StoredPages] | None = None


def merge_files(
    inputs: Sequence[str | os.PathLike[str]],
    out: BinaryIO,
    metadata: Mapping[str, Any],
    *,
    uuid: UUID | None = None,
    lineage: str = "",
    target: int = CLUSTER_BYTES,
    level: int = 1,
) -> MergeResult:
    """Join files of one schema, in the order given, into ``out`` (a real file, opened for writing, empty).

    Raises SchemaMismatchError where the schemas differ, ChecksumError where a page is damaged.
    """
    if not inputs:
        raise FormatError("there is nothing to merge", hint="name at least one input")
    with NTupleFile(inputs[0]) as first:
        for path in inputs:
            with NTupleFile(path, like=first) as file:
                check_mergeable(first, file)
        merger = _Merger(first, writer_like(first, out), target, level)
        for path in inputs:
            # One input is open at a time: there may be more of them than a process may open.
            with NTupleFile(path, like=first) as file:
                check_mergeable(first, file)
                for number in range(len(file.clusters)):
                    merger.add(file, number)
        merger.flush()
        identity = merger.writer.close(metadata, uuid=uuid, lineage=lineage)
    return MergeResult(identity, merger.writer.n_entries, merger.copied, merger.resealed)


def writer_like(file: NTupleFile, out: BinaryIO) -> FileWriter:
    """Return a writer of files into which the pages of another one are copied.

    Raises: FormatError where the other one is laid out in a way that is not ours.
    """
    writer = FileWriter(out, file.schema, file.name)
    if writer.header_checksum != file.header_checksum:
        raise FormatError(f"{file.path} has columns in forms that are not written here", hint=FOREIGN)
    return writer


def check_mergeable(first: NTupleFile, file: NTupleFile) -> None:
    """Refuse a file of another writer or another schema than the first."""
    if not file.is_own:
        raise FormatError(f"{file.path} was written by {file.writer or 'another program'}", hint=FOREIGN)
    if file.header_checksum != first.header_checksum:
        raise SchemaMismatchError(
            f"{file.path} and {first.path} differ: {schema_difference(first.schema, file.schema)}",
            hint="merge files of one stream and one bank version; `beamwright process` over all of them, "
            "with the banks as they are declared now, writes them anew as one",
        )


def schema_difference(one: Schema, other: Schema) -> str:
    """Say in words where two schemas first differ."""
    missing = sorted(one.index.keys() - other.index.keys())
    added = sorted(other.index.keys() - one.index.keys())
    if missing or added:
        parts = [f"it lacks {', '.join(missing)}"] * bool(missing) + [f"it adds {', '.join(added)}"] * bool(
            added
        )
        return " and ".join(parts)
    for column in one.columns:
        dtype = other.column(column.key).dtype
        if dtype != column.dtype:
            return f"column {column.key} is {dtype}, was {column.dtype}"
    return "name, order or description of the columns"


class _Merger:
    def __init__(self, first: NTupleFile, writer: FileWriter, target: int, level: int) -> None:
        self.first, self.writer, self.target, self.level = first, writer, target, level
        self.copied = self.resealed = 0
        self._itemsizes = np.array([column.itemsize for column in writer.schema.columns])
        self._small: list[_Part] = []
        self._bytes = 0

    def add(self, file: NTupleFile, number: int) -> None:
        """Take the next cluster; small ones wait for company."""
        cluster = sealed_cluster(file, number)
        size = int(cluster.elements @ self._itemsizes)
        if size * 4 >= self.target:
            self.flush()
            self._copy(file, number, cluster)
            return
        self._small.append(_Part(file.path, number, cluster.n_entries))
        self._bytes += size
        if len(self._small) > 1:
            self._small[-1].columns = _read_columns(file, number, cluster)
        if self._bytes >= self.target:
            self.flush()

    def flush(self) -> None:
        """Write the waiting small clusters as one."""
        waiting, self._small, self._bytes = self._small, [], 0
        if not waiting:
            return
        number = waiting[0].cluster
        with NTupleFile(waiting[0].path, like=self.first) as file:
            cluster = sealed_cluster(file, number)
            if len(waiting) == 1:
                self._copy(file, number, cluster)
                return
            waiting[0].columns = _read_columns(file, number, cluster)
        self.writer.append(_joined(self.writer.schema, waiting, self.level))
        self.resealed += len(waiting)

    def _copy(self, file: NTupleFile, number: int, cluster: SealedCluster) -> None:
        copy_cluster(self.writer, file, number, cluster)
        self.copied += 1


def copy_cluster(writer: FileWriter, source: NTupleFile, number: int, cluster: SealedCluster) -> None:
    """Append a cluster of another file, whose page table is given, page by page as it is stored."""
    place = _places(source, number, cluster)
    extents = page_extents(cluster.pages)

    def put(key: tfile.Key, first: int, last: int) -> None:
        writer.write_at(key.position, key.head())
        position = key.data
        for begin, end in split_spans(cluster.pages[first:last], PORTION):
            low, high = first + begin, first + end
            found: list[bytes] = []
            with located(source.path):
                block = source.block(extents[low:high], place, low, found)
            cluster.checksums[low:high] = np.frombuffer(b"".join(found), CHECKSUM)
            writer.write_at(position, block)
            position += len(block)

    writer.place(cluster, put)


def _places(file: NTupleFile, number: int, cluster: SealedCluster) -> Callable[[int], tuple[str, int, int]]:
    """Return what names column, cluster and page of each page in the table of a cluster."""
    starts = np.cumsum(cluster.counts) - cluster.counts

    def place(page: int) -> tuple[str, int, int]:
        column = int(np.searchsorted(starts, page, "right")) - 1
        return file.schema.columns[column].key, number, page - int(starts[column])

    return place


def sealed_cluster(file: NTupleFile, number: int) -> SealedCluster:
    """Return the page table of a cluster of a file, offsets as in the file, checksums still to be filled."""
    cluster = file.clusters[number]
    counts = np.array([len(column.pages) for column in cluster.columns], np.int32)
    pages = np.frombuffer(b"".join(column.pages.tobytes() for column in cluster.columns), PAGE)
    ends = np.concatenate([[0], np.cumsum(np.abs(pages["elements"].astype(np.int64)))])
    stops = np.cumsum(counts)
    elements = ends[stops] - ends[stops - counts]
    level = cluster.columns[0].compression % 100
    return SealedCluster(
        cluster.n_entries, level, counts, elements, pages, np.zeros(len(pages), CHECKSUM), b""
    )


# --- small clusters


def _read_columns(file: NTupleFile, number: int, cluster: SealedCluster) -> list[Array | StoredPages]:
    """Return what each column gives to a larger cluster: offsets and values, or pages to be copied."""
    found: list[Array | StoredPages] = []
    with located(file.path):
        whole, begins = _read_pages(file, number, cluster)
        stops = np.cumsum(cluster.counts).tolist()
        for at, column in enumerate(file.schema.columns):
            elements, count = int(cluster.elements[at]), int(cluster.counts[at])
            pages = slice(stops[at] - count, stops[at])
            if not column.is_index and elements * column.itemsize >= MIN_PAGE * max(count, 1):
                found.append(_stored_pages(cluster, pages, whole, begins))
                continue
            values = np.zeros(elements + column.is_index, column.dtype)
            code = column_code(file.schema, column)
            _decode_pages(ENCODINGS[code], cluster, pages, whole, begins, values[int(column.is_index) :])
            found.append(values)
        _check_lengths(file, number, cluster, found)
    return found


def _read_pages(file: NTupleFile, number: int, cluster: SealedCluster) -> tuple[memoryview, Array]:
    """Read and check the pages of a cluster; return them with their checksums, and where each begins."""
    place, extents = _places(file, number, cluster), page_extents(cluster.pages)
    parts, found = [], list[bytes]()
    for first, last in split_spans(cluster.pages, 1 << 30):
        parts.append(bytes(file.block(extents[first:last], place, first, found)))
    cluster.checksums[:] = np.frombuffer(b"".join(found), CHECKSUM)
    sizes = cluster.pages["size"].astype(np.int64) + 8
    return memoryview(b"".join(parts)), np.cumsum(sizes) - sizes


def _stored_pages(cluster: SealedCluster, pages: slice, whole: memoryview, begins: Array) -> StoredPages:
    table, checksums = cluster.pages[pages], cluster.checksums[pages]
    sizes = table["size"].astype(np.int64)
    first = int(begins[pages.start])
    data = whole[first : first + int(sizes.sum()) + 8 * len(sizes)]
    return StoredPages(np.abs(table["elements"].astype(np.int64)), sizes, checksums, data)


def _decode_pages(
    encoding: Encoding, cluster: SealedCluster, pages: slice, whole: memoryview, begins: Array, out: Array
) -> None:
    """Fill ``out`` with the elements of some pages."""
    table, done = cluster.pages[pages], 0
    for begin, size, count in zip(begins[pages], table["size"], np.abs(table["elements"]), strict=True):
        page = decompress(whole[int(begin) : int(begin) + int(size)], encoding.page_bytes(int(count)))
        decode(encoding, page, out[done : done + int(count)])
        done += int(count)


def _check_lengths(
    file: NTupleFile, number: int, cluster: SealedCluster, columns: Sequence[Array | StoredPages]
) -> None:
    """Refuse columns that have other lengths than is counted; pages that are copied are not looked into."""
    for at, column in enumerate(file.schema.columns):
        counter = None if column.parent < 0 else columns[column.parent]
        expected = int(counter[-1]) if isinstance(counter, np.ndarray) else cluster.n_entries
        if int(cluster.elements[at]) != expected:
            raise FormatError(
                f"column {column.key} has {cluster.elements[at]} elements in cluster {number}, "
                f"{expected} are counted",
                hint=DAMAGED,
            )


def _joined(schema: Schema, parts: Sequence[_Part], level: int) -> SealedCluster:
    """Return the cluster of several small ones."""
    sealer = ClusterSealer(level)
    lists = zip(*(part.columns for part in parts if part.columns is not None), strict=True)
    for column, found in zip(schema.columns, lists, strict=True):
        code = column_code(schema, column)
        for is_value, group in groupby(found, lambda piece: isinstance(piece, np.ndarray)):
            pieces: list[Any] = list(group)
            if column.is_index:
                sealer.seal(code, join_offsets(pieces)[1:])
            elif is_value:
                sealer.seal(code, np.concatenate(pieces))
            else:
                for piece in pieces:
                    sealer.copy(piece)
        sealer.end_column()
    return sealer.finish(sum(part.n_entries for part in parts))
