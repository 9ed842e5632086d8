"""From the fields and columns that a file describes to a schema, and which stored columns hold what."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from beamwright.core.errors import FormatError
from beamwright.event.rntuple.encoding import ENCODINGS
from beamwright.event.rntuple.schema import Field, Schema, check_fields
from beamwright.event.rntuple.wire import TYPE_NAMES, Description, FieldRecord

LEAF_TYPES = {name: code for code, name in TYPE_NAMES.items()} | {"char": "i1", "std::byte": "u1"}
COLLECTION, RECORD = 1, 2
REPEATED, PROJECTED = 1, 2


class _UnsupportedError(Exception):
    """A field is of a kind that the schema cannot express."""


@dataclass(slots=True)
class Layout:
    """A schema, the physical columns that may hold each of its columns, and the fields left out."""

    schema: Schema
    physical: list[list[int]]
    unsupported: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Built:
    field: Field
    ids: list[int]


class _Builder:
    def __init__(self, description: Description) -> None:
        self.records = description.fields
        self.columns: dict[int, list[int]] = defaultdict(list)
        for number, column in enumerate(description.columns):
            self.columns[column.field_id].append(number)
        self.children: dict[int, list[int]] = defaultdict(list)
        for number, item in enumerate(self.records):
            if item.parent != number:
                self.children[item.parent].append(number)
        self.description = description
        self.unsupported: dict[str, str] = {}

    def build(self, number: int, path: str) -> _Built:
        item = self.records[number]
        if item.flags & (REPEATED | PROJECTED):
            raise _UnsupportedError("fixed-size array" if item.flags & REPEATED else "projected field")
        if item.role == COLLECTION:
            return self._vector(number, item, path)
        if item.role == RECORD:
            return self._record(number, item, path)
        self._check_columns(number)
        if item.type_name == "std::string":
            return _Built(Field(item.name, "string", "", (), item.doc), [number])
        if item.role or item.type_name not in LEAF_TYPES:
            raise _UnsupportedError(f"type {item.type_name}")
        return _Built(Field(item.name, "leaf", LEAF_TYPES[item.type_name], (), item.doc), [number])

    def _vector(self, number: int, item: FieldRecord, path: str) -> _Built:
        self._check_columns(number)
        if len(self.children[number]) != 1:
            raise _UnsupportedError("collection without one item field")
        inner = self.build(self.children[number][0], path)
        return _Built(Field(item.name, "vector", "", (inner.field,), item.doc), [number, *inner.ids])

    def _record(self, number: int, item: FieldRecord, path: str) -> _Built:
        built = self.build_all(self.children[number], path)
        if not built:
            raise _UnsupportedError("record without a readable field")
        ids = [number, *(i for child in built for i in child.ids)]
        return _Built(Field(item.name, "record", "", tuple(child.field for child in built), item.doc), ids)

    def build_all(self, numbers: list[int], where: str) -> list[_Built]:
        """Build the fields that can be expressed; note the others."""
        built: list[_Built] = []
        for number in numbers:
            name = self.records[number].name
            path = f"{where}.{name}" if where else name
            try:
                made = self.build(number, path)
                check_fields((made.field,), where)
                built.append(made)
            except (_UnsupportedError, FormatError) as error:
                self.unsupported[path] = str(error)
        return built

    def _check_columns(self, number: int) -> None:
        for column in self.columns[number]:
            described = self.description.columns[column]
            if described.deferred:
                raise _UnsupportedError("column added after the first event")
            if described.code not in ENCODINGS:
                raise _UnsupportedError(f"column type {described.code:#04x}")
        if not self.columns[number]:
            raise _UnsupportedError("field without a column")


def build_layout(description: Description) -> Layout:
    """Return the layout of a described tuple."""
    builder = _Builder(description)
    top = [number for number, item in enumerate(description.fields) if item.parent == number]
    built = builder.build_all(top, "")
    schema = Schema(made.field for made in built)
    ids = [i for made in built for i in made.ids]
    physical = []
    for column in schema.columns:
        candidates = builder.columns[ids[column.field_id]]
        if schema.field_list[column.field_id][0].kind == "string":
            candidates = candidates[0 if column.is_index else 1 :: 2]
        physical.append(candidates)
    return Layout(schema, physical, builder.unsupported)
