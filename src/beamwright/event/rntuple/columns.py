"""Operations on batches of flat columns: check, cut, join, weigh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from beamwright.core.errors import FormatError, UnknownNameError
from beamwright.event.rntuple.schema import Array, Column, ColumnData, Schema


def check_columns(schema: Schema, arrays: Mapping[str, Array]) -> list[Array]:
    """Return the arrays in column order, contiguous; raise FormatError where they do not fit the schema."""
    extra = sorted(arrays.keys() - schema.index.keys())
    if extra:
        raise UnknownNameError("column", extra[0], schema.index)
    ordered = [_checked(column, arrays) for column in schema.columns]
    n_entries = schema.n_entries(arrays)
    for column, array in zip(schema.columns, ordered, strict=True):
        _check_length(schema, column, array, ordered, n_entries)
    return ordered


def _checked(column: Column, arrays: Mapping[str, Array]) -> Array:
    if column.key not in arrays:
        raise FormatError(f"column {column.key} is missing", hint=f"hand over {column.dtype} values")
    array = np.ascontiguousarray(arrays[column.key])
    if array.ndim != 1 or array.dtype != column.dtype:
        raise FormatError(
            f"column {column.key} is {array.ndim}-dimensional {array.dtype}, declared flat {column.dtype}",
            hint="convert it before writing; values are never cast silently",
        )
    if column.is_index and (len(array) == 0 or array[0] != 0 or bool((array[1:] < array[:-1]).any())):
        raise FormatError(
            f"offsets {column.key} do not rise from 0", hint="offsets are n + 1 cumulative counts"
        )
    return array


def _check_length(
    schema: Schema, column: Column, array: Array, ordered: Sequence[Array], n_entries: int
) -> None:
    expected = n_entries if column.parent < 0 else int(ordered[column.parent][-1])
    if len(array) - column.is_index != expected:
        counter = "the events" if column.parent < 0 else schema.columns[column.parent].key
        raise FormatError(
            f"column {column.key} has {len(array) - column.is_index} elements, {counter} count {expected}",
            hint="columns of one bank have one length",
        )


def entry_bytes(schema: Schema, arrays: Sequence[Array], n_entries: int) -> Array:
    """Return the cumulative in-memory bytes of the events of a batch, int64, ``n_entries`` + 1 values."""
    total = np.zeros(n_entries + 1, np.int64)
    starts: dict[int, Array] = {-1: np.arange(n_entries + 1, dtype=np.int64)}
    for number, column in enumerate(schema.columns):
        total += starts[column.parent] * column.itemsize
        if column.is_index:
            starts[number] = arrays[number][starts[column.parent]]
    return total


def cut_columns(schema: Schema, arrays: Sequence[Array], start: int, stop: int) -> list[Array]:
    """Return the columns of events ``start`` to ``stop``, offsets counted from 0 again."""
    ranges: dict[int, tuple[int, int]] = {-1: (start, stop)}
    cut: list[Array] = []
    for number, column in enumerate(schema.columns):
        first, last = ranges[column.parent]
        if not column.is_index:
            cut.append(arrays[number][first:last])
            continue
        offsets = arrays[number][first : last + 1]
        ranges[number] = (int(offsets[0]), int(offsets[-1]))
        cut.append(offsets - offsets[0])
    return cut


def join_columns(schema: Schema, parts: Sequence[Sequence[Array]]) -> list[Array]:
    """Return the columns of consecutive batches as one batch."""
    if len(parts) == 1:
        return list(parts[0])
    return [
        join_offsets([part[number] for part in parts])
        if column.is_index
        else np.concatenate([part[number] for part in parts])
        for number, column in enumerate(schema.columns)
    ]


def join_offsets(parts: Sequence[Array]) -> Array:
    """Join offsets arrays, each counted from 0, into one."""
    joined = np.empty(sum(len(part) - 1 for part in parts) + 1, np.int64)
    joined[0] = position = 0
    base = 0
    for part in parts:
        np.add(part[1:], base, out=joined[position + 1 : position + len(part)])
        position += len(part) - 1
        base += int(part[-1])
    return joined


def empty_columns(schema: Schema) -> ColumnData:
    """Return the columns of a batch of no events."""
    return {column.key: np.zeros(int(column.is_index), column.dtype) for column in schema.columns}
