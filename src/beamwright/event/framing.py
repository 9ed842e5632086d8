"""Framed event streams: what an event builder writes into a growing file or a pipe, one frame per record.

A frame is a head of 40 bytes, little-endian, and a body. The head: ``BWFR``, the kind (H, R or E), three
zero bytes, the length of the body u4, run u4, section u4, event u8, a check of these 28 bytes u4, the xxh3
(64 bit) of the body u8. H comes first and declares series, kind of records and banks in JSON; R is a record;
E ends the stream and has the number of records in place of the event.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import xxhash
from numpy.typing import ArrayLike

from beamwright.core.errors import FormatError, UsageError
from beamwright.event.banks import ONE, BankSet, Column
from beamwright.event.batch import Batch
from beamwright.event.table import Array, Jagged, Table, Values, offsets_of

MAGIC = b"BWFR"
HEADER, RECORD, END = b"H", b"R", b"E"
FORMAT = 1
MAX_BODY = 1 << 28
_KEYS = struct.Struct("<4sc3xIIIQ")
_CHECKS = struct.Struct("<IQ")
HEAD = _KEYS.size + _CHECKS.size
_COUNT = np.dtype("<u4")


class Frame(NamedTuple):
    """One frame: its kind, key and body, and the bytes that it takes."""

    kind: bytes
    run: int
    section: int
    event: int
    body: bytes

    @property
    def size(self) -> int:
        return HEAD + len(self.body)


def packed(kind: bytes, body: bytes, run: int = 0, section: int = 0, event: int = 0) -> bytes:
    """Return the bytes of a frame."""
    keys = _KEYS.pack(MAGIC, kind, len(body), run, section, event)
    return keys + _CHECKS.pack(_check(keys), xxhash.xxh3_64_intdigest(body)) + body


def _check(keys: bytes) -> int:
    return xxhash.xxh3_64_intdigest(keys) & 0xFFFFFFFF


def parsed(data: bytes | bytearray | memoryview, at: int) -> Frame | None:
    """Return the frame that begins at a place, None where it is not there in full.

    Raises: FormatError that says what is wrong with it.
    """
    view = memoryview(data)[at : at + HEAD]
    if len(view) < HEAD:
        return None
    keys = bytes(view[: _KEYS.size])
    magic, kind, length, run, section, event = _KEYS.unpack(keys)
    head_check, body_check = _CHECKS.unpack(view[_KEYS.size :])
    if magic != MAGIC or head_check != _check(keys) or kind not in (HEADER, RECORD, END) or length > MAX_BODY:
        raise FormatError("its head is damaged", hint=_HINT)
    if len(data) < at + HEAD + length:
        return None
    body = bytes(memoryview(data)[at + HEAD : at + HEAD + length])
    if xxhash.xxh3_64_intdigest(body) != body_check:
        raise FormatError(f"the checksum of record {run}:{section}:{event} is wrong", hint=_HINT)
    return Frame(kind, run, section, event, body)


_HINT = "it was changed on its way; the records before it are sound"


class EventStream:
    """Writes framed records, one after another, as an event builder does; keys must rise.

    ``file`` is any binary stream: a growing file, a pipe, the file of a socket.
    """

    def __init__(self, file: BinaryIO, series: str, record: str, banks: BankSet) -> None:
        self._file, self.series, self.record, self.banks = file, series, record, banks
        self.records = 0
        self._last: tuple[int, int, int] | None = None
        head = {"format": FORMAT, "series": series, "record": record, "banks": banks.document()}
        self._put(packed(HEADER, json.dumps(head).encode()))

    def write(
        self, run: int, section: int, event: int, banks: Mapping[str, Mapping[str, ArrayLike | Jagged]]
    ) -> None:
        """Write one record: columns by bank; a bank with one row takes columns of one value.

        Raises: ModuleError where they are not as declared, UsageError where the key does not rise.
        """
        tables = {name: _table(self.banks, name, columns) for name, columns in banks.items()}
        batch = Batch(self.record, self.series, run, [section], [event], tables, banks=self.banks)
        self.write_batch(batch)

    def write_batch(self, batch: Batch) -> None:
        """Write the records of a batch."""
        for i in range(batch.n):
            key = (batch.run, int(batch.section[i]), int(batch.event[i]))
            if self._last is not None and key <= self._last:
                raise UsageError(
                    f"record {key} comes after {self._last}", hint="write records in the order of their keys"
                )
            self._put(packed(RECORD, encoded(batch.cut(i, i + 1), self.banks), *key))
            self._last = key
            self.records += 1

    def end(self) -> None:
        """Write the end marker: readers close their outputs."""
        self._put(packed(END, b"", event=self.records))

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()


def _table(banks: BankSet, name: str, columns: Mapping[str, ArrayLike | Jagged]) -> Table:
    bank = banks[name]
    made = {
        column: values if isinstance(values, Jagged) else _array(values, bank[column].dtype)
        for column, values in columns.items()
    }
    rows = 1 if bank.rows == ONE else len(next(iter(made.values()), ()))
    return Table(bank, [0, rows], made)


def _array(values: ArrayLike, dtype: np.dtype[Any]) -> Array:
    """Return one value or many as an array; an empty list says nothing of its type."""
    made = np.atleast_1d(np.asarray(values))
    return made if made.size else np.zeros(0, dtype)


def encoded(batch: Batch, banks: BankSet) -> bytes:
    """Return the body of the one record of a batch: bank by bank as declared, columns after their number."""
    parts: list[bytes] = []
    for bank in banks.values():
        table = batch[bank.name]
        if bank.rows != ONE:
            parts.append(table.counts.astype(_COUNT).tobytes())
        for column in bank.columns:
            _encode(table.columns[column.name], parts)
    return b"".join(parts)


def _encode(values: Values, parts: list[bytes]) -> None:
    if isinstance(values, Jagged):
        parts.append(values.counts.astype(_COUNT).tobytes())
        _encode(values.values, parts)
    else:
        parts.append(values.tobytes())


def decoded(bodies: Sequence[bytes], banks: BankSet, wanted: Sequence[str]) -> dict[str, Table]:
    """Return the wanted banks of records, out of their bodies.

    Raises: FormatError where a body does not hold what is declared.
    """
    readers = {bank.name: _BankParts(bank.rows != ONE, bank.columns) for bank in banks.values()}
    for body in bodies:
        at = 0
        try:
            for parts in readers.values():
                at = parts.take(body, at)
        except ValueError as error:
            raise FormatError("a record is shorter than its banks say", hint=_HINT) from error
        if at != len(body):
            raise FormatError(f"a record has {len(body) - at} bytes too many", hint=_HINT)
    return {name: readers[name].table(banks[name].name, banks, len(bodies)) for name in wanted}


class _BankParts:
    """The pieces of one bank, record by record: row counts, and for each column its counts and values."""

    def __init__(self, is_counted: bool, columns: Sequence[Column]) -> None:
        self._is_counted, self._columns = is_counted, columns
        self._rows: list[int] = []
        self._levels: list[list[list[Array]]] = [[[] for _ in range(c.levels)] for c in columns]
        self._values: list[list[Array]] = [[] for _ in columns]

    def take(self, body: bytes, at: int) -> int:
        """Take the bank of one record from a place in its body on; return where it ends."""
        rows = 1
        if self._is_counted:
            rows = int(np.frombuffer(body, _COUNT, 1, at)[0])
            at += _COUNT.itemsize
        self._rows.append(rows)
        for number, column in enumerate(self._columns):
            n = rows
            for level in self._levels[number]:
                counts = np.frombuffer(body, _COUNT, n, at) if n else np.zeros(0, _COUNT)
                at += counts.nbytes
                level.append(counts)
                n = int(counts.sum(dtype=np.int64))
            values = np.frombuffer(body, column.dtype, n, at) if n else np.zeros(0, column.dtype)
            at += values.nbytes
            self._values[number].append(values)
        return at

    def table(self, name: str, banks: BankSet, records: int) -> Table:
        """Return the bank of all records that were taken."""
        offsets = offsets_of(self._rows) if self._is_counted else np.arange(records + 1)
        columns = {column.name: self._column(number) for number, column in enumerate(self._columns)}
        return Table(banks[name], offsets, columns)

    def _column(self, number: int) -> Values:
        dtype = self._columns[number].dtype
        made: Values = np.concatenate([np.zeros(0, dtype), *self._values[number]])
        for level in reversed(self._levels[number]):
            made = Jagged.from_counts(np.concatenate([np.zeros(0, _COUNT), *level]), made)
        return made
