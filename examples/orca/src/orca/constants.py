"""Constants of the telescope as conditions: between dataclasses and the arrays that payloads hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from beamwright.conditions.payload import Payload
from orca.channelmap import ChannelMap
from orca.detx import CHANNELS, Detector
from orca.jagged import Array, Floats, Ints
from orca.toffsets import TimeOffsets
from orca.tot import TotScales

GEOMETRY, TOT_SCALE, TIME_OFFSETS, CHANNEL_MAP = "Geometry", "TotScale", "TimeOffsets", "ChannelMap"
ROLES = (GEOMETRY, TOT_SCALE, TIME_OFFSETS, CHANNEL_MAP)

Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Geometry:
    """Where the PMTs are and look, and the mean time offset of each DOM; DOMs sorted by id."""

    dom_id: Ints
    position: Floats
    """(d, 31, 3) m"""
    direction: Floats
    """(d, 31, 3)"""
    t0: Floats
    """(d,) ns"""

    def rows(self, dom_id: Array) -> Ints:
        """Find the row of each DOM, −1 for one that is not there."""
        row = np.minimum(np.searchsorted(self.dom_id, dom_id), len(self.dom_id) - 1)
        return np.where(self.dom_id[row] == dom_id, row, -1)

    @classmethod
    def of(cls, arrays: Arrays) -> Geometry:
        return cls(*(arrays[name] for name in ("dom_id", "position", "direction", "t0")))


def geometry_payload(detector: Detector, **notes: Any) -> Payload:
    """Make the geometry of a detector file a payload; notes tell its origin and how good it is."""
    arrays = {
        "dom_id": detector.dom_id,
        "position": detector.position,
        "direction": detector.direction,
        "t0": detector.t0.mean(axis=1),
    }
    return Payload.arrays(arrays, {"detector": detector.id, **notes})


def intra_dom_offsets(detector: Detector) -> TimeOffsets:
    """Take the time offsets within DOMs from a detector file."""
    offset = detector.t0 - detector.mean_t0()
    return TimeOffsets(detector.dom_id, offset, np.zeros(len(detector), np.int64))


def tot_payload(scales: TotScales) -> Payload:
    return Payload.arrays({"dom_id": scales.dom_id, "scale": scales.scale, "hits": scales.hits})


def tot_scales(arrays: Arrays) -> TotScales:
    return TotScales(arrays["dom_id"], arrays["scale"], arrays["hits"])


def offsets_payload(offsets: TimeOffsets) -> Payload:
    return Payload.arrays({"dom_id": offsets.dom_id, "offset": offsets.offset, "pairs": offsets.pairs})


def time_offsets(arrays: Arrays) -> TimeOffsets:
    return TimeOffsets(arrays["dom_id"], arrays["offset"], arrays["pairs"])


def map_payload(channels: ChannelMap) -> Payload:
    return Payload.arrays({"dom_id": channels.dom_id, "status": channels.status, "rate": channels.rate})


def channel_map(arrays: Arrays) -> ChannelMap:
    return ChannelMap(arrays["dom_id"], arrays["status"], arrays["rate"])


@dataclass(frozen=True)
class TimeScale:
    """Full time offset of each PMT, ready to apply: DOM mean plus offset within the DOM."""

    geometry: Geometry
    t0: Floats
    """(d, 31) ns"""

    @classmethod
    def of(cls, geometry: Geometry, offsets: TimeOffsets) -> TimeScale:
        known = offsets.extended(geometry.dom_id)
        within = known.offset[np.searchsorted(known.dom_id, geometry.dom_id)]
        return cls(geometry, geometry.t0[:, None] + within)

    def times(self, row: Ints, channel: Array, tdc: Array) -> Floats:
        """Calibrate hit times: tdc + t0 (ns)."""
        return np.asarray(tdc + self.t0[row, channel], np.float64)


def check_channels(channel: Array) -> None:
    """Refuse channels a DOM does not have: the hit is garbage."""
    if len(channel) and int(channel.max()) >= CHANNELS:
        raise ValueError(f"channel {int(channel.max())} of a DOM with {CHANNELS} channels")
