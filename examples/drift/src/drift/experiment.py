"""The experiment: what the entry point ``beamwright.experiments`` finds."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import TYPE_CHECKING

import numpy as np

from beamwright import durable
from beamwright.core.errors import UnknownNameError
from beamwright.core.runs import RUN_MAX, SECTION_MAX, Interval
from beamwright.event.path import Output, Path
from beamwright.production.experiment import DeliveredFile, Delivery, Experiment, LoadedConstants
from drift.calibrations import ALIGNMENT, OFFSETS, Alignment, TimeOffsets, alignment_payload, offsets_payload
from drift.modules import FitTracks, Gun
from drift.reader import BANKS, EVENT, PULSE, ROLE, DriftReader, read_file
from drift.truth import CHANNELS, LAYERS, SERIES

if TYPE_CHECKING:
    from beamwright.production.access import Access
    from beamwright.production.figures import Figures

FOLDER = FilePath(__file__).parent


def reconstruction() -> Path:
    """Tracks of every event."""
    outputs = [Output("dst", ["Track"]), Output("good", ["Track"], select="good", tier="skim")]
    return Path("reco", EVENT, [FitTracks()], outputs, "tracks")


def simulation() -> Path:
    """Hits of tracks that were never there."""
    return Path("gun", EVENT, [Gun()], [Output("mc", ["Hit", "TrueTrack"], tier="mc")], "one track per event")


def simulated_reconstruction() -> Path:
    """Tracks of simulated events, beside the true ones."""
    outputs = [Output("dst", ["Track", "TrueTrack"])]
    return Path("simreco", EVENT, [FitTracks()], outputs, "tracks of simulated events")


def constants(name: str) -> list[LoadedConstants]:
    """Return the constants that chains start from: a detector as it was drawn."""
    if name != "drawn":
        raise UnknownNameError("set of constants of drift", name, ["drawn"])
    every = Interval.runs(SERIES, 0, RUN_MAX)
    offsets = offsets_payload(np.zeros(CHANNELS), np.full(CHANNELS, 20.0))
    shifts = alignment_payload(np.zeros(LAYERS), np.full(LAYERS, 0.15))
    return [LoadedConstants(OFFSETS, every, offsets), LoadedConstants(ALIGNMENT, every, shifts)]


def deliveries(name: str) -> list[Delivery]:
    """Return the runs that lie beside this module."""
    if name != "drift":
        raise UnknownNameError("list of deliveries of drift", name, ["drift"])
    return [delivery(path) for path in sorted((FOLDER / "raw").glob("run-*.json"))]


def delivery(path: FilePath) -> Delivery:
    """Return the delivery of a run's raw file."""
    found, digest = read_file(path), durable.hash_file(path)
    files = (DeliveredFile(ROLE, str(path), digest.size, digest.sha256),)
    return Delivery(
        series=SERIES, run=found["run"], tier="raw", sequence=1, reader="drift", files=files, first_section=0,
        last_section=SECTION_MAX, records={EVENT: found["tracks"], PULSE: found["pulses"]}, is_mc=True,
        end_marker=True,
    )  # fmt: skip


def figures(access: Access) -> Figures:
    """Return the figures of a finished production for its report."""
    from drift.figures import figures as make  # only the report needs them

    return make(access)


experiment = Experiment(
    name="drift",
    distributions=("beamwright-drift",),
    banks=BANKS,
    readers={"drift": DriftReader},
    paths={"reco": reconstruction, "gun": simulation, "simreco": simulated_reconstruction},
    calibrations={"TimeOffsets": TimeOffsets, "Alignment": Alignment},
    productions={name: FOLDER / "productions" / f"{name}.toml" for name in ("drift", "simulation")},
    references=(FOLDER / "references.toml",),
    constants=constants,
    deliveries=deliveries,
    figures=figures,
)
