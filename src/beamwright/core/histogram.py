"""Mergeable histograms with fixed axes: integer counts, so that merging is exact in any order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamwright.core import bundle
from beamwright.core.errors import SchemaMismatchError, UnknownNameError, UsageError


@dataclass(frozen=True)
class Axis:
    """A regular axis: ``bins`` equal bins between ``low`` and ``high``; label with its unit."""

    bins: int
    low: float
    high: float
    label: str = ""

    def __post_init__(self) -> None:
        if self.bins < 1 or not self.low < self.high:
            raise UsageError(
                f"axis {self.label!r}: {self.bins} bins from {self.low} to {self.high}",
                hint="bins >= 1 and low < high",
            )

    def edges(self) -> NDArray[np.float64]:
        """Return the bins + 1 edges."""
        return np.linspace(self.low, self.high, self.bins + 1)

    def index(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Return the bin of each value: 0 is underflow, bins + 1 overflow and NaN."""
        scaled = np.asarray(values, np.float64) - self.low
        scaled *= self.bins / (self.high - self.low)
        np.floor(scaled, out=scaled)
        np.fmin(scaled, self.bins, out=scaled)  # a NaN becomes the other number
        np.maximum(scaled, -1.0, out=scaled)
        found: NDArray[np.int64] = scaled.astype(np.int64)
        found += 1
        return found


@dataclass
class Histogram:
    """Counts over one or two axes, flow bins included: shape is (bins + 2) per axis."""

    name: str
    axes: tuple[Axis, ...]
    title: str = ""
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        if self.counts.size == 0:
            self.counts = np.zeros(tuple(axis.bins + 2 for axis in self.axes), np.int64)

    def fill(self, *values: NDArray[Any]) -> None:
        """Count the entries: one array of equal length per axis."""
        indices = tuple(axis.index(v) for axis, v in zip(self.axes, values, strict=True))
        flat = indices[0] if len(indices) == 1 else np.ravel_multi_index(indices, self.counts.shape)
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)

    def add(self, other: Histogram) -> None:
        """Add the counts of a histogram with the same axes.

        Raises: SchemaMismatchError.
        """
        if self.axes != other.axes:
            raise SchemaMismatchError(
                f"histogram {self.name!r} has other axes in its second part",
                hint="the two were booked by other releases",
            )
        self.counts += other.counts

    @property
    def entries(self) -> int:
        return int(self.counts.sum())

    @property
    def values(self) -> NDArray[np.int64]:
        """The counts without the flow bins."""
        inner: NDArray[np.int64] = self.counts[tuple(slice(1, -1) for _ in self.axes)]
        return inner


class HistogramSet(dict[str, Histogram]):
    """Histograms by name, booked once; equal sets have equal bytes."""

    def book(self, name: str, *axes: Axis, title: str = "") -> Histogram:
        """Return the histogram of this name, made when it is new."""
        if name not in self:
            self[name] = Histogram(name, axes, title)
        elif self[name].axes != axes:
            raise UsageError(
                f"histogram {name!r} was booked with other axes", hint="give the second one a name of its own"
            )
        return self[name]

    def __missing__(self, name: str) -> Histogram:
        raise UnknownNameError("histogram", name, self)

    def add(self, other: Mapping[str, Histogram]) -> None:
        """Merge another set into this one."""
        for name in sorted(other):
            theirs = other[name]
            self.book(name, *theirs.axes, title=theirs.title).add(theirs)

    def to_bytes(self) -> bytes:
        """Return canonical bytes."""
        document = {
            name: {"title": h.title, "axes": [[a.bins, a.low, a.high, a.label] for a in h.axes]}
            for name, h in self.items()
        }
        return bundle.pack({name: h.counts for name, h in self.items()}, {"histograms": document})

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "histograms") -> HistogramSet:
        """Read what ``to_bytes`` wrote."""
        arrays, document = bundle.unpack(data, name)
        found = cls()
        for key, row in document["histograms"].items():
            axes = tuple(Axis(*axis) for axis in row["axes"])
            found[key] = Histogram(key, axes, row["title"], arrays[key].astype(np.int64))
        return found

    @classmethod
    def merged(cls, parts: Iterable[Mapping[str, Histogram]]) -> HistogramSet:
        """Return the sum of the parts."""
        whole = cls()
        for part in parts:
            whole.add(part)
        return whole
