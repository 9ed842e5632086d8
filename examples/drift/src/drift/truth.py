"""The detector and the truth about it: constants that move from run to run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from beamwright.event.keys import key_hash

LAYERS, WIRES = 6, 4
CHANNELS = LAYERS * WIRES
Z = 100.0 * np.arange(LAYERS)
"""mm"""
VELOCITY = 0.05
"""mm/ns"""
RESOLUTION = 2.0
"""ns, of one hit"""
FREE = np.arange(1, LAYERS - 1)
"""Layers that may move: the outermost two define where the detector is."""
NOISE = 0.03
"""Fraction of hits whose time says nothing."""
SERIES = "drift"

Floats = NDArray[np.float64]

_OFFSET, _OFFSET_STEP = 20.0, 0.5  # ns: spread over channels, step from run to run
_SHIFT, _SHIFT_STEP = 0.15, 0.03  # mm: spread over layers, step from run to run
_RETURN = 0.98  # what is left of a deviation after a run: walks do not run away


@dataclass(frozen=True)
class Truth:
    """What is true in one run: time offsets by channel (ns), shifts by layer (mm)."""

    offsets: Floats
    shifts: Floats


def uniform(run: int, numbers: NDArray[np.uint64], salt: int) -> Floats:
    """Return numbers between 0 and 1, without the ends, that follow from run, number and salt alone."""
    bits = key_hash(run, 0, numbers, salt) >> np.uint64(12)
    return (bits.astype(np.float64) + 0.5) / 2.0**52


def gauss(run: int, numbers: NDArray[np.uint64], salt: int) -> Floats:
    """Return numbers of a normal distribution that follow from run, number and salt alone."""
    radius = np.sqrt(-2.0 * np.log(uniform(run, numbers, 2 * salt)))
    return radius * np.cos(2.0 * np.pi * uniform(run, numbers, 2 * salt + 1))


@lru_cache(maxsize=256)
def truth(run: int) -> Truth:
    """Return the truth of a run: a random walk from run 0 on."""
    channels, layers = np.arange(CHANNELS, dtype=np.uint64), np.arange(LAYERS, dtype=np.uint64)
    if run == 0:
        offsets, shifts = _OFFSET * gauss(0, channels, 1), _SHIFT * gauss(0, layers, 2)
    else:
        before = truth(run - 1)
        offsets = _RETURN * before.offsets + _OFFSET_STEP * gauss(run, channels, 1)
        shifts = _RETURN * before.shifts + _SHIFT_STEP * gauss(run, layers, 2)
    fixed = np.setdiff1d(np.arange(LAYERS), FREE)
    shifts[fixed] = 0.0
    return Truth(offsets, shifts)
