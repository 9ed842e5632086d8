"""The experiment: what the entry point ``beamwright.experiments`` finds."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import TYPE_CHECKING

from beamwright.core.errors import ConfigError, UnknownNameError
from beamwright.core.runs import SECTION_MAX, Interval
from beamwright.event.path import Output, Path
from beamwright.production.experiment import DeliveredFile, Delivery, Experiment, LoadedConstants
from dimuon.calibration import MomentumScale, scale_payload
from dimuon.modules import SCALE, MakePairs, SelectZ
from dimuon.reader import BANKS, EVENT, ROLE, NtupleReader

if TYPE_CHECKING:
    from beamwright.production.access import Access
    from beamwright.production.figures import Figures

FOLDER = FilePath(__file__).parent
SERIES = "cms2010"
RUNS = {148029: 156, 148031: 344}
"""Events of each run in the sample."""
SAMPLE = "uproot-Zmumu.root"
SIZE, SHA256 = 178971, "8290ddc1f2b1f866f30df016558936da27107f7f5b87e574c741f2baab1bad64"


def sample() -> FilePath:
    """Return the path of the sample.

    Raises: ConfigError when its package is not installed.
    """
    try:
        from skhep_testdata import data_path
    except ImportError as error:
        message = "the sample of muon pairs is not installed"
        raise ConfigError(message, hint="install the extra: pip install 'beamwright[demo]'") from error
    return FilePath(data_path(SAMPLE))


def reconstruction() -> Path:
    """Muon pairs of every event."""
    return Path("reco", EVENT, [MakePairs()], [Output("dst", ["Event", "Muon", "Pair"])], "pairs of muons")


def skim() -> Path:
    """Events with a Z, without their muons."""
    return Path(
        "skim", EVENT, [SelectZ()], [Output("z", ["Event", "Pair"], select="z", tier="skim")], "Z candidates"
    )


def constants(name: str) -> list[LoadedConstants]:
    """Return the constants that a chain starts from: momenta as they are."""
    if name != "initial":
        raise UnknownNameError("set of constants of dimuon", name, ["initial"])
    runs = Interval.runs(SERIES, min(RUNS), max(RUNS))
    return [LoadedConstants(SCALE, runs, scale_payload(1.0, 0.0))]


def deliveries(name: str) -> list[Delivery]:
    """Return the two runs, both in one file."""
    if name != "zmass":
        raise UnknownNameError("list of deliveries of dimuon", name, ["zmass"])
    files = (DeliveredFile(ROLE, str(sample()), SIZE, SHA256),)
    return [
        Delivery(
            series=SERIES, run=run, tier="raw", sequence=1, reader="ntuple", files=files, first_section=0,
            last_section=SECTION_MAX, records={EVENT: events}, end_marker=True,
        )
        for run, events in RUNS.items()
    ]  # fmt: skip


def figures(access: Access) -> Figures:
    """Return the figures of a finished production for its report."""
    from dimuon.figures import figures as make  # only the report needs them

    return make(access)


experiment = Experiment(
    name="dimuon",
    distributions=("beamwright-dimuon",),
    banks=BANKS,
    readers={"ntuple": NtupleReader},
    paths={"reco": reconstruction, "skim": skim},
    calibrations={"MomentumScale": MomentumScale},
    productions={"zmass": FOLDER / "productions" / "zmass.toml"},
    references=(FOLDER / "references.toml",),
    constants=constants,
    deliveries=deliveries,
    figures=figures,
)
