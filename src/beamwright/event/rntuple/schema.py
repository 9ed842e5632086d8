"""Fields of an event tuple, and the flat columns that hold them.

A batch of events is a dictionary of flat NumPy arrays. Their keys are the column keys of the schema:

========================  ==========================================================================
field                     arrays (keys)
========================  ==========================================================================
leaf ``run``              ``run``: one value per event
record ``Header``         ``Header.run``, ``Header.time``: one value per event
collection ``Hit``        ``Hit@0``: int64 offsets, events + 1 of them; ``Hit.t``: one value per row
vector ``Hit.samples``    ``Hit.samples@0``: int64 offsets, rows + 1; ``Hit.samples``: the values
string ``tag``            ``tag@0``: int64 offsets; ``tag``: uint8, the UTF-8 bytes
vector of strings ``s``   ``s@0``: offsets of the vector, ``s@1``: offsets of the strings, ``s``: bytes
========================  ==========================================================================

``path@k`` holds the offsets of nesting level ``k`` of the field at ``path``; offsets start at 0.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from beamwright.core.canonical import canonical_json, sha256_hex
from beamwright.core.errors import FormatError, UnknownNameError

Kind = Literal["leaf", "string", "vector", "record"]
Array: TypeAlias = NDArray[Any]
ColumnData: TypeAlias = dict[str, Array]
"""Flat arrays by column key; see the module's table."""

DTYPES: dict[str, np.dtype[Any]] = {
    "u1": np.dtype("u1"), "u2": np.dtype("<u2"), "u4": np.dtype("<u4"), "u8": np.dtype("<u8"),
    "i1": np.dtype("i1"), "i2": np.dtype("<i2"), "i4": np.dtype("<i4"), "i8": np.dtype("<i8"),
    "f4": np.dtype("<f4"), "f8": np.dtype("<f8"), "bool": np.dtype("?"),
}  # fmt: skip
OFFSETS = np.dtype("<i8")
CHARS = np.dtype("u1")
FORBIDDEN = frozenset("./\\@ ")


def offsets_key(path: str, level: int = 0) -> str:
    """Return the key of the offsets of nesting level ``level`` of the field at ``path``."""
    return f"{path}@{level}"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a schema: a leaf, a string, a vector of one item field, or a record of fields."""

    name: str
    kind: Kind
    type: str = ""
    children: tuple[Field, ...] = ()
    doc: str = ""

    def document(self) -> dict[str, Any]:
        """Return the canonical form of the field."""
        return {
            "name": self.name,
            "kind": self.kind,
            "type": self.type,
            "doc": self.doc,
            "children": [child.document() for child in self.children],
        }


def leaf(name: str, type: str, doc: str = "") -> Field:
    """Make a leaf field of one of the types u1 u2 u4 u8 i1 i2 i4 i8 f4 f8 bool."""
    if type not in DTYPES:
        raise UnknownNameError("leaf type", type, DTYPES)
    return Field(name, "leaf", type, (), doc)


def string(name: str, doc: str = "") -> Field:
    """Make a field of UTF-8 strings."""
    return Field(name, "string", "", (), doc)


def vector(name: str, item: Field | str, doc: str = "") -> Field:
    """Make a vector of leaves (given by type) or of any other field."""
    inner = leaf("_0", item) if isinstance(item, str) else item
    return Field(name, "vector", "", (Field("_0", inner.kind, inner.type, inner.children, inner.doc),), doc)


def record(name: str, fields: Iterable[Field], doc: str = "") -> Field:
    """Make a record: one row per event."""
    return Field(name, "record", "", tuple(fields), doc)


def collection(name: str, fields: Iterable[Field], doc: str = "") -> Field:
    """Make a collection of records: any number of rows per event."""
    return Field(name, "vector", "", (record("_0", fields),), doc)


@dataclass(frozen=True, slots=True)
class Column:
    """One flat column: its array key, its data type and the offsets column that counts it (or -1)."""

    key: str
    dtype: np.dtype[Any]
    parent: int
    is_index: bool
    field_id: int

    @property
    def itemsize(self) -> int:
        """Return the bytes of one element in memory."""
        return int(self.dtype.itemsize)


class Schema:
    """An ordered set of top-level fields; equal content gives an equal hash."""

    def __init__(self, fields: Iterable[Field]) -> None:
        self.fields = tuple(fields)
        check_fields(self.fields, "")
        self.columns = _flatten(self.fields)
        self.index = {column.key: number for number, column in enumerate(self.columns)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self.fields == other.fields

    def __hash__(self) -> int:
        return hash(self.fields)

    def __repr__(self) -> str:
        return f"Schema({', '.join(field.name for field in self.fields)})"

    def canonical(self) -> bytes:
        """Return the canonical JSON of the schema."""
        return canonical_json([field.document() for field in self.fields])

    @cached_property
    def hash(self) -> str:
        """Return the sha256 of the canonical form, in hexadecimal."""
        return sha256_hex(self.canonical())

    @cached_property
    def field_list(self) -> list[tuple[Field, int]]:
        """Return every field with its parent's number, parents first (top level: its own number)."""
        found: list[tuple[Field, int]] = []
        for field in self.fields:
            _list_fields(field, len(found), found)
        return found

    def column(self, key: str) -> Column:
        """Return the column of one key."""
        try:
            return self.columns[self.index[key]]
        except KeyError:
            raise UnknownNameError("column", key, self.index) from None

    def n_entries(self, arrays: Mapping[str, Array]) -> int:
        """Return the number of events of a batch; the first column counts them."""
        if not self.columns:
            raise FormatError("the schema has no column", hint="declare at least one leaf")
        first = self.columns[0]
        return len(arrays[first.key]) - first.is_index


def check_fields(fields: tuple[Field, ...], where: str) -> None:
    """Refuse names that the format does not allow, and names given twice."""
    seen: set[str] = set()
    for field in fields:
        path = f"{where}.{field.name}" if where else field.name
        _check_name(field.name, path)
        if field.name in seen:
            raise FormatError(f"field {path} is declared twice", hint="names are unique within a record")
        seen.add(field.name)
        if field.kind == "record" and not field.children:
            raise FormatError(f"record {path} has no field", hint="declare at least one column in it")
        check_fields(field.children, path)


def _check_name(name: str, path: str) -> None:
    bad = sorted({c for c in name if c in FORBIDDEN or unicodedata.category(c) == "Cc"})
    if not name or bad:
        cause = f"holds {bad}" if bad else "is empty"
        raise FormatError(f"the name of field {path!r} {cause}", hint="use letters, digits and underscores")


def _list_fields(field: Field, parent: int, found: list[tuple[Field, int]]) -> None:
    number = len(found)
    found.append((field, parent))
    for child in field.children:
        _list_fields(child, number, found)


def _flatten(fields: tuple[Field, ...]) -> tuple[Column, ...]:
    columns: list[Column] = []
    counter = iter(range(1 << 31))
    for field in fields:
        _add_columns(field, field.name, 0, -1, columns, counter)
    return tuple(columns)


def _add_columns(
    field: Field, path: str, level: int, parent: int, columns: list[Column], counter: Any
) -> None:
    """Append the columns of a field and its children; field numbers follow ``Schema.field_list``."""
    number = next(counter)
    if field.kind in ("string", "vector"):
        columns.append(Column(offsets_key(path, level), OFFSETS, parent, True, number))
        parent = len(columns) - 1
    if field.kind == "string":
        columns.append(Column(path, CHARS, parent, False, number))
    elif field.kind == "leaf":
        columns.append(Column(path, DTYPES[field.type], parent, False, number))
    elif field.kind == "vector":
        _add_columns(field.children[0], path, level + 1, parent, columns, counter)
    else:
        for child in field.children:
            _add_columns(child, f"{path}.{child.name}", 0, parent, columns, counter)
