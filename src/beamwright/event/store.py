"""The event store: streams of batches into files, and files of one stream merged.

Where clusters end follows from the events alone and sealing is pure, so the bytes of a file do not depend on
batches, threads or the time.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple, Self

import numpy as np

from beamwright.core.canonical import merkle_root
from beamwright.core.errors import ConflictError, FormatError, SchemaMismatchError, StorageError
from beamwright.core.lineage import Lineage
from beamwright.core.runs import EventKey, Interval, Position
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch
from beamwright.event.collection import CollectionReader
from beamwright.event.metadata import FileMetadata, metadata_of, read_metadata
from beamwright.event.rntuple import (
    CLUSTER_BYTES,
    ClusterCutter,
    ColumnData,
    FileWriter,
    NTupleFile,
    SealedCluster,
    merge_files,
    seal_cluster,
)
from beamwright.event.sources import stretches
from beamwright.event.tuples import KEYS, SOURCES, columns_of, schema_of

__all__ = [
    "CollectionReader",
    "FileMetadata",
    "Split",
    "StreamWriter",
    "Written",
    "merge_collections",
    "read_metadata",
]


WRITE_HINTS = {
    errno.ENOENT: "make its folder, or write elsewhere",
    errno.ENOTDIR: "what should be its folder is a file; write elsewhere",
    errno.EACCES: "write where you have the right to",
    errno.EROFS: "write where you have the right to",
}


@dataclass(frozen=True, slots=True)
class Written:
    """One finished file: where it is, its events, its UUID and its size in bytes.

    ``parts`` are the files of a stream that was split; the others then say of the first file where it is and
    its UUID, and of all together events and size. ``sources`` are the files that a pointer skim leads into.
    """

    file: Path
    events: int
    uuid: str
    size: int
    parts: tuple[Written, ...] = ()
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Split:
    """When a stream goes on in another file: after so many events, or before more bytes (0: never)."""

    events: int = 0
    bytes: int = 0

    def __bool__(self) -> bool:
        return bool(self.events or self.bytes)


@dataclass
class _Part:
    """One file on its way: what was written into it so far."""

    path: Path
    file: BinaryIO
    writer: FileWriter
    runs: list[int] = field(default_factory=list)
    first: Position | None = None
    last: Position | None = None
    size: int = 0
    sources: set[str] = field(default_factory=set)

    def note(self, keys: Keys, size: int) -> None:
        """Take account of a cluster."""
        self.runs += [run for run in keys.runs if run not in self.runs[-1:]]
        self.first, self.last = self.first or keys.first, keys.last
        self.size += size
        self.sources |= keys.sources


class Keys(NamedTuple):
    """The keys of a cluster, and the files that its records lead into."""

    runs: list[int]
    first: Position
    last: Position
    sources: set[str]

    @classmethod
    def of(cls, arrays: ColumnData) -> Keys:
        run, section, event = (arrays[name] for name in KEYS)
        ends = [(int(run[i]), int(section[i]), int(event[i])) for i in (0, -1)]
        points = [arrays[name] for name in SOURCES if name in arrays]
        sources = {uuid for uuid, _, _ in stretches(points)} if points else set()
        return cls(np.unique(run).tolist(), ends[0], ends[1], sources)


class StreamWriter:
    """Writes the batches of one stream, in key order, into one new file, or as ``split`` says into several.

    Clusters are sealed on ``threads`` threads of its own; batches handed over must not change afterwards.
    A stream that is split goes to ``name.0001.root`` and so on; files end with clusters, so that merging them
    gives what would have been written without a split by size.
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
        split: Split | None = None,
    ) -> None:
        self.path, self.banks, self.record, self.built, self.level = Path(path), banks, record, built, level
        self.lineage = replace(lineage, stream=stream)
        self.schema = schema_of(banks, built, self.points)
        self.events = 0
        self._split = split or Split()
        self._cutter = ClusterCutter(self.schema, target)
        self._last: Position | None = None
        self._waiting: deque[tuple[Future[SealedCluster], Keys]] = deque()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"seal-{stream}")
        self._depth = 2 * threads
        self._parts: list[_Part] = []
        self._open()

    def _open(self) -> None:
        number = len(self._parts) + 1
        path = part_path(self.path, number) if self._split else self.path
        with storage_errors(path):
            file = path.open("xb", buffering=0)
        self._parts.append(_Part(path, file, FileWriter(file, self.schema)))

    def write(self, batch: Batch) -> None:
        """Append a batch; its keys come after those written.

        Raises: FormatError where keys do not rise, StorageError where the disk refuses.
        """
        if not batch.n:
            return
        self._note(batch)
        limit = self._split.events
        start = 0
        while limit and start + limit - self.events % limit <= batch.n:
            stop = start + limit - self.events % limit
            self._add(batch.cut(start, stop))
            self._finish_cluster()
            start = stop
        if start < batch.n:
            self._add(batch.cut(start, batch.n) if start else batch)

    def _add(self, batch: Batch) -> None:
        self.events += batch.n
        for cluster in self._cutter.add(self.columns(batch)):
            self._submit(cluster)

    def _finish_cluster(self) -> None:
        """End the cluster with the file that it is the last of."""
        last = self._cutter.finish()
        if last is not None:
            self._submit(last)

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
        self._last = (batch.run, int(batch.section[-1]), int(batch.event[-1]))

    def _submit(self, arrays: ColumnData) -> None:
        sealed = self._pool.submit(seal_cluster, self.schema, arrays, self.level)
        self._waiting.append((sealed, Keys.of(arrays)))
        while self._waiting and (len(self._waiting) > self._depth or self._waiting[0][0].done()):
            future, keys = self._waiting.popleft()
            self._append(future.result(), keys)

    def _append(self, cluster: SealedCluster, keys: Keys) -> None:
        with storage_errors(self.path):
            if self._is_full(self._parts[-1], len(cluster.blob)):
                self._open()
            part = self._parts[-1]
            part.writer.append(cluster)
        part.note(keys, len(cluster.blob))

    def _is_full(self, part: _Part, more: int) -> bool:
        split, held = self._split, part.writer.n_entries
        return bool(held) and (
            bool(split.events and held >= split.events)
            or bool(split.bytes and part.size + more > split.bytes)
        )

    def close(self, quarantined: Sequence[str] = ()) -> Written:
        """Finish the file; the quarantined keys enter its lineage and with it its UUID."""
        last = self._cutter.finish()
        # There is nothing left to do beside it; a small file needs no thread at all.
        sealed = None if last is None else seal_cluster(self.schema, last, self.level)
        while self._waiting:
            future, keys = self._waiting.popleft()
            self._append(future.result(), keys)
        if sealed is not None and last is not None:
            self._append(sealed, Keys.of(last))
        self._pool.shutdown()
        gone = (*self.lineage.quarantined, *quarantined)
        shares = share_out(gone, [part.last for part in self._parts])
        done = [self._close_part(part, share) for part, share in zip(self._parts, shares, strict=True)]
        if not self._split:
            return done[0]
        events, size = sum(part.events for part in done), sum(part.size for part in done)
        sources = tuple(sorted({uuid for part in done for uuid in part.sources}))
        return Written(done[0].file, events, done[0].uuid, size, tuple(done), sources)

    def _close_part(self, part: _Part, quarantined: tuple[str, ...]) -> Written:
        lineage, events = replace(self.lineage, quarantined=quarantined), part.writer.n_entries
        metadata = FileMetadata(
            lineage, self.record, self.built, self.banks, tuple(part.runs), part.first, part.last, events,
            sources=tuple(sorted(part.sources)),
        )  # fmt: skip
        with storage_errors(part.path):
            uuid = part.writer.close(self.describe(metadata).document(), lineage=lineage.hash)
        size = os.fstat(part.file.fileno()).st_size
        part.file.close()
        return Written(part.path, events, str(uuid), size, sources=metadata.sources)

    def abort(self) -> None:
        """Stop and remove the unfinished files; harmless after ``close``."""
        if all(part.file.closed for part in self._parts):
            return
        self._pool.shutdown(cancel_futures=True)
        self._waiting.clear()
        for part in self._parts:
            part.file.close()
            part.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.abort()


def share_out(keys: Sequence[str], lasts: Sequence[Position | None]) -> list[tuple[str, ...]]:
    """Give each quarantined key to the file that it would stand in, by the last key of each file."""
    ends = [last for last in lasts[:-1] if last is not None]
    found: list[list[str]] = [[] for _ in lasts]
    for key in keys:
        found[bisect_left(ends, EventKey.parse(key).position) if ends else 0].append(key)
    return [tuple(keys) for keys in found]


def part_path(path: Path, number: int) -> Path:
    """Return the path of one file of a stream that is split: ``dst.0001.root``."""
    return path.with_name(f"{path.stem}.{number:04d}{path.suffix}")


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into one that names the file and the next step.

    Raises: ConflictError where the file is there, else StorageError.
    """
    try:
        yield
    except StorageError:
        raise
    except FileExistsError as error:
        raise ConflictError(f"{path} exists already", hint="name another file, or remove it") from error
    except OSError as error:
        hint = WRITE_HINTS.get(error.errno or 0, "free space, or write elsewhere")
        raised = StorageError(f"{path} cannot be written: {error.strerror or error}", hint=hint)
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

    The quarantined keys of the inputs join those of ``lineage``; its constants are those of the inputs.
    Raises SchemaMismatchError where the inputs disagree in anything that ``Lineage.group`` names, in their
    constants or in their banks, FormatError where their keys overlap.
    """
    if not inputs:
        raise FormatError("there is nothing to merge", hint="name at least one input")
    described = sorted(describe_files(inputs), key=_merge_order)
    check_lineages(described)
    metadata = [item for item, _ in described]
    whole = joined_lineage(lineage, [item.lineage for item in metadata])
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
    names = [name for _, name in described]
    with storage_errors(Path(path)), new_file(Path(path)) as out:
        done = merge_files(names, out, merged.document(), lineage=whole.hash, level=level, target=target)
        size = os.fstat(out.fileno()).st_size
    return Written(Path(path), done.n_entries, str(done.uuid), size, sources=merged.sources)


def joined_lineage(lineage: Lineage, parts: Sequence[Lineage]) -> Lineage:
    """Return a lineage with the quarantined keys and the constants of parts."""
    keys = {key for part in parts for key in part.quarantined} | set(lineage.quarantined)
    return replace(
        lineage,
        quarantined=tuple(sorted(keys)),
        global_tag=parts[0].global_tag,
        resolved_hash=_constants({part.resolved_hash for part in parts}),
    )


def joined_interval(lineages: Iterable[Lineage]) -> tuple[Any, ...]:
    """Return the interval over all that files were asked for, () where one does not say."""
    found = [Interval.from_document(lineage.interval) if lineage.interval else None for lineage in lineages]
    known = [interval for interval in found if interval is not None]
    if len(known) < len(found):
        return ()
    hull = Interval(known[0].series, min(i.first for i in known), max(i.last for i in known))
    return tuple(hull.document())


def _constants(resolved: set[str]) -> str:
    """Return the resolved hash of a merge: that of its inputs, or the root over several."""
    return resolved.pop() if len(resolved) == 1 else merkle_root(resolved)


def describe_files(inputs: Sequence[str | os.PathLike[str]]) -> Iterator[tuple[FileMetadata, Path]]:
    """Yield what each file says of itself; files with the header of the first are read faster."""
    with NTupleFile(inputs[0]) as first:
        for name in inputs:
            with NTupleFile(name, like=first) as file:
                yield metadata_of(file), file.path


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file, and remove it when what is to be written fails."""
    with path.open("xb", buffering=0) as out:
        try:
            yield out
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _merge_order(item: tuple[FileMetadata, Path]) -> tuple[Any, ...]:
    metadata, path = item
    return (metadata.first or (0, 0, 0), metadata.lineage.interval, str(path))


def check_lineages(described: Sequence[tuple[FileMetadata, Path]], may_overlap: bool = False) -> None:
    """Refuse files that do not belong together, or whose keys overlap."""
    first, first_path = described[0]
    last: tuple[Position, Path] | None = None
    for metadata, path in sorted(described, key=_merge_order):
        if (metadata.lineage.group(), metadata.record) != (first.lineage.group(), first.record):
            raise SchemaMismatchError(
                f"{path} and {first_path} do not belong together: {_difference(first, metadata)}",
                hint="merge files of one stream, release, configuration and global tag",
            )
        if not may_overlap and last is not None and metadata.first is not None and metadata.first <= last[0]:
            raise FormatError(
                f"the keys of {path} overlap those of {last[1]}",
                hint="give each range of keys to the merge once, or join them with `merge --interleave`",
            )
        if metadata.last is not None:
            last = (metadata.last, path)
    _check_constants(described)


def _check_constants(described: Sequence[tuple[FileMetadata, Path]]) -> None:
    """Refuse files of one interval with different constants: no version of a tag gives both."""
    own = [(m.lineage, path) for m, path in described if m.lineage.interval]
    asked = [(Interval.from_document(lineage.interval), lineage, path) for lineage, path in own]
    asked.sort(key=lambda item: item[0])
    held = asked[:1]
    for interval, lineage, path in asked[1:]:
        reach, other, other_path = held[0]
        shared = reach.intersect(interval)
        if shared and other.resolved_hash != lineage.resolved_hash:
            raise SchemaMismatchError(
                f"{path} and {other_path} cover {shared} with different constants: no version "
                f"of {lineage.global_tag or 'a global tag'} explains both",
                hint="merge files of one processing; after a skip-back those of the newest",
            )
        if interval.last > reach.last:
            held = [(interval, lineage, path)]


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
