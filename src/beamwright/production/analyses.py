"""Analyses: tasks of an analyst's own, over a dataset, with code of their own, in a scope of their own.

An analysis is a production of one step whose name begins with its owner's scope; what it writes bears that
name and enters nobody else's datasets. It has units of one or more collections; when all are done, the
histograms and the tables of each series and kind of data are gathered.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import Field, field_validator

from beamwright.catalog import datasets
from beamwright.core.canonical import content_hash
from beamwright.core.errors import ConfigError, UnknownNameError
from beamwright.core.messages import HISTOGRAMS
from beamwright.core.owners import owner
from beamwright.core.settings import Declaration, declare, decoded, parse_toml
from beamwright.db import history, schema
from beamwright.db.engine import batched
from beamwright.production import inputs, installing, redoing, splitting
from beamwright.production.interventions import Why
from beamwright.production.publishing import cover
from beamwright.production.rules import RetryRule, check_states
from beamwright.production.spec import DatasetSpec, ProductionSpec, StepSpec
from beamwright.production.splitting import Covered, Item, Run
from beamwright.production.tasks import Facts, Task
from beamwright.production.units import UnitPlan, row_interval
from beamwright.production.workspace import Workspace

TIER, DATA = "user", "data"
SUFFIXES = {"histograms": "bwb", "parquet": "parquet", "events": "root"}
FORMATS = {"histograms": "bundle", "parquet": "parquet", "events": "rntuple"}
# States of a job after which nothing more is expected of it.
_DONE = ("ok", "excluded", "superseded", "cancelled", "split")


class OutputSpec(Declaration):
    """An output of an analysis: ``histograms``, a table (``parquet``), or ``events`` in our own files."""

    kind: Literal["histograms", "parquet", "events"]


_COPIED = ("banks", "files", "farms", "seed", "scouts", "max_failed", "retry", "memory_mb", "wall_s")


class AnalysisSpec(Declaration):
    """An analysis file: a dataset, code, and the function in it that makes the path."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    scope: str = Field(pattern=r"^user\.[a-z0-9][a-z0-9_-]{0,30}$")
    experiment: str
    dataset: str
    code: str
    path: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    banks: str = ""
    title: str = ""
    output: dict[str, OutputSpec] = Field(min_length=1)
    parameters: dict[str, dict[str, Any]] = {}
    files: int = Field(default=10, ge=1)
    farms: list[str] = []
    seed: int = 0
    scouts: int = Field(default=0, ge=0)
    max_failed: float = Field(default=1.0, gt=0, le=1)
    retry: list[RetryRule] = []
    memory_mb: int | None = Field(default=None, gt=0)
    wall_s: float | None = Field(default=None, gt=0)

    @field_validator("retry")
    @classmethod
    def _stateless(cls, value: list[RetryRule]) -> list[RetryRule]:
        check_states(value, ())  # an analysis declares none
        return value

    @property
    def production(self) -> str:
        """The name under which it runs, which is the scope of what it writes."""
        return f"{self.scope}.{self.name}"


def load_spec(path: Path) -> AnalysisSpec:
    """Read an analysis file.

    Raises: ConfigError.
    """
    try:
        text = decoded(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"there is no analysis file {path}", hint="give the path of a TOML file") from error
    spec = declare(AnalysisSpec, parse_toml(text, str(path)), str(path))
    wrong = [name for name, one in spec.output.items() if (name == HISTOGRAMS) != (one.kind == HISTOGRAMS)]
    if wrong:
        hint = "histograms are one output, [output.histograms]; others are named after streams of the path"
        raise ConfigError(f"{path}: output {wrong[0]!r} cannot be {spec.output[wrong[0]].kind}", hint=hint)
    return spec


def production_spec(conn: sa.Connection, spec: AnalysisSpec, code: str) -> ProductionSpec:
    """Return the production that an analysis is, over what its dataset holds now.

    Raises: UnknownNameError for the dataset, ConfigError when it holds nothing.
    """
    found = datasets.collections(conn, datasets.cited(conn, spec.dataset))
    if not found:
        raise ConfigError(
            f"dataset {spec.dataset} holds nothing", hint="`beamwright dataset show` tells more"
        )
    runs: dict[str, set[int]] = {}
    for one in found:
        runs.setdefault(one.interval.series, set()).add(one.interval.first[0])
    data = DatasetSpec(
        name=DATA,
        runs={series: sorted(numbers) for series, numbers in sorted(runs.items())},
        global_tag=found[0].global_tag,
    )
    step = StepSpec(
        name=spec.name,
        kind="analyse",
        inputs=[DATA],
        path=spec.path,
        parameters=spec.parameters,
        code=code,
        outputs={name: one.kind for name, one in spec.output.items()},
        **{name: getattr(spec, name) for name in _COPIED},
    )
    return ProductionSpec(
        name=spec.production, experiment=spec.experiment, title=spec.title, dataset=[data], step=[step]
    )


def facts(workspace: Workspace, step: StepSpec, sandbox: dict[str, str], release: str, here: str) -> Facts:
    """Return what the code says of its path, asked in a process of its own.

    Raises: ConfigError, UnknownNameError for an output that the path does not have.
    """
    argv = [sys.executable]
    if release != here:
        argv = [str(installing.interpreter(installing.anywhere(workspace, release))), "-I"]
    argv += ["-m", "beamwright.production.sandboxes", sandbox["path"], sandbox["sha256"], step.path]
    text = json.dumps(step.parameters)
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise ConfigError(
            f"the code of step {step.name!r} cannot be used: {last}", hint="mend it, and start again"
        )
    said = json.loads(done.stdout.splitlines()[-1])
    for name in step.outputs:
        if name not in [*said["streams"], HISTOGRAMS]:
            raise UnknownNameError(f"stream of path {step.path}", name, said["streams"])
    streams = {name: TIER for name in step.outputs if name != HISTOGRAMS}
    return Facts(said["record"], streams, tuple(said["reads"]), (), (said["record"],))


def new_units(
    workspace: Workspace, conn: sa.Connection, task: Task, dataset: str, sandbox: dict[str, str], run: Run
) -> list[UnitPlan]:
    """Return the units of what a dataset holds and the task has no unit of, as far as conditions cover it."""
    planned = []
    for group in _groups(untaken(conn, task, dataset), task.step.files):
        item = inputs.with_edition(conn, task, inputs.collection_item(conn, group))
        covered = cover(workspace, conn, item.global_tag, task.facts.reads, item.interval)
        if covered is not None:
            planned.append(_unit(task, item, covered, run, sandbox))
    return planned


def untaken(conn: sa.Connection, task: Task, dataset: str) -> list[Any]:
    """Return the collections of a dataset that a task has no unit of, in key order."""
    held = [one.id for one in datasets.collections(conn, datasets.cited(conn, dataset))]
    taken = _taken(conn, task)
    return _collections(conn, [collection_id for collection_id in held if collection_id not in taken])


def drop_outdated(conn: sa.Connection, task: Task, dataset: str, now: float) -> int:
    """Let units count no more that other code made, or whose input has left the dataset; return how many.

    What was gathered from them goes with them.
    """
    held = {one.id for one in datasets.collections(conn, datasets.cited(conn, dataset))}
    unit, link, job = schema.unit, schema.unit_input, schema.job
    query = sa.select(unit.c.id, unit.c.kind, unit.c.config_hash).join(job, job.c.unit_id == unit.c.id)
    rows = conn.execute(query.where(unit.c.task_id == task.id, job.c.state.not_in(redoing.GONE))).all()
    read: dict[int, set[int]] = {}
    for part in batched([row.id for row in rows]):
        for one in conn.execute(sa.select(link).where(link.c.unit_id.in_(part))):
            read.setdefault(one.unit_id, set()).add(one.collection_id)
    gone = [r.id for r in rows if r.config_hash != task.config_hash or not read.get(r.id, set()) <= held]
    redoing.supersede(conn, gone, Why("planner", "the code or the dataset changed", now))
    if gone:
        drop_gathered(conn, task, now)
    return len(gone)


def drop_gathered(conn: sa.Connection, task: Task, now: float) -> None:
    """Let what was gathered count no more: there is more to be gathered."""
    unit, job = schema.unit, schema.job
    query = sa.select(unit.c.id).join(job, job.c.unit_id == unit.c.id)
    mine = (unit.c.task_id == task.id, unit.c.kind == "gather", job.c.state.not_in(redoing.GONE))
    ids = list(conn.execute(query.where(*mine)).scalars())
    redoing.supersede(conn, ids, Why("planner", "there is more to be gathered", now))


def gatherings(conn: sa.Connection, task: Task, run: Run) -> list[UnitPlan] | None:
    """Return the units that gather what all units of a task gave, or None while some are not done."""
    job, unit = schema.job, schema.unit
    query = sa.select(unit, job.c.state).join(job, job.c.unit_id == unit.c.id)
    rows = list(conn.execute(query.where(unit.c.task_id == task.id, unit.c.kind == "analyse")))
    if any(row.state not in _DONE for row in rows):
        return None
    groups: dict[tuple[str, ...], list[Any]] = {}
    for row in sorted((row for row in rows if row.state == "ok"), key=_position):
        groups.setdefault(_kind_of_data(row), []).append(row)
    return [
        _gathering(conn, task, groups[name], stream, kind, run)
        for name in sorted(groups)
        for stream, kind in sorted(task.step.outputs.items())
        if kind != "events"
    ]


def settled(conn: sa.Connection, task: Task) -> bool:
    """Tell whether nothing more is expected of any job of a task."""
    job, unit = schema.job, schema.unit
    query = sa.select(job.c.id).join(unit, job.c.unit_id == unit.c.id).where(unit.c.task_id == task.id)
    return conn.execute(query.where(job.c.state.not_in(_DONE)).limit(1)).first() is None


def hold_over_quota(conn: sa.Connection, workspace: Workspace, task: Task, now: float) -> bool:
    """Hold a task whose owner's outputs have reached their quota; tell whether it was."""
    scope = owner(task.production)
    limit = workspace.settings.analyses.quota_of(scope)
    used = stored(conn, scope)
    if used < limit * 1e9 or task.state != "active":
        return False
    reason = f"the outputs of {scope} take {used / 1e9:.3g} GB; the quota is {limit:g} GB"
    history.move(conn, schema.task, task.id, "active", "held", actor="planner", reason=reason, at=now)
    return True


def stored(conn: sa.Connection, scope: str) -> int:
    """Return how many bytes the live files of an analyst take."""
    file, replica = schema.file, schema.replica
    query = sa.select(sa.func.coalesce(sa.func.sum(file.c.size), 0)).join(
        replica, replica.c.file_id == file.c.id
    )
    mine = file.c.scope.startswith(f"{scope}.", autoescape=True)
    return int(conn.execute(query.where(mine, replica.c.state == "verified")).scalar_one())


def written(workspace: Workspace, production: str) -> list[dict[str, Any]]:
    """Return what an analysis has in the end: what was gathered, and its collections of events."""
    file, output, unit, job = schema.file, schema.output, schema.unit, schema.job
    task, made = schema.task, schema.production
    query = (
        sa.select(file.c.scope, file.c.name, file.c.id, file.c.kind, output.c.events, output.c.stream)
        .join(output, output.c.file_id == file.c.id)
        .join(unit, output.c.unit_id == unit.c.id)
        .join(task, unit.c.task_id == task.c.id)
        .join(made, task.c.production_id == made.c.id)
        .join(job, job.c.unit_id == unit.c.id)
        .where(made.c.name == production, job.c.state == "ok")
        .where(sa.or_(unit.c.kind == "gather", file.c.kind == "rntuple"))
        .order_by(file.c.id)
    )
    with workspace.db.read() as conn:
        return [
            {"file": f"{row.scope}:{row.name}", "stream": row.stream, "kind": row.kind, "events": row.events}
            | {"path": inputs.verified_path(conn, row.id, row.name)}
            for row in conn.execute(query)
        ]


def _unit(task: Task, item: Item, covered: Covered, run: Run, sandbox: dict[str, str]) -> UnitPlan:
    (plan,) = splitting.process_units(task, item, {item.interval: covered}, run, None)
    declared = plan.definition["streams"]
    streams = {
        name: _stream(declared[name] | {"tier": TIER}, kind)
        for name, kind in sorted(task.step.outputs.items())
    }
    definition = plan.definition | {"kind": "analyse", "streams": streams, "sandbox": sandbox, "tier": TIER}
    return replace(plan, kind="analyse", definition=definition)


def _stream(declared: Any, kind: str) -> dict[str, str]:
    stem = declared["file"].rpartition(".")[0]
    return dict(declared) | {"file": f"{stem}.{SUFFIXES[kind]}", "format": FORMATS[kind]}


def _gathering(
    conn: sa.Connection, task: Task, rows: Sequence[Any], stream: str, kind: str, run: Run
) -> UnitPlan:
    """Return the unit that puts the outputs of units, in key order, into one file."""
    documents = inputs.unit_outputs(conn, [row.id for row in rows], stream)
    interval = splitting.hull([row_interval(row) for row in rows])
    first = rows[0].definition
    item = Item(interval, documents, "", first["is_mc"], first["is_resampled"], {})
    plan = splitting.merge_unit(task, item, stream, TIER, 1, run)
    mark = content_hash([document["sha256"] for document in documents])[:8]
    place = ".".join(["all", *_kind_of_data(rows[0]), mark])
    label = f"{task.step.name}.{stream}"
    declared = {"tier": TIER, "name": f"{label}/{place}", "file": f"{label}.{place}.x"}
    definition = plan.definition | {"kind": "gather", "streams": {stream: _stream(declared, kind)}}
    return replace(plan, kind="gather", definition=definition)


def _kind_of_data(row: Any) -> tuple[str, ...]:
    """Return series and kind of data of a unit: data, simulation and resampled events never mix."""
    flags = {"mc": row.definition["is_mc"], "resampled": row.definition["is_resampled"]}
    return (row.series, *(name for name, is_so in flags.items() if is_so))


def _groups(rows: Sequence[Any], size: int) -> list[list[Any]]:
    """Cut collections in key order into groups of one series, global tag and kind of data."""
    groups: list[list[Any]] = []
    for row in rows:
        if groups and len(groups[-1]) < size and _alike(groups[-1][0], row):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _alike(one: Any, other: Any) -> bool:
    names = ("series", "global_tag", "is_mc", "is_resampled", "stream")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _collections(conn: sa.Connection, ids: Sequence[int]) -> list[Any]:
    table = schema.collection
    rows = [
        row
        for part in batched(list(ids))
        for row in conn.execute(sa.select(table).where(table.c.id.in_(part)))
    ]
    return sorted(rows, key=lambda row: (row.stream, row.global_tag, row.series, *_position(row)))


def _taken(conn: sa.Connection, task: Task) -> set[int]:
    """Return the collections that a task has a unit of which still stands."""
    unit, link, job = schema.unit, schema.unit_input, schema.job
    query = (
        sa.select(link.c.collection_id)
        .join(unit, link.c.unit_id == unit.c.id)
        .join(job, job.c.unit_id == unit.c.id)
        .where(unit.c.task_id == task.id, unit.c.kind == "analyse", job.c.state != "superseded")
    )
    return set(conn.execute(query).scalars())


def _position(row: Any) -> tuple[int, int, int]:
    return row.first_run, row.first_section, row.first_event
