"""A whole production in small: the toy experiment, all agents, two passes, the event framework and a merge.

Two chunks of one run are delivered, the second once pass 1 has begun on the first; one farm of one slot.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from beamwright import durable
from beamwright.agents.loop import Produce
from beamwright.core.canonical import canonical_json
from beamwright.production import experiment as experiments
from beamwright.production.experiment import Delivery
from beamwright.production.spec import read_spec
from beamwright.production.workspace import Workspace
from support.toy_production import deliver

EVENTS = 6 * 8
SETTINGS = """\
format = 1
[limits]
heartbeat_s = 0.5
[farm.only]
slots = 1
"""
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
runs = { A = [1] }
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

[[step]]
name = "merge"
kind = "merge"
inputs = ["reco.dst"]
target_mb = 1000
"""


def make(root: Path, raw: Path) -> Workspace:
    """Make an empty workspace and the raw files, which all workspaces share."""
    made = [
        deliver(raw, 1, 1, range(3), end_marker=False),
        deliver(raw, 1, 2, range(3, 6), after="pass1@A:1:1"),
    ]
    documents = [delivery.document() | {"after": delivery.after} for delivery in made]
    durable.put_once(raw / "deliveries", canonical_json(documents))
    return Workspace.create(root, SETTINGS)


def produce(root: Path, raw: Path) -> None:
    """Work until the production is done."""
    given = [
        replace(Delivery.from_document({k: v for k, v in d.items() if k != "after"}), after=d["after"])
        for d in json.loads((raw / "deliveries").read_bytes())
    ]
    spec = read_spec(SPEC, "toy.toml")
    workspace = Workspace.open(root)
    workspace.settings.farm["only"].environment.update(_instruments())
    Produce(workspace, spec, experiments.load(spec.experiment), deliveries=given).run()


def _instruments() -> dict[str, str]:
    """Return what the jobs must have of this process's environment to be killed."""
    return {name: value for name, value in os.environ.items() if name.startswith(("KILL_", "PYTHON"))}
