"""Channel map: which PMTs count too much (hot) or too little (dead), from summary slices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orca.detx import CHANNELS
from orca.jagged import Array, Floats, Ints
from orca.raw import rate_hz
from orca.tally import Tally, tally

GOOD, HOT, DEAD, NO_DATA = 0, 1, 2, 3
HOT_RATIO, DEAD_RATIO = 3.0, 0.2
MIN_DOMS = 10
"""DOMs that must have sent data: fewer make no map."""
_MILLIHERTZ = np.round(rate_hz(np.arange(256)) * 1000.0).astype(np.int64)


@dataclass(frozen=True)
class ChannelMap:
    """Status and mean rate (Hz, NaN if always vetoed) of each PMT (d, 31); DOMs sorted by id."""

    dom_id: Ints
    status: NDArray[np.int8]
    rate: Floats

    @classmethod
    def all_good(cls, dom_id: Array) -> ChannelMap:
        """The map before any data: nothing is masked."""
        d = len(dom_id)
        good = np.full((d, CHANNELS), GOOD, np.int8)
        return cls(np.asarray(dom_id, np.int64), good, np.full((d, CHANNELS), np.nan))

    def count(self, status: int) -> int:
        return int((self.status == status).sum())

    @property
    def median(self) -> float:
        """Median rate of the PMTs with data (Hz)."""
        return float(np.nanmedian(self.rate)) if np.isfinite(self.rate).any() else float("nan")

    def masked(self, dom_id: Array, channel: Array) -> NDArray[np.bool_]:
        """Tell which hits come from hot or dead PMTs."""
        if not len(self.dom_id):
            return np.zeros(len(dom_id), bool)
        row = np.minimum(np.searchsorted(self.dom_id, dom_id), len(self.dom_id) - 1)
        bad = np.isin(self.status[row, channel], (HOT, DEAD))
        return np.asarray((self.dom_id[row] == dom_id) & bad)


def collect(dom_id: Array, rate: Array, hrv: Array) -> Tally:
    """Sum the rates by PMT: rate (rows, 31) bytes; vetoed entries (hrv) are left out, silence counts."""
    vetoed = (hrv[:, None].astype(np.int64) >> np.arange(CHANNELS)) & 1
    use = (vetoed == 0).astype(np.int64)
    key = dom_id[:, None].astype(np.int64) * CHANNELS + np.arange(CHANNELS)
    millihertz = _MILLIHERTZ[rate] * use
    return tally(key.ravel(), entries=use.ravel(), millihertz=millihertz.ravel())


def fit(sums: Mapping[str, Array], previous: ChannelMap) -> ChannelMap:
    """Compare each PMT's mean rate with the median of all; DOMs that sent nothing keep their status."""
    dom, channel = np.divmod(sums["key"], CHANNELS)
    every = np.union1d(previous.dom_id, dom).astype(np.int64)
    new = ChannelMap.all_good(every)
    old = np.searchsorted(every, previous.dom_id)
    new.status[old], new.rate[old] = previous.status, previous.rate
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = np.where(sums["entries"] > 0, sums["millihertz"] / sums["entries"] / 1000.0, np.nan)
    median = np.nanmedian(rate) if np.isfinite(rate).any() else np.nan
    row = np.searchsorted(every, dom)
    new.rate[row, channel], new.status[row, channel] = rate, _status(rate, median)
    return new


def _status(rate: Floats, median: float) -> NDArray[np.int8]:
    status = np.full(len(rate), GOOD, np.int8)
    status[rate > HOT_RATIO * median] = HOT
    status[rate < DEAD_RATIO * median] = DEAD
    status[np.isnan(rate)] = NO_DATA
    return status


def doms_with_data(sums: Mapping[str, Array]) -> int:
    """Count the DOMs that sent a usable rate."""
    return len(np.unique(sums["key"][sums["entries"] > 0] // CHANNELS))


def problems(new: ChannelMap) -> list[str]:
    """Tell why this map should not be used, if so."""
    bad = new.count(HOT) + new.count(DEAD)
    share = bad / max(new.status.size, 1)
    return [f"{bad} of {new.status.size} PMTs would be masked"] if share > 0.1 else []
