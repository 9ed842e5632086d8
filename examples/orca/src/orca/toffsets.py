"""Time offsets between the PMTs of one DOM, from coincidences of ⁴⁰K decays.

A decay in the sea water beside a DOM makes light that reaches two of its PMTs within a few ns. The
difference of their hit times scatters around the difference of their offsets with σ ≈ 3 ns, over a flat
background of chance pairs. The 31 offsets of each DOM follow from a likelihood fit (Gaussian plus flat,
signal fraction binned in the angle between the PMTs) with a Gaussian prior around the previous offsets: runs
are short, and without the prior the fit follows the noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from orca.detx import CHANNELS
from orca.jagged import Array, Floats, Ints, Table
from orca.tally import Tally, tally

WINDOW_NS = 25
"""Pairs closer than this are coincidences; a pair with a third hit this near is left out."""
MIN_TOT = 15
SIGMA_NS = 3.0
PRIOR_FIRST_NS, PRIOR_NEXT_NS = 1.6, 1.2
"""Width of the prior when starting from nothing, and from the constants of the previous run."""
ANGLE_BINS = 8
NEAR_BINS = (6, 7)
"""Bins of cos > 0.5, whose pairs measure the width."""
CORE_NS = 11.5
MAX_OFFSET_NS, MAX_CHANGE_NS = 12.0, 2.5
ROUNDS, TOLERANCE_NS = 60, 1e-4
CORE_ROUNDS, CORE_TOLERANCE = 1000, 1e-5
_SHIFT = 32
_SQRT_2PI = math.sqrt(2.0 * math.pi)
_FRAME_SPAN = 1 << 27


@dataclass(frozen=True)
class TimeOffsets:
    """Offsets (d, 31) in ns, of zero mean on each DOM; DOMs sorted by id."""

    dom_id: Ints
    offset: Floats
    pairs: Ints
    """Coincidences each DOM's offsets rest on, 0 if they are initial"""

    @classmethod
    def zero(cls, dom_id: Array) -> TimeOffsets:
        """No constants: the DOM-mean offset for every channel."""
        d = len(dom_id)
        return cls(np.asarray(dom_id, np.int64), np.zeros((d, CHANNELS)), np.zeros(d, np.int64))

    @property
    def initial(self) -> bool:
        return not self.pairs.any()

    def extended(self, dom_id: Array) -> TimeOffsets:
        """Add DOMs, with zero offsets."""
        every = np.union1d(self.dom_id, dom_id).astype(np.int64)
        grown = TimeOffsets.zero(every)
        row = np.searchsorted(every, self.dom_id)
        grown.offset[row], grown.pairs[row] = self.offset, self.pairs
        return grown


@dataclass(frozen=True)
class Pairs:
    """Coincidences counted by DOM, channels (first < second), angle bin and time difference."""

    dom_id: Ints
    first: Ints
    second: Ints
    angle: Ints
    dt: Ints
    """Time of the first channel less that of the second, ns"""
    count: Ints


def collect(hits: Table, rows: Array, direction: Floats, dom_id: Array) -> Tally:
    """Count the isolated pairs of hits in slices.

    hits: columns channel, tdc, tot; rows: each hit's row in direction (d, 31, 3) and dom_id, −1 to skip.
    """
    use = (hits["tot"] >= MIN_TOT) & (rows >= 0)
    place = (hits.owner * len(dom_id) + rows)[use] * _FRAME_SPAN + hits["tdc"][use].astype(np.int64)
    channel = hits["channel"][use].astype(np.int64)
    order = np.lexsort((channel, place))
    place, channel, row = place[order], channel[order], rows[use][order]
    i = _isolated(np.diff(place))
    i = i[channel[i] != channel[i + 1]]
    earlier, later, row, gap = channel[i], channel[i + 1], row[i], place[i + 1] - place[i]
    first, second = np.minimum(earlier, later), np.maximum(earlier, later)
    cosine = (direction[row, first] * direction[row, second]).sum(axis=1)
    angle = np.clip(np.floor((cosine + 1.0) / 2.0 * ANGLE_BINS), 0, ANGLE_BINS - 1).astype(np.int64)
    dt = np.where(earlier == first, -gap, gap)
    return tally(_encode(dom_id[row], first, second, angle, dt), pairs=np.ones(len(dt), np.int64))


def _isolated(gap: Ints) -> Ints:
    """Find pairs of neighbours with no third hit near."""
    far = np.ones(len(gap) + 2, bool)
    far[1:-1] = gap >= WINDOW_NS
    near = np.flatnonzero(gap < WINDOW_NS)
    return near[far[near] & far[near + 2]]


def _encode(dom: Array, first: Ints, second: Ints, angle: Ints, dt: Ints) -> Ints:
    code = (dom.astype(np.int64) * CHANNELS + first) * CHANNELS + second
    return (code * ANGLE_BINS + angle) * 2 * _SHIFT + dt + _SHIFT


def decode(counts: Mapping[str, Array]) -> Pairs:
    """Turn the tally of `collect` into columns."""
    code, dt = np.divmod(counts["key"], 2 * _SHIFT)
    code, angle = np.divmod(code, ANGLE_BINS)
    code, second = np.divmod(code, CHANNELS)
    dom, first = np.divmod(code, CHANNELS)
    return Pairs(dom, first, second, angle, dt - _SHIFT, counts["pairs"])


def fit(counts: Mapping[str, Array], previous: TimeOffsets) -> TimeOffsets:
    """Fit all DOMs' offsets, starting from and held by the previous ones; DOMs without pairs keep theirs."""
    pairs = decode(counts)
    start = previous.extended(pairs.dom_id)
    prior = PRIOR_FIRST_NS if previous.initial else PRIOR_NEXT_NS
    row = np.searchsorted(start.dom_id, pairs.dom_id)
    fraction = np.full(ANGLE_BINS, 0.5)
    offset = start.offset
    for _ in range(ROUNDS):
        weight, fraction = _signal(pairs, _corrected(pairs, row, offset), fraction)
        fitted = _weighted_fit(pairs, row, weight, start.offset, prior)
        change = np.abs(fitted - offset).max(initial=0.0)
        offset = fitted
        if change < TOLERANCE_NS:
            break
    seen = np.bincount(row, pairs.count, len(start.dom_id)).astype(np.int64)
    kept = np.where(seen[:, None] > 0, offset, start.offset)
    return TimeOffsets(start.dom_id, kept, np.where(seen > 0, seen, start.pairs))


def _corrected(pairs: Pairs, row: Ints, offset: Floats) -> Floats:
    return pairs.dt + offset[row, pairs.first] - offset[row, pairs.second]


def _signal(pairs: Pairs, dt: Floats, fraction: Floats) -> tuple[Floats, Floats]:
    """Weigh each pair by count and probability to be a true coincidence; re-estimate the signal fractions."""
    gauss = np.exp(-0.5 * (dt / SIGMA_NS) ** 2) / (SIGMA_NS * np.sqrt(2.0 * np.pi))
    signal = fraction[pairs.angle] * gauss
    weight = pairs.count * signal / (signal + (1.0 - fraction[pairs.angle]) / (2.0 * WINDOW_NS))
    total = np.bincount(pairs.angle, pairs.count, ANGLE_BINS)
    return weight, np.bincount(pairs.angle, weight, ANGLE_BINS) / np.maximum(total, 1)


def _weighted_fit(pairs: Pairs, row: Ints, weight: Floats, start: Floats, prior: float) -> Floats:
    """Solve each DOM's linear least squares with the prior, and take the mean off."""
    d = len(start)
    cell = (row * CHANNELS + pairs.first) * CHANNELS + pairs.second
    links = np.bincount(cell, weight, d * CHANNELS**2).reshape(d, CHANNELS, CHANNELS)
    pulls = np.bincount(cell, weight * pairs.dt, d * CHANNELS**2).reshape(d, CHANNELS, CHANNELS)
    links = links + links.transpose(0, 2, 1)
    matrix = (np.eye(CHANNELS) * links.sum(axis=2)[:, :, None] - links) / SIGMA_NS**2
    matrix += np.eye(CHANNELS) / prior**2
    right = (pulls.sum(axis=1) - pulls.sum(axis=2)) / SIGMA_NS**2 + start / prior**2
    fitted = np.linalg.solve(matrix, right[:, :, None])[:, :, 0]
    return np.asarray(fitted - fitted.mean(axis=1, keepdims=True))


@dataclass(frozen=True)
class Width:
    """Gaussian core of the time differences of near PMTs, over its flat background."""

    sigma: float
    mean: float
    fraction: float
    pairs: int


def width(counts: Mapping[str, Array], offsets: TimeOffsets) -> Width:
    """Measure how well offsets align pairs (cos > 0.5, |Δt| < 11.5 ns): give it an independent sample."""
    return fit_core(*near_differences(counts, offsets, CORE_NS))


def near_differences(
    counts: Mapping[str, Array], offsets: TimeOffsets, limit: float = WINDOW_NS
) -> tuple[Floats, Ints]:
    """Give corrected time differences (ns) of PMTs that look nearly the same way, and how often each came."""
    pairs = decode(counts)
    known = offsets.extended(pairs.dom_id)
    dt = _corrected(pairs, np.searchsorted(known.dom_id, pairs.dom_id), known.offset)
    inside = np.isin(pairs.angle, NEAR_BINS) & (np.abs(dt) < limit)
    return dt[inside], pairs.count[inside]


def fit_core(dt: Floats, count: Ints) -> Width:
    """Fit a Gaussian plus flat background within ± 11.5 ns, by expectation maximisation."""
    if not len(dt):
        return Width(float("nan"), float("nan"), float("nan"), 0)
    mean, sigma, share = 0.0, SIGMA_NS, 0.5
    for _ in range(CORE_ROUNDS):
        gauss = np.exp(-0.5 * ((dt - mean) / sigma) ** 2) / (sigma * _SQRT_2PI * _cut(mean, sigma)[0])
        signal = share * gauss
        weight = count * signal / (signal + (1.0 - share) / (2.0 * CORE_NS))
        before = mean, sigma, share
        share = float(weight.sum() / count.sum())
        mean, sigma = _core_moments(dt, weight, mean, sigma)
        if max(abs(mean - before[0]), abs(sigma - before[1]), abs(share - before[2])) < CORE_TOLERANCE:
            break
    return Width(sigma, mean, share, int(count.sum()))


def _core_moments(dt: Floats, weight: Floats, mean: float, sigma: float) -> tuple[float, float]:
    """Turn weighted moments into those of the whole Gaussian, whose tails the window cuts off."""
    total = float(weight.sum())
    seen = float((weight * dt).sum()) / total
    spread = float((weight * (dt - seen) ** 2).sum()) / total
    _, shift, shrink = _cut(mean, sigma)
    return seen - sigma * shift, math.sqrt(spread / shrink)


def _cut(mean: float, sigma: float) -> tuple[float, float, float]:
    """Of a Gaussian cut to the window: the share inside, its shift (in σ), its variance (in σ²)."""
    low, high = (-CORE_NS - mean) / sigma, (CORE_NS - mean) / sigma
    inside = 0.5 * (math.erf(high / math.sqrt(2.0)) - math.erf(low / math.sqrt(2.0)))
    at_low, at_high = (math.exp(-0.5 * x * x) / (_SQRT_2PI * inside) for x in (low, high))
    shift = at_low - at_high
    return inside, shift, 1.0 + low * at_low - high * at_high - shift**2


def problems(new: TimeOffsets, previous: TimeOffsets) -> list[str]:
    """Tell why these offsets should not be used, if so."""
    found = []
    largest = float(np.abs(new.offset).max(initial=0.0))
    if largest > MAX_OFFSET_NS:
        found.append(f"an offset of {largest:.1f} ns is larger than {MAX_OFFSET_NS} ns")
    change = rms_difference(new, previous)
    if change > MAX_CHANGE_NS:
        found.append(f"the offsets moved by {change:.2f} ns rms, more than {MAX_CHANGE_NS} ns")
    return found


def rms_difference(a: TimeOffsets, b: TimeOffsets) -> float:
    """Give the rms difference of two sets of offsets over the DOMs they share (ns)."""
    _, i, j = np.intersect1d(a.dom_id, b.dom_id, return_indices=True)
    return float(np.sqrt(np.mean((a.offset[i] - b.offset[j]) ** 2))) if len(i) else 0.0
