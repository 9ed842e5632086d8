"""The event store: streams of batches into files, and files of one stream merged.

Where clusters end follows from the events alone and sealing is pure, so the bytes of a file do not depend on
batches, threads or the time.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from beamwright.core.errors import FormatError, SchemaMismatchError, StorageError
from beamwright.core.lineage import Lineage
from beamwright.core.runs import Position
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch
from beamwright.event.collection import CollectionReader
from beamwright.event.metadata import FileMetadata, read_metadata
from beamwright.event.rntuple import (
    CLUSTER_BYTES,
    ClusterCutter,
    ColumnData,
    FileWriter,
    SealedCluster,
    merge_files,
    seal_cluster,
)
from beamwright.event.tuples import columns_of, schema_of

__all__ = [
    "CollectionReader",
    "FileMetadata",
    "StreamWriter",
    "Written",
    "merge_collections",
    "read_metadata",
]


@dataclass(frozen=True, slots=True)
class Written:
    """One finished file: where it is, its events, its UUID and its size in bytes."""

    file: Path
    events: int
    uuid: str
    size: int


class StreamWriter:
    """Writes the batches of one stream, in key order, into one new file.

    Clusters are sealed on ``threads`` threads of its own; batches handed over must not change afterwards.
    """

    points: ClassVar[bool] = False
    """Whether the records lead into other files."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        stream: str,
        banks: BankSet,
        lineage: Lineage,
        *,
        record: str = "event",
        built: bool = False,
        level: int = 1,
        target: int = CLUSTER_BYTES,
        threads: int = 1,
    ) -> None:
        self.path, self.banks, self.record, self.built, self.level = Path(path), banks, record, built, level
        self.lineage = replace(lineage, stream=stream)
        self.schema = schema_of(banks, built, self.points)
        self.events = 0
        self._cutter = ClusterCutter(self.schema, target)
        self._runs: list[int] = []
        self._first: Position | None = None
        self._last: Position | None = None
        self._waiting: deque[Future[SealedCluster]] = deque()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"seal-{stream}")
        self._depth = 2 * threads
        self._file = self.path.open("xb", buffering=0)
        self._writer = FileWriter(self._file, self.schema)

    def write(self, batch: Batch) -> None:
        """Append a batch; its keys come after those written.

        Raises: FormatError where keys do not rise, StorageError where the disk refuses.
        """
        if not batch.n:
            return
        self._note(batch)
        for cluster in self._cutter.add(self.columns(batch)):
            self._submit(cluster)

    def columns(self, batch: Batch) -> ColumnData:
        """Return what the file holds of a batch."""
        return columns_of(batch, self.banks, self.built)

    def describe(self, metadata: FileMetadata) -> FileMetadata:
        """Return the metadata with what else there is to say of the file."""
        return metadata

    def _note(self, batch: Batch) -> None:
        first = (batch.run, int(batch.section[0]), int(batch.event[0]))
        if self._last is not None and first <= self._last:
            raise FormatError(
                f"{self.path}: record {first} comes after {self._last}",
                hint="write batches in the order of their keys",
            )
        if not self._runs or self._runs[-1] != batch.run:
            self._runs.append(batch.run)
        self._first = self._first or first
        self._last = (batch.run, int(batch.section[-1]), int(batch.event[-1]))
        self.events += batch.n

    def _submit(self, arrays: ColumnData) -> None:
        self._waiting.append(self._pool.submit(seal_cluster, self.schema, arrays, self.level))
        while self._waiting and (len(self._waiting) > self._depth or self._waiting[0].done()):
            self._append(self._waiting.popleft().result())

    def _append(self, cluster: SealedCluster) -> None:
        with storage_errors(self.path):
            self._writer.append(cluster)

    def close(self, quarantined: Sequence[str] = ()) -> Written:
        """Finish the file; the quarantined keys enter its lineage and with it its UUID."""
        last = self._cutter.finish()
        # There is nothing left to do beside it; a small file needs no thread at all.
        sealed = None if last is None else seal_cluster(self.schema, last, self.level)
        while self._waiting:
            self._append(self._waiting.popleft().result())
        if sealed is not None:
            self._append(sealed)
        self._pool.shutdown()
        lineage = replace(self.lineage, quarantined=(*self.lineage.quarantined, *quarantined))
        metadata = FileMetadata(
            lineage,
            self.record,
            self.built,
            self.banks,
            tuple(self._runs),
            self._first,
            self._last,
            self.events,
        )
        with storage_errors(self.path):
            uuid = self._writer.close(self.describe(metadata).document(), lineage=lineage.hash)
        size = os.fstat(self._file.fileno()).st_size
        self._file.close()
        return Written(self.path, self.events, str(uuid), size)

    def abort(self) -> None:
        """Stop and remove the unfinished file; harmless after ``close``."""
        if self._file.closed:
            return
        self._pool.shutdown(cancel_futures=True)
        self._waiting.clear()
        self._file.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.abort()


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into one that names the file and the next step."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raised = StorageError(f"{path} cannot be written: {reason}", hint="free space, or write elsewhere")
        raised.errno = error.errno
        raise raised from error


def merge_collections(
    inputs: Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    lineage: Lineage,
    *,
    level: int = 1,
    target: int = CLUSTER_BYTES,
) -> Written:
    """Merge files of one stream into a new file, in key order, copying pages.

    The quarantined keys of the inputs join those of ``lineage``. Raises SchemaMismatchError where the inputs
    disagree in anything that ``Lineage.group`` names or in their banks, FormatError where their keys overlap.
    """
    described = sorted(((read_metadata(name), Path(name)) for name in inputs), key=_merge_order)
    if not described:
        raise FormatError("there is nothing to merge", hint="name at least one input")
    check_lineages(described)
    metadata = [item for item, _ in described]
    keys = {key for item in metadata for key in item.lineage.quarantined} | set(lineage.quarantined)
    whole = replace(lineage, quarantined=tuple(sorted(keys)))
    filled = [item for item in metadata if item.events]
    runs = tuple(sorted({run for item in metadata for run in item.runs}))
    merged = replace(
        metadata[0],
        lineage=whole,
        runs=runs,
        first=filled[0].first if filled else None,
        last=filled[-1].last if filled else None,
        events=sum(item.events for item in metadata),
        sources=tuple(sorted({uuid for item in metadata for uuid in item.sources})),
    )
    with storage_errors(Path(path)), Path(path).open("xb", buffering=0) as out:
        names = [name for _, name in described]
        done = merge_files(names, out, merged.document(), lineage=whole.hash, level=level, target=target)
        size = os.fstat(out.fileno()).st_size
    return Written(Path(path), done.n_entries, str(done.uuid), size)


def _merge_order(item: tuple[FileMetadata, Path]) -> tuple[Any, ...]:
    metadata, path = item
    return (metadata.first or (0, 0, 0), metadata.lineage.interval, str(path))


def check_lineages(described: Sequence[tuple[FileMetadata, Path]]) -> None:
    """Refuse files that do not belong together, or whose keys overlap."""
    first, first_path = described[0]
    last: tuple[Position, Path] | None = None
    for metadata, path in described:
        if (metadata.lineage.group(), metadata.record) != (first.lineage.group(), first.record):
            raise SchemaMismatchError(
                f"{path} and {first_path} do not belong together: {_difference(first, metadata)}",
                hint="merge files of one stream, release, configuration and global tag",
            )
        if last is not None and metadata.first is not None and metadata.first <= last[0]:
            raise FormatError(
                f"the keys of {path} overlap those of {last[1]}",
                hint="give each range of keys to the merge once",
            )
        if metadata.last is not None:
            last = (metadata.last, path)


def _difference(one: FileMetadata, other: FileMetadata) -> str:
    left, right = one.lineage.document(), other.lineage.document()
    for name in (
        "stream",
        "tier",
        "series",
        "release",
        "config_hash",
        "global_tag",
        "is_mc",
        "is_resampled",
        *left,
    ):
        if left[name] != right[name]:
            return f"{name} is {right[name]!r}, not {left[name]!r}"
    return f"records are {other.record!r}, not {one.record!r}"
