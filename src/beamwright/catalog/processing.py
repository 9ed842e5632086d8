"""Which farm, release and constants processed a run, and when."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from beamwright.catalog.constants import Constants
from beamwright.db import schema

Row = dict[str, Any]


def processing(conn: sa.Connection, series: str, number: int) -> list[Row]:
    """Return the accepted work over a run: step, farm, host, release, times, constants, outputs."""
    unit, task, production = schema.unit, schema.task, schema.production
    job, attempt = schema.job, schema.attempt
    chosen = (
        sa.select(
            *(unit.c.id, unit.c.key, unit.c.kind, unit.c.first_section, unit.c.last_section),
            *(task.c.step, production.c.name.label("production"), job.c.state),
            *(attempt.c.farm, attempt.c.host, attempt.c.release, attempt.c.started, attempt.c.ended),
        )
        .select_from(
            unit.join(task, unit.c.task_id == task.c.id)
            .join(production, task.c.production_id == production.c.id)
            .join(job, job.c.unit_id == unit.c.id)
            .join(attempt, attempt.c.job_id == job.c.id)
        )
        .where(unit.c.series == series, unit.c.first_run <= number, unit.c.last_run >= number)
        .where(attempt.c.state == "accepted")
        .order_by(production.c.name, task.c.id, unit.c.first_run, unit.c.first_section, unit.c.id)
    )
    rows = [dict(row) for row in conn.execute(chosen).mappings()]
    constants = Constants(conn).of(row["id"] for row in rows)
    outputs = _outputs(conn, [row["id"] for row in rows])
    return [
        {name: row[name] for name in ("production", "step", "kind", "state", "farm", "host", "release")}
        | {"unit": row["key"], "started": row["started"], "ended": row["ended"]}
        | {"constants": constants.get(row["id"], {}), "outputs": outputs.get(row["id"], [])}
        for row in rows
    ]


@dataclass(frozen=True)
class Times:
    """When a run was delivered, and when the last accepted work over it ended: in chains, and at all."""

    delivered: float
    calibrated: float | None
    done: float | None


def times(
    conn: sa.Connection, production_id: int, series: str | None = None, number: int | None = None
) -> dict[tuple[str, int], Times]:
    """Return the times of a production's runs, or of one run."""
    run, chunk, unit, task = schema.run, schema.chunk, schema.unit, schema.task
    key = (run.c.series, run.c.number)
    mine = [c == v for c, v in zip(key, (series, number), strict=True) if v is not None]
    first = sa.select(*key, sa.func.min(chunk.c.created).label("at")).join(chunk, chunk.c.run_id == run.c.id)
    over = sa.and_(unit.c.series == run.c.series, run.c.number.between(unit.c.first_run, unit.c.last_run))
    last = (
        sa.select(*key, task.c.kind, sa.func.max(schema.attempt.c.ended).label("at"))
        .select_from(run.join(unit, over).join(task, unit.c.task_id == task.c.id))
        .join(schema.job, schema.job.c.unit_id == unit.c.id)
        .join(schema.attempt, schema.attempt.c.job_id == schema.job.c.id)
        .where(task.c.production_id == production_id, schema.attempt.c.state == "accepted", *mine)
        .group_by(*key, task.c.kind)
    )
    ends: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    for row in conn.execute(last):
        ends[row.series, row.number][row.kind] = row.at
    delivered = {(r.series, r.number): r.at for r in conn.execute(first.where(*mine).group_by(*key))}
    return {
        one: Times(at, ends[one].get("calibrate"), max(ends[one].values(), default=None))
        for one, at in delivered.items()
    }


def _outputs(conn: sa.Connection, units: list[int]) -> dict[int, list[str]]:
    table, file = schema.output, schema.file
    found: dict[int, list[str]] = defaultdict(list)
    chosen = sa.select(table.c.unit_id, file.c.scope, file.c.name).join(file, table.c.file_id == file.c.id)
    for start in range(0, len(units), 5000):
        part = table.c.unit_id.in_(units[start : start + 5000])
        for row in conn.execute(chosen.where(part).order_by(file.c.scope, file.c.name)):
            found[row.unit_id].append(f"{row.scope}:{row.name}")
    return found
