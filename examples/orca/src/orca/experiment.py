"""The telescope as an experiment: what the entry point `beamwright.experiments` finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from beamwright.production.experiment import Experiment
from orca.calibrations import CALIBRATIONS
from orca.deliveries import FOLDER, deliveries, loaded_constants
from orca.paths import PATHS
from orca.readers import BANKS, DstReader, OfflineReader, OnlineReader
from orca.resample import BootstrapReader, MixedReader, enlarge

if TYPE_CHECKING:
    from beamwright.production.access import Access
    from beamwright.production.figures import Figures


def figures(access: Access) -> Figures:
    """Give the figures of a finished production for its report."""
    from orca.figures import figures as make  # only the report needs them

    return make(access)


experiment = Experiment(
    name="orca",
    distributions=("beamwright-orca",),
    banks=BANKS,
    readers={
        "online": OnlineReader,
        "offline": OfflineReader,
        "dst": DstReader,
        "mixed": MixedReader,
        "bootstrap": BootstrapReader,
    },
    paths=PATHS,
    calibrations=CALIBRATIONS,
    productions={"demo": FOLDER / "demo.toml"},
    references=(FOLDER.parent / "references.toml",),
    constants=loaded_constants,
    deliveries=deliveries,
    figures=figures,
    enlarge=enlarge,
)
