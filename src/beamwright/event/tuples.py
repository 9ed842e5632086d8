"""Banks as fields of a tuple: the schema of a stream's files, and batches to columns and back.

A file has the leaves ``run``, ``section`` and ``event`` (built streams also ``parent_section`` and
``parent_event``, pointer skims ``source_high``, ``source_low`` and ``source_entry``), and one field per
bank: a record where it has one row, a collection where it has many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from beamwright.event.banks import ONE, Bank, BankSet, Column
from beamwright.event.batch import Batch
from beamwright.event.rntuple.schema import (
    Array,
    ColumnData,
    Field,
    Schema,
    collection,
    leaf,
    offsets_key,
    record,
    string,
    vector,
)
from beamwright.event.table import Jagged, Table, Values

KEY_FIELDS = (
    leaf("run", "u4", "run number"),
    leaf("section", "u4", "section of the run"),
    leaf("event", "u8", "event number"),
)
PARENT_FIELDS = (
    leaf("parent_section", "u4", "section of the record it was built from"),
    leaf("parent_event", "u8", "event number of the record it was built from"),
)
SOURCE_FIELDS = (
    leaf("source_high", "u8", "UUID of the file that holds the record, upper half"),
    leaf("source_low", "u8", "UUID of the file that holds the record, lower half"),
    leaf("source_entry", "u8", "place of the record in that file"),
)
KEYS = tuple(field.name for field in KEY_FIELDS)
SOURCES = tuple(field.name for field in SOURCE_FIELDS)
PARENTS = tuple(field.name for field in PARENT_FIELDS)


def schema_of(banks: BankSet, built: bool = False, points: bool = False) -> Schema:
    """Return the schema of a stream's files; ``points``: their records lead into other files."""
    keys = KEY_FIELDS + (PARENT_FIELDS if built else ()) + (SOURCE_FIELDS if points else ())
    return Schema([*keys, *(_bank_field(bank) for bank in banks.values())])


def _bank_field(bank: Bank) -> Field:
    make = record if bank.rows == ONE else collection
    return make(bank.name, [_column_field(column) for column in bank.columns], bank.doc)


def _column_field(column: Column) -> Field:
    doc = f"{column.doc} [{column.unit}]".strip() if column.unit else column.doc
    made = string(column.name, doc) if column.is_text else leaf(column.name, column.type, doc)
    for _ in range(column.depth):
        made = vector(column.name, replace(made, doc=""), doc)
    return made


def columns_of(batch: Batch, banks: BankSet, built: bool = False) -> ColumnData:
    """Return a batch as flat columns of ``schema_of(banks, built)``; arrays are shared, not copied."""
    columns: ColumnData = {"run": np.full(batch.n, batch.run, np.uint32)}
    columns |= {"section": batch.section, "event": batch.event}
    if built:
        columns |= {name: getattr(batch, name) for name in PARENTS}
    for bank in banks.values():
        table = batch[bank.name]
        if bank.rows != ONE:
            columns[offsets_key(bank.name)] = table.offsets
        for column in bank.columns:
            _add_values(columns, f"{bank.name}.{column.name}", table.columns[column.name])
    return columns


def _add_values(columns: ColumnData, path: str, values: Values, level: int = 0) -> None:
    if isinstance(values, Jagged):
        columns[offsets_key(path, level)] = values.offsets
        _add_values(columns, path, values.values, level + 1)
    else:
        columns[path] = values


def tables_of(columns: Mapping[str, Array], banks: BankSet, n: int) -> dict[str, Table]:
    """Return the tables of ``n`` records out of flat columns, without copying."""
    return {bank.name: _table(columns, bank, n) for bank in banks.values()}


def _table(columns: Mapping[str, Array], bank: Bank, n: int) -> Table:
    offsets = np.arange(n + 1) if bank.rows == ONE else columns[offsets_key(bank.name)]
    values = {column.name: _values(columns, f"{bank.name}.{column.name}", column) for column in bank.columns}
    return Table._made(bank, offsets, values)


def _values(columns: Mapping[str, Array], path: str, column: Column) -> Values:
    found: Values = columns[path]
    for level in reversed(range(column.levels)):
        found = Jagged(columns[offsets_key(path, level)], found)
    return found
