"""Jobs that need scratch space, at a farm whose nodes have little of it."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from beamwright.agents.submitter import Submitter
from beamwright.batch.scheduler import Scheduler
from beamwright.db import schema
from beamwright.production import explain
from kill.production import COMMANDS, make

# What jobs ask for: what every node has, what one has, and what none has.
LITTLE_MB, MUCH_MB, TOO_MUCH_MB = 500, 1500, 5000


def explained(root: Path, scheduler: Scheduler) -> str:
    """Have a job submitted whose scouts needed more than any node has; return what is said of it."""
    workspace = make(root)
    job, task = schema.job, schema.task
    with workspace.db.begin() as conn:
        conn.execute(sa.update(task).values(needs={"disk_mb": TOO_MUCH_MB}))
        first = conn.execute(sa.select(sa.func.min(job.c.id))).scalar_one()
        conn.execute(sa.update(job).where(job.c.id != first).values(state="cancelled"))
    Submitter(workspace, {"near": scheduler}, COMMANDS).turn()
    with workspace.db.read() as conn:
        unit = conn.execute(sa.select(schema.unit.c.key).join(job).where(job.c.id == first)).scalar_one()
        told = explain.explain(conn, unit).lines()
    workspace.db.close()
    return "\n".join(told)
