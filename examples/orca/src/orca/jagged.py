"""Jagged tables: flat columns with the offsets that cut them into events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def offsets_of(counts: Array) -> Ints:
    """Turn row counts per event into n + 1 offsets."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def ranges(starts: Array, counts: Array) -> Ints:
    """Concatenate the integer ranges start … start + count."""
    offsets = offsets_of(counts)
    return np.arange(offsets[-1]) + np.repeat(np.asarray(starts, np.int64) - offsets[:-1], counts)


def native(values: Array) -> Array:
    """Copy a column to contiguous memory in the machine's own byte order."""
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))


@dataclass(frozen=True)
class Table:
    """Rows of many events: columns of equal length, offsets n + 1."""

    columns: Mapping[str, Array]
    offsets: Ints

    def __getitem__(self, name: str) -> Array:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> Ints:
        return np.diff(self.offsets)

    @property
    def owner(self) -> Ints:
        """The event each row belongs to."""
        return np.repeat(np.arange(len(self)), self.counts)

    def event(self, index: int) -> dict[str, Array]:
        """Give the rows of one event, as views."""
        rows = slice(self.offsets[index], self.offsets[index + 1])
        return {name: values[rows] for name, values in self.columns.items()}

    def take(self, events: Array) -> Table:
        """Choose events, in the order given."""
        counts = self.counts[events]
        rows = ranges(self.offsets[:-1][events], counts)
        return Table({name: values[rows] for name, values in self.columns.items()}, offsets_of(counts))

    def where(self, keep: Array) -> Table:
        """Keep the rows where `keep` holds; every event stays, possibly empty."""
        counts = np.bincount(self.owner[keep], minlength=len(self))
        return Table({name: values[keep] for name, values in self.columns.items()}, offsets_of(counts))


def concatenate(tables: Iterable[Table]) -> Table:
    """Append tables with the same columns."""
    parts = list(tables)
    names = parts[0].columns
    columns = {name: np.concatenate([part[name] for part in parts]) for name in names}
    return Table(columns, offsets_of(np.concatenate([part.counts for part in parts])))


def joined(first: Table, second: Table) -> Table:
    """Put the rows of a second table behind those of the first, event by event."""
    both = concatenate([first, second])
    order = np.argsort(np.concatenate([first.owner, second.owner]), kind="stable")
    return Table({n: v[order] for n, v in both.columns.items()}, first.offsets + second.offsets)
