"""Modules: tracks fitted with the constants of their run."""

from __future__ import annotations

import numpy as np

from beamwright.core.histogram import Axis, HistogramSet
from beamwright.core.runs import Interval
from beamwright.event.batch import Batch, Table
from beamwright.event.generating import normal, uniform
from beamwright.event.module import Conditions, Module
from drift.calibrations import ALIGNMENT, OFFSETS, chi2, positions, residuals
from drift.truth import CHANNELS, LAYERS, RESOLUTION, VELOCITY, WIRES, Z


class Gun(Module):
    """Makes one track per event, and its hits in the detector as the constants of its run say that it is."""

    reads = (f"{OFFSETS}@conditions", f"{ALIGNMENT}@conditions")
    writes = ("Hit", "TrueTrack")

    def conditions_changed(self, interval: Interval, conditions: Conditions) -> None:
        self.offsets = conditions[OFFSETS]["offset"]
        self.shifts = conditions[ALIGNMENT]["shift"]

    def process(self, batch: Batch) -> None:
        seeds, layers = batch.seeds(), np.tile(np.arange(LAYERS), batch.n)
        position, slope = 40.0 * (uniform(seeds, 0) - 0.5), 0.1 * (uniform(seeds, 1) - 0.5)
        each = np.repeat(seeds, LAYERS)
        channel = layers * WIRES + (uniform(each, 10 + layers) * WIRES).astype(np.int64)
        crossed = np.repeat(position, LAYERS) + np.repeat(slope, LAYERS) * Z[layers]
        smeared = np.stack([normal(seeds, 20 + layer) for layer in range(LAYERS)], axis=1).ravel()
        time = (crossed - self.shifts[layers]) / VELOCITY + self.offsets[channel] + RESOLUTION * smeared
        hits = {"channel": channel.astype(np.uint8), "time": time}
        batch["Hit"] = Table.from_counts("Hit", np.full(batch.n, LAYERS), hits)
        batch["TrueTrack"] = Table.one("TrueTrack", {"position": position, "slope": slope})


class FitTracks(Module):
    """Fits a straight line to the six hits of a track."""

    reads = ("Hit", f"{OFFSETS}@conditions", f"{ALIGNMENT}@conditions")
    writes = ("Track",)

    def book(self, histograms: HistogramSet) -> None:
        self.residual = histograms.book(
            "residual", Axis(80, -0.4, 0.4, "residual [mm]"), title="residuals to the track"
        )
        self.channel = histograms.book(
            "channel", Axis(CHANNELS, 0.0, CHANNELS, "channel"), title="hits by channel"
        )
        self.chi2 = histograms.book(
            "chi2", Axis(60, 0.0, 30.0, "χ²"), title="χ² of tracks, 4 degrees of freedom"
        )

    def conditions_changed(self, interval: Interval, conditions: Conditions) -> None:
        self.conditions = conditions

    def process(self, batch: Batch) -> None:
        hits = batch["Hit"]
        record, measured, _ = positions(hits, self.conditions)
        residual = measured @ residuals()
        found = chi2(residual)
        line = np.stack([np.ones(LAYERS), Z], axis=1)
        start, slope = np.linalg.lstsq(line, measured.T, rcond=None)[0] if len(record) else np.zeros((2, 0))
        counts = np.bincount(record, minlength=batch.n)
        batch["Track"] = Table.from_counts(
            "Track", counts, {"position": start, "slope": slope, "chi2": found}
        )
        batch.select(np.bincount(record[found < 30.0], minlength=batch.n) > 0, "good")
        batch.fill(self.residual, residual[found < 30.0].ravel())
        batch.fill(self.channel, hits.channel)
        batch.fill(self.chi2, found)
