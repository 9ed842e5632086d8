"""The toy experiment with a demo: two runs, the second in two chunks, and figures for the report."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from beamwright.production.experiment import Delivery
from beamwright.production.figures import Curve, Figures, Plot, Table, Value
from support import toy_production

if TYPE_CHECKING:
    from beamwright.production.access import Access

RAW = "TOY_DEMO_RAW"
"""The environment variable that names the folder of the raw files."""


def deliveries(name: str) -> list[Delivery]:
    folder = Path(os.environ[RAW])
    return [
        toy_production.deliver(folder, 1, 1, range(10)),
        toy_production.deliver(folder, 2, 1, range(5), end_marker=False),
        toy_production.deliver(folder, 2, 2, range(5, 9), after="pass1@A:2:1"),
    ]


def figures(access: Access) -> Figures:
    made = Figures()
    section = made.section("calibration", "Gain", "The gain, chunk by chunk.")
    gains = [float(v.constants["gain"][0]) for v in access.constants("toy-real/Gain")]
    section.values.append(Value("last gain", gains[-1], expected=1.25, low=1.2, high=1.3))
    rows = [(link.run, link.sequence, link.state) for link in access.links("pass1")]
    section.tables.append(Table.of("Chain", ["run", "chunk", "state"], rows))
    section = made.section("physics", "Energy")
    energies = [b["Sum"]["energy"] for b in access.batches(access.collections(step="merge"), ["Sum"])]
    counts, edges = np.histogram(np.concatenate(energies), 20, (0, 60))
    section.plots.append(Plot.of("Energy", "E [GeV]", "events", [Curve.of("all", edges, counts, "steps")]))
    return made


experiment = replace(
    toy_production.experiment,
    name="support.toy_demo:experiment",
    distributions=("support.toy",),
    productions={"demo": Path(__file__).with_name("toy_demo.toml")},
    deliveries=deliveries,
    figures=figures,
)
