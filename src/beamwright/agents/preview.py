"""The jobs that a production would make now, without making them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from beamwright.agents.planner import Planner, Step
from beamwright.production import inspection, publishing, tasks
from beamwright.production.experiment import Experiment
from beamwright.production.progress import Progress
from beamwright.production.spec import ProductionSpec
from beamwright.production.splitting import Run
from beamwright.production.tasks import Facts
from beamwright.production.units import UnitPlan
from beamwright.production.workspace import Workspace

Row = dict[str, Any]


def preview(
    workspace: Workspace,
    spec: ProductionSpec,
    experiment: Experiment,
    facts: Mapping[str, Facts],
    release: str,
) -> list[Row]:
    """Return the jobs that the planner would make from what has been delivered and is covered by constants.

    Everything is written and taken back: nothing changes. Chains make theirs link by link, and are left out.
    """
    with TemporaryDirectory() as folder, workspace.db.begin() as conn:
        aside = set_aside(workspace, Path(folder))
        now = workspace.clock.now()
        production = tasks.start(conn, spec, facts, release, now)
        publishing.load_constants(conn, spec, experiment, now)
        planner = Planner(aside, production, Run(limits=workspace.settings.limits))
        progress = Progress(conn, tasks.plan(conn, production))
        publishing.check_chains(conn, progress.plan, experiment, now)
        inspection.check_gates(conn, spec, experiment)
        told = [row for task in progress.plan.tasks.values() for row in _made(planner.decide(progress, task))]
        conn.rollback()
    return told


def set_aside(workspace: Workspace, folder: Path) -> Workspace:
    """Return a workspace that reads the indexes of another and writes elsewhere."""
    (folder / "snapshots").mkdir()
    (folder / "indexes").symlink_to(workspace.root / "indexes")
    aside = replace(workspace, root=folder)
    aside.__dict__["db"] = workspace.db  # the same database, not one in the folder
    return aside


def _made(step: Step) -> list[Row]:
    smaller = (unit for _, children in step.smaller for unit in children)
    return rows(step.task.step.name, [*step.units, *smaller])


def rows(step: str, units: Sequence[UnitPlan]) -> list[Row]:
    """Return what is told of the jobs of units that a step would have."""
    return [
        {
            "step": step,
            "kind": unit.kind,
            "stream": unit.stream,
            "interval": str(unit.interval),
            "records": sum(n for n in unit.definition["records"].values() if n is not None) or None,
            "inputs": [item["name"] for item in unit.definition["inputs"]],
            "outputs": sorted(unit.definition["streams"]),
            "memory_mb": unit.definition["limits"]["memory_mb"],
            "priority": unit.priority,
            "seed": unit.definition["seeds"]["job"],
            "resolved_hash": unit.resolved_hash,
        }
        for unit in units
    ]
