"""Histograms for others: the UHI protocol, which plotting libraries read, and ``hist`` objects."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from beamwright.core.errors import ConfigError
from beamwright.core.histogram import Axis, Histogram


class Traits(NamedTuple):
    """What kind of axis it is."""

    circular: bool = False
    discrete: bool = False


@dataclass(frozen=True)
class PlottableAxis:
    """A regular axis as UHI wants it: its length, and the lower and upper edge of each bin."""

    axis: Axis

    @property
    def traits(self) -> Traits:
        return Traits()

    @property
    def label(self) -> str:
        return self.axis.label

    def __len__(self) -> int:
        return self.axis.bins

    def __getitem__(self, index: int) -> tuple[float, float]:
        edges = self.axis.edges()
        if not 0 <= index < self.axis.bins:
            raise IndexError(f"bin {index} of {self.axis.bins}")
        return float(edges[index]), float(edges[index + 1])

    def __iter__(self) -> Iterator[tuple[float, float]]:
        return (self[index] for index in range(len(self)))


class Plottable:
    """A histogram of ours behind the UHI protocol: counts without flow, variances as for plain counts."""

    kind = "COUNT"

    def __init__(self, histogram: Histogram) -> None:
        self.histogram = histogram
        self.name, self.title = histogram.name, histogram.title
        self.axes = tuple(PlottableAxis(axis) for axis in histogram.axes)

    def values(self) -> NDArray[np.float64]:
        """Return the counts per bin."""
        return self.histogram.values.astype(np.float64)

    def counts(self) -> NDArray[np.float64]:
        """Return the entries per bin: the same."""
        return self.values()

    def variances(self) -> NDArray[np.float64]:
        """Return the variances of the counts."""
        return self.values()


def to_hist(histogram: Histogram) -> Any:
    """Return a ``hist.Hist`` with the same axes and counts, flow bins included. Needs the extra ``columnar``.

    Raises: ConfigError.
    """
    try:
        hist = importlib.import_module("hist")
    except ImportError as error:
        hint = "install beamwright with its extra: beamwright[columnar]"
        raise ConfigError("hist is not installed", hint=hint) from error
    axes = [hist.axis.Regular(a.bins, a.low, a.high, label=a.label) for a in histogram.axes]
    made = hist.Hist(*axes, storage=hist.storage.Int64(), name=histogram.name, label=histogram.title)
    made.view(flow=True)[...] = histogram.counts
    return made
