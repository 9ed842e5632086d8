"""The public sample of KM3NeT files that the demonstration runs on, and the constants that belong to it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from beamwright.conditions.payload import Payload
from beamwright.core.errors import ConfigError
from orca import constants
from orca.channelmap import ChannelMap
from orca.constants import CHANNEL_MAP, GEOMETRY, TIME_OFFSETS, TOT_SCALE
from orca.detx import Detector, read_detector
from orca.toffsets import TimeOffsets
from orca.tot import TotScales

DETECTOR_FILES = {
    "44": "detx/km3net_offline.detx",
    "133": "detx/KM3NeT_00000133_20221025.detx",
    "267": "detector_geometry/KM3NeT_00000232.detector.datx",
}
BORROWED = {"267": 232}
"""Detectors without a file of their own, and the one whose geometry stands in: it has the same DOMs."""


def sample(name: str) -> Path:
    """Give the path of a file of the public sample.

    Raises: ConfigError when its package is not installed.
    """
    try:
        from km3net_testdata import data_path
    except ImportError as error:
        message = "the sample data of the telescope are not installed"
        raise ConfigError(message, hint="install the extra: pip install 'beamwright[demo]'") from error
    return Path(data_path(name))


@cache
def detector(series: str) -> Detector:
    """Read the detector file that belongs to a series."""
    return read_detector(sample(DETECTOR_FILES[series]))


def geometry(series: str) -> Payload:
    """Make the geometry of a series a payload, which says where it is from."""
    borrowed = BORROWED.get(series)
    source = Path(DETECTOR_FILES[series]).name
    return constants.geometry_payload(detector(series), source=source, approximate=borrowed is not None)


def initial(series: str) -> dict[str, Payload]:
    """Give the constants a chain starts from: nothing known within a DOM."""
    dom_id = detector(series).dom_id
    return {
        TOT_SCALE: constants.tot_payload(TotScales.unity(dom_id)),
        TIME_OFFSETS: constants.offsets_payload(TimeOffsets.zero(dom_id)),
        CHANNEL_MAP: constants.map_payload(ChannelMap.all_good(dom_id)),
    }


def complete(series: str) -> dict[str, Payload]:
    """Give all constants of a simulated detector: what the simulation used."""
    offsets = constants.intra_dom_offsets(detector(series))
    return {
        **initial(series),
        TIME_OFFSETS: constants.offsets_payload(offsets),
        GEOMETRY: geometry(series),
    }
