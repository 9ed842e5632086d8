"""Jobs and attempts: leases, job directories, what follows a failure, and what becomes of lost attempts."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from beamwright import durable
from beamwright.batch.wrapper import STOP_FILE
from beamwright.core.canonical import canonical_json
from beamwright.core.messages import (
    FORMAT,
    JOB_FILE,
    PAYLOAD_PREFIX,
    REPORT_FILE,
    TICKET_FILE,
    ConditionsDoc,
    JobDoc,
)
from beamwright.db import history, schema, writing
from beamwright.db.engine import batched, insert_ids
from beamwright.production import scouting
from beamwright.production.rules import own_limits
from beamwright.production.tickets import ticket
from beamwright.production.workspace import Workspace

ACTOR, OPERATOR = "submitter", "operator"
LOCK_FILE, REVOKED_FILE, LOG_FILE = "lock", "revoked", "log"
COMMANDS = {
    "process": [sys.executable, "-m", "beamwright.cli.main", "process"],
    "validate": [sys.executable, "-m", "beamwright.cli.main", "validate"],
}

# What may be put into a request as the name of a node.
HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}")
# What is asked of attempts under way, again and again.
FOLLOWED = ("id", "job_id", "number", "nonce", "state", "farm", "directory", "batch_id", "leased", "deadline",
            "ended", "host")  # fmt: skip
# What the scouts of a task say that its other jobs need.
_SCOUTED = ("memory_mb", "wall_s", "disk_mb")

# States of a job after which a further attempt's outputs are not wanted.
SETTLED = frozenset({"ok", "superseded", "cancelled", "excluded", "split"})
IN_FLIGHT = ("leased", "submitted", "running")


@dataclass(frozen=True)
class Places:
    """Where the files of one attempt are."""

    farm: Path
    unit: str
    nonce: str

    @cached_property
    def job(self) -> Path:
        return Path(f"{self.farm}/jobs/{self.nonce[:2]}/{self.nonce}")

    @property
    def output(self) -> Path:
        return Path(self.output_name)

    @property
    def scratch(self) -> Path:
        return Path(self.scratch_name)

    @property
    def report(self) -> Path:
        return Path(self.report_name)

    # All agents ask for these again and again, and making a path takes longer than looking there.

    @property
    def output_name(self) -> str:
        return f"{self.farm}/store/{self.unit[:12]}/{self.nonce}"

    @property
    def scratch_name(self) -> str:
        return f"{self.farm}/scratch/{self.nonce}"

    @property
    def report_name(self) -> str:
        return f"{self.output_name}/{REPORT_FILE}"

    def has_report(self) -> bool:
        return os.path.exists(self.report_name)


@dataclass(frozen=True)
class Lease:
    """A leased attempt with its job document; nothing of it is on disk yet."""

    attempt_id: int
    job_id: int
    places: Places
    document: JobDoc
    avoid: tuple[str, ...] = ()

    @property
    def farm(self) -> str:
        return self.document["attempt"]["farm"]


def lease(
    conn: sa.Connection,
    workspace: Workspace,
    pairs: Sequence[tuple[int, str]],
    now: float,
    commands: Mapping[str, list[str]] = COMMANDS,
) -> list[Lease]:
    """Make a new attempt of each prepared job for its farm; the jobs are submitted from now on.

    Raises: StateError when a job is not prepared.
    """
    work = _work(conn, [job_id for job_id, _ in pairs])
    numbers = _tries(conn, [job_id for job_id, _ in pairs])
    places = [Places(workspace.farm(farm), work[job_id].key, workspace.nonces()) for job_id, farm in pairs]
    fresh: dict[str, Any] = {
        "state": "leased",
        "leased": now,
        "deadline": now + workspace.settings.limits.lease_s,
    }
    rows: list[dict[str, Any]] = [
        {"job_id": job_id, "number": numbers[job_id] + 1, "nonce": place.nonce, "farm": farm}
        | {"directory": str(place.job), "cpu_s": 0.0, "wall_s": 0.0}
        | fresh
        for (job_id, farm), place in zip(pairs, places, strict=True)
    ]
    attempt_ids = insert_ids(conn, schema.attempt, rows)
    history.record_all(conn, "attempt", attempt_ids, "leased", actor=ACTOR, at=now)
    moves = [history.Move(job_id, "prepared", "submitted", f"farm {farm}") for job_id, farm in pairs]
    history.move_each(conn, schema.job, moves, actor=ACTOR, at=now)
    own = _own_limits(conn, {row.task_id for row in work.values()})
    documents = [
        _document(workspace, found, own[found.task_id], place, row["number"], row["farm"], commands)
        for row, place in zip(rows, places, strict=True)
        for found in (work[row["job_id"]],)
    ]
    return [
        Lease(attempt_id, job_id, place, document, tuple(work[job_id].job_avoid or ()))
        for attempt_id, (job_id, _), place, document in zip(
            attempt_ids, pairs, places, documents, strict=True
        )
    ]


def prepared(
    conn: sa.Connection,
    now: float,
    limit: int,
    releases: Collection[str] | None = None,
    productions: Sequence[int] | None = None,
) -> list[tuple[int, tuple[str, ...], str]]:
    """Return the jobs (of some releases and productions) that may start now, the most urgent first.

    Each comes with the farms that it is bound to and its release.
    """
    job, unit = schema.job, schema.unit
    of_task = _releases(conn, releases, productions)
    farms = unit.c.definition["farms"].label("farms")
    query = (
        sa.select(job.c.id, unit.c.task_id, farms)
        .join(unit, job.c.unit_id == unit.c.id)
        .where(scouting.startable(conn), job.c.not_before <= now)
        # Said so that a database goes along the jobs, and not from the tasks to all of theirs.
        .where((unit.c.task_id + 0).in_(of_task))
        .order_by(job.c.id)
    )
    found: list[Any] = []
    for priority in _priorities(conn) if of_task else ():
        rows = query.where(job.c.priority == priority).limit(limit - len(found))
        found += conn.execute(rows)
        if len(found) >= limit:
            break
    return [(row.id, tuple(row.farms or ()), of_task[row.task_id]) for row in found]


def _releases(
    conn: sa.Connection, releases: Collection[str] | None, productions: Sequence[int] | None
) -> dict[int, str]:
    """Return the releases of tasks by their ids: those of some releases and productions."""
    task, production = schema.task, schema.production
    query = sa.select(task.c.id, production.c.release).join(production)
    if releases is not None:
        query = query.where(production.c.release.in_(releases))
    if productions is not None:
        query = query.where(production.c.id.in_(productions))
    return {row.id: row.release for row in conn.execute(query)}


def _priorities(conn: sa.Connection) -> Iterator[int]:
    """Yield the priorities that prepared jobs have, the highest first, each by one look at the index."""
    priority = schema.job.c.priority
    highest = sa.select(sa.func.max(priority)).where(schema.job.c.state == "prepared")
    found = conn.execute(highest).scalar()
    while found is not None:
        yield int(found)
        found = conn.execute(highest.where(priority < found)).scalar()


def has_prepared(conn: sa.Connection, now: float) -> bool:
    """Tell whether any job may start now."""
    return conn.execute(_due(), {"now": now}).first() is not None


@cache
def _due() -> sa.Select[Any]:
    job = schema.job
    query = sa.select(job.c.id).where(job.c.state == "prepared", job.c.not_before <= sa.bindparam("now"))
    return query.limit(1)


def next_start(conn: sa.Connection) -> float | None:
    """Return when the next prepared job may start."""
    job = schema.job
    query = sa.select(sa.func.min(job.c.not_before)).where(job.c.state == "prepared")
    found = conn.execute(query).scalar()
    return None if found is None else float(found)


def held_slots(conn: sa.Connection) -> list[tuple[str, str | None]]:
    """Return (farm, batch id) of each attempt in flight."""
    return [(farm, batch_id) for farm, batch_id in conn.execute(_held()).all()]


@cache
def _held() -> sa.Select[Any]:
    attempt = schema.attempt
    return sa.select(attempt.c.farm, attempt.c.batch_id).where(attempt.c.state.in_(IN_FLIGHT))


def renew(conn: sa.Connection, attempt_ids: Sequence[int], deadline: float) -> None:
    """Give attempts that are alive a new deadline."""
    attempt = schema.attempt
    for part in batched(attempt_ids):
        conn.execute(sa.update(attempt).where(attempt.c.id.in_(part)).values(deadline=deadline))


def write_job_directory(leased: Lease, secret: bytes) -> None:
    """Write the attempt's ticket and, last, its job document.

    Nothing is synced: an attempt whose document went with the power is lost, and its job is tried again.
    """
    places = leased.places
    folder = str(places.job)
    os.makedirs(folder, exist_ok=True)
    key = ticket(secret, places.nonce, places.unit)
    durable.replace(f"{folder}/{TICKET_FILE}", key.hex().encode(), mode=0o600, durable=False)
    durable.replace(f"{folder}/{JOB_FILE}", canonical_json(leased.document), durable=False)


def revoke(places: Places) -> bool:
    """Make sure that the attempt never starts again; False when its wrapper is at work."""
    if not places.job.is_dir():
        return True
    try:
        with durable.FileLock(places.job / LOCK_FILE, "revoked"):
            durable.put_once(places.job / REVOKED_FILE, b"")
    except durable.LockHeldError:
        return False
    return True


def host(places: Places) -> str:
    """Return the node on which the attempt was begun, as the holder of its lock said, or nothing."""
    name, colon, _ = durable.FileLock(places.job / LOCK_FILE).holder().partition(":")
    return name if colon and HOST.fullmatch(name) else ""


def stop(places: Places) -> None:
    """Have the attempt's wrapper end it, or not begin it, whatever else it runs."""
    if places.job.is_dir():
        durable.put_once(places.job / STOP_FILE, b"", sync=False)


def prepare_again(conn: sa.Connection, production_id: int, reason: str, now: float) -> int:
    """Give a production's failed jobs all their tries anew; return how many there were."""
    job, unit, task = schema.job, schema.unit, schema.task
    query = (
        sa.select(job.c.id)
        .join(unit, job.c.unit_id == unit.c.id)
        .join(task, unit.c.task_id == task.c.id)
        .where(task.c.production_id == production_id, job.c.state == "failed")
    )
    ids = list(conn.execute(query).scalars())
    values: dict[str, Any] = {"failures": 0, "not_before": 0.0, "wish": None}
    common: dict[str, Any] = {"actor": OPERATOR, "reason": reason, "at": now}
    history.move_all(conn, job, ids, "failed", "prepared", **common, **values)
    return len(ids)


def in_flight(conn: sa.Connection, ids: Sequence[int] | None = None) -> list[Any]:
    """Return the attempts (of some) that are leased, submitted or running, with ``job_state`` and
    ``unit_key``.
    """
    if ids is None:
        return list(conn.execute(_followed()).all())
    return writing.among(conn, _followed(), schema.attempt.c.id, ids)


@cache
def _followed() -> sa.Select[Any]:
    return _attempts().where(schema.attempt.c.state.in_(IN_FLIGHT))


def at_a_glance(conn: sa.Connection) -> Sequence[Any]:
    """Return of all attempts in flight what tells whether there is anything to do about them: id, farm, batch
    id, state, deadline, and the state of the job.
    """
    return conn.execute(_glance()).all()


@cache
def _glance() -> sa.Select[Any]:
    attempt, job = schema.attempt, schema.job
    columns = (attempt.c[name] for name in ("id", "farm", "batch_id", "state", "deadline"))
    query = sa.select(*columns, job.c.state.label("job_state")).join(job, attempt.c.job_id == job.c.id)
    return query.where(attempt.c.state.in_(IN_FLIGHT))


def unreported(conn: sa.Connection, since: float) -> list[Any]:
    """Return the attempts whose report may still come, lost and killed ones if they ended after ``since``."""
    return list(conn.execute(_unreported(), {"since": since}))


@cache
def _unreported() -> sa.Select[Any]:
    attempt = schema.attempt
    late = sa.and_(attempt.c.state.in_(("lost", "killed")), attempt.c.ended >= sa.bindparam("since"))
    return _attempts().where(sa.or_(attempt.c.state.in_(IN_FLIGHT), late))


def declared_name(production: str, stream: Mapping[str, Any]) -> tuple[str, str]:
    """Return scope and name of a declared output."""
    scope, colon, name = str(stream["name"]).partition(":")
    return (scope, name) if colon else (production, str(stream["name"]))


def file_kind(kind: str, stream: str, declared: Mapping[str, Any]) -> str:
    """Return the kind of file that a stream of a unit is: ``bundle``, ``rntuple`` or ``parquet``."""
    is_bundle = kind in ("collect", "fit") or stream == "histograms" or stream.startswith(PAYLOAD_PREFIX)
    return str(declared.get("format") or ("bundle" if is_bundle else "rntuple"))


def _attempts() -> sa.Select[Any]:
    attempt, job, unit = schema.attempt, schema.job, schema.unit
    return (
        sa.select(
            *(attempt.c[name] for name in FOLLOWED),
            job.c.state.label("job_state"),
            unit.c.key.label("unit_key"),
        )
        .join(job, attempt.c.job_id == job.c.id)
        .join(unit, job.c.unit_id == unit.c.id)
        .order_by(attempt.c.id)
    )


def _work(conn: sa.Connection, job_ids: Sequence[int]) -> dict[int, Any]:
    """Read everything that job documents are made of, by job."""
    return {row.job_id: row for row in writing.among(conn, _documented(), schema.job.c.id, job_ids)}


@cache
def _documented() -> sa.Select[Any]:
    job, unit, task, production = schema.job, schema.unit, schema.task, schema.production
    return (
        sa.select(
            unit,
            *(
                job.c[name].label(f"job_{name}")
                for name in ("id", "memory_mb", "wall_s", "avoid", "failures")
            ),
            task.c.needs,
            production.c.release,
            production.c.name.label("production"),
        )
        .select_from(job)
        .join(unit, job.c.unit_id == unit.c.id)
        .join(task, unit.c.task_id == task.c.id)
        .join(production, task.c.production_id == production.c.id)
    )


def _tries(conn: sa.Connection, job_ids: Sequence[int]) -> Counter[int]:
    """Count the attempts at jobs."""
    found = writing.among(conn, _tried(), schema.attempt.c.job_id, job_ids)
    return Counter({row.job_id: row.n for row in found})


@cache
def _tried() -> sa.Select[Any]:
    job_id = schema.attempt.c.job_id
    return sa.select(job_id, sa.func.count().label("n")).group_by(job_id)


def _own_limits(conn: sa.Connection, task_ids: Collection[int]) -> dict[int, dict[str, Any]]:
    """Return what the steps of tasks, as they are configured now, say that an attempt may use."""
    task = schema.task
    query = sa.select(task.c.id, task.c.config).where(task.c.id.in_(sorted(task_ids)))
    return {row.id: own_limits(row.config.get("step") or {}) for row in conn.execute(query)}


def _document(
    workspace: Workspace,
    row: Any,
    own: Mapping[str, Any],
    places: Places,
    number: int,
    farm: str,
    commands: Mapping[str, list[str]],
) -> JobDoc:
    definition = row.definition
    first = [row.first_run, row.first_section, row.first_event]
    last = [row.last_run, row.last_section, row.last_event]
    limits = {"heartbeat_s": workspace.settings.limits.heartbeat_s} | definition["limits"] | own
    limits |= _needs(row, limits)
    streams = {
        name: dict(stream) | {"name": ":".join(declared_name(row.production, stream))}
        for name, stream in definition["streams"].items()
    }
    document: dict[str, Any] = {
        name: definition[name] for name in JobDoc.__annotations__ if name in definition
    }
    document |= {
        "format": FORMAT,
        "kind": row.kind,
        "attempt": {"unit": row.key, "number": number, "nonce": places.nonce, "farm": farm},
        "release": row.release,
        "config_hash": row.config_hash,
        "record": row.record,
        "interval": [row.series, first, last],
        "conditions": _conditions(workspace, row, definition),
        "streams": streams,
        "limits": limits,
        "output_directory": places.output_name,
        "scratch": places.scratch_name,
        "commands": {name: list(argv) for name, argv in commands.items()},
    }
    return document  # type: ignore[return-value]


def _needs(row: Any, limits: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a job may use where that is not what its step and its unit say.

    Scouts tell what the others need; a job that has failed gets all that its unit may have, or more.
    """
    names = ("disk_mb",) if row.job_failures else _SCOUTED
    scouted = {name: (row.needs or {}).get(name) for name in names}
    own = {"memory_mb": row.job_memory_mb, "wall_s": row.job_wall_s}
    least = {n: min(v, limits.get(n, v)) for n, v in scouted.items() if v}
    return least | {name: value for name, value in own.items() if value}


def _conditions(workspace: Workspace, row: Any, definition: Mapping[str, Any]) -> ConditionsDoc | None:
    snapshot = definition.get("snapshot")
    if not snapshot:
        return None
    return {
        "snapshot": str(workspace.root / "snapshots" / snapshot["file"]),
        "sha256": snapshot["sha256"],
        "global_tag": definition.get("global_tag", ""),
        "resolved_hash": row.resolved_hash,
        "reads": list(definition.get("reads", ())),
    }
