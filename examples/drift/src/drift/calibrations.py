"""The calibrations: time offsets from the pulser, and from tracks, with them, where the layers are."""

from __future__ import annotations

from typing import Any

import numpy as np

from beamwright.conditions.payload import Payload
from beamwright.event.batch import Batch, Table
from beamwright.event.calibration import Accumulator, Calibration, Decision, Fit
from beamwright.event.module import Conditions, Parameter
from drift.truth import CHANNELS, FREE, LAYERS, RESOLUTION, VELOCITY, WIRES, Floats, Z

OFFSETS, ALIGNMENT = "TimeOffsets", "Alignment"
_FINE = 1e6  # accumulators hold whole numbers: femtoseconds, and millionths of a mm


def offsets_payload(values: Floats, errors: Floats) -> Payload:
    """Make time offsets (ns) a payload."""
    return Payload.arrays({"channel": np.arange(CHANNELS), "offset": values, "error": errors})


def alignment_payload(shifts: Floats, errors: Floats) -> Payload:
    """Make shifts of layers (mm) a payload."""
    return Payload.arrays({"channel": np.arange(LAYERS), "shift": shifts, "error": errors})


def residuals() -> Floats:
    """Return the matrix that gives the residuals of six positions to their straight line."""
    line = np.stack([np.ones(LAYERS), Z], axis=1)
    return np.eye(LAYERS) - line @ np.linalg.solve(line.T @ line, line.T)


def positions(hits: Table, conditions: Conditions) -> tuple[Any, Floats, Any]:
    """Return the records with a hit in every layer, their positions (mm) and channels, by layer."""
    record = np.flatnonzero(hits.counts == LAYERS)
    rows = hits.offsets[record][:, None] + np.arange(LAYERS)
    channels = hits.channel[rows].astype(np.int64)
    drifted = hits.time[rows] - conditions[OFFSETS]["offset"][channels]
    return record, VELOCITY * drifted + conditions[ALIGNMENT]["shift"], channels


def chi2(residual: Floats) -> Floats:
    """Return the chi-squared of residuals (mm) with the resolution of a hit."""
    return np.sum((residual / (VELOCITY * RESOLUTION)) ** 2, axis=1)


class TimeOffsets(Calibration):
    """The mean time of the pulser's hits in each channel."""

    tags = (OFFSETS,)
    record = "pulse"
    reads = ("Pulse",)
    minimum = 20.0

    def empty(self) -> Accumulator:
        return {"sums": np.zeros((3, CHANNELS), np.int64), "pulses": np.zeros(1, np.int64)}

    def collect(self, batch: Batch, conditions: Conditions) -> Accumulator:
        pulses = batch["Pulse"]
        whole = np.rint(pulses.time * 1e3).astype(np.int64)  # picoseconds
        sums = np.zeros((3, CHANNELS), np.int64)
        for row, values in zip(sums, (np.ones_like(whole), whole, whole**2), strict=True):
            np.add.at(row, pulses.channel, values)
        return {"sums": sums, "pulses": np.array([batch.n], np.int64)}

    def statistics(self, accumulator: Accumulator) -> float:
        return float(accumulator["pulses"][0])

    def fit(self, accumulator: Accumulator, previous: Conditions) -> Fit:
        number, total, squares = accumulator["sums"]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total / number
            spread = np.sqrt(np.maximum(squares / number - mean**2, 0.0) * number / (number - 1))
            errors = spread / np.sqrt(number)
        moved = np.abs(mean * 1e-3 - previous[OFFSETS]["offset"])
        figures = {
            "pulses": int(number.max()), "width_ns": float(np.nanmedian(spread)) * 1e-3,
            "largest_move_ns": float(np.nanmax(moved)),
        }  # fmt: skip
        return Fit({OFFSETS: offsets_payload(mean * 1e-3, errors * 1e-3)}, figures)


class Alignment(Calibration):
    """Shifts of the inner layers that leave no mean residual of tracks through all layers.

    Which tracks are good enough depends on the shifts: it has to be repeated.
    """

    tags = (ALIGNMENT,)
    record = "event"
    reads = ("Hit", f"{OFFSETS}@conditions", f"{ALIGNMENT}@conditions")
    minimum = 50.0
    largest = Parameter(30.0, "", "chi-squared of the worst track that is used")
    step = Parameter(1.0, "", "fraction of the way to the solution that a round goes")

    def empty(self) -> Accumulator:
        return {
            "residuals": np.zeros(LAYERS, np.int64), "tracks": np.zeros(2, np.int64),
            "channels": np.zeros(CHANNELS, np.int64),
        }  # fmt: skip

    def collect(self, batch: Batch, conditions: Conditions) -> Accumulator:
        record, measured, channels = positions(batch["Hit"], conditions)
        residual = measured @ residuals()
        good = chi2(residual) < self.largest
        return {
            "residuals": np.rint(residual[good] * _FINE).astype(np.int64).sum(axis=0),
            "tracks": np.array([good.sum(), len(record)], np.int64),
            "channels": np.bincount(channels[good].ravel(), minlength=CHANNELS).astype(np.int64),
        }

    def statistics(self, accumulator: Accumulator) -> float:
        return float(accumulator["tracks"][0])

    def fit(self, accumulator: Accumulator, previous: Conditions) -> Fit:
        tracks = int(accumulator["tracks"][0])
        matrix, mean = residuals(), accumulator["residuals"] / (_FINE * tracks)
        solve = np.linalg.inv(matrix[np.ix_(FREE, FREE)])
        before = previous[ALIGNMENT]["shift"]
        shifts = before.copy()
        shifts[FREE] -= self.step * (solve @ mean[FREE])
        errors = np.zeros(LAYERS)
        errors[FREE] = self._errors(solve @ matrix[FREE], tracks, accumulator["channels"], previous)
        figures = {
            "tracks": tracks, "tried": int(accumulator["tracks"][1]),
            "largest_move_mm": float(np.abs(shifts - before).max()),
        }  # fmt: skip
        return Fit({ALIGNMENT: alignment_payload(shifts, errors)}, figures)

    def validate(self, fit: Fit, previous: Conditions) -> Decision:
        return Decision("accept", f"{fit.figures['tracks']} of {fit.figures['tried']} tracks")

    def _errors(self, to_shifts: Floats, tracks: int, used: Any, previous: Conditions) -> Floats:
        """Return the errors of the shifts: of the hits, and of the time offsets that all hits share."""
        share = used / tracks
        offsets = (share * previous[OFFSETS]["error"]).reshape(LAYERS, WIRES)
        variance = VELOCITY**2 * (RESOLUTION**2 / tracks + np.sum(offsets**2, axis=1))
        return np.sqrt(np.sum(to_shifts**2 * variance, axis=1))
