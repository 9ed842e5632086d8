"""A small production of the toy experiment: runs, deliveries, a workspace, and what came out of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from beamwright import durable
from beamwright.agents.loop import Produce
from beamwright.conditions.payload import Payload
from beamwright.core.runs import Interval
from beamwright.core.settings import DEFAULT_SETTINGS
from beamwright.db import schema
from beamwright.production import experiment as experiments
from beamwright.production.experiment import DeliveredFile, Delivery, LoadedConstants
from beamwright.production.spec import ProductionSpec, read_spec
from beamwright.production.workspace import Workspace
from support import toy

SPEC = """
name = "toy"
experiment = "support.toy_production:experiment"
title = "toy production"
freeze = true

[[constants]]
name = "geometry"
global_tag = "toy-real"

[[dataset]]
name = "raw"
runs = { A = [1, 2, 3] }
global_tag = "toy-real"

[[step]]
name = "pass1"
kind = "calibrate"
inputs = ["raw"]
calibrations = ["GainFit"]
initial = { A = "initial" }

[[step]]
name = "reco"
path = "reco"
inputs = ["raw"]
split = 25

[[step]]
name = "bursts"
path = "bursts"
inputs = ["raw"]

[[step]]
name = "skim"
path = "again"
inputs = ["reco.dst"]

[[step]]
name = "merge"
kind = "merge"
inputs = ["reco.dst", "skim.skim", "bursts.burst"]
target_mb = 1000
"""


SMALL = """
name = "small"
experiment = "support.toy_production:experiment"

[[dataset]]
name = "raw"
runs = { A = [1, 2] }
global_tag = "toy-real"

[[step]]
name = "pass1"
kind = "calibrate"
inputs = ["raw"]
calibrations = ["GainFit"]
initial = { A = "initial" }
"""
RECO = """
[[step]]
name = "reco"
path = "reco"
inputs = ["raw"]
"""


def constants(name: str) -> list[LoadedConstants]:
    """Return the constants that chains start from, or some that are loaded by hand."""
    clock = Payload.arrays({"start": np.zeros(1)})
    every = Interval.runs("A", 0, 99)
    known = {
        "initial": [LoadedConstants("Gain", every, toy.gain_payload(1.0))],
        "geometry": [LoadedConstants("Clock", every, clock)],
    }
    return known[name]


experiment = replace(
    toy.experiment,
    name="support.toy_production:experiment",
    distributions=("support.toy",),
    constants=constants,
)


def deliver(
    folder: Path, run: int, sequence: int, sections: range, *, last: int | None = None, **more: Any
) -> Delivery:
    """Write the raw file of a chunk (8 events and a slice in each section) and return its delivery."""
    folder.mkdir(parents=True, exist_ok=True)
    records = {"event": toy.grid(sections, 8), "slice": [(section, 0) for section in sections]}
    path = toy.write_raw(folder / f"A-{run}-{sequence}.json", "A", run, records)
    digest = durable.hash_file(path)
    end = sections[-1] if last is None else last
    counts = {kind: len(keys) for kind, keys in records.items()}
    files = (DeliveredFile("raw", str(path), digest.size, digest.sha256),)
    return Delivery(
        "A", run, "raw", sequence, "toy", files, sections[0], end, counts, **({"end_marker": True} | more)
    )


def whole_runs(folder: Path, *runs: int) -> list[Delivery]:
    """Return runs of one chunk with eight sections each."""
    return [deliver(folder / "raw", run, 1, range(8)) for run in runs]


def deliveries(folder: Path) -> list[Delivery]:
    """Return three runs; the second comes in two chunks, one after pass 1 has begun on the other."""
    return [
        deliver(folder, 1, 1, range(10)),
        deliver(folder, 3, 1, range(6)),
        deliver(folder, 2, 1, range(5), end_marker=False),
        deliver(folder, 2, 2, range(5, 9), after="pass1@A:2:1"),
    ]


@dataclass
class ToyProduction:
    """A workspace under ``root`` with deliveries that wait to be taken."""

    root: Path
    text: str = SPEC
    settings: str = DEFAULT_SETTINGS
    given: list[Delivery] = field(default_factory=list)
    workspace: Workspace = field(init=False)

    def __post_init__(self) -> None:
        where = self.root / "workspace"
        is_new = not (where / "beamwright.toml").exists()
        self.workspace = Workspace.create(where, self.settings) if is_new else Workspace.open(where)
        os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])  # workers find the experiment there
        self.given = self.given or deliveries(self.root / "raw")

    @property
    def spec(self) -> ProductionSpec:
        return read_spec(self.text, "toy.toml")

    def produce(self, workers: int = 1, on_turn: Callable[[int], None] = lambda done: None) -> int:
        experiment = experiments.load(self.spec.experiment)
        return Produce(self.workspace, self.spec, experiment, workers, list(self.given), on_turn).run()

    def collections(self) -> dict[str, tuple[int, str]]:
        """Return events and sha256 by name, of collections and bundles alike."""
        file, output = schema.file, schema.output
        query = sa.select(file.c.name, output.c.events, file.c.sha256).join(
            output, output.c.file_id == file.c.id
        )
        with self.workspace.db.read() as conn:
            return {row.name: (row.events, row.sha256) for row in conn.execute(query)}

    def rows(self, table: sa.Table, *where: Any) -> list[Any]:
        with self.workspace.db.read() as conn:
            return list(conn.execute(sa.select(table).where(*where).order_by(table.c.id)))

    def rows_of(self, table: sa.Table, *where: Any) -> list[Any]:
        """Return rows of a table that has no id."""
        with self.workspace.db.read() as conn:
            return list(conn.execute(sa.select(table).where(*where)))
