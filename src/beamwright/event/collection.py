"""Collections of files read back into batches, columns and pages as far as asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from beamwright.core.errors import FormatError, SchemaMismatchError, UnknownNameError
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch
from beamwright.event.keys import Index
from beamwright.event.metadata import metadata_of
from beamwright.event.reader import Reader
from beamwright.event.rntuple import ColumnData, NTupleFile
from beamwright.event.tuples import KEYS, PARENTS, tables_of

MAX_GAP = 2000
"""Records not asked for that are read along rather than starting another read."""


class CollectionReader(Reader):
    """Reads the records of a collection: files of one stream, in any order.

    ``series`` and ``declarations`` (the banks) come from the metadata of the files, which must agree.
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        with ExitStack() as stack:
            self.files = [stack.enter_context(NTupleFile(path)) for path in paths]
            if not self.files:
                raise FormatError("a collection without files cannot be read", hint="name at least one file")
            self.metadata = [metadata_of(file) for file in self.files]
            self._check_agreement()
            self._stack = stack.pop_all()
        first = self.metadata[0]
        self.series, self.record, self.built, self.declarations = (
            first.series,
            first.record,
            first.built,
            first.banks,
        )
        self._starts = np.cumsum([0, *(file.n_entries for file in self.files)])
        self._index: Index | None = None

    @classmethod
    def open(cls, paths: Mapping[str, Path], **options: Any) -> Self:
        """Open the files given by role, in the order of the roles' names."""
        return cls([paths[role] for role in sorted(paths)])

    def _check_agreement(self) -> None:
        first = self.metadata[0]
        for file, other in zip(self.files, self.metadata, strict=True):
            if (other.series, other.record, other.built) != (first.series, first.record, first.built):
                raise SchemaMismatchError(
                    f"{file.path} holds {other.record} records of series {other.series}, "
                    f"{self.files[0].path} {first.record} of {first.series}",
                    hint="a collection has one series and one record kind",
                )
            if file.schema != self.files[0].schema:
                raise SchemaMismatchError(
                    f"{file.path} and {self.files[0].path} have different banks",
                    hint="read them as two collections, or write them anew with one declaration",
                )

    def records(self) -> tuple[str, ...]:
        """Return the record kinds: one."""
        return (self.record,)

    def banks(self, record: str) -> tuple[str, ...]:
        """Return the names of the banks of a record kind."""
        self._check_record(record)
        return tuple(self.declarations)

    def _check_record(self, record: str) -> None:
        if record != self.record:
            raise UnknownNameError(f"record kind of {self.files[0].path}", record, [self.record])

    def index(self, record: str) -> Index:
        """Return the keys of all records in key order."""
        self._check_record(record)
        if self._index is None:
            parts = [file.read(KEYS) for file in self.files]
            columns = (np.concatenate([part[name] for part in parts]) for name in KEYS)
            size = np.concatenate([_record_bytes(file) for file in self.files])
            self._index = Index.build(*columns, name=str(self.files[0].path), size=size)
        return self._index

    def read(self, record: str, positions: NDArray[np.int64], banks: Iterable[str] | None = None) -> Batch:
        """Return the records at ascending positions of the index, of one run, with the named banks or all."""
        index = self.index(record)
        positions = np.asarray(positions, np.int64)
        chosen = self.declarations if banks is None else self.declarations.subset(banks)
        run = int(index.run[positions[0]]) if len(positions) else 0
        parts = [self._read_piece(piece, run, chosen) for piece in self._pieces(index.entry[positions])]
        if not parts:
            return self._batch(run, self.files[0].read(self._names(chosen), 0, 0), chosen)
        return Batch.concatenate(parts)

    def _pieces(self, entries: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Split entries where a file ends, the order turns or a gap is wide."""
        if not len(entries):
            return []
        steps = np.diff(entries)
        files = np.searchsorted(self._starts, entries, "right")
        breaks = np.flatnonzero((steps <= 0) | (steps > MAX_GAP) | (files[1:] != files[:-1])) + 1
        return np.split(entries, breaks)

    def _read_piece(self, entries: NDArray[np.int64], run: int, banks: BankSet) -> Batch:
        number = int(np.searchsorted(self._starts, entries[0], "right")) - 1
        start = int(entries[0] - self._starts[number])
        local = entries - entries[0]
        columns = self.files[number].read(self._names(banks), start, start + int(local[-1]) + 1)
        batch = self._batch(run, columns, banks)
        if batch.n == len(entries):
            return batch
        wanted = np.zeros(batch.n, np.bool_)
        wanted[local] = True
        return batch.take(wanted)

    def _names(self, banks: BankSet) -> list[str]:
        return [*KEYS, *(PARENTS if self.built else ()), *banks]

    def _batch(self, run: int, columns: ColumnData, banks: BankSet) -> Batch:
        keys = columns["section"], columns["event"]
        batch = Batch(self.record, self.series, run, *keys, banks=self.declarations)
        if self.built:
            batch.parent_section, batch.parent_event = (columns[name] for name in PARENTS)
        batch.tables = tables_of(columns, banks, batch.n)
        return batch

    def reopen(self) -> None:
        """Prepare for use after a fork: nothing to do, reads carry their place with them."""

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _record_bytes(file: NTupleFile) -> NDArray[np.int64]:
    """Return the mean bytes of a record in its cluster, for each record."""
    lengths = [cluster.n_entries for cluster in file.clusters]
    means = [file.cluster_bytes(number) // length for number, length in enumerate(lengths)]
    return np.repeat(np.asarray(means, np.int64), lengths)
