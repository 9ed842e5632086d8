"""Collections of files read back into batches, columns and pages as far as asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from beamwright.core.errors import FormatError, SchemaMismatchError
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch
from beamwright.event.evolution import Evolution
from beamwright.event.keys import Ascending, Index
from beamwright.event.metadata import FileMetadata, metadata_of
from beamwright.event.reader import OneKindReader
from beamwright.event.regular import Regular, Stretches
from beamwright.event.rntuple import ColumnData, Keeper, NTupleFile
from beamwright.event.sources import Borrower, SourceFiles
from beamwright.event.table import Table
from beamwright.event.tuples import KEYS, PARENTS, SOURCES, tables_of

BATCH = 4096
MAX_GAP = 2000
"""Records not asked for that are read along rather than starting another read."""
PIECE = 1 << 18
"""Keys that are read at a time to see whether they are regular."""
COMPILE_BYTES = 4 << 30
"""Bytes of columns in memory from which on compiled loops save more time than numba takes to load."""
MAX_OPEN = 200
"""Files of a collection that are open at the same time."""


class CollectionReader(OneKindReader):
    """Reads the records of a collection: files of one stream, in any order.

    ``series`` and ``declarations`` (the banks) come from the metadata of the files, which must agree. The
    files that a pointer skim leads into are found through ``sources`` (default: beside it). Given ``banks``,
    files of other versions are read as these declare.
    """

    reads_ahead = True

    def __init__(
        self,
        paths: Iterable[str | os.PathLike[str]],
        sources: SourceFiles | None = None,
        banks: BankSet | None = None,
    ) -> None:
        with ExitStack() as stack:
            self.files = list(_opened(paths, stack))
            if not self.files:
                raise FormatError("a collection without files cannot be read", hint="name at least one file")
            self.metadata = [metadata_of(file) for file in self.files]
            self._evolutions = self._evolve(banks)
            self._check_agreement(evolves=banks is not None)
            self._stack = stack.pop_all()
        first = self.metadata[0]
        self.series, self.record, self.built = first.series, first.record, first.built
        self.declarations = self._evolutions[0].declarations
        own = Evolution(first.banks, banks, str(self.files[0].path)).declarations
        self._own = frozenset(own)
        self._borrower = self._make_borrower(sources) if first.points else None
        self._starts = np.cumsum([0, *(file.n_entries for file in self.files)])
        self._index: Index | None = None
        self._bytes: list[int] = []

    @classmethod
    def open(cls, paths: Mapping[str, Path], **options: Any) -> Self:
        """Open the files given by role, in the order of the roles' names."""
        return cls([paths[role] for role in sorted(paths)])

    def _make_borrower(self, sources: SourceFiles | None) -> Borrower:
        found = sources or SourceFiles(folders={file.path.parent for file in self.files})
        banks = self.declarations
        return self._stack.enter_context(Borrower(found, lambda path: CollectionReader([path], found, banks)))

    @property
    def points(self) -> bool:
        """Whether the records lead into other files."""
        return self._borrower is not None

    def _evolve(self, banks: BankSet | None) -> list[Evolution]:
        described = zip(self.files, self.metadata, strict=True)
        return [Evolution(metadata.declarations, banks, str(file.path)) for file, metadata in described]

    def _check_agreement(self, evolves: bool) -> None:
        first = self.metadata[0]
        names = [tuple(evolution.declarations) for evolution in self._evolutions]
        for file, other in zip(self.files, self.metadata, strict=True):
            if (other.series, other.record, other.built) != (first.series, first.record, first.built):
                raise SchemaMismatchError(
                    f"{file.path} holds {other.record} records of series {other.series}, "
                    f"{self.files[0].path} {first.record} of {first.series}",
                    hint="a collection has one series and one record kind",
                )
        for number, (file, other) in enumerate(zip(self.files, self.metadata, strict=True)):
            same = file.schema == self.files[0].schema and _borrows(other) == _borrows(first)
            if not (same or (evolves and names[number] == names[0] and other.points == first.points)):
                raise SchemaMismatchError(
                    f"{file.path} and {self.files[0].path} have different banks",
                    hint="give the reader the banks as they are declared now, or read two collections",
                )

    @property
    def evolutions(self) -> list[Evolution]:
        """How the banks of each file become those declared."""
        return self._evolutions

    def holds(self, bank: str) -> bool:
        """Tell whether a bank lies in the files themselves."""
        return bank in self._own

    def __getitem__(self, name: str) -> Any:
        """Return a bank, whose columns are read on demand, or the column ``Bank.column`` or a key.

        Columns are those of all records: awkward arrays, keys NumPy ones.
        """
        from beamwright.event.columnar import bank_columns

        return bank_columns(self, name)

    def keys(self) -> list[str]:
        """Return what can be asked for by name: keys and banks."""
        return [*KEYS, *self.declarations]

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def place(self) -> str:
        return str(self.files[0].path)

    def index(self, record: str) -> Index:
        """Return the keys of all records in key order."""
        self._check_record(record)
        if self._index is None:
            sizes = [_record_bytes(file) for file in self.files]
            self._bytes = [int(part[0]) * len(part) for part in sizes if len(part)]
            size = _joined(sizes)
            regular = self._regular_index(size)
            self._index = self._make_index(size) if regular is None else regular
        return self._index

    def expect(self, banks: Iterable[str]) -> bool:
        """Prepare for reading these banks of most records, and tell whether by compiled loops.

        These read the same bits, and are taken where there are so many that it pays to load numba.
        """
        self.index(self.record)
        if self.points or sum(self._bytes) < COMPILE_BYTES:
            return False
        own = self._held(self.declarations.subset(banks))
        read = 0
        for file, evolution in zip(self.files, self._evolutions, strict=True):
            held = file.field_bytes()
            read += sum(held[bank][1] for bank in evolution.needed(own))
        if read < COMPILE_BYTES:
            return False
        try:
            from beamwright.event.rntuple import compiled
        except ImportError:
            return False
        compiled.use()
        return True

    def _regular_index(self, size: NDArray[np.int64]) -> Index | None:
        """Return the index where keys count up in the order of the files, which takes next to no memory."""
        parts = []
        for file, metadata in zip(self.files, self.metadata, strict=True):
            part = _regular_keys(file, metadata)
            if part is None:
                return None
            parts.append(part)
        run, section, event = (Regular.joined(columns) for columns in zip(*parts, strict=True))
        return Index.regular(run, section, event, size)

    def _make_index(self, size: NDArray[np.int64]) -> Index:
        parts = [_keys_of(file, metadata) for file, metadata in zip(self.files, self.metadata, strict=True)]
        columns = (_joined([part[name] for part in parts]) for name in KEYS)
        return Index.build(*columns, name=str(self.files[0].path), size=size)

    def read(self, record: str, positions: NDArray[np.int64], banks: Iterable[str] | None = None) -> Batch:
        """Return the records at ascending positions of the index, of one run, with the named banks or all."""
        index = self.index(record)
        positions = np.asarray(positions, np.int64)
        chosen = self.declarations if banks is None else self.declarations.subset(banks)
        run = index.run_of(int(positions[0])) if len(positions) else 0
        batch = self._read_run(index, positions, run, chosen)
        return self.read_entries(index.entry[positions], run, chosen) if batch is None else batch

    def _read_run(self, index: Index, positions: NDArray[np.int64], run: int, banks: BankSet) -> Batch | None:
        """Return records that follow each other in one file, their keys from the index; None for others."""
        n = len(positions)
        if not n or self.points or self.built or positions[-1] - positions[0] != n - 1:
            return None
        first = int(positions[0])
        number = int(np.searchsorted(self._starts, first, "right")) - 1
        if not index.is_in_order or first + n > self._starts[number + 1]:
            return None
        start = first - int(self._starts[number])
        names = self._names(number, banks)[len(KEYS) :]
        columns = self.files[number].read(names, start, start + n)
        columns["section"], columns["event"] = index.keys(first, first + n)
        return self._batch(run, columns, number, banks)

    def read_entries(self, entries: NDArray[np.int64], run: int, banks: BankSet) -> Batch:
        """Return the records, of one run and in key order, at places counted through all files."""
        parts = [self._read_piece(piece, run, banks) for piece in self._pieces(entries)]
        return Batch.concatenate(parts) if parts else self._empty(run, banks)

    def read_place(self, file: int, entry: int, run: int, banks: Iterable[str] | None = None) -> Batch:
        """Return one record, at an entry of a file, with the named banks or all."""
        chosen = self.declarations if banks is None else self.declarations.subset(banks)
        return self.read_entries(self._starts[file] + np.array([entry], np.int64), run, chosen)

    def batches(self, banks: Iterable[str] | None = None, size: int = BATCH) -> Iterator[Batch]:
        """Yield all records in key order, in batches that do not cross a run."""
        index, chosen = self.index(self.record), None if banks is None else tuple(banks)
        for part in np.split(np.arange(len(index)), index.run_cuts(Ascending(0, len(index)))):
            for start in range(0, len(part), size):
                yield self.read(self.record, part[start : start + size], chosen)

    def places(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the number of the file of each position of the index, and its place in that file."""
        entries = self.index(self.record).entry[positions]
        numbers = np.searchsorted(self._starts, entries, "right") - 1
        return numbers, entries - self._starts[numbers]

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
        own = self._held(banks)
        columns = self.files[number].read(self._names(number, own), start, start + int(local[-1]) + 1)
        if (columns["run"][local] != run).any():
            raise FormatError(
                f"{self.files[number].path}: entries from {start} on are not all of run {run}",
                hint="check the file with `beamwright validate`",
            )
        batch = self._batch(run, columns, number, own)
        if batch.n != len(entries):
            wanted = np.zeros(batch.n, np.bool_)
            wanted[local] = True
            batch = batch.take(wanted)
        if self._borrower is not None:
            sources = [columns[name][local] for name in SOURCES]
            borrowed = banks.subset(name for name in banks if name not in own)
            batch.tables |= self._borrower.tables(self.files[number].path, batch, sources, borrowed)
            batch = batch.only(banks)
        return batch

    def _held(self, banks: BankSet) -> BankSet:
        """Return those of the banks that lie in the files themselves."""
        return banks.subset(name for name in banks if name in self._own)

    def _names(self, number: int, own: BankSet) -> list[str]:
        """Return the names of what is read of a file: whole banks, or the columns that are declared."""
        names = [*KEYS, *(PARENTS if self.built else ()), *(SOURCES if self.points else ())]
        for bank in self._evolutions[number].needed(own).values():
            whole = len(bank.columns) == len(self.metadata[number].banks[bank.name].columns)
            names += [bank.name] if whole else [f"{bank.name}.{column.name}" for column in bank.columns]
        return names

    def _empty(self, run: int, banks: BankSet) -> Batch:
        own = self._held(banks)
        batch = self._batch(run, self.files[0].read(self._names(0, own), 0, 0), 0, own)
        empty = {name: Table.empty(bank, 0) for name, bank in banks.items() if name not in own}
        batch.tables |= empty
        return batch.only(banks)

    def _batch(self, run: int, columns: ColumnData, number: int, banks: BankSet) -> Batch:
        keys = columns["section"], columns["event"]
        batch = Batch(self.record, self.series, run, *keys, banks=self.declarations)
        if self.built:
            batch.parent_section, batch.parent_event = (columns[name] for name in PARENTS)
        evolution = self._evolutions[number]
        batch.tables = evolution.tables(tables_of(columns, evolution.needed(banks), batch.n), banks)
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


def _opened(paths: Iterable[str | os.PathLike[str]], stack: ExitStack) -> Iterator[NTupleFile]:
    """Open files, of which a process may not have any number open at once."""
    keeper, first = Keeper(MAX_OPEN), None
    for path in paths:
        file = stack.enter_context(NTupleFile(path, like=first))
        first = first or file
        keeper.awake(file)
        yield file


def _borrows(metadata: FileMetadata) -> tuple[Any, ...]:
    return metadata.borrowed.document(), metadata.order


def _keys_of(file: NTupleFile, metadata: FileMetadata) -> ColumnData:
    """Return the columns of keys; of a file of one run, the run as a view that takes no memory."""
    if len(metadata.runs) != 1:
        return file.read(KEYS)
    run = np.broadcast_to(np.uint32(metadata.runs[0]), file.n_entries)
    return {"run": run, **file.read(KEYS[1:])}


def _regular_keys(file: NTupleFile, metadata: FileMetadata) -> list[Regular] | None:
    """Return the columns of keys as stretches, None where they are too many; the memory is used again."""
    n, columns = file.n_entries, [Stretches(0, "u4"), Stretches(0, "u4"), Stretches(1, "u8")]
    names = KEYS[len(metadata.runs) == 1 :]
    for start in range(0, n, PIECE):
        keys = file.read(names, start, start + PIECE)
        pairs = zip(KEYS, columns, strict=True)
        if not all(column.add(keys[name]) for name, column in pairs if name in keys):
            return None
    found = [column.column() for column in columns]
    if len(metadata.runs) == 1:
        found[0] = Regular(np.zeros(1, np.int64), np.array(metadata.runs, np.uint32), n, 0)
    return found


def _record_bytes(file: NTupleFile) -> NDArray[np.int64]:
    """Return the mean bytes of a record, once for all of a file: a view that takes no memory."""
    whole = sum(file.cluster_bytes(number) for number in range(len(file.clusters)))
    return np.broadcast_to(np.int64(whole // max(file.n_entries, 1)), file.n_entries)


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
