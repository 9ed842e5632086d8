"""The envelopes of the RNTuple format: header, footer and page lists, as bytes and back.

All integers are little-endian; an envelope ends with the xxh3-64 of everything before.
Source: RNTuple binary format specification 1.0.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from beamwright.core.errors import ChecksumError, FormatError
from beamwright.event.rntuple.encoding import CHAR_CODE, DAMAGED, DEFAULT_CODES, ENCODINGS, INDEX_CODE, Buffer
from beamwright.event.rntuple.schema import Array, Column, Field, Schema

HEADER, FOOTER, PAGE_LIST = 1, 2, 3
WRITER = "beamwright"
TYPE_NAMES = {
    "bool": "bool", "i1": "std::int8_t", "u1": "std::uint8_t", "i2": "std::int16_t", "u2": "std::uint16_t",
    "i4": "std::int32_t", "u4": "std::uint32_t", "i8": "std::int64_t", "u8": "std::uint64_t",
    "f4": "float", "f8": "double",
}  # fmt: skip
ROLES = {"leaf": 0, "string": 0, "vector": 1, "record": 2}

PAGE = np.dtype([("elements", "<i4"), ("size", "<i4"), ("offset", "<u8")])
"""A page in a page list: element count (negative: a checksum follows the page), bytes, file offset."""


@dataclass(slots=True)
class FieldRecord:
    """One field as the header describes it."""

    parent: int
    role: int
    name: str
    type_name: str
    doc: str = ""
    flags: int = 0


@dataclass(slots=True)
class ColumnRecord:
    """One physical column as the header describes it; ``deferred``: it begins after the first event."""

    code: int
    field_id: int
    representation: int = 0
    deferred: bool = False


@dataclass(slots=True)
class Description:
    """The schema part of a header (or of its extension in the footer)."""

    fields: list[FieldRecord] = field(default_factory=list)
    columns: list[ColumnRecord] = field(default_factory=list)


@dataclass(slots=True)
class ColumnPages:
    """The pages of one column in one cluster; ``first`` < 0: suppressed."""

    first: int
    pages: Array
    compression: int = 0


class ClusterPages:
    """The event range of one cluster and the pages of its physical columns.

    Out of a page list the columns are read when they are asked for: to look one event up takes few clusters.
    """

    __slots__ = ("_columns", "_stored", "first_entry", "n_entries")

    def __init__(
        self, first_entry: int, n_entries: int, columns: list[ColumnPages] | tuple[Cursor, int]
    ) -> None:
        self.first_entry, self.n_entries = first_entry, n_entries
        self._columns = columns if isinstance(columns, list) else None
        self._stored = None if isinstance(columns, list) else columns

    @property
    def columns(self) -> list[ColumnPages]:
        """Return the columns.

        Raises: FormatError where the page list is damaged.
        """
        if self._columns is None:
            assert self._stored is not None
            self._columns = _read_columns(*self._stored)
        return self._columns


@dataclass(slots=True)
class ClusterGroup:
    """Where the page list of a group of clusters lies."""

    first_entry: int
    span: int
    n_clusters: int
    length: int
    size: int
    offset: int


def type_name(field: Field) -> str:
    """Return the C++ type of a field; untyped (empty) where a record is inside."""
    if field.kind == "leaf":
        return TYPE_NAMES[field.type]
    if field.kind == "string":
        return "std::string"
    inner = type_name(field.children[0]) if field.kind == "vector" else ""
    return f"std::vector<{inner}>" if inner else ""


def column_code(schema: Schema, column: Column) -> int:
    """Return the column type under which we store a column."""
    if column.is_index:
        return INDEX_CODE
    described = schema.field_list[column.field_id][0]
    return CHAR_CODE if described.kind == "string" else DEFAULT_CODES[described.type]


def describe(schema: Schema) -> Description:
    """Return the field and column records of a schema as we write them."""
    fields = [
        FieldRecord(parent, ROLES[item.kind], item.name, type_name(item), item.doc)
        for item, parent in schema.field_list
    ]
    columns = [ColumnRecord(column_code(schema, column), column.field_id) for column in schema.columns]
    return Description(fields, columns)


# --- writing


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data


def _record(payload: bytes) -> bytes:
    return struct.pack("<q", len(payload) + 8) + payload


def _list(items: Sequence[bytes], tail: bytes = b"") -> bytes:
    payload = b"".join(items) + tail
    return struct.pack("<qI", -(len(payload) + 12), len(items)) + payload


def _envelope(kind: int, payload: bytes) -> bytes:
    length = len(payload) + 16
    data = struct.pack("<Q", kind | length << 16) + payload
    return data + struct.pack("<Q", xxhash.xxh3_64_intdigest(data))


def _field_bytes(item: FieldRecord) -> bytes:
    numbers = struct.pack("<IIIHH", 0, 0, item.parent, item.role, 0)
    return _record(numbers + _text(item.name) + _text(item.type_name) + _text("") + _text(item.doc))


def _column_bytes(column: ColumnRecord) -> bytes:
    return _record(struct.pack("<HHIHH", column.code, ENCODINGS[column.code].bits, column.field_id, 0, 0))


def header_envelope(schema: Schema, name: str) -> bytes:
    """Return the header of a tuple; it depends on its schema and name alone."""
    described = describe(schema)
    payload = struct.pack("<Q", 0) + _text(name) + _text("") + _text(WRITER)
    payload += _list([_field_bytes(item) for item in described.fields])
    payload += _list([_column_bytes(column) for column in described.columns])
    return _envelope(HEADER, payload + _list([]) + _list([]))


def page_list_envelope(header_checksum: int, clusters: Sequence[ClusterPages]) -> bytes:
    """Return the page list of a group of clusters."""
    summaries = [_record(struct.pack("<QQ", cluster.first_entry, cluster.n_entries)) for cluster in clusters]
    locations = [_list([_column_pages_bytes(column) for column in cluster.columns]) for cluster in clusters]
    payload = struct.pack("<Q", header_checksum) + _list(summaries) + _list(locations)
    return _envelope(PAGE_LIST, payload)


def _column_pages_bytes(column: ColumnPages) -> bytes:
    pages = column.pages.tobytes()
    head = struct.pack("<qI", -(12 + len(pages) + 12), len(column.pages))
    return head + pages + struct.pack("<qI", column.first, column.compression)


def footer_envelope(header_checksum: int, groups: Sequence[ClusterGroup]) -> bytes:
    """Return the footer of a tuple without schema extension."""
    extension = _record(_list([]) * 4)
    links = [
        _record(
            struct.pack("<QQI", group.first_entry, group.span, group.n_clusters)
            + struct.pack("<QiQ", group.length, group.size, group.offset)
        )
        for group in groups
    ]
    return _envelope(FOOTER, struct.pack("<QQ", 0, header_checksum) + extension + _list(links))


# --- reading


class Cursor:
    """A place in an envelope; every step is checked against its end."""

    def __init__(self, data: Buffer, what: str, position: int = 0, end: int | None = None) -> None:
        self.data, self.what, self.position = data, what, position
        self.end = len(data) if end is None else end

    def take(self, layout: str) -> tuple[Any, ...]:
        """Read the values of a struct layout."""
        size = struct.calcsize(layout)
        start = self._advance(size)
        return struct.unpack_from(layout, self.data, start)

    def text(self) -> str:
        """Read a string."""
        (size,) = self.take("<I")
        start = self._advance(size)
        return bytes(self.data[start : start + size]).decode("utf-8", "replace")

    def frame(self) -> tuple[Cursor, int]:
        """Enter a frame: its content and, for a list, the number of items; move behind it."""
        start = self.position
        (size,) = self.take("<q")
        count = int(self.take("<I")[0]) if size < 0 else 0
        inner = Cursor(self.data, self.what, self.position, start + abs(size))
        if abs(size) < 8 or inner.end > self.end or inner.end < self.position:
            raise FormatError(f"a frame of the {self.what} runs beyond its end", hint=DAMAGED)
        self.position = inner.end
        return inner, count

    def _advance(self, size: int) -> int:
        start = self.position
        if start + size > self.end:
            raise FormatError(f"the {self.what} ends too early", hint=DAMAGED)
        self.position += size
        return start


def open_envelope(data: Buffer, kind: int, what: str) -> tuple[Cursor, int]:
    """Check an envelope's type, length and checksum; return its content and its checksum."""
    if len(data) < 16:
        raise FormatError(f"the {what} has {len(data)} bytes", hint=DAMAGED)
    (stored,) = struct.unpack_from("<Q", data, len(data) - 8)
    if xxhash.xxh3_64_intdigest(memoryview(data)[:-8]) != stored:
        raise ChecksumError(f"the checksum of the {what} does not match", hint=DAMAGED)
    (word,) = struct.unpack_from("<Q", data)
    if word & 0xFFFF != kind or word >> 16 != len(data):
        raise FormatError(f"the {what} has another type or length", hint=DAMAGED)
    return Cursor(data, what, 8, len(data) - 8), stored


def _features(cursor: Cursor) -> None:
    (flags,) = cursor.take("<q")
    if flags:
        raise FormatError(
            f"the {cursor.what} uses unknown features (flags {flags:#x})", hint="read it with a newer version"
        )


def read_header(data: Buffer) -> tuple[str, str, Description, int]:
    """Return name, writer, schema description and checksum of a header."""
    cursor, checksum = open_envelope(data, HEADER, "header")
    _features(cursor)
    name, _, writer = cursor.text(), cursor.text(), cursor.text()
    description = Description()
    read_description(cursor, description)
    return name, writer, description, checksum


def read_description(cursor: Cursor, into: Description) -> None:
    """Append the fields and columns that a header or a schema extension lists."""
    fields, n_fields = cursor.frame()
    into.fields.extend(_read_field(fields) for _ in range(n_fields))
    columns, n_columns = cursor.frame()
    into.columns.extend(_read_column(columns) for _ in range(n_columns))


def _read_field(cursor: Cursor) -> FieldRecord:
    inner, _ = cursor.frame()
    _, _, parent, role, flags = inner.take("<IIIHH")
    name, kind, _, doc = inner.text(), inner.text(), inner.text(), inner.text()
    return FieldRecord(parent, role, name, kind, doc, flags)


def _read_column(cursor: Cursor) -> ColumnRecord:
    inner, _ = cursor.frame()
    code, _, field_id, flags, representation = inner.take("<HHIHH")
    return ColumnRecord(code, field_id, representation, bool(flags & 1))


def read_footer(data: Buffer, header_checksum: int, description: Description) -> list[ClusterGroup]:
    """Return the cluster groups; append a schema extension to ``description``."""
    cursor, _ = open_envelope(data, FOOTER, "footer")
    _features(cursor)
    _same_header(cursor, header_checksum)
    extension, _ = cursor.frame()
    if extension.end - extension.position >= 24:
        read_description(extension, description)
    groups, count = cursor.frame()
    return [_read_group(groups) for _ in range(count)]


def _same_header(cursor: Cursor, header_checksum: int) -> None:
    if cursor.take("<Q")[0] != header_checksum:
        raise FormatError(f"the {cursor.what} belongs to another header", hint=DAMAGED)


def _read_group(cursor: Cursor) -> ClusterGroup:
    inner, _ = cursor.frame()
    first, span, count = inner.take("<QQI")
    (length,) = inner.take("<Q")
    size, offset = read_locator(inner)
    return ClusterGroup(first, span, count, length, size, offset)


def read_locator(cursor: Cursor) -> tuple[int, int]:
    """Return size and file offset of a locator, standard or large."""
    (size,) = cursor.take("<i")
    if size >= 0:
        return size, int(cursor.take("<Q")[0])
    if (size >> 24) & 0x7F != 1:
        raise FormatError(f"a locator of unknown type in the {cursor.what}", hint="only files are supported")
    large = cursor.take("<QQ")
    return int(large[0]), int(large[1])


def read_page_list(data: Buffer, header_checksum: int) -> list[ClusterPages]:
    """Return the clusters of a page list."""
    cursor, _ = open_envelope(data, PAGE_LIST, "page list")
    _same_header(cursor, header_checksum)
    summaries, count = cursor.frame()
    ranges = [_read_summary(summaries) for _ in range(count)]
    locations, n_clusters = cursor.frame()
    if n_clusters != count:
        raise FormatError("the page list disagrees with itself on the clusters", hint=DAMAGED)
    stored = [locations.frame() for _ in range(count)]
    return [ClusterPages(*span, columns) for span, columns in zip(ranges, stored, strict=True)]


def _read_summary(cursor: Cursor) -> tuple[int, int]:
    inner, _ = cursor.frame()
    first, word = inner.take("<QQ")
    if word >> 56 & 1:
        raise FormatError("the file has sharded clusters", hint="read it with a newer version")
    return first, word & ((1 << 56) - 1)


def _read_columns(stored: Cursor, items: int) -> list[ColumnPages]:
    cursor = Cursor(stored.data, stored.what, stored.position, stored.end)  # another thread may read it too
    return [_read_column_pages(cursor) for _ in range(items)]


def _read_column_pages(cursor: Cursor) -> ColumnPages:
    inner, count = cursor.frame()
    start, size = inner.position, count * PAGE.itemsize
    if inner.end - start - size in (8, 12):
        inner.position += size
        return _finish_column(inner, np.frombuffer(inner.data, PAGE, count, start))
    rows = [(*inner.take("<i"), *read_locator(inner)) for _ in range(count)]
    if any(row[1] >= 1 << 31 for row in rows):
        raise FormatError("the file has pages of more than 2 GiB", hint="rewrite it with smaller pages")
    return _finish_column(inner, np.array(rows, PAGE))


def _finish_column(inner: Cursor, pages: Array) -> ColumnPages:
    (first,) = inner.take("<q")
    return ColumnPages(first, pages, inner.take("<I")[0] if first >= 0 else 0)
