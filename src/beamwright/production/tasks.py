"""Productions and tasks in the database: making them, what goes into them, when they are complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa

from beamwright.core.canonical import content_hash
from beamwright.core.errors import ReleaseError, StateError, UnknownNameError
from beamwright.db import history, schema
from beamwright.db.engine import insert_id
from beamwright.production.release import short
from beamwright.production.spec import DatasetSpec, ProductionSpec, StepSpec, split_input

ACTOR = "planner"
UNFINISHED = ("prepared", "submitted", "running", "failed", "held")


@dataclass(frozen=True)
class Facts:
    """What a step's experiment code says of itself: record kind, streams with tiers, conditions by role.

    ``record`` is empty for steps that read several kinds (calibrations) or collections as a whole (merges).
    """

    record: str = ""
    streams: dict[str, str] = field(default_factory=dict)
    reads: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    records: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Facts:
        lists = {name: tuple(document[name]) for name in ("reads", "tags", "records")}
        return cls(document["record"], dict(document["streams"]), **lists)


@dataclass(frozen=True)
class Task:
    """A step of a production as it stands in the database."""

    id: int
    production_id: int
    production: str
    experiment: str
    release: str
    state: str
    config_version: int
    config_hash: str
    step: StepSpec
    facts: Facts


@dataclass(frozen=True)
class Plan:
    """A production: its specification and its tasks by step."""

    id: int
    spec: ProductionSpec
    release: str
    tasks: dict[str, Task]

    def datasets_of(self, task: Task, series: str) -> list[DatasetSpec]:
        """Return the datasets with runs of a series that a step reads."""
        known = self.spec.datasets()
        found = [known[name] for name in task.step.inputs if name in known]
        return [dataset for dataset in found if series in dataset.runs]

    def roots(self, step: str) -> list[DatasetSpec]:
        """Return the datasets that a step's events come from, in the order of the file."""
        found: dict[str, DatasetSpec] = {}
        for name in self.spec.steps()[step].inputs:
            head, stream = split_input(name)
            for dataset in self.roots(head) if stream else [self.spec.datasets()[head]]:
                found[dataset.name] = dataset
        return [d for d in self.spec.dataset if d.name in found]


def start(
    conn: sa.Connection, spec: ProductionSpec, facts: Mapping[str, Facts], release: str, now: float
) -> int:
    """Make the production and its tasks, or bring their configuration up to the file; return its id.

    ``facts`` holds, by step, what the experiment's code says of it. Finished work stays: a changed step
    gets a new configuration version, under which all else is planned.
    Raises: ReleaseError when a uniform production meets another release, or any release that is not an
    exact one.
    """
    if spec.uniform and not release.startswith("sha256:"):
        message = f"production {spec.name} is uniform, and {release} is a working tree"
        raise ReleaseError(message, hint="install beamwright and the experiment as packages (not editable)")
    table = schema.production
    row = conn.execute(sa.select(table).where(table.c.name == spec.name)).one_or_none()
    if spec.uniform:
        _check_constants(conn, spec, facts, row)
    if row is None:
        return _create(conn, spec, facts, release, now)
    if row.release != release and spec.uniform:
        message = f"production {spec.name} runs under release {row.release}, and this is {release}"
        hint = f"go on with `beamwright produce FILE --release {row.release}`, or give it another name"
        raise ReleaseError(message, hint=hint)
    _update(conn, row, spec, facts, release, now)
    return int(row.id)


def _check_constants(conn: sa.Connection, spec: ProductionSpec, facts: Mapping[str, Facts], row: Any) -> None:
    """Refuse constants that could change under a uniform production: an open global tag, or another one.

    Raises: StateError. What the production calibrates itself stays open until it is done.
    """
    known = {d["name"]: d["global_tag"] for d in row.spec["dataset"]} if row is not None else {}
    steps = [step for step in spec.step if facts[step.name].reads]
    for dataset in spec.dataset:
        before = known.get(dataset.name, dataset.global_tag)
        if before != dataset.global_tag:
            message = f"production {spec.name} is uniform, and runs under global tag {before}"
            raise StateError(message, hint=f"start a production of another name for {dataset.global_tag}")
        kinds = {step.kind for step in steps if dataset.name in step.inputs}
        state = sa.select(schema.global_tag.c.state).where(schema.global_tag.c.name == dataset.global_tag)
        if kinds and kinds <= {"process", "generate"} and conn.execute(state).scalar() != "frozen":
            raise StateError(
                f"production {spec.name} is uniform, and global tag {dataset.global_tag} is not frozen",
                hint="freeze it (`beamwright conditions freeze`), or a copy (`beamwright conditions tag`)",
            )


def note_agents(conn: sa.Connection, production_id: int, release: str, here: str, now: float) -> None:
    """Note that the agents run the experiment of another release than a production's jobs."""
    if release == here:
        return
    reason = f"jobs run under {short(release)}; intake, calibrator and inspector under {short(here)}"
    said: dict[str, Any] = {"actor": ACTOR, "reason": reason, "at": now, "data": {"agents": here}}
    history.record(conn, "production", production_id, "started", **said)


def plan(conn: sa.Connection, production_id: int) -> Plan:
    """Read a production with its tasks."""
    row = conn.execute(sa.select(schema.production).where(schema.production.c.id == production_id)).one()
    spec = ProductionSpec.model_validate(row.spec)
    steps = spec.steps()
    tasks = conn.execute(
        sa.select(schema.task).where(schema.task.c.production_id == production_id).order_by(schema.task.c.id)
    )
    made = {t.step: _task(t, row, steps[t.step]) for t in tasks if t.step in steps}
    return Plan(row.id, spec, row.release, made)


def find(conn: sa.Connection, name: str) -> int:
    """Return the id of a production.

    Raises: UnknownNameError.
    """
    table = schema.production
    rows = {row.name: int(row.id) for row in conn.execute(sa.select(table.c.name, table.c.id))}
    if name not in rows:
        raise UnknownNameError("production", name, rows)
    return rows[name]


def config_hash(step: StepSpec, facts: Facts) -> str:
    """Return the hash of what decides the content of a step's outputs (not where and how fast it runs)."""
    elsewhere = {"farms", "priority", "target_mb", "split", "inputs", "max_wait_s"}
    elsewhere |= {"split_mb", "files", "group_mb", "by_run", "scouts", "max_failed", "retry", "state"}
    elsewhere |= {"memory_mb", "wall_s"}
    elsewhere |= set() if step.kind == "analyse" else {"code", "banks", "outputs"}
    document = step.model_dump(mode="json", exclude=elsewhere | {"request"})
    if not step.banks:
        document.pop("banks", None)
    if step.request is not None:
        document["request"] = step.request.model_dump(mode="json", include={"command", "reader"})
    return content_hash([document, facts.document()])


def _create(
    conn: sa.Connection, spec: ProductionSpec, facts: Mapping[str, Facts], release: str, now: float
) -> int:
    values = {"name": spec.name, "experiment": spec.experiment, "release": release, "created": now}
    production_id = insert_id(
        conn, schema.production, spec=spec.model_dump(mode="json"), spec_hash=spec.hash, **values
    )
    history.record(conn, "production", production_id, "created", actor=ACTOR, reason=spec.title, at=now)
    for step in spec.step:
        _create_task(conn, production_id, step, facts[step.name], spec.uniform, now)
    return production_id


def _create_task(
    conn: sa.Connection, production_id: int, step: StepSpec, facts: Facts, uniform: bool, now: float
) -> None:
    _refuse_withdrawn(conn, production_id, step)
    values: dict[str, Any] = {
        "production_id": production_id,
        "step": step.name,
        "kind": step.kind,
        "state": "draft",
        "uniform": uniform,
    }
    configuration = {
        "config": _configuration(step, facts),
        "config_hash": config_hash(step, facts),
        "config_version": 1,
    }
    task_id = insert_id(conn, schema.task, created=now, **values, **configuration)
    history.record(conn, "task", task_id, "draft", actor=ACTOR, at=now)
    history.move(conn, schema.task, task_id, "draft", "active", actor=ACTOR, at=now)


def _refuse_withdrawn(conn: sa.Connection, production_id: int, step: StepSpec) -> None:
    """Refuse a step that reads a dataset which was withdrawn.

    Raises: StateError.
    """
    production, dataset = schema.production, schema.dataset
    scope = conn.execute(sa.select(production.c.name).where(production.c.id == production_id)).scalar_one()
    query = sa.select(dataset.c.state).where(dataset.c.scope == scope).order_by(dataset.c.version.desc())
    for name in step.inputs:
        if conn.execute(query.where(dataset.c.name == name)).scalars().first() == "withdrawn":
            message = f"step {step.name} reads dataset {scope}:{name}, which was withdrawn"
            raise StateError(message, hint=f"`beamwright explain {scope}:{name}` tells why; read another one")


def _configuration(step: StepSpec, facts: Facts) -> dict[str, Any]:
    return {"step": step.model_dump(mode="json"), "facts": facts.document()}


def _update(
    conn: sa.Connection, row: Any, spec: ProductionSpec, facts: Mapping[str, Facts], release: str, now: float
) -> None:
    if row.spec_hash == spec.hash and row.release == release:
        return
    values = {
        "spec": spec.model_dump(mode="json"),
        "spec_hash": spec.hash,
        "release": release,
        "finished": None,
    }
    conn.execute(sa.update(schema.production).where(schema.production.c.id == row.id).values(values))
    data = {"spec_hash": spec.hash, "release": release}
    history.record(
        conn,
        "production",
        row.id,
        "configured",
        actor=ACTOR,
        reason="the file or the release changed",
        at=now,
        data=data,
    )
    old = {
        t.step: t for t in conn.execute(sa.select(schema.task).where(schema.task.c.production_id == row.id))
    }
    for step in spec.step:
        if step.name in old:
            _configure(conn, spec.name, old[step.name], step, facts[step.name], now)
        else:
            _create_task(conn, row.id, step, facts[step.name], spec.uniform, now)


def _configure(
    conn: sa.Connection, production: str, task: Any, step: StepSpec, facts: Facts, now: float
) -> None:
    """Give a task a new configuration version where what it produces changed; reopen it for new inputs."""
    new = config_hash(step, facts)
    if new != task.config_hash and task.uniform:
        _refuse_mixing(conn, production, task)
    version: int = task.config_version + (new != task.config_hash)
    values = {"config": _configuration(step, facts), "config_hash": new, "config_version": version}
    conn.execute(sa.update(schema.task).where(schema.task.c.id == task.id).values(values))
    mine = sa.select(schema.unit.c.id).where(schema.unit.c.task_id == task.id)
    waiting = sa.and_(schema.job.c.unit_id.in_(mine), schema.job.c.state == "prepared")
    conn.execute(sa.update(schema.job).where(waiting).values(priority=step.priority))
    if version != task.config_version:
        reason = f"configuration version {version}"
        history.record(conn, "task", task.id, "configured", actor=ACTOR, reason=reason, at=now)
        _drop_unfinished(conn, task, reason, now)
    if task.state == "closed":
        history.move(
            conn,
            schema.task,
            task.id,
            "closed",
            "active",
            actor=ACTOR,
            reason="the production was configured again",
            at=now,
        )


def _refuse_mixing(conn: sa.Connection, name: str, task: Any) -> None:
    """Refuse another configuration of a step of a uniform production that has finished work.

    Raises: StateError.
    """
    unit, job = schema.unit, schema.job
    query = sa.select(sa.func.count()).select_from(unit).join(job, job.c.unit_id == unit.c.id)
    done = conn.execute(query.where(unit.c.task_id == task.id, job.c.state == "ok")).scalar_one()
    if done:
        message = (
            f"production {name} is uniform, and step {task.step} has done {done} unit(s) under configuration "
            f"version {task.config_version}: another one would mix"
        )
        hint = "take the change back, or start a production of another name"
        raise StateError(message, hint=hint)


def _drop_unfinished(conn: sa.Connection, task: Any, reason: str, now: float) -> None:
    """Let what was not done under the old configuration be planned anew, and its scouts go first again.

    Chains keep theirs: a link ends with what it began with.
    """
    job, unit = schema.job, schema.unit
    query = sa.select(job.c.id, job.c.state).join(unit, job.c.unit_id == unit.c.id)
    mine = (unit.c.task_id == task.id, unit.c.kind.in_(("process", "merge", "generate")))
    rows = conn.execute(query.where(*mine, job.c.state.in_(UNFINISHED)).order_by(job.c.id)).all()
    moves = [history.Move(row.id, row.state, "superseded", reason) for row in rows]
    history.move_each(conn, job, moves, actor=ACTOR, at=now)
    conn.execute(sa.update(schema.task).where(schema.task.c.id == task.id).values(released=None, needs=None))


def _task(row: Any, production: Any, step: StepSpec) -> Task:
    facts = Facts.from_document(row.config["facts"])
    return Task(
        row.id,
        production.id,
        production.name,
        production.experiment,
        production.release,
        row.state,
        row.config_version,
        row.config_hash,
        step,
        facts,
    )
