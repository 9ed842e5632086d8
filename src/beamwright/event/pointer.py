"""Pointer skims: streams whose records hold new banks and lead into other files for the rest.

Such a stream takes the place of the records that it selects in files that stay; ``promote`` makes the deep
copy that the same path would have written.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from beamwright.core.errors import BeamwrightError, ConfigError, FormatError
from beamwright.core.lineage import Lineage
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch
from beamwright.event.collection import CollectionReader
from beamwright.event.keys import Index
from beamwright.event.metadata import FileMetadata
from beamwright.event.rntuple import CLUSTER_BYTES, ColumnData, NTupleFile
from beamwright.event.sources import SourceFiles, halves, stretches
from beamwright.event.store import StreamWriter, Written, check_lineages, joined_interval, joined_lineage
from beamwright.event.tuples import SOURCES


class PointerWriter(StreamWriter):
    """Writes a pointer skim of records that ``parents`` reads.

    ``banks`` are all that its records have, in the order of a deep copy; those in ``borrow`` stay where they
    are. Raises: ConfigError where nothing can be borrowed.
    """

    points: ClassVar[bool] = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        stream: str,
        banks: BankSet,
        lineage: Lineage,
        *,
        parents: CollectionReader,
        borrow: Iterable[str],
        **options: Any,
    ) -> None:
        self._parents = parents
        self._borrowed = parents.declarations.subset(name for name in borrow if name in banks)
        own = banks.subset(name for name in banks if name not in self._borrowed)
        self._order = tuple(banks)
        check_borrowing(stream, own, self._borrowed)
        self._ids = np.array([halves(str(file.uuid)) for file in parents.files], np.uint64).reshape(-1, 2)
        super().__init__(path, stream, own, lineage, record=parents.record, built=parents.built, **options)

    def columns(self, batch: Batch) -> ColumnData:
        """Return the keys, the pointers and the new banks of a batch."""
        index = self._parents.index(self.record)
        positions = positions_of(index, batch.run, batch.section, batch.event, self.lineage.stream)
        numbers, entries = self._parents.places(positions)
        pointers = (self._ids[numbers, 0], self._ids[numbers, 1], entries.astype(np.uint64))
        return super().columns(batch) | dict(zip(SOURCES, pointers, strict=True))

    def describe(self, metadata: FileMetadata) -> FileMetadata:
        """Return the metadata with the banks that are borrowed."""
        return replace(metadata, borrowed=self._borrowed, order=self._order)


def check_borrowing(stream: str, own: BankSet, borrowed: BankSet) -> None:
    """Refuse what cannot stay behind: nothing at all, or links into banks that are written anew."""
    if not len(borrowed):
        raise ConfigError(
            f"the pointer skim {stream} borrows no bank", hint="write it as a deep copy (pointer = false)"
        )
    for bank in borrowed.values():
        for column in bank.links:
            if column.link in own:
                raise ConfigError(
                    f"{stream}: bank {bank.name} stays and links into {column.link}, which is written anew",
                    hint=f"write {bank.name} anew too, or make a deep copy",
                )


def positions_of(
    index: Index, run: int, section: NDArray[np.uint32], event: NDArray[np.uint64], stream: str
) -> NDArray[np.int64]:
    """Return the positions in an index of keys of one run, which rise.

    Raises: FormatError where one is not in it.
    """
    start = index.position((run, int(section[0]), int(event[0])), "left")
    stop = index.position((run, int(section[-1]), int(event[-1])), "right")
    held = stop - start
    held_sections, held_events = index.keys(start, stop)
    sections, events = np.concatenate([held_sections, section]), np.concatenate([held_events, event])
    # The sort is stable: where a key is in both, that of the index stands just before the other.
    order = np.lexsort((events, sections))
    own = np.flatnonzero(order >= held)
    before = order[np.maximum(own - 1, 0)]
    found = (own > 0) & (before < held)
    found[found] &= (sections[before] == section)[found] & (events[before] == event)[found]
    if not found.all():
        at = int(np.flatnonzero(~found)[0])
        raise FormatError(
            f"pointer skim {stream}: record {run}:{section[at]}:{event[at]} is in none of the files read",
            hint="a pointer skim takes records that were read, it makes none",
        )
    return start + before.astype(np.int64)


def promote(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    sources: SourceFiles | None = None,
    *,
    level: int = 1,
    target: int = CLUSTER_BYTES,
) -> Written:
    """Write the deep copy of a pointer skim: byte for byte what its path writes without pointers.

    The files of one skim, if it has several, become one. Raises: ConfigError where a file is no pointer skim,
    SchemaMismatchError where files do not belong together, StorageError where one they lead into is missing.
    """
    names = [source] if isinstance(source, str | os.PathLike) else list(source)
    with CollectionReader(names, sources) as reader:
        if not reader.points:
            raise ConfigError(f"{names[0]} is no pointer skim", hint="it holds all its banks already")
        check_lineages([(m, file.path) for m, file in zip(reader.metadata, reader.files, strict=True)])
        made = StreamWriter(
            path, reader.metadata[0].stream, reader.declarations, _lineage(reader.metadata),
            record=reader.record, built=reader.built, level=level, target=target,
        )  # fmt: skip
        with made as writer:
            for batch in reader.batches():
                writer.write(batch)
            return writer.close()


def _lineage(metadata: Sequence[FileMetadata]) -> Lineage:
    """Return the lineage of a deep copy: that of the skim, or of all its files."""
    lineages = [item.lineage for item in metadata]
    if len(lineages) == 1:
        return lineages[0]
    parents = tuple(sorted({parent for lineage in lineages for parent in lineage.parents}))
    whole = replace(lineages[0], parents=parents, interval=joined_interval(lineages))
    return joined_lineage(whole, lineages)


def pointer_problems(file: NTupleFile, metadata: FileMetadata, sources: SourceFiles | None) -> list[str]:
    """Return what is wrong with the pointers of a file: files it does not name, and, where ``sources`` are
    given, records of other keys and links out of borrowed banks.
    """
    columns = file.read(SOURCES)
    found = {uuid for uuid, _, _ in stretches([columns[name] for name in SOURCES])}
    if found != set(metadata.sources):
        odd = sorted(found ^ set(metadata.sources))
        return [f"{file.path}: pointers and metadata disagree on the files they lead into: {', '.join(odd)}"]
    if sources is None:
        return []
    try:
        with CollectionReader([file.path], sources) as reader:
            return list(_borrowed_problems(file, metadata, reader))
    except BeamwrightError as error:
        return [str(error)]


def _borrowed_problems(file: NTupleFile, metadata: FileMetadata, reader: CollectionReader) -> Iterator[str]:
    links = [
        (bank.name, column) for bank in metadata.banks.values() for column in bank.links
        if column.link in metadata.borrowed
    ]  # fmt: skip
    targets = {column.link for _, column in links} or set(list(metadata.borrowed)[:1])
    names = [name for name in reader.declarations if name in targets or name in metadata.banks]
    for batch in reader.batches(names):
        for name, column in links:
            table, counts = batch[name], batch[column.link].counts
            values = table[column.name]
            flat = values.values if column.jagged else values
            wrong = (flat < -1) | (flat >= counts[table.link_records(column.name)])
            if wrong.any():
                at = int(table.link_records(column.name)[np.flatnonzero(wrong)[0]])
                key = batch.key(at)
                yield f"{file.path}: link {name}.{column.name} of {key} leads out of bank {column.link}"
                return
