"""The seeds of generated units: none is used twice for one generator in a workspace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import sqlalchemy as sa

from beamwright.core.errors import ConflictError
from beamwright.db import schema
from beamwright.db.engine import batched
from beamwright.production.tasks import Task

if TYPE_CHECKING:
    from beamwright.production.units import UnitPlan


def generator(task: Task) -> str:
    """Return the name of what makes the events of a task."""
    return f"{task.experiment}:{task.step.path}"


def claim(conn: sa.Connection, task: Task, units: Mapping[int, UnitPlan]) -> None:
    """Enter the seeds of new units (by id) that generate.

    Raises: ConflictError, naming the unit that has a seed already.
    """
    wanted = {
        int(unit.definition["seeds"]["job"]): unit_id
        for unit_id, unit in units.items()
        if unit.kind == "generate"
    }
    _refuse_taken(conn, task, wanted, sum(unit.kind == "generate" for unit in units.values()))
    rows = [{"generator": generator(task), "seed": seed, "unit_id": i} for seed, i in wanted.items()]
    if rows:
        conn.execute(sa.insert(schema.generation_seed), rows)


def _refuse_taken(conn: sa.Connection, task: Task, wanted: Mapping[int, int], number: int) -> None:
    table, unit = schema.generation_seed, schema.unit
    hint = f"give step {task.step.name!r} another `seed`: those of its units are made from it"
    if len(wanted) < number:
        raise ConflictError(f"two new units of step {task.step.name} share a seed", hint=hint)
    query = sa.select(table.c.seed, unit.c.key).join(unit, table.c.unit_id == unit.c.id)
    for part in batched(list(wanted)):
        mine = query.where(table.c.generator == generator(task), table.c.seed.in_(part))
        row = conn.execute(mine.limit(1)).one_or_none()
        if row is not None:
            message = f"unit {row.key[:12]} has generated with seed {row.seed} of {generator(task)} already"
            raise ConflictError(message, hint=hint)
