"""Fit a muon track to Cherenkov light: direction, position and time, five parameters.

Light leaves the track under the Cherenkov angle θ, so a hit l along the track and d away from it comes at
t0 + l / c + d (n_g / sin θ − 1 / tan θ) / c. Residuals enter through the soft-L1 loss
2 (√(1 + (r/σ)²) − 1), so that noise and scattered light pull little. Several starting directions are
followed; the best one is kept.

All events and starts are fitted side by side with elementwise arithmetic, and all sums run over an event's
own hits in their order: the result of an event has the same bits whatever other events are fitted with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from orca.jagged import Array, Floats, Ints, Table, ranges

LIGHT = 0.299792458
"""m/ns"""
N_PHASE, N_GROUP = 1.35, 1.38
"""Refractive indices of sea water: for the Cherenkov angle, and for the speed of light pulses."""
SIGMA_NS = 5.0
MIN_DOMS = 6
"""Five parameters need more than five first hits."""
TILTS = (0.35, 0.9)
"""Tangents of the angles between the first start and the further ones."""
AZIMUTHS = 6
ROUNDS = 40
TOLERANCE = 1e-8
CHUNK_ROWS = 60_000
"""Hits times starts fitted side by side: bounds the memory, has no influence on results."""

_SIN = float(np.sqrt(1.0 - 1.0 / N_PHASE**2))
DELAY = (N_GROUP / _SIN - 1.0 / (_SIN * N_PHASE)) / LIGHT
"""ns that light needs more for each m of distance from the track"""


@dataclass(frozen=True)
class TrackFits:
    """One track per event; events with too few DOMs have n_doms 0 and NaN elsewhere."""

    position: Floats
    """(n, 3) m, the point of the track at `time` nearest to the hits' centre"""
    direction: Floats
    """(n, 3) unit vectors along the flight"""
    time: Floats
    """(n,) ns"""
    loss: Floats
    """(n,) soft-L1 sum over hits"""
    rms: Floats
    """(n,) ns, of the residuals weighted as in the loss"""
    start: Ints
    """Which start won, −1 without fit"""
    n_doms: Ints
    residual: Floats
    """(hits,) ns, late is positive"""

    def __len__(self) -> int:
        return len(self.n_doms)


def first_hits(hits: Table) -> Ints:
    """Find the rows of the earliest hit on each DOM, in row order (columns dom, t)."""
    owner = hits.owner
    order = np.lexsort((hits["t"], hits["dom"], owner))
    dom, event = hits["dom"][order], owner[order]
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(dom) != 0) | (np.diff(event) != 0)
    return np.sort(order[first])


def start_directions(direction: Floats) -> Floats:
    """Tilt a direction by `TILTS` around it: (n, 3) → (n, starts, 3); NaN becomes straight down."""
    lost = np.asarray(np.isnan(direction).any(axis=1))
    axis = np.where(lost[:, None], np.array([0.0, 0.0, -1.0]), direction)
    across = _across(axis.T)
    phases = 2.0 * np.pi * np.arange(AZIMUTHS) / AZIMUTHS
    turns = [(t * float(np.cos(phi)), t * float(np.sin(phi))) for t in TILTS for phi in phases]
    tilted = [axis.T + a * across[0] + b * across[1] for a, b in turns]
    return np.stack([axis, *(_unit(v).T for v in tilted)], axis=1)


def fit_tracks(hits: Table, direction: Floats) -> TrackFits:
    """Fit the first hits of each event (x, y, z in m, t in ns) from a direction (n, 3) and its tilts."""
    parts = [_fit_chunk(hits.take(events), direction[events]) for events in _chunks(hits.counts)]
    if not parts:
        parts = [_fit_chunk(hits, direction)]
    return TrackFits(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(TrackFits)))


def _chunks(counts: Ints) -> Iterator[Ints]:
    starts = 1 + len(TILTS) * AZIMUTHS
    chunk = np.cumsum(counts * starts) // CHUNK_ROWS
    for value in np.unique(chunk):
        yield np.flatnonzero(chunk == value)


@dataclass
class _Hits:
    """Hits of all trials (an event with one of its starts): trial of each row, position (3, rows), time."""

    trial: Ints
    trials: int
    point: Floats
    time: Floats

    def sums(self, values: Floats) -> Floats:
        return np.asarray(np.bincount(self.trial, values, self.trials), np.float64)


@dataclass
class _Tracks:
    """The tracks of all trials: point and direction (3, trials), time (trials,)."""

    point: Floats
    direction: Floats
    time: Floats

    def choose(self, take: Array, other: _Tracks) -> _Tracks:
        return _Tracks(
            np.where(take, other.point, self.point),
            np.where(take, other.direction, self.direction),
            np.where(take, other.time, self.time),
        )


def _fit_chunk(hits: Table, direction: Floats) -> TrackFits:
    fitted = np.flatnonzero(hits.counts >= MIN_DOMS)
    table = hits.take(fitted)
    starts = start_directions(direction[fitted])
    n, s = starts.shape[:2]
    repeated, centre = _repeat(table, s)
    tracks = _Tracks(np.repeat(centre, s, axis=1), starts.reshape(-1, 3).T.copy(), np.zeros(n * s))
    flight, _, _ = _flight(repeated, tracks)
    tracks.time = repeated.sums(repeated.time - flight) / np.repeat(table.counts, s)
    tracks, loss = _minimise(repeated, tracks)
    start = loss.reshape(n, s).argmin(axis=1)
    return _result(hits, fitted, tracks, loss, start, np.arange(n) * s + start)


def _repeat(table: Table, starts: int) -> tuple[_Hits, Floats]:
    """Copy each event's hits for each start; count times from the first hit; give the hits' centres."""
    trials = np.repeat(np.arange(len(table)), starts)
    counts = table.counts[trials]
    rows = ranges(table.offsets[:-1][trials], counts)
    point = np.stack([table[name].astype(np.float64) for name in ("x", "y", "z")])
    centre = np.stack([np.bincount(table.owner, values, len(table)) for values in point]) / table.counts
    time = table["t"].astype(np.float64) - _first_times(table)[table.owner]
    trial = np.repeat(np.arange(len(trials)), counts)
    return _Hits(trial, len(trials), point[:, rows], time[rows]), centre


def _first_times(table: Table) -> Floats:
    first = np.full(len(table), np.inf)
    np.minimum.at(first, table.owner, table["t"].astype(np.float64))
    return first


def _flight(hits: _Hits, tracks: _Tracks) -> tuple[Floats, Floats, Floats]:
    """Time of flight of light to each hit, length along the track, unit vector (3, rows) away from it."""
    direction = tracks.direction[:, hits.trial]
    away = hits.point - tracks.point[:, hits.trial]
    along = _dot(away, direction)
    radial = away - along * direction
    distance = np.sqrt(_dot(radial, radial) + 1e-6)
    return along / LIGHT + DELAY * distance, along, radial / distance


def _minimise(hits: _Hits, tracks: _Tracks) -> tuple[_Tracks, Floats]:
    """Levenberg-Marquardt with reweighting; a finished trial stays as it is."""
    damping = np.full(hits.trials, 1e-2)
    loss = _loss(hits, tracks)
    active = np.ones(hits.trials, bool)
    for _ in range(ROUNDS):
        trial = _step(hits, tracks, damping)
        reached = _loss(hits, trial)
        better = active & (reached < loss)
        tracks = tracks.choose(better, trial)
        active = active & np.where(better, loss - reached > TOLERANCE * loss, damping < 1e6)
        loss = np.where(better, reached, loss)
        damping = np.where(better, damping * 0.3, damping * 5.0)
        if not active.any():
            break
    return tracks, loss


def _pull(hits: _Hits, tracks: _Tracks) -> Floats:
    return (hits.time - tracks.time[hits.trial] - _flight(hits, tracks)[0]) / SIGMA_NS


def _loss(hits: _Hits, tracks: _Tracks) -> Floats:
    return hits.sums(2.0 * (np.sqrt(1.0 + _pull(hits, tracks) ** 2) - 1.0))


def _step(hits: _Hits, tracks: _Tracks, damping: Floats) -> _Tracks:
    flight, along, radial = _flight(hits, tracks)
    pull = (hits.time - tracks.time[hits.trial] - flight) / SIGMA_NS
    weight = 1.0 / np.sqrt(1.0 + pull * pull)
    across = _across(tracks.direction)
    first, second = (_dot(radial, axis[:, hits.trial]) for axis in across)
    # turning the track about its point moves a hit by (d · first, d · second) across it
    distance = (flight - along / LIGHT) / DELAY
    lever = distance / LIGHT - DELAY * along
    slopes = [np.ones_like(first), -DELAY * first, -DELAY * second, lever * first, lever * second]
    step = _solve(hits, [s / SIGMA_NS for s in slopes], weight, pull, damping)
    return _Tracks(
        tracks.point + step[1] * across[0] + step[2] * across[1],
        _unit(tracks.direction + step[3] * across[0] + step[4] * across[1]),
        tracks.time + step[0],
    )


def _solve(hits: _Hits, slopes: list[Floats], weight: Floats, pull: Floats, damping: Floats) -> Floats:
    """Solve the damped normal equations of all trials: (5, trials)."""
    n = len(slopes)
    matrix, right = np.empty((hits.trials, n, n)), np.empty((hits.trials, n, 1))
    for i, slope in enumerate(slopes):
        weighted = weight * slope
        right[:, i, 0] = hits.sums(weighted * pull)
        for j in range(i + 1):
            matrix[:, i, j] = matrix[:, j, i] = hits.sums(weighted * slopes[j])
        matrix[:, i, i] += matrix[:, i, i] * damping + 1e-12
    return np.asarray(np.linalg.solve(matrix, right)[:, :, 0].T)


def _result(hits: Table, fitted: Ints, tracks: _Tracks, loss: Floats, start: Ints, best: Ints) -> TrackFits:
    n = len(hits)
    point, direction = np.full((n, 3), np.nan), np.full((n, 3), np.nan)
    time, total = np.full(n, np.nan), np.full(n, np.nan)
    winner, doms = np.full(n, -1), np.zeros(n, np.int64)
    point[fitted], direction[fitted] = tracks.point[:, best].T, tracks.direction[:, best].T
    time[fitted] = tracks.time[best] + _first_times(hits)[fitted]
    total[fitted], winner[fitted], doms[fitted] = loss[best], start, hits.counts[fitted]
    residual = residuals(hits, point, direction, time)
    return TrackFits(point, direction, time, total, _rms(hits, residual), winner, doms, residual)


def residuals(hits: Table, position: Floats, direction: Floats, time: Floats) -> Floats:
    """Time of each hit less the time expected from its event's track (ns); NaN where there is no track."""
    point = np.stack([hits[name].astype(np.float64) for name in ("x", "y", "z")])
    rows = _Hits(hits.owner, len(hits), point, hits["t"].astype(np.float64))
    flight, _, _ = _flight(rows, _Tracks(position.T, direction.T, time))
    return rows.time - time[rows.trial] - flight


def _rms(hits: Table, residual: Floats) -> Floats:
    weight = 1.0 / np.sqrt(1.0 + (residual / SIGMA_NS) ** 2)
    n, owner = len(hits), hits.owner
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt(np.bincount(owner, weight * residual**2, n) / np.bincount(owner, weight, n))


def _dot(a: Floats, b: Floats) -> Floats:
    return np.asarray(a[0] * b[0] + a[1] * b[1] + a[2] * b[2])


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.sqrt(_dot(vectors, vectors)), np.float64)


def _across(direction: Floats) -> tuple[Floats, Floats]:
    """Give two unit vectors across each direction (3, n)."""
    x, y, z = direction
    zero = np.zeros_like(x)
    upright = np.abs(z) < 0.8
    first = _unit(np.where(upright, np.stack([y, -x, zero]), np.stack([zero, z, -y])))
    second = np.stack([
        y * first[2] - z * first[1], z * first[0] - x * first[2], x * first[1] - y * first[0],
    ])  # fmt: skip
    return first, second
