"""What the steps of a production report of a run: histograms and figures, to be held against references."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from beamwright.core.errors import ConfigError, StateError, nearest
from beamwright.core.histogram import HistogramSet
from beamwright.core.messages import HISTOGRAMS
from beamwright.core.runs import Interval
from beamwright.db import schema
from beamwright.production.experiment import Experiment
from beamwright.production.inputs import verified_path
from beamwright.production.progress import RunKey
from beamwright.production.spec import ProductionSpec
from beamwright.production.tasks import Plan, Task
from beamwright.production.units import row_interval
from beamwright.quality import verdicts
from beamwright.quality.checks import Reported
from beamwright.quality.references import load_references


def tier_of(task: Task) -> str:
    """Return the tier that a step's quality is judged at: that of what it writes, raw for a calibration."""
    return next(iter(task.facts.streams.values()), "raw")


def gate(conn: sa.Connection, task: Task, interval: Interval) -> str:
    """Say which verdict of pass 1 keeps a step from one of an interval's runs; nothing where it may start."""
    for run in _runs_of(conn, interval) if task.step.verdict else ():
        if left := _not_good(conn, run, task.step.verdict):
            return f"run {run[0]}:{run[1]} waits for a good verdict: {left}"
    return ""


def check_gates(conn: sa.Connection, spec: ProductionSpec, experiment: Experiment) -> list[str]:
    """Return what the steps of a production wait for that only a person will judge, in words.

    Raises: ConfigError for a subject that nobody judges in pass 1, and that is nearly one of those that are.
    """
    asked = [(step.name, subject) for step in spec.step for subject in step.verdict]
    if not asked:
        return []
    known, told = _judged_subjects(conn, spec, experiment), []
    for step, subject in asked:
        message = f"step {step!r} waits for a good verdict on {subject!r}, which nothing of pass 1 judges"
        hint = nearest(subject, known)
        if subject not in known and hint.startswith("did you mean"):
            raise ConfigError(message, hint=f"{hint} (`beamwright quality set --new` begins a subject)")
        told += [f"{message}: a person has to (`beamwright quality set`)"] if subject not in known else []
    return told


def _judged_subjects(conn: sa.Connection, spec: ProductionSpec, experiment: Experiment) -> set[str]:
    """Return what references judge by pass 1 of a production, and what was ever judged at its tier."""
    references = verdicts.references_of(conn, experiment.name) or load_references(experiment.references)
    pass1 = {"", *(step.name for step in spec.step if step.kind == "calibrate")}
    limits = (*references.histogram, *references.figure)
    return {one.subject for one in limits if one.step in pass1} | verdicts.subjects(conn, "raw")


def _runs_of(conn: sa.Connection, interval: Interval) -> list[RunKey]:
    """Return the runs that an interval touches."""
    run = schema.run
    between = run.c.number.between(interval.first[0], interval.last[0])
    query = sa.select(run.c.number).where(run.c.series == interval.series, between).distinct()
    return [(interval.series, number) for number in conn.execute(query.order_by(run.c.number)).scalars()]


def gates(conn: sa.Connection, series: str, run: int) -> list[str]:
    """Say which active steps a verdict keeps from a run, in any production."""
    task, unit = schema.task, schema.unit
    begun = sa.select(unit.c.task_id).where(unit.c.series == series, unit.c.first_run == run)
    query = sa.select(task.c.step, task.c.config).where(
        task.c.kind == "process", task.c.state == "active", task.c.id.not_in(begun)
    )
    found = []
    for row in conn.execute(query.order_by(task.c.id)):
        subjects = row.config.get("step", {}).get("verdict", [])
        left = _not_good(conn, (series, run), subjects)
        found += [f"step {row.step} waits for a good verdict: {left}"] if left else []
    return found


def _not_good(conn: sa.Connection, run: RunKey, subjects: list[str]) -> str:
    """Say which subjects of pass 1 are not good."""
    found = verdicts.standing(conn, *run, "raw", subjects)
    return ", ".join(f"{subject} is {value}" for subject, value in found.items() if value != "good")


def check_export(conn: sa.Connection, name: str) -> None:
    """Refuse to let out a collection, ``scope:name``, that a production made and nobody has judged.

    Raises: StateError naming the runs without a verdict.
    """
    table = schema.collection
    scope, _, rest = name.partition(":")
    where = (table.c.scope == scope, table.c.name == rest, table.c.unit_id.is_not(None))
    row = conn.execute(sa.select(table).where(*where)).first()
    if row is None:
        return
    left = verdicts.unjudged(conn, _runs_of(conn, row_interval(row)))
    if left:
        shown = ", ".join(f"{series}/{number}" for series, number in left[:5])
        raise StateError(
            f"collection {name} holds runs without a verdict: {shown}{' …' if left[5:] else ''}",
            hint="judge them (`beamwright quality set`), or give the experiment quality references",
        )


def accepted_units(conn: sa.Connection, plan: Plan) -> dict[tuple[str, RunKey], int]:
    """Count, by step and run, the units whose work is accepted; accumulators count with their fit."""
    unit, job, steps = schema.unit, schema.job, {task.id: name for name, task in plan.tasks.items()}
    columns = (unit.c.task_id, unit.c.series, unit.c.first_run)
    query = sa.select(*columns, sa.func.count().label("number")).join(job, job.c.unit_id == unit.c.id)
    query = query.where(unit.c.task_id.in_(steps), unit.c.kind != "collect", job.c.state == "ok")
    rows = conn.execute(query.group_by(*columns))
    return {(steps[row.task_id], (row.series, row.first_run)): row.number for row in rows}


def reported(conn: sa.Connection, task: Task, run: RunKey) -> Reported:
    """Return the histograms of a step's accepted units of one run, added up, and the latest figures."""
    file, output, unit, job = schema.file, schema.output, schema.unit, schema.job
    mine = (unit.c.task_id == task.id, unit.c.series == run[0], unit.c.first_run == run[1])
    query = sa.select(file.c.id, file.c.name).join(output, output.c.file_id == file.c.id)
    query = query.join(unit, output.c.unit_id == unit.c.id).join(job, job.c.unit_id == unit.c.id)
    query = query.where(*mine, output.c.stream == HISTOGRAMS, job.c.state == "ok")
    paths = [Path(verified_path(conn, row.id, row.name)) for row in conn.execute(query.order_by(unit.c.id))]
    histograms = HistogramSet.merged(HistogramSet.from_bytes(path.read_bytes(), str(path)) for path in paths)
    return Reported(histograms, _figures(conn, mine))


def _figures(conn: sa.Connection, mine: tuple[sa.ColumnElement[bool], ...]) -> dict[str, float | None]:
    unit, job, attempt = schema.unit, schema.job, schema.attempt
    query = (
        sa.select(attempt.c.figures)
        .join(job, attempt.c.job_id == job.c.id)
        .join(unit, job.c.unit_id == unit.c.id)
    )
    query = query.where(*mine, attempt.c.state == "accepted", job.c.state == "ok")
    query = query.order_by(unit.c.first_run, unit.c.first_section)
    found: dict[str, float | None] = {}
    for figures in conn.execute(query).scalars():
        found.update(_flat(figures or {}))
    return found


def _flat(figures: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among figures; those of a fit stand under its calibration."""
    groups: dict[str, Mapping[str, Any]] = defaultdict(dict)
    groups[""] = {name: value for name, value in figures.items() if name not in ("fits", "statistics")}
    groups |= {name: fit["figures"] for name, fit in figures.get("fits", {}).items()}
    numbers = (int, float)
    return {k: float(v) for group in groups.values() for k, v in group.items() if isinstance(v, numbers)}
