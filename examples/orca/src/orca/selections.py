"""Physics selections on reconstructed events of DST files."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orca.jagged import Array

Mask = NDArray[np.bool_]


def cos_zenith(dir_z: Array) -> Array:
    """Cosine of the angle to the vertical a particle comes from: 1 is straight down-going."""
    return -dir_z


def muon(likelihood: Array, beta0: Array, dir_z: Array) -> Mask:
    """S1: a well reconstructed down-going muon (beta0: angular uncertainty, rad)."""
    with np.errstate(invalid="ignore"):
        well = (likelihood > 60.0) & (beta0 < np.radians(1.0))
        return np.asarray(well & (cos_zenith(dir_z) > 0.2))


def upgoing(likelihood: Array, beta0: Array, dir_z: Array) -> Mask:
    """S2: an up-going track, the control sample (misreconstructed muons, some neutrinos)."""
    with np.errstate(invalid="ignore"):
        well = (likelihood > 40.0) & (beta0 < np.radians(1.5))
        return np.asarray(well & (cos_zenith(dir_z) < 0.0))


def bright(triggered_hits: Array) -> Mask:
    """S3: many triggered hits."""
    return np.asarray(triggered_hits >= 60)
