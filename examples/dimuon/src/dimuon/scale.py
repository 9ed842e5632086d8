"""The momentum scale: where the Z stands in a spectrum of masses, and whether that is news."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z_MASS = 91.1876
"""GeV"""
Z_WIDTH = 2.4952
"""GeV"""
LOW, HIGH, BINS = 70.0, 110.0, 400

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Peak:
    """A fitted peak: position with its error, resolution, share of signal, number of pairs."""

    mass: float
    error: float
    sigma: float
    signal: float
    pairs: int


def edges() -> Floats:
    """Return the edges of the bins of masses, GeV."""
    return np.linspace(LOW, HIGH, BINS + 1)


def count(masses: NDArray[Any]) -> Counts:
    """Count masses in the bins; those outside the window are left out."""
    return np.histogram(masses, edges())[0].astype(np.int64)


def mass(energy: Floats, *momentum: Floats) -> Floats:
    """Return the mass of four-vectors, GeV."""
    return np.sqrt(np.maximum(energy**2 - sum(p**2 for p in momentum), 0.0))


def fit_peak(counts: Counts) -> Peak:
    """Fit a Breit-Wigner with the width of the Z, folded with a Gaussian, over a flat background.

    Raises: ArithmeticError where the fit finds no minimum.
    """
    from scipy.optimize import minimize

    centres = (edges()[1:] + edges()[:-1]) / 2
    start = [centres[int(np.argmax(_smooth(counts)))], 1.5, 0.9]
    bounds = [(LOW + 5, HIGH - 5), (0.1, 8.0), (0.05, 1.0)]
    found = minimize(_unlikelihood, start, args=(centres, counts), method="L-BFGS-B", bounds=bounds)
    if not found.success:
        raise ArithmeticError(f"no minimum: {found.message}")
    position, sigma, signal = (float(value) for value in found.x)
    error = _error(np.asarray(found.x), centres, counts)
    return Peak(position, error, sigma, signal, int(counts.sum()))


def scale_of(peak: Peak, scale: float, error: float) -> tuple[float, float]:
    """Return the scale that puts a peak, found with ``scale`` ± ``error`` applied, to the mass of the Z."""
    new = scale * Z_MASS / peak.mass
    return new, new * peak.error / peak.mass


def significance(new: float, error: float, old: float, old_error: float) -> float:
    """Return by how many standard deviations two independent scales differ."""
    return abs(new - old) / float(np.hypot(error, old_error))


@cache
def _smoothing() -> Floats:
    return np.ones(21) / 21


def _smooth(counts: Counts) -> Floats:
    return np.convolve(counts, _smoothing(), "same")


def _unlikelihood(parameters: Floats, centres: Floats, counts: Counts) -> float:
    """Return the negative logarithm of the likelihood of the counts."""
    from scipy.special import voigt_profile

    position, sigma, signal = parameters
    shape = voigt_profile(centres - position, sigma, Z_WIDTH / 2)
    density = signal * shape / shape.sum() + (1 - signal) / BINS
    return -float(counts @ np.log(density))


def _error(best: Floats, centres: Floats, counts: Counts, step: float = 0.02) -> float:
    """Return the error of the position from the curvature over all three parameters."""
    steps = np.array([step, step, step / 10])

    def at(*moves: Floats) -> float:
        return _unlikelihood(best + sum(moves), centres, counts)

    unit = np.diag(steps)
    hesse = np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            up, across = unit[i], unit[j]
            second = at(up, across) - at(up, -across) - at(-up, across) + at(-up, -across)
            hesse[i, j] = second / (4 * steps[i] * steps[j])
    return float(np.sqrt(np.linalg.inv(hesse)[0, 0]))
