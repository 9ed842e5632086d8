"""Why a job that is ready starts nowhere: no farm that it may run at has its release."""

from __future__ import annotations

import sqlalchemy as sa

from beamwright.core.errors import BeamwrightError
from beamwright.db import schema
from beamwright.production import experiment as experiments
from beamwright.production import installing
from beamwright.production import release as releases
from beamwright.production.workspace import Workspace


def waits_for_release(conn: sa.Connection, workspace: Workspace, unit_id: int) -> tuple[str, str] | None:
    """Say that the job of a unit waits for its release to be installed, and the command that does it."""
    unit, job, task, production = schema.unit, schema.job, schema.task, schema.production
    query = (
        sa.select(unit.c.definition, production.c.release, production.c.experiment)
        .join(job, job.c.unit_id == unit.c.id)
        .join(task, unit.c.task_id == task.c.id)
        .join(production, task.c.production_id == production.c.id)
    )
    row = conn.execute(query.where(unit.c.id == unit_id, job.c.state == "prepared")).one_or_none()
    if row is None:
        return None
    farms = list(row.definition.get("farms") or workspace.settings.farm)
    if set(farms) & set(installing.usable(workspace, row.release, _here(row.experiment))):
        return None
    name = releases.short(row.release)
    reason = f"its release {name} is at none of the farms that it may run at ({', '.join(farms)})"
    if not releases.is_exact(row.release):
        return (
            reason,
            "a working tree cannot be installed: run `beamwright produce FILE` from that tree again",
        )
    return (
        reason,
        f"`beamwright release install {farms[0]} {name}` puts it there; the job then starts by itself",
    )


def _here(experiment: str) -> str:
    """Return the release of an experiment as it is in this environment, if it can be told."""
    try:
        return releases.current(experiments.load(experiment).distributions)
    except BeamwrightError:
        return ""
