"""Join tuple files by copying their sealed pages.

Pages are position independent, so a merge writes new page lists and copies the bytes. Runs of clusters
below a quarter of the target are unpacked and sealed again as larger ones. The bytes that were checked are
those that are written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import numpy as np

from beamwright.core.errors import FormatError, SchemaMismatchError
from beamwright.event.rntuple import tfile
from beamwright.event.rntuple.cluster import CHECKSUM, CLUSTER_BYTES, SealedCluster, seal_cluster, split_spans
from beamwright.event.rntuple.columns import join_columns
from beamwright.event.rntuple.file import count_elements, located, page_extents
from beamwright.event.rntuple.reader import NTupleFile
from beamwright.event.rntuple.schema import Array, Schema
from beamwright.event.rntuple.wire import PAGE
from beamwright.event.rntuple.writer import FileWriter

PORTION = 1 << 20
"""Bytes read, checked and written at a time."""


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
    bytes: int
    columns: list[Array] | None = None


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
            with NTupleFile(path) as file:
                check_mergeable(first, file)
        merger = _Merger(FileWriter(out, first.schema, first.name), target, level)
        for path in inputs:
            # One input is open at a time: there may be more of them than a process may open.
            with NTupleFile(path) as file:
                check_mergeable(first, file)
                for number in range(len(file.clusters)):
                    merger.add(file, number)
        merger.flush()
        identity = merger.writer.close(metadata, uuid=uuid, lineage=lineage)
    return MergeResult(identity, merger.writer.n_entries, merger.copied, merger.resealed)


def check_mergeable(first: NTupleFile, file: NTupleFile) -> None:
    """Refuse a file of another writer or another schema than the first."""
    if not file.is_own:
        raise FormatError(
            f"{file.path} was written by {file.writer or 'another program'}",
            hint="pages are copied between files of beamwright only; process the file into one first",
        )
    if file.header_checksum != first.header_checksum:
        raise SchemaMismatchError(
            f"{file.path} and {first.path} differ: {schema_difference(first.schema, file.schema)}",
            hint="merge files of one stream and one bank version",
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
    def __init__(self, writer: FileWriter, target: int, level: int) -> None:
        self.writer, self.target, self.level = writer, target, level
        self.copied = self.resealed = 0
        self._small: list[_Part] = []
        self._bytes = 0

    def add(self, file: NTupleFile, number: int) -> None:
        """Take the next cluster; small ones wait for company."""
        size = file.cluster_bytes(number)
        if size * 4 >= self.target:
            self.flush()
            self._copy(file, number)
            return
        self._small.append(_Part(file.path, number, size))
        self._bytes += size
        if len(self._small) > 1:
            self._small[-1].columns = _read_cluster(file, number)
        if self._bytes >= self.target:
            self.flush()

    def flush(self) -> None:
        """Write the waiting small clusters as one."""
        waiting, self._small, self._bytes = self._small, [], 0
        if not waiting:
            return
        with NTupleFile(waiting[0].path) as file:
            if len(waiting) == 1:
                self._copy(file, waiting[0].cluster)
                return
            waiting[0].columns = _read_cluster(file, waiting[0].cluster)
        self._reseal(waiting)

    def _reseal(self, parts: Sequence[_Part]) -> None:
        schema = self.writer.schema
        joined = join_columns(schema, [part.columns for part in parts if part.columns is not None])
        arrays = {column.key: array for column, array in zip(schema.columns, joined, strict=True)}
        self.writer.append(seal_cluster(schema, arrays, self.level))
        self.resealed += len(parts)

    def _copy(self, source: NTupleFile, number: int) -> None:
        cluster = sealed_cluster(source, number)
        column_of = np.repeat(np.arange(len(cluster.counts)), cluster.counts)
        page_of = np.arange(len(column_of)) - np.repeat(
            np.cumsum(cluster.counts) - cluster.counts, cluster.counts
        )
        extents = page_extents(cluster.pages)
        keys = [column.key for column in source.schema.columns]

        def put(key: tfile.Key, first: int, last: int) -> None:
            self.writer.write_at(key.position, key.head())
            position = key.data
            for low, high in _portions(cluster, column_of, first, last):
                found: list[bytes] = []
                with located(source.path):
                    block = source.block(
                        keys[column_of[low]], number, extents[low:high], int(page_of[low]), found
                    )
                cluster.checksums[low:high] = np.frombuffer(b"".join(found), CHECKSUM)
                self.writer.write_at(position, block)
                position += len(block)

        self.writer.place(cluster, put)
        self.copied += 1


def _portions(cluster: SealedCluster, column_of: Array, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Split a run of pages at columns and into portions that stay in the processor's caches."""
    breaks = np.flatnonzero(np.diff(column_of[first:last])) + 1 + first
    for low, high in pairwise([first, *breaks.tolist(), last]):
        for begin, end in split_spans(cluster.pages[low:high], PORTION):
            yield low + begin, low + end


def _read_cluster(file: NTupleFile, number: int) -> list[Array]:
    cluster = file.clusters[number]
    arrays = file.read(None, cluster.first_entry, cluster.first_entry + cluster.n_entries)
    return [arrays[column.key] for column in file.schema.columns]


def sealed_cluster(file: NTupleFile, number: int) -> SealedCluster:
    """Return the page table of a cluster of a file, offsets as in the file, checksums still to be filled."""
    cluster = file.clusters[number]
    tables = [column.pages for column in cluster.columns]
    counts = np.array([len(pages) for pages in tables], np.int32)
    elements = np.array([count_elements(pages) for pages in tables], np.int64)
    level = cluster.columns[0].compression % 100
    pages = np.concatenate(tables).astype(PAGE, copy=False)
    return SealedCluster(
        cluster.n_entries, level, counts, elements, pages, np.zeros(len(pages), CHECKSUM), b""
    )
