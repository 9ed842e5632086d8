"""Collections as awkward arrays, column by column, and as Parquet or Arrow files.

Needs the extra ``columnar``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beamwright.core.canonical import canonical_json
from beamwright.core.errors import ConfigError, UnknownNameError, UsageError
from beamwright.durable import link_new
from beamwright.event.banks import ONE, Bank, BankSet
from beamwright.event.batch import Batch
from beamwright.event.evolution import Route
from beamwright.event.table import Array, Jagged, Table, Values
from beamwright.event.tuples import KEYS, tables_of

if TYPE_CHECKING:
    from beamwright.event.collection import CollectionReader

METADATA = b"beamwright"
SUFFIXES = (".parquet", ".arrow")


def extra(name: str) -> Any:
    """Import a library of the extra ``columnar``.

    Raises: ConfigError.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"{name} is not installed", hint="install beamwright with its extra: beamwright[columnar]"
        ) from error


class BankColumns(Mapping[str, Any]):
    """One bank of a collection: ``bank["t"]`` or ``bank.t`` reads that column of all records, once."""

    def __init__(self, reader: CollectionReader, bank: Bank) -> None:
        self._reader, self._bank = reader, bank
        self._read: dict[str, Any] = {}

    def __getitem__(self, column: str) -> Any:
        if column not in self._read:
            self._read[column] = _column(self._reader, self._bank, self._bank[column].name)
        return self._read[column]

    def __getattr__(self, column: str) -> Any:
        if column.startswith("_") or column not in self._bank.by_name:
            raise AttributeError(f"bank {self._bank.name} has no column {column!r}")
        return self[column]

    def __iter__(self) -> Iterator[str]:
        return iter(self._bank.by_name)

    def __len__(self) -> int:
        return len(self._bank.columns)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._bank.by_name]

    def __repr__(self) -> str:
        return f"BankColumns({self._bank.name}: {', '.join(self)})"


def bank_columns(reader: CollectionReader, name: str) -> Any:
    """Return a bank of a collection, or, for ``Bank.column`` and the names of keys, the column itself."""
    bank, _, column = name.partition(".")
    if name in KEYS:
        return getattr(reader.index(reader.record), name)
    if bank not in reader.declarations:
        raise UnknownNameError("bank or key in this collection", bank, [*KEYS, *reader.declarations])
    found = BankColumns(reader, reader.declarations[bank])
    return found[column] if column else found


def _column(reader: CollectionReader, bank: Bank, column: str) -> Any:
    """Return one column of all records, in key order."""
    if reader.holds(bank.name):
        routes = [evolution.routes[bank.name] for evolution in reader.evolutions]
        parts = [_file_column(reader, n, _narrowed(route, column)) for n, route in enumerate(routes)]
        index = reader.index(reader.record)
        entry = None if index.is_in_order else index.entry[:]
    else:
        tables = [batch[bank.name] for batch in reader.batches([bank.name])]
        parts = [Table._made(bank, table.offsets, {column: table.columns[column]}) for table in tables]
        entry = None
    whole = Table.concatenate(parts) if parts else Table.empty(_narrow(bank, column), 0)
    array = extra("awkward").Array(_layout(whole, column, bank.rows == ONE))
    return array if entry is None else array[entry]


def _narrow(bank: Bank, column: str) -> Bank:
    return Bank(bank.name, bank.version, bank.rows, bank.doc, (bank[column],))


def _narrowed(route: Route, column: str) -> Route:
    return Route(route.stored, _narrow(route.target, column), {column: route.sources[column]})


def _file_column(reader: CollectionReader, number: int, route: Route) -> Table:
    file, needed = reader.files[number], route.needed
    columns = file.read([f"{needed.name}.{column.name}" for column in needed.columns])
    stored = tables_of(columns, BankSet([needed], closed=False), file.n_entries)
    return route.table(stored[needed.name])


# --- tables as layouts of awkward arrays


def _layout(table: Table, column: str, is_one: bool) -> Any:
    inner = _values(table.columns[column], _is_text(table, column))
    return inner if is_one else _lists(table.offsets, inner)


def _is_text(table: Table, column: str) -> bool:
    return isinstance(table.bank, Bank) and table.bank[column].is_text


def _values(values: Values, is_text: bool) -> Any:
    contents = extra("awkward").contents
    if not isinstance(values, Jagged):
        return contents.NumpyArray(values)
    if isinstance(values.values, Jagged) or not is_text:
        return _lists(values.offsets, _values(values.values, is_text))
    chars = contents.NumpyArray(values.values, parameters={"__array__": "char"})
    offsets = extra("awkward").index.Index64(values.offsets)
    return contents.ListOffsetArray(offsets, chars, parameters={"__array__": "string"})


def _lists(offsets: Array, inner: Any) -> Any:
    awkward = extra("awkward")
    return awkward.contents.ListOffsetArray(awkward.index.Index64(offsets), inner)


def to_awkward(batch: Batch) -> Any:
    """Return a batch as one array of records: keys, and a record or list of records per bank."""
    awkward = extra("awkward")
    fields: dict[str, Any] = {"run": np.full(batch.n, batch.run, np.uint32)}
    fields |= {"section": batch.section, "event": batch.event}
    contents = [awkward.contents.NumpyArray(values) for values in fields.values()]
    contents += [_record(table) for table in batch.tables.values()]
    names = [*fields, *batch.tables]
    return awkward.Array(awkward.contents.RecordArray(contents, names, length=batch.n))


def _record(table: Table) -> Any:
    columns = [_values(values, _is_text(table, name)) for name, values in table.columns.items()]
    record = extra("awkward").contents.RecordArray(columns, list(table.columns), length=table.rows)
    is_one = isinstance(table.bank, Bank) and table.bank.rows == ONE
    return record if is_one else _lists(table.offsets, record)


# --- files of others


def export(reader: CollectionReader, path: Path, banks: Iterable[str] | None = None) -> int:
    """Write a collection as Parquet or Arrow (Feather), as the suffix says, and return its records.

    One row per record, one row group per batch; the metadata of the first file go along under the key
    ``beamwright``. Raises: UsageError for another suffix, FileExistsError.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path} has the suffix {path.suffix!r}", hint=f"write {' or '.join(SUFFIXES)}")
    if path.exists():
        raise FileExistsError(f"{path} exists already")
    names = None if banks is None else list(banks)
    tables = (_arrow(reader, batch) for batch in _batches(reader, names))
    temporary = path.with_name(f".{path.name}.part")
    try:
        done = _write(tables, temporary, _opener(path.suffix))
        link_new(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return done


def _batches(reader: CollectionReader, names: list[str] | None) -> Iterator[Batch]:
    if len(reader.index(reader.record)):
        return reader.batches(names)
    return iter([reader.read(reader.record, np.zeros(0, np.int64), names)])


def _arrow(reader: CollectionReader, batch: Batch) -> Any:
    table = extra("awkward").to_arrow_table(to_awkward(batch), extensionarray=False)
    document = {METADATA: canonical_json(reader.metadata[0].document())}
    return table.replace_schema_metadata(document)


def _opener(suffix: str) -> Callable[[str, Any], Any]:
    if suffix == ".arrow":
        return lambda path, schema: extra("pyarrow.ipc").new_file(path, schema)
    return lambda path, schema: extra("pyarrow.parquet").ParquetWriter(path, schema, compression="zstd")


def _write(tables: Iterator[Any], path: Path, opened: Callable[[str, Any], Any]) -> int:
    first = next(tables)
    with opened(str(path), first.schema) as writer:
        writer.write_table(first)
        done = len(first)
        for table in tables:
            writer.write_table(table)
            done += len(table)
    return done
