"""Modules: pairs of muons with corrected momenta."""

from __future__ import annotations

from typing import Any

import numpy as np

from beamwright.core.histogram import Axis, HistogramSet
from beamwright.core.runs import Interval
from beamwright.event.batch import Batch, Table
from beamwright.event.module import Conditions, Module, Parameter
from dimuon.scale import mass

SCALE = "MomentumScale"
_COMPONENTS = ("energy", "px", "py", "pz")


def pairs_of(muons: Table) -> tuple[Any, Any, Any]:
    """Return the records with two muons of opposite charge, and the rows of their first and second muon."""
    record = np.flatnonzero(muons.counts == 2)
    first = muons.offsets[record]
    opposite = muons.charge[first] != muons.charge[first + 1]
    return record[opposite], first[opposite], first[opposite] + 1


def sum_of(muons: Table, first: Any, second: Any) -> tuple[Any, ...]:
    """Return the summed four-vectors: energy, px, py, pz."""
    return tuple(muons[name][first] + muons[name][second] for name in _COMPONENTS)


class MakePairs(Module):
    """Makes a Pair of two muons of opposite charge; the scale corrects their momenta."""

    reads = ("Muon", f"{SCALE}@conditions")
    writes = ("Pair",)

    def book(self, histograms: HistogramSet) -> None:
        axis = Axis(80, 70.0, 110.0, "mass of the pair [GeV]")
        self.measured = histograms.book("mass_measured", axis, title="mass, as measured")
        self.corrected = histograms.book("mass_corrected", axis, title="mass, momenta corrected")

    def conditions_changed(self, interval: Interval, conditions: Conditions) -> None:
        self.scale = float(conditions[SCALE]["scale"][0])

    def process(self, batch: Batch) -> None:
        muons = batch["Muon"]
        record, first, second = pairs_of(muons)
        energy, px, py, pz = sum_of(muons, first, second)
        measured = mass(energy, px, py, pz)
        columns = {
            "mass": measured * self.scale,
            "measured": measured,
            "pt": np.hypot(px, py) * self.scale,
            "rapidity": np.arctanh(pz / energy),
            "first": np.zeros(len(record), np.int32),
            "second": np.ones(len(record), np.int32),
        }
        batch["Pair"] = Table.from_counts("Pair", np.bincount(record, minlength=batch.n), columns)
        batch.fill(self.measured, measured)
        batch.fill(self.corrected, measured * self.scale)


class SelectZ(Module):
    """Selects events with a pair near the mass of the Z."""

    reads = ("Pair",)
    low = Parameter(80.0, "GeV", "smallest mass of a Z candidate")
    high = Parameter(100.0, "GeV", "largest mass of a Z candidate")

    def process(self, batch: Batch) -> None:
        pairs = batch["Pair"]
        near = (pairs.mass >= self.low) & (pairs.mass <= self.high)
        batch.select(np.bincount(pairs.record_index[near], minlength=batch.n) > 0, "z")
