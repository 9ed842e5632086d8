"""Files of others: TTrees and RNTuples, whoever wrote them, read through uproot as records with banks.

Numbers and texts per entry become the columns of one bank with one row, ``Event``. Lists are grouped by what
stands before the first ``_`` or ``.``: ``Track_pt`` and ``Track_eta`` are columns of the bank ``Track``. A
collection of structures is a bank as it is, with the members of structures in it as columns. Keys are found
by their usual names. Needs the extra ``columnar``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from beamwright.core.errors import FormatError, UnknownNameError
from beamwright.event.banks import LEAVES, MANY, MAX_DEPTH, ONE, RESERVED, TEXT, Bank, BankSet, Column
from beamwright.event.batch import Batch
from beamwright.event.columnar import extra
from beamwright.event.keys import Index
from beamwright.event.reader import OneKindReader, Positions
from beamwright.event.table import Array, Jagged, Table, Values

SCALARS = "Event"
VALUE = "value"
TUPLES = ("TTree", "ROOT::RNTuple", "ROOT::Experimental::RNTuple")
KEY_NAMES: dict[str, tuple[str, ...]] = {
    "run": ("run", "Run", "runNumber", "run_number", "RunNumber"),
    "section": ("section", "luminosityBlock", "lumiBlock", "lumi"),
    "event": ("event", "eventNumber", "event_number", "EventNumber", "evt"),
}
_TYPES = {dtype: name for name, dtype in LEAVES.items()}


@dataclass(frozen=True)
class _Source:
    """Where a column comes from: a branch, and the way to a member of it where it holds structures."""

    branch: str
    member: tuple[str, ...] = ()

    def of(self, arrays: Any) -> Any:
        values = arrays[self.branch]
        for name in self.member:
            values = values[name]
        return values

    def __str__(self) -> str:
        return ".".join((self.branch, *self.member))


@dataclass
class Derived:
    """The banks of a tree, the sources of their columns, and what has no place in them."""

    banks: dict[str, dict[str, Column]] = field(default_factory=dict)
    rows: dict[str, str] = field(default_factory=dict)
    sources: dict[tuple[str, str], _Source] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, bank: str, column: str, rows: str, kind: Any, source: _Source) -> None:
        """Take a column, unless its type has no place in a bank."""
        bank, column = _identifier(bank), _identifier(column)
        where = str(source)
        if kind is None:
            self.skipped[where] = "neither numbers nor text, nor lists of them"
        elif self.rows.setdefault(bank, rows) != rows or column in self.banks.get(bank, {}):
            self.skipped[where] = f"bank {bank} has another column or form of that name"
        else:
            name, depth = kind
            self.banks.setdefault(bank, {})[column] = Column(column, name, depth)
            self.sources[bank, column] = source

    def declarations(self) -> BankSet:
        """Return the banks."""
        found = (
            Bank(name, 1, self.rows[name], "", tuple(columns.values()))
            for name, columns in self.banks.items()
        )
        return BankSet(found, closed=False)


def _identifier(name: str) -> str:
    """Return a name as banks and columns have it."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII).lstrip("_0123456789") or VALUE
    return f"{plain}_" if plain in RESERVED else plain


def derive(layouts: Mapping[str, Any]) -> Derived:
    """Return the banks of branches, given as layouts of awkward arrays without entries."""
    derived = Derived()
    for branch, layout in layouts.items():
        inner = _items(layout)
        structure = layout if inner is None else inner
        prefix, _, rest = branch.partition("." if "." in branch else "_")
        if structure.is_record:
            bank, _, column = branch.partition(".")
            for path, member in _members(structure):
                name = "_".join([column, *path] if column else path)
                derived.add(bank, name, ONE if inner is None else MANY, _kind(member), _Source(branch, path))
        elif inner is None:
            derived.add(SCALARS, branch, ONE, _kind(layout), _Source(branch))
        elif rest:
            derived.add(prefix, rest, MANY, _kind(inner), _Source(branch))
        else:
            derived.add(branch, VALUE, MANY, _kind(inner), _Source(branch))
    return derived


def _items(layout: Any) -> Any:
    """Return the layout of the items of a list, None for anything else."""
    return layout.content if layout.is_list and not _is_text(layout) else None


def _members(structure: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the members of a structure, and those of structures in it."""
    for name in structure.fields:
        member = structure[name]
        if name.startswith("@"):  # how it was stored
            continue
        if member.is_record:
            yield from _members(member, (*path, name))
        else:
            yield (*path, name), member


def _is_text(layout: Any) -> bool:
    return layout.parameter("__array__") in ("string", "bytestring")


def _kind(layout: Any) -> tuple[str, int] | None:
    """Return the type of a column and its levels of lists, None where no column holds it."""
    depth, leaf = 0, layout
    while (inner := _items(leaf)) is not None:
        depth, leaf = depth + 1, inner
    name = _TYPES.get(leaf.dtype) if leaf.is_numpy and leaf.inner_shape == () else None
    if leaf.parameter("__array__") == "string":
        name = TEXT
    return None if name is None or depth > MAX_DEPTH else (name, depth)


class ForeignReader(OneKindReader):
    """Reads one tree of a file of others; subclass it to say which tree, record kind and keys are meant.

    A file without run numbers takes the run that is given, one without sections has section 0, one without
    event numbers counts its entries. ``skipped`` names branches that are not read, and why.
    """

    tree: ClassVar[str] = ""
    record = "event"
    keys: ClassVar[Mapping[str, str]] = {}
    built = False

    def __init__(self, path: Path, series: str = "", run: int = 0) -> None:
        self.path, self.series, self._run = Path(path), series, run
        self._index: Index | None = None
        self._open()
        self.skipped: dict[str, str] = {}
        layouts = self._layouts()
        self._key_names = self._find_keys(list(layouts))
        derived = derive({k: v for k, v in layouts.items() if k not in self._key_names.values()})
        self._sources = derived.sources
        self.skipped |= derived.skipped
        self.declarations = derived.declarations()

    @classmethod
    def open(cls, paths: Mapping[str, Path], *, series: str, run: int) -> Self:
        """Open the one file that is given.

        Raises: FormatError.
        """
        if len(paths) != 1:
            raise FormatError(
                f"{len(paths)} files of others cannot be read as one", hint="give one at a time"
            )
        return cls(next(iter(paths.values())), series, run)

    def _open(self) -> None:
        try:
            uproot = extra("uproot")
            # Without threads: workers are forked after the file is opened.
            self._file = uproot.open(self.path, handler=uproot.MemmapSource)
            names = [k for k, kind in self._file.classnames(cycle=False).items() if kind in TUPLES]
        except (ValueError, OSError) as error:
            raise FormatError(f"{self.path} is no ROOT file: {error}", hint="check the file") from error
        if self.tree and self.tree not in names:
            raise UnknownNameError(f"tree of {self.path}", self.tree, names)
        if not self.tree and len(names) != 1:
            raise FormatError(
                f"{self.path} holds {len(names)} trees: {', '.join(names) or 'none'}",
                hint="subclass ForeignReader and name its tree",
            )
        self._tree = self._file[self.tree or names[0]]

    def _branches(self) -> list[str]:
        return [name for name in self._tree.keys(recursive=False) if not name.startswith("_")]

    def _layouts(self) -> dict[str, Any]:
        """Return the layout of each branch; of one that is split, that of its parts."""
        found: dict[str, Any] = {}
        for branch in self._branches():
            try:
                arrays = self._arrays([branch], 0, 0)
            except Exception as error:  # noqa: BLE001 - uproot has many ways to say that it is no array
                self.skipped[branch] = f"it does not become arrays ({type(error).__name__})"
                continue
            parts = [name for name in arrays.fields if name.startswith(f"{branch}.")]
            found |= {name: arrays[name].layout for name in parts or arrays.fields}
        return found

    def _arrays(self, names: list[str], start: int, stop: int) -> Any:
        return self._tree.arrays(filter_name=_selected(names), entry_start=start, entry_stop=stop)

    def _find_keys(self, branches: list[str]) -> dict[str, str]:
        found = {}
        for key, usual in KEY_NAMES.items():
            wanted = self.keys.get(key)
            if wanted is not None and wanted not in branches:
                raise UnknownNameError(f"branch of {self.path} (the {key} number)", wanted, branches)
            name = wanted or next((name for name in usual if name in branches), None)
            if name is not None:
                found[key] = name
        return found

    @property
    def place(self) -> str:
        return str(self.path)

    def index(self, record: str) -> Index:
        """Return the keys of all entries in key order."""
        self._check_record(record)
        if self._index is None:
            n = int(self._tree.num_entries)
            arrays = self._arrays(list(self._key_names.values()), 0, n) if self._key_names else {}
            columns = {key: np.asarray(arrays[name]) for key, name in self._key_names.items()}
            columns.setdefault("run", np.full(n, self._run))
            columns.setdefault("section", np.zeros(n, np.uint32))
            columns.setdefault("event", np.arange(n))
            self._index = Index.build(*(columns[key] for key in KEY_NAMES), name=str(self.path))
        return self._index

    def read(self, record: str, positions: Positions, banks: Iterable[str] | None = None) -> Batch:
        """Return the records at ascending positions of the index, of one run."""
        index = self.index(record)
        names = tuple(self.declarations) if banks is None else tuple(banks)
        run = int(index.run[positions[0]]) if len(positions) else 0
        arrays = self._entries(index.entry[positions], names)
        batch = Batch(
            record,
            self.series,
            run,
            index.section[positions],
            index.event[positions],
            banks=self.declarations,
        )
        for name in names:
            batch.tables[name] = self._table(self.declarations[name], arrays, batch.n)
        return batch

    def _entries(self, entries: NDArray[np.int64], banks: tuple[str, ...]) -> Any:
        branches = sorted({source.branch for (bank, _), source in self._sources.items() if bank in banks})
        cuts = [0, *(np.flatnonzero(np.diff(entries) != 1) + 1).tolist(), len(entries)]
        spans = [(int(entries[a]), int(entries[b - 1]) + 1) for a, b in pairwise(cuts) if b > a] or [(0, 0)]
        parts = [self._arrays(branches, first, last) for first, last in spans]
        return parts[0] if len(parts) == 1 else extra("awkward").concatenate(parts)

    def _table(self, bank: Bank, arrays: Any, n: int) -> Table:
        columns: dict[str, Values] = {}
        counts: Array | None = None
        for column in bank.columns:
            source = self._sources[bank.name, column.name]
            values = source.of(arrays)
            if bank.rows == MANY:
                values, found = _flat(values)
                if counts is not None and not np.array_equal(counts, found):
                    raise FormatError(
                        f"{self.path}: {source.branch} counts other rows of {bank.name} than the others",
                        hint="its branches do not belong together: read it in a tree of its own",
                    )
                counts = found
            columns[column.name] = _values(values, column)
        if counts is None:
            return Table(bank, np.arange(n + 1), columns)
        return Table.from_counts(bank, counts, columns)

    def reopen(self) -> None:
        """Open the file anew: its position is shared with the process before the fork."""
        self._open()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _selected(names: list[str]) -> Any:
    """Return a filter for whole branches, with the members of collections."""
    return lambda name: name.partition(".")[0] in names or name in names


def _flat(lists: Any) -> tuple[Any, Array]:
    """Return the items of lists, one level flat, and their numbers."""
    awkward = extra("awkward")
    values = awkward.flatten(lists, axis=1)
    return (values if values.ndim > 1 else _plain(values)), np.asarray(awkward.num(lists, axis=1))


def _values(values: Any, column: Column) -> Values:
    plain = extra("awkward").without_parameters(values) if column.is_text else values
    return _lists(plain, column.levels)


def _lists(values: Any, levels: int) -> Values:
    if not levels:
        return _plain(values)
    awkward = extra("awkward")
    inner = _lists(awkward.flatten(values, axis=1), levels - 1)
    return Jagged.from_counts(np.asarray(awkward.num(values, axis=1)), inner)


def _plain(values: Any) -> Array:
    array = np.asarray(values)
    return array.astype(array.dtype.newbyteorder("<"), copy=False)
