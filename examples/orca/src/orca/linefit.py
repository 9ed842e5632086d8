"""Fit a straight line moving at constant velocity to the triggered hits, with outliers clipped.

The first, fast estimate of a muon's direction: least squares of r = r0 + v t. All sums run over an
event's own hits in their order, so the result of an event does not depend on the others fitted with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orca.jagged import Array, Floats, Ints, Table

MIN_HITS = 5
ROUNDS = 3
CLIP = 2.5
"""Hits farther than this times the rms distance from the line are left out of the next round."""


@dataclass(frozen=True)
class LineFits:
    """One line per event; events with too few hits have n_hits 0 and direction NaN."""

    position: Floats
    """(n, 3) m, at time `time`"""
    direction: Floats
    """(n, 3) unit vectors along the motion"""
    speed: Floats
    """(n,) m/ns"""
    time: Floats
    """(n,) ns"""
    rms: Floats
    """(n,) m, of the hits' distances from the line"""
    n_hits: Ints

    def __len__(self) -> int:
        return len(self.n_hits)


def segment_sums(owner: Ints, values: Floats, n: int) -> Floats:
    """Add up the rows of each owner, one row after the other: (rows, k) → (n, k)."""
    return np.stack([np.bincount(owner, column, n) for column in values.T], axis=1)


def fit_lines(hits: Table) -> LineFits:
    """Fit each event's hits: columns x, y, z (m), t (ns)."""
    n, owner = len(hits), hits.owner
    points = np.stack([hits[name] for name in ("x", "y", "z")], axis=1).astype(np.float64).reshape(-1, 3)
    times = hits["t"].astype(np.float64)
    keep = np.ones(len(times), bool)
    line = _least_squares(owner, points, times, keep, n)
    for _ in range(ROUNDS - 1):
        distance, rms = _distances(line, owner, points, times, keep, n)
        keep = distance <= CLIP * rms[owner]
        line = _least_squares(owner, points, times, keep, n)
    _, rms = _distances(line, owner, points, times, keep, n)
    return _result(line, rms, np.bincount(owner[keep], minlength=n))


Line = tuple[Floats, Floats, Floats]
"""Mean position, velocity, mean time of each event."""


def _least_squares(owner: Ints, points: Floats, times: Floats, keep: Array, n: int) -> Line:
    weight = keep.astype(np.float64)
    # counting times from the first hit keeps their products exact enough in a frame of 1e8 ns
    start = np.full(n, np.inf)
    np.minimum.at(start, owner, times)
    since = times - start[owner]
    sums = segment_sums(owner, np.column_stack([weight, weight * since, weight[:, None] * points]), n)
    count = np.maximum(sums[:, 0], 1.0)
    mean_t, mean_r = sums[:, 1] / count, sums[:, 2:] / count[:, None]
    dt, dr = since - mean_t[owner], points - mean_r[owner]
    moments = segment_sums(owner, (weight * dt)[:, None] * np.column_stack([dt, dr]), n)
    with np.errstate(invalid="ignore", divide="ignore"):
        velocity = moments[:, 1:] / moments[:, :1]
    return mean_r, velocity, mean_t + start


def _distances(
    line: Line, owner: Ints, points: Floats, times: Floats, keep: Array, n: int
) -> tuple[Floats, Floats]:
    mean_r, velocity, mean_t = line
    miss = points - mean_r[owner] - velocity[owner] * (times - mean_t[owner])[:, None]
    square = miss[:, 0] ** 2 + miss[:, 1] ** 2 + miss[:, 2] ** 2
    kept = np.bincount(owner[keep], minlength=n)
    total = np.bincount(owner, np.where(keep, square, 0.0), n)
    return np.sqrt(square), np.sqrt(total / np.maximum(kept, 1))


def _result(line: Line, rms: Floats, counts: Ints) -> LineFits:
    position, velocity, time = line
    speed = np.sqrt(velocity[:, 0] ** 2 + velocity[:, 1] ** 2 + velocity[:, 2] ** 2)
    good = (counts >= MIN_HITS) & (speed > 0) & np.isfinite(speed)
    safe = np.where(good, speed, np.nan)
    return LineFits(
        position, velocity / safe[:, None], safe, time, np.where(good, rms, np.nan), np.where(good, counts, 0)
    )
