"""The calibration: the momentum scale of a run from the Z, taken over only where it is significant."""

from __future__ import annotations

from typing import Any

import numpy as np

from beamwright.conditions.payload import Payload
from beamwright.event.batch import Batch
from beamwright.event.calibration import Accumulator, Calibration, Decision, Fit
from beamwright.event.module import Conditions, Parameter
from dimuon import scale
from dimuon.modules import SCALE, pairs_of, sum_of


def scale_payload(value: float, error: float, pairs: int = 0) -> Payload:
    """Make a momentum scale a payload."""
    return Payload.arrays(
        {"scale": np.array([value]), "error": np.array([error]), "pairs": np.array([pairs], np.int64)}
    )


class MomentumScale(Calibration):
    """Counts corrected masses near the Z; the fit puts their peak to the mass of the Z."""

    tags = (SCALE,)
    record = "event"
    reads = ("Muon", f"{SCALE}@conditions")
    minimum = 50.0
    significance = Parameter(3.0, "standard deviations", "smaller changes of the scale are not made")
    largest = Parameter(0.05, "", "larger changes of the scale are not believed")

    def empty(self) -> Accumulator:
        return {"counts": np.zeros(scale.BINS, np.int64)}

    def collect(self, batch: Batch, conditions: Conditions) -> Accumulator:
        _, first, second = pairs_of(batch["Muon"])
        masses = scale.mass(*sum_of(batch["Muon"], first, second))
        return {"counts": scale.count(masses * conditions[SCALE]["scale"][0])}

    def statistics(self, accumulator: Accumulator) -> float:
        return float(accumulator["counts"].sum())

    def fit(self, accumulator: Accumulator, previous: Conditions) -> Fit:
        old, old_error = _value(previous)
        peak = scale.fit_peak(accumulator["counts"])
        new, error = scale.scale_of(peak, old, old_error)
        figures: dict[str, Any] = {
            "peak": peak.mass,
            "peak_error": peak.error,
            "sigma": peak.sigma,
            "pairs": peak.pairs,
            "applied": old,
            "scale": new,
            "error": error,
            "significance": scale.significance(new, error, old, old_error),
        }
        return Fit({SCALE: scale_payload(new, error, peak.pairs)}, figures)

    def validate(self, fit: Fit, previous: Conditions) -> Decision:
        old, _ = _value(previous)
        change, sigmas = fit.figures["scale"] / old - 1, fit.figures["significance"]
        text = f"a change of {change:+.2%}, {sigmas:.1f} standard deviations"
        if abs(change) > self.largest:
            return Decision("reject", f"not believed: {text}")
        if sigmas < self.significance:
            return Decision("carry", f"not significant: {text}")
        return Decision("accept", text)


def _value(conditions: Conditions) -> tuple[float, float]:
    return float(conditions[SCALE]["scale"][0]), float(conditions[SCALE]["error"][0])
