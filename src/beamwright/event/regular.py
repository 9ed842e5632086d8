"""Columns of keys that are regular, kept as their stretches: most keys count up, section by section."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
LEAST = 16
"""Values that a stretch has to have on average: with fewer, an array takes less time."""
_FREE = 4096
_HELD = 4


class Regular:
    """Whole numbers that rise by ``step`` (0 or 1) within stretches, made where they are asked for.

    ``starts`` says where each stretch begins, ``firsts`` with what. Parts that were made are held for a
    while.
    """

    def __init__(self, starts: Array, firsts: Array, length: int, step: int) -> None:
        self.starts, self.firsts, self.step = starts, firsts, step
        self._length = length
        self._held: dict[tuple[int, int], Array] = {}

    @classmethod
    def joined(cls, parts: Sequence[Regular]) -> Self:
        """Return consecutive columns as one."""
        begins = np.cumsum([0, *(len(part) for part in parts)])
        starts = np.concatenate([part.starts + n for part, n in zip(parts, begins, strict=False)])
        firsts, step = np.concatenate([part.firsts for part in parts]), parts[0].step
        expected = firsts[:-1] + firsts.dtype.type(step) * np.diff(starts).astype(firsts.dtype)
        begins_anew = np.concatenate([np.ones(min(len(firsts), 1), np.bool_), firsts[1:] != expected])
        return cls(starts[begins_anew], firsts[begins_anew], int(begins[-1]), step)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, at: int) -> int:
        """Return one value."""
        if not 0 <= at < self._length:
            raise IndexError(f"value {at} of {self._length}")
        number = int(np.searchsorted(self.starts, at, "right")) - 1
        return int(self.firsts[number]) + self.step * (at - int(self.starts[number]))

    def part(self, start: int, stop: int) -> Array:
        """Return the values from ``start`` to before ``stop``."""
        held = self._held.get((start, stop))
        if held is None:
            held = self._held[start, stop] = self._made(start, stop)
            for old in list(self._held)[:-_HELD]:
                self._held.pop(old, None)
        return held

    def _made(self, start: int, stop: int) -> Array:
        dtype = self.firsts.dtype
        first = int(np.searchsorted(self.starts, start, "right")) - 1
        last = int(np.searchsorted(self.starts, stop, "left"))
        if start >= stop:
            return np.zeros(0, dtype)
        if last - first == 1:
            made = np.arange(stop - start, dtype=dtype) if self.step else np.zeros(stop - start, dtype)
            made += dtype.type(self[start])
            return made
        edges = np.concatenate([[start], self.starts[first + 1 : last], [stop]])
        made = np.repeat(self._bases(slice(first, last)), edges[1:] - edges[:-1])
        if self.step:
            made += np.arange(start, stop, dtype=dtype)
        return made

    @property
    def is_ordered(self) -> bool:
        """Whether values rise within all stretches: the highest number is followed by 0."""
        lengths = np.diff(self.starts, append=self._length)
        lasts = self.firsts + self.firsts.dtype.type(self.step) * (lengths - 1).astype(self.firsts.dtype)
        return bool((lasts >= self.firsts).all())

    def at(self, positions: Array) -> Array:
        """Return the values at positions in any order."""
        made = self._bases(np.searchsorted(self.starts, positions, "right") - 1)
        if self.step:
            made = made + positions.astype(made.dtype)
        return made

    def _bases(self, stretches: Any) -> Array:
        """Return what is to be added to a position to give its value; differences wrap around."""
        firsts: Array = self.firsts[stretches]
        return firsts - self.starts[stretches].astype(firsts.dtype) if self.step else firsts


class Stretches:
    """Finds the stretches of a column that comes piece by piece."""

    def __init__(self, step: int, dtype: Any) -> None:
        self._step, self._dtype = step, np.dtype(dtype)
        self._starts: list[Array] = []
        self._firsts: list[Array] = []
        self._length = self._number = 0
        self._next: Any = None

    def add(self, values: Array) -> bool:
        """Take the next piece; tell whether the column is regular so far."""
        if not len(values):
            return True
        one = self._dtype.type(self._step)
        expected = values[:-1] + one if self._step else values[:-1]
        starts = np.flatnonzero(values[1:] != expected) + 1
        if self._next is None or values[0] != self._next:
            starts = np.concatenate([[0], starts])
        self._starts.append(starts + self._length)
        self._firsts.append(values[starts])
        self._length += len(values)
        self._number += len(starts)
        self._next = values[-1:] + one  # an array wraps around in silence
        return self._number * LEAST <= self._length + _FREE

    def column(self) -> Regular:
        """Return what was found."""
        starts = np.concatenate([np.zeros(0, np.int64), *self._starts])
        firsts = np.concatenate([np.zeros(0, self._dtype), *self._firsts])
        return Regular(starts, firsts, self._length, self._step)


def rise(columns: Sequence[Regular]) -> bool:
    """Tell whether keys rise strictly, their columns from the highest on; the last must rise by steps."""
    starts = np.unique(np.concatenate([column.starts for column in columns]))
    starts = starts[starts > 0]
    is_above = np.zeros(len(starts), np.bool_)
    for column in reversed(columns):
        before, after = column.at(starts - 1), column.at(starts)
        is_above = (after > before) | ((after == before) & is_above)
    return bool(is_above.all()) and all(column.is_ordered for column in columns)
