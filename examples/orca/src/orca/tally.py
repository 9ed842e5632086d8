"""Sums by key: integer accumulators whose merging is exact and associative.

A tally is a dictionary of arrays: `key` (sorted, unique) and one integer sum per further column. Any split
of the data over workers gives the same tally, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from orca.jagged import Array, Ints

Tally = dict[str, Ints]


def tally(key: Array, **values: Array) -> Tally:
    """Sum the values of equal keys."""
    order = np.argsort(key, kind="stable")
    ordered = np.asarray(key, np.int64)[order]
    first = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))
    sums = {name: _segment_sums(np.asarray(v, np.int64)[order], first) for name, v in values.items()}
    return {"key": ordered[first], **sums}


def merge(a: Mapping[str, Array], b: Mapping[str, Array]) -> Tally:
    """Add two tallies with the same columns."""
    columns = {name: np.concatenate([a[name], b[name]]) for name in a}
    return tally(columns.pop("key"), **columns)


def _segment_sums(values: Ints, first: Ints) -> Ints:
    return np.add.reduceat(values, first) if len(first) else np.zeros(0, np.int64)
