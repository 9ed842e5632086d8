"""Time-over-threshold scale of each DOM: makes the mean pulse of single photons the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from orca.jagged import Array, Floats, Ints
from orca.tally import Tally, tally

LOW, HIGH = 15, 40
"""Window (exclusive, ns) of single-photon pulses; the mode is 27 ns."""
REFERENCE_NS = 25.1
MEAN_TOLERANCE_NS = 1.5
MIN_HITS = 200
"""Hits in the window a DOM needs for a scale of its own."""
LIMITS = (0.85, 1.18)
_VALUES = 256


@dataclass(frozen=True)
class TotScales:
    """Multiply the ToT of a DOM by its scale; DOMs sorted by id."""

    dom_id: Ints
    scale: Floats
    hits: Ints

    @classmethod
    def unity(cls, dom_id: Array) -> TotScales:
        """Scales that change nothing."""
        return cls(np.asarray(dom_id, np.int64), np.ones(len(dom_id)), np.zeros(len(dom_id), np.int64))

    def of(self, dom_id: Array) -> Floats:
        """Give the scale for each DOM id, 1 where there is none."""
        return look_up(self.dom_id, self.scale, dom_id, 1.0)


def look_up(ids: Ints, values: Array, wanted: Array, missing: float) -> Floats:
    """Take the value at each wanted id from columns sorted by id."""
    if not len(ids):
        return np.full(len(wanted), missing)
    row = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where(ids[row] == wanted, values[row], missing)


def collect(dom_id: Array, tot: Array) -> Tally:
    """Count the hits by DOM and ToT."""
    return tally(dom_id.astype(np.int64) * _VALUES + tot, hits=np.ones(len(tot), np.int64))


def dom_means(counts: Mapping[str, Array]) -> tuple[Ints, Floats, Ints]:
    """Give DOM ids, mean ToT in the window (ns) and hits in the window, for DOMs with enough hits."""
    tot, dom = counts["key"] % _VALUES, counts["key"] // _VALUES
    inside = (tot > LOW) & (tot < HIGH)
    sums = tally(dom[inside], hits=counts["hits"][inside], tot=(counts["hits"] * tot)[inside])
    enough = sums["hits"] >= MIN_HITS
    hits = sums["hits"][enough]
    return sums["key"][enough], sums["tot"][enough] / hits, hits


def fit(counts: Mapping[str, Array], previous: TotScales) -> TotScales:
    """Scale each DOM to the reference; a DOM with too few hits keeps its previous scale."""
    dom, mean, hits = dom_means(counts)
    every = np.union1d(previous.dom_id, dom)
    scale = previous.of(every)
    row = np.searchsorted(every, dom)
    scale[row] = REFERENCE_NS / mean
    used = np.zeros(len(every), np.int64)
    used[row] = hits
    return TotScales(every, scale, used)


def spread(counts: Mapping[str, Array], scales: TotScales | None = None) -> tuple[float, float]:
    """Give mean and standard deviation over DOMs of the (scaled) mean ToT, ns."""
    dom, mean, _ = dom_means(counts)
    scaled = mean * scales.of(dom) if scales else mean
    return float(scaled.mean()), float(scaled.std())


def problems(new: TotScales) -> list[str]:
    """Tell why these scales should not be used, if so."""
    far = (new.scale < LIMITS[0]) | (new.scale > LIMITS[1])
    return [f"the scale of DOM {d} is {s:.3f}" for d, s in zip(new.dom_id[far], new.scale[far], strict=True)]
