"""Tables: the rows of one bank for all records of a batch, as flat columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from beamwright.core.errors import FormatError, ModuleError, UnknownNameError, nearest
from beamwright.event.banks import CHARS, ONE, Bank, Column

if TYPE_CHECKING:
    from beamwright.event.batch import Batch

Array: TypeAlias = NDArray[Any]
Offsets: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]


def offsets_of(counts: ArrayLike) -> Offsets:
    """Return int64 offsets (n + 1 of them, from 0) of n counts."""
    array = np.asarray(counts)
    offsets = np.zeros(len(array) + 1, np.int64)
    np.cumsum(array, out=offsets[1:])
    return offsets


class Jagged:
    """Lists of unequal length: ``offsets`` int64[n + 1] from 0, ``values`` flat or lists again.

    Text is lists of UTF-8 bytes.
    """

    __slots__ = ("offsets", "values")

    def __init__(self, offsets: ArrayLike, values: ArrayLike | Jagged) -> None:
        self.offsets: Offsets = np.asarray(offsets, np.int64)
        self.values: Any = values if isinstance(values, Jagged) else np.asarray(values)

    @classmethod
    def from_counts(cls, counts: ArrayLike, values: ArrayLike | Jagged) -> Jagged:
        """Make lists of these lengths."""
        return cls(offsets_of(counts), values)

    @classmethod
    def from_lists(cls, lists: Sequence[ArrayLike], dtype: Any) -> Jagged:
        """Make it from one sequence per list."""
        parts = [np.asarray(part, dtype) for part in lists]
        values = np.concatenate(parts) if parts else np.zeros(0, dtype)
        return cls.from_counts([len(part) for part in parts], values)

    @classmethod
    def from_text(cls, texts: Iterable[str]) -> Jagged:
        """Make it from one text per row."""
        parts = [text.encode() for text in texts]
        return cls.from_counts([len(part) for part in parts], np.frombuffer(b"".join(parts), np.uint8))

    @classmethod
    def of(cls, rows: Sequence[Any], column: Column, levels: int | None = None) -> Jagged:
        """Make it from the rows of a column: sequences as deep as it is declared, text as ``str``."""
        left = column.levels if levels is None else levels
        if left == 1:
            return cls.from_text(rows) if column.is_text else cls.from_lists(rows, column.dtype)
        inner = cls.of([item for row in rows for item in row], column, left - 1)
        return cls.from_counts([len(row) for row in rows], inner)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Any:
        first, last = self.offsets[row], self.offsets[row + 1]
        return self.values.cut(first, last) if isinstance(self.values, Jagged) else self.values[first:last]

    def __iter__(self) -> Iterator[Any]:
        cut = self.values.cut if isinstance(self.values, Jagged) else None
        for first, last in pairwise(self.offsets.tolist()):
            yield cut(first, last) if cut else self.values[first:last]

    def __repr__(self) -> str:
        return f"Jagged({len(self)} lists, {len(self.flat)} {self.flat.dtype})"

    @property
    def counts(self) -> Offsets:
        return np.diff(self.offsets)

    @property
    def flat(self) -> Array:
        """The innermost values."""
        found: Array = self.values.flat if isinstance(self.values, Jagged) else self.values
        return found

    def tolist(self) -> list[Any]:
        """Return plain lists."""
        inner = self.values.tolist()
        return [inner[first:last] for first, last in pairwise(self.offsets.tolist())]

    def text(self) -> list[Any]:
        """Return text as ``str``, in lists where it stands in lists."""
        inner = self.values.text() if isinstance(self.values, Jagged) else self.values.tobytes()
        rows = [inner[first:last] for first, last in pairwise(self.offsets.tolist())]
        return [row.decode() if isinstance(row, bytes) else row for row in rows]

    def take(self, mask: Mask) -> Jagged:
        """Return the lists where ``mask`` is true."""
        counts = self.counts
        return Jagged.from_counts(counts[mask], _rows(self.values, np.repeat(mask, counts)))

    def cut(self, start: int, stop: int) -> Jagged:
        """Return lists ``start`` to ``stop``, without copying values."""
        offsets = self.offsets[start : stop + 1]
        return Jagged(offsets - offsets[0], _cut(self.values, int(offsets[0]), int(offsets[-1])))


Values: TypeAlias = Array | Jagged


class Table:
    """The rows of one bank: ``offsets`` int64[n + 1] over n records, and one flat column per declared name.

    ``bank`` may be given by name; the declaration is then looked up when the table enters a batch. A column
    is ``table["t"]`` or
    ``table.t``; a jagged one is a ``Jagged``.
    """

    __slots__ = ("_index", "bank", "columns", "offsets")

    def __init__(
        self, bank: Bank | str, offsets: ArrayLike, columns: Mapping[str, ArrayLike | Jagged]
    ) -> None:
        self.offsets: Offsets = np.asarray(offsets, np.int64)
        self.columns: dict[str, Values] = {
            name: values if isinstance(values, Jagged) else _array(values) for name, values in columns.items()
        }
        self.bank = bank
        self._index: Offsets | None = None
        if isinstance(bank, Bank):
            self._conform(bank)

    @classmethod
    def from_counts(
        cls, bank: Bank | str, counts: ArrayLike, columns: Mapping[str, ArrayLike | Jagged]
    ) -> Table:
        """Make a table with ``counts[i]`` rows in record i."""
        return cls(bank, offsets_of(counts), columns)

    @classmethod
    def one(cls, bank: Bank | str, columns: Mapping[str, ArrayLike | Jagged]) -> Table:
        """Make a table with exactly one row per record."""
        lengths = [len(v) if isinstance(v, Jagged) else np.asarray(v).shape[0] for v in columns.values()]
        return cls(bank, np.arange((lengths[0] if lengths else 0) + 1), columns)

    @classmethod
    def empty(cls, bank: Bank, n: int) -> Table:
        """Make a table without rows for n records."""
        return cls._made(bank, np.zeros(n + 1, np.int64), {c.name: _no_values(c) for c in bank.columns})

    @classmethod
    def _made(cls, bank: Bank | str, offsets: Offsets, columns: dict[str, Values]) -> Table:
        """Make a table out of parts of tables that were checked before."""
        table = cls.__new__(cls)
        table.bank, table.offsets, table.columns, table._index = bank, offsets, columns, None
        return table

    def declared(self, bank: Bank) -> Table:
        """Return the table checked against a declaration.

        Raises: ModuleError, UnknownNameError.
        """
        return self if self.bank is bank else Table(bank, self.offsets, self.columns)

    @property
    def name(self) -> str:
        return self.bank if isinstance(self.bank, str) else self.bank.name

    @property
    def records(self) -> int:
        """The number of records."""
        return len(self.offsets) - 1

    @property
    def rows(self) -> int:
        """The number of rows of all records."""
        return int(self.offsets[-1])

    @property
    def counts(self) -> Offsets:
        """The number of rows of each record."""
        return np.diff(self.offsets)

    @property
    def record_index(self) -> Offsets:
        """The record of each row."""
        if self._index is None:
            self._index = np.repeat(np.arange(self.records), self.counts)
        return self._index

    @property
    def nbytes(self) -> int:
        return self.offsets.nbytes + sum(_nbytes(values) for values in self.columns.values())

    def __getitem__(self, column: str) -> Any:
        try:
            return self.columns[column]
        except KeyError:
            raise UnknownNameError(f"column of bank {self.name}", column, self.columns) from None

    def __getattr__(self, column: str) -> Any:
        if column.startswith("_"):
            raise AttributeError(column)
        try:
            return self.columns[column]
        except KeyError:
            hint = nearest(column, self.columns)
            raise AttributeError(f"bank {self.name} has no column {column!r}; {hint}") from None

    def __repr__(self) -> str:
        return f"Table({self.name}: {self.rows} rows in {self.records} records)"

    def follow(self, link: str, target: Table) -> Offsets:
        """Return the flat rows of ``target`` that column ``link`` points to, -1 for none (flat also for a
        jagged link).

        Raises: FormatError where one leads to no row.
        """
        values = self[link]
        records = self.link_records(link)
        local = np.asarray(values.values if isinstance(values, Jagged) else values, np.int64)
        wrong = (local < -1) | (local >= target.counts[records])
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            raise FormatError(
                f"link {self.name}.{link} of record {records[at]} of the batch leads to row {local[at]} of "
                f"{target.name}, which has {target.counts[records[at]]} there",
                hint="check the file with `beamwright validate`, or the module that made the link",
            )
        return np.where(local < 0, -1, local + target.offsets[records])

    def link_records(self, link: str) -> Offsets:
        """Return the record of each value of a column, flat also for a jagged one."""
        values = self.columns[link]
        return (
            np.repeat(self.record_index, values.counts) if isinstance(values, Jagged) else self.record_index
        )

    def filter(self, mask: ArrayLike, batch: Batch | None = None) -> Table:
        """Return the rows where ``mask`` is true; given the batch, put them into it and remap the links to
        this bank.
        """
        rows = np.asarray(mask, np.bool_)
        if rows.shape != (self.rows,):
            raise ModuleError(
                f"a mask of shape {rows.shape} cannot filter the {self.rows} rows of {self.name}",
                hint="give one value per row",
            )
        kept = np.concatenate(([0], np.cumsum(rows)))
        table = Table._made(
            self.bank, kept[self.offsets], {n: _rows(v, rows) for n, v in self.columns.items()}
        )
        return table if batch is None else batch.replace_rows(self, table, rows)

    def take(self, mask: Mask) -> Table:
        """Return the records where ``mask`` is true; links are counted per record and stay right."""
        counts = self.counts
        rows = np.repeat(mask, counts)
        return Table._made(
            self.bank, offsets_of(counts[mask]), {n: _rows(v, rows) for n, v in self.columns.items()}
        )

    def cut(self, start: int, stop: int) -> Table:
        """Return records ``start`` to ``stop``, without copying columns."""
        offsets = self.offsets[start : stop + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        columns = {name: _cut(values, first, last) for name, values in self.columns.items()}
        return Table._made(self.bank, offsets - first, columns)

    def spread(self, mask: Mask) -> Table:
        """Return the table for ``len(mask)`` records, ours where ``mask`` is true and none elsewhere."""
        counts = np.zeros(len(mask), np.int64)
        counts[mask] = self.counts
        return Table._made(self.bank, offsets_of(counts), dict(self.columns))

    @staticmethod
    def concatenate(tables: Sequence[Table]) -> Table:
        """Return consecutive tables of one bank as one."""
        if len(tables) == 1:
            return tables[0]
        columns = {name: _join([table.columns[name] for table in tables]) for name in tables[0].columns}
        counts = np.concatenate([table.counts for table in tables])
        return Table._made(tables[0].bank, offsets_of(counts), columns)

    def _conform(self, bank: Bank) -> None:
        offsets = self.offsets
        if (
            offsets.ndim != 1
            or not len(offsets)
            or offsets[0] != 0
            or bool((offsets[1:] < offsets[:-1]).any())
        ):
            raise ModuleError(
                f"the offsets of {bank.name} do not rise from 0", hint="n + 1 cumulative counts for n records"
            )
        if bank.rows == ONE and not np.array_equal(offsets, np.arange(len(offsets))):
            raise ModuleError(f"bank {bank.name} has one row per record, not {self.rows} for {self.records}")
        for name in self.columns:
            bank[name]
        missing = [column.name for column in bank.columns if column.name not in self.columns]
        if missing:
            raise ModuleError(
                f"bank {bank.name} lacks its column {missing[0]!r}", hint="hand over every declared column"
            )
        self.columns = {c.name: _conforming(bank, c, self.columns[c.name], self.rows) for c in bank.columns}


def _array(values: ArrayLike) -> Array:
    """Return an array; text as objects, since fixed widths would lose zeros at its end."""
    is_listed = isinstance(values, list | tuple) and len(values) > 0 and isinstance(values[0], str)
    return np.asarray(values, object if is_listed else None)


def _conforming(bank: Bank, column: Column, values: Values, rows: int) -> Values:
    where = f"bank {bank.name}, column {column.name}"
    return _levels(where, column, _encoded(where, values) if column.is_text else values, rows, column.levels)


def _levels(where: str, column: Column, values: Values, rows: int, levels: int) -> Values:
    """Return values, checked against the declaration, of so many levels of lists."""
    if isinstance(values, Jagged) != (levels > 0):
        declared = ("text" if column.is_text and levels == 1 else "a list") if levels else "one value"
        raise ModuleError(f"{where}: it is {declared} per row as declared", hint="see its bank")
    if isinstance(values, Jagged):
        if len(values) != rows or values.offsets[0] != 0 or values.offsets[-1] != len(values.values):
            raise ModuleError(f"{where}: {values!r} for {rows} rows", hint="give one list per row")
        made = Jagged(values.offsets, _levels(where, column, values.values, len(values.values), levels - 1))
        if column.is_text and levels == 1 and not is_text(made):
            raise ModuleError(f"{where}: its bytes are no UTF-8", hint="give text as str")
        return made
    if values.shape != (rows,):
        raise ModuleError(
            f"{where}: values of shape {values.shape} for {rows} rows", hint="give one value per row"
        )
    return _cast(where, values, column.dtype)


def _encoded(where: str, values: Values) -> Values:
    """Return text given as ``str``, in lists or not, as bytes."""
    if isinstance(values, Jagged):
        return Jagged(values.offsets, _encoded(where, values.values))
    if values.dtype.kind not in "UO" and values.size:
        return values
    try:
        return values if values.dtype == CHARS else Jagged.from_text(values.tolist())
    except (AttributeError, UnicodeEncodeError) as error:
        raise ModuleError(f"{where}: a value is no text ({error})", hint="give each as str") from error


def plain_rows(table: Table, column: str) -> list[Any]:
    """Return the rows of a column as plain objects: numbers, text, lists."""
    values = table.columns[column]
    if isinstance(values, Jagged) and isinstance(table.bank, Bank) and table.bank[column].is_text:
        return values.text()
    found: list[Any] = values.tolist()
    return found


def is_text(values: Jagged) -> bool:
    """Tell whether lists of bytes are UTF-8 each."""
    data = values.values
    starts = values.offsets[values.offsets < len(data)]
    try:
        data.tobytes().decode()
    except UnicodeDecodeError:
        return False
    return not bool((data[starts] & 0xC0 == 0x80).any())


def _cast(where: str, values: Array, dtype: np.dtype[Any]) -> Array:
    """Return the values in the declared type: floats may be rounded, integers must fit."""
    if values.dtype == dtype:
        return np.ascontiguousarray(values)
    if dtype.kind in "iu" and values.dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if values.size and (int(values.min()) < limits.min or int(values.max()) > limits.max):
            raise ModuleError(
                f"{where}: {values.min()} to {values.max()} do not fit {dtype}", hint="declare a wider type"
            )
    elif not np.can_cast(values.dtype, dtype, "same_kind"):
        raise ModuleError(
            f"{where}: {values.dtype} values, declared {dtype}",
            hint="convert them, and say how, in the module",
        )
    return np.ascontiguousarray(values.astype(dtype))


def _no_values(column: Column) -> Values:
    return no_lists(column, 0, column.levels) if column.jagged else np.zeros(0, column.dtype)


def no_lists(column: Column, rows: int, levels: int) -> Jagged:
    """Return empty lists of so many levels, one per row."""
    inner = np.zeros(0, column.dtype) if levels == 1 else no_lists(column, 0, levels - 1)
    return Jagged(np.zeros(rows + 1, np.int64), inner)


def _nbytes(values: Values) -> int:
    return values.offsets.nbytes + _nbytes(values.values) if isinstance(values, Jagged) else values.nbytes


def _rows(values: Values, rows: Mask) -> Values:
    return values.take(rows) if isinstance(values, Jagged) else values[rows]


def _cut(values: Values, start: int, stop: int) -> Values:
    return values.cut(start, stop) if isinstance(values, Jagged) else values[start:stop]


def _join(parts: Sequence[Values]) -> Values:
    lists = [part for part in parts if isinstance(part, Jagged)]
    if lists:
        counts = np.concatenate([part.counts for part in lists])
        return Jagged.from_counts(counts, _join([part.values for part in lists]))
    return np.concatenate([part for part in parts if not isinstance(part, Jagged)])
