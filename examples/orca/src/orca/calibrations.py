"""The telescope's calibrations of pass 1: ToT scale, time offsets within DOMs, channel map.

Figures that say how good constants are always come from data that had no part in them: a run's own pairs
judge the constants of the run before.
"""

from __future__ import annotations

import sys

import numpy as np

from beamwright.event.batch import Batch
from beamwright.event.calibration import Accumulator, Calibration, Decision, Fit
from beamwright.event.module import Conditions
from orca import channelmap, constants, toffsets, tot
from orca.channelmap import DEAD, HOT, NO_DATA
from orca.constants import CHANNEL_MAP, GEOMETRY, TIME_OFFSETS, TOT_SCALE, Geometry
from orca.jagged import Array
from orca.modules import rows_of
from orca.readers import SLICE, SUMMARY
from orca.tally import merge, tally
from orca.toffsets import TimeOffsets

_NOTHING = np.zeros(0, np.int64)


class TotScale(Calibration):
    """Scale the time over threshold of each DOM to the common mean."""

    tags = (TOT_SCALE,)
    record = SLICE
    reads = ("L1Hit",)
    minimum = 20_000.0

    @property
    def name(self) -> str:
        return "tot-scale"

    def empty(self) -> Accumulator:
        return tally(_NOTHING, hits=_NOTHING)

    def collect(self, batch: Batch, conditions: Conditions) -> Accumulator:
        return tot.collect(batch["L1Hit"]["dom_id"], batch["L1Hit"]["tot"])

    def merge(self, first: Accumulator, second: Accumulator) -> Accumulator:
        return merge(first, second)

    def statistics(self, accumulator: Accumulator) -> float:
        return float(accumulator["hits"].sum())

    def fit(self, accumulator: Accumulator, previous: Conditions) -> Fit:
        before = constants.tot_scales(previous[TOT_SCALE])
        new = tot.fit(accumulator, before)
        mean, raw = tot.spread(accumulator)
        figures = {
            "mean_tot": mean,
            "spread_uncalibrated": raw,
            "spread_previous": tot.spread(accumulator, before)[1],
            "doms": int((new.hits > 0).sum()),
        }
        return Fit({TOT_SCALE: constants.tot_payload(new)}, figures)

    def validate(self, fit: Fit, previous: Conditions) -> Decision:
        problems = tot.problems(constants.tot_scales(_arrays(fit, TOT_SCALE)))
        if abs(fit.figures["mean_tot"] - tot.REFERENCE_NS) > tot.MEAN_TOLERANCE_NS:
            problems.append(f"the mean ToT is {fit.figures['mean_tot']:.2f} ns")
        return _decision(problems)


class DomTimeOffsets(Calibration):
    """Align the PMTs of each DOM in time with coincidences from ⁴⁰K."""

    tags = (TIME_OFFSETS,)
    record = SLICE
    reads = ("L1Hit", f"{GEOMETRY}@conditions")
    minimum = 5_000.0

    @property
    def name(self) -> str:
        return "time-offsets"

    def empty(self) -> Accumulator:
        return tally(_NOTHING, pairs=_NOTHING)

    def collect(self, batch: Batch, conditions: Conditions) -> Accumulator:
        geometry = Geometry.of(conditions[GEOMETRY])
        hits = batch["L1Hit"]
        rows = geometry.rows(hits["dom_id"])
        columns = rows_of(hits, "channel", "tdc", "tot")
        return toffsets.collect(columns, rows, geometry.direction, geometry.dom_id)

    def merge(self, first: Accumulator, second: Accumulator) -> Accumulator:
        return merge(first, second)

    def statistics(self, accumulator: Accumulator) -> float:
        return float(accumulator["pairs"].sum())

    def fit(self, accumulator: Accumulator, previous: Conditions) -> Fit:
        before = constants.time_offsets(previous[TIME_OFFSETS])
        new = toffsets.fit(accumulator, before)
        none = toffsets.width(accumulator, TimeOffsets.zero(before.dom_id))
        held = toffsets.width(accumulator, before)
        figures = {
            "width_uncalibrated": none.sigma,
            "width_previous": held.sigma,
            "mean_previous": held.mean,
            "near_pairs": held.pairs,
            "rms_change": toffsets.rms_difference(new, before),
        }
        return Fit({TIME_OFFSETS: constants.offsets_payload(new)}, figures)

    def validate(self, fit: Fit, previous: Conditions) -> Decision:
        new = constants.time_offsets(_arrays(fit, TIME_OFFSETS))
        return _decision(toffsets.problems(new, constants.time_offsets(previous[TIME_OFFSETS])))


class Channels(Calibration):
    """Find hot and dead PMTs in the summary slices."""

    tags = (CHANNEL_MAP,)
    record = SUMMARY
    reads = ("SummaryFrame",)
    minimum = float(channelmap.MIN_DOMS)
    # A PMT that was vetoed all the time has no rate, and its status says so: `problems` judges those.
    max_bad = sys.maxsize

    @property
    def name(self) -> str:
        return "channel-map"

    def empty(self) -> Accumulator:
        return tally(_NOTHING, entries=_NOTHING, millihertz=_NOTHING)

    def collect(self, batch: Batch, conditions: Conditions) -> Accumulator:
        frames = batch["SummaryFrame"]
        rate = frames["rate"].values.reshape(frames.rows, -1)
        return channelmap.collect(frames["dom_id"], rate, frames["hrv"])

    def merge(self, first: Accumulator, second: Accumulator) -> Accumulator:
        return merge(first, second)

    def statistics(self, accumulator: Accumulator) -> float:
        return float(channelmap.doms_with_data(accumulator))

    def fit(self, accumulator: Accumulator, previous: Conditions) -> Fit:
        new = channelmap.fit(accumulator, constants.channel_map(previous[CHANNEL_MAP]))
        figures = {
            "median_rate": new.median,
            "hot": new.count(HOT),
            "dead": new.count(DEAD),
            "vetoed": new.count(NO_DATA),
            "channels": int(new.status.size),
            "hot_share": new.count(HOT) / new.status.size,
            "dead_share": new.count(DEAD) / new.status.size,
        }
        return Fit({CHANNEL_MAP: constants.map_payload(new)}, figures)

    def validate(self, fit: Fit, previous: Conditions) -> Decision:
        return _decision(channelmap.problems(constants.channel_map(_arrays(fit, CHANNEL_MAP))))


CALIBRATIONS = {"tot-scale": TotScale, "time-offsets": DomTimeOffsets, "channel-map": Channels}


def _arrays(fit: Fit, role: str) -> dict[str, Array]:
    return fit.payloads[role].unpack()[0]


def _decision(problems: list[str]) -> Decision:
    return Decision("reject", "; ".join(problems[:3])) if problems else Decision("accept")
