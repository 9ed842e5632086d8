"""Jobs and attempts: leases, job directories, what follows a failure, and what becomes of lost attempts."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from beamwright import durable
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
from beamwright.db import history, schema
from beamwright.db.engine import batched, insert_ids
from beamwright.production.tickets import ticket
from beamwright.production.workspace import Workspace

ACTOR, OPERATOR = "submitter", "operator"
LOCK_FILE, REVOKED_FILE, LOG_FILE = "lock", "revoked", "log"
COMMANDS = {
    "process": [sys.executable, "-m", "beamwright.cli.main", "process"],
    "validate": [sys.executable, "-m", "beamwright.cli.main", "validate"],
}

# States of a job after which a further attempt's outputs are not wanted.
SETTLED = frozenset({"ok", "superseded", "cancelled", "excluded", "split"})
IN_FLIGHT = ("leased", "submitted", "running")

# How often a unit is tried when its attempts end in this class; classes not named here follow the settings.
# What strikes the unit by chance is tried more often, what will be the same next time less.
TRIES = {"lost": 10, "node": 10, "submit": 10, "input": 2, "policy": 2}


@dataclass(frozen=True)
class Places:
    """Where the files of one attempt are."""

    farm: Path
    unit: str
    nonce: str

    @property
    def job(self) -> Path:
        return self.farm / "jobs" / self.nonce[:2] / self.nonce

    @property
    def output(self) -> Path:
        return self.farm / "store" / self.unit[:12] / self.nonce

    @property
    def scratch(self) -> Path:
        return self.farm / "scratch" / self.nonce

    @property
    def report(self) -> Path:
        return self.output / REPORT_FILE


@dataclass(frozen=True)
class Lease:
    """A leased attempt with its job document; nothing of it is on disk yet."""

    attempt_id: int
    job_id: int
    places: Places
    document: JobDoc

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
    documents = [
        _document(workspace, work[row["job_id"]], place, row["number"], row["farm"], commands)
        for row, place in zip(rows, places, strict=True)
    ]
    return [
        Lease(attempt_id, job_id, place, document)
        for attempt_id, (job_id, _), place, document in zip(
            attempt_ids, pairs, places, documents, strict=True
        )
    ]


def has_prepared(conn: sa.Connection, now: float) -> bool:
    """Tell whether any job may start now."""
    return conn.execute(sa.select(schema.job.c.id).where(_startable(now)).limit(1)).first() is not None


def prepared(conn: sa.Connection, now: float, limit: int) -> list[tuple[int, tuple[str, ...]]]:
    """Return the jobs that may start now, the most urgent first, each with the farms that it is bound to."""
    job, unit = schema.job, schema.unit
    query = (
        sa.select(job.c.id, unit.c.definition)
        .join(unit, job.c.unit_id == unit.c.id)
        .where(_startable(now))
        .order_by(job.c.priority.desc(), job.c.id)
        .limit(limit)
    )
    return [(row.id, tuple(row.definition.get("farms") or ())) for row in conn.execute(query)]


def _startable(now: float) -> sa.ColumnElement[bool]:
    return sa.and_(schema.job.c.state == "prepared", schema.job.c.not_before <= now)


def held_slots(conn: sa.Connection) -> list[tuple[str, str | None]]:
    """Return (farm, batch id) of each attempt in flight."""
    attempt = schema.attempt
    query = sa.select(attempt.c.farm, attempt.c.batch_id).where(attempt.c.state.in_(IN_FLIGHT))
    return [(row.farm, row.batch_id) for row in conn.execute(query)]


def renew(conn: sa.Connection, attempt_ids: Sequence[int], deadline: float) -> None:
    """Give attempts that are alive a new deadline."""
    attempt = schema.attempt
    for part in batched(attempt_ids):
        conn.execute(sa.update(attempt).where(attempt.c.id.in_(part)).values(deadline=deadline))


def write_job_directory(leased: Lease, secret: bytes) -> None:
    """Write the attempt's ticket and, last, its job document."""
    places = leased.places
    durable.make_directory(places.job)
    key = ticket(secret, places.nonce, places.unit)
    durable.put_once(places.job / TICKET_FILE, key.hex().encode(), mode=0o600, sync=False)
    durable.put_once(places.job / JOB_FILE, canonical_json(leased.document))


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


def after_failure(failure_class: str, earlier: Mapping[str, int], tries: int) -> tuple[bool, float]:
    """Decide whether a unit is tried again and after how many seconds.

    ``earlier`` counts its failed attempts by class, this one included.
    """
    count = earlier.get(failure_class, 0)
    again = count < TRIES.get(failure_class, tries) and sum(earlier.values()) < max(TRIES.values())
    return again, min(300.0, 0.25 * 4.0 ** (count - 1)) if count > 1 else 0.0


def failures(conn: sa.Connection, job_id: int) -> dict[str, int]:
    """Count a job's ended attempts by failure class, from where it was last made ready by hand."""
    attempt, entry = schema.attempt, schema.history
    restarted = sa.select(sa.func.max(entry.c.at)).where(
        entry.c.kind == "job", entry.c.object == str(job_id), entry.c.actor == OPERATOR
    )
    since = conn.execute(restarted).scalar() or 0.0
    query = sa.select(attempt.c.failure_class, sa.func.count()).where(
        attempt.c.job_id == job_id, attempt.c.failure_class.is_not(None), attempt.c.leased >= since
    )
    return {str(name): int(n) for name, n in conn.execute(query.group_by(attempt.c.failure_class))}


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
    values: dict[str, Any] = {"failures": 0, "not_before": 0.0}
    common: dict[str, Any] = {"actor": OPERATOR, "reason": reason, "at": now}
    history.move_all(conn, job, ids, "failed", "prepared", **common, **values)
    return len(ids)


def fail(
    conn: sa.Connection,
    job: Any,
    failure_class: str,
    message: str,
    *,
    tries: int,
    actor: str,
    now: float,
) -> None:
    """Fail a job whose latest attempt has just ended badly, and prepare it again when it may be retried.

    ``job`` is a row with id and state (submitted or running).
    """
    reason = f"{failure_class}: {message}"
    again, delay = after_failure(failure_class, failures(conn, job.id), tries)
    common: dict[str, Any] = {"actor": actor, "at": now, "reason": reason}
    if failure_class in ("lost", "submit") and again:
        history.move(conn, schema.job, job.id, job.state, "prepared", **common, not_before=now + delay)
        return
    total = schema.job.c.failures + 1
    history.move(conn, schema.job, job.id, job.state, "failed", **common, failures=total)
    conn.execute(sa.update(schema.job).where(schema.job.c.id == job.id).values(reason=reason))
    if again:
        common["reason"] = f"tried again after {reason}"
        history.move(conn, schema.job, job.id, "failed", "prepared", **common, not_before=now + delay)


def lose(
    conn: sa.Connection,
    row: Any,
    message: str,
    *,
    failure_class: str,
    tries: int,
    actor: str,
    now: float,
) -> None:
    """Declare an attempt (a row of ``in_flight``) lost, and prepare its job again if it was the latest."""
    values: dict[str, Any] = {"ended": now, "failure_class": failure_class, "message": message}
    move: dict[str, Any] = {"actor": actor, "at": now, "reason": message}
    history.move(conn, schema.attempt, row.id, row.state, "lost", **move, **values)
    if row.job_state in ("submitted", "running") and is_latest(conn, row.id, row.job_id):
        job = conn.execute(sa.select(schema.job).where(schema.job.c.id == row.job_id)).one()
        fail(conn, job, failure_class, message, tries=tries, actor=actor, now=now)


def in_flight(conn: sa.Connection) -> list[Any]:
    """Return the attempts that are leased, submitted or running, with ``job_state`` and ``unit_key``."""
    return list(conn.execute(_attempts().where(schema.attempt.c.state.in_(IN_FLIGHT))))


def unreported(conn: sa.Connection, since: float) -> list[Any]:
    """Return the attempts whose report may still come, lost and killed ones if they ended after ``since``."""
    attempt = schema.attempt
    late = sa.and_(attempt.c.state.in_(("lost", "killed")), attempt.c.ended >= since)
    return list(conn.execute(_attempts().where(sa.or_(attempt.c.state.in_(IN_FLIGHT), late))))


def attempt_row(conn: sa.Connection, attempt_id: int) -> Any:
    """Return one attempt with ``job_state`` and ``unit_key``."""
    return conn.execute(_attempts().where(schema.attempt.c.id == attempt_id)).one()


def is_latest(conn: sa.Connection, attempt_id: int, job_id: int) -> bool:
    """Tell whether the attempt is the newest one of its job."""
    query = sa.select(sa.func.max(schema.attempt.c.id)).where(schema.attempt.c.job_id == job_id)
    return conn.execute(query).scalar() == attempt_id


def declared_name(production: str, stream: Mapping[str, Any]) -> tuple[str, str]:
    """Return scope and name of a declared output."""
    scope, colon, name = str(stream["name"]).partition(":")
    return (scope, name) if colon else (production, str(stream["name"]))


def is_bundle(kind: str, stream: str) -> bool:
    """Tell whether a stream of a unit of this kind holds arrays rather than events."""
    return kind in ("collect", "fit") or stream == "histograms" or stream.startswith(PAYLOAD_PREFIX)


def _attempts() -> sa.Select[Any]:
    attempt, job, unit = schema.attempt, schema.job, schema.unit
    return (
        sa.select(attempt, job.c.state.label("job_state"), unit.c.key.label("unit_key"))
        .join(job, attempt.c.job_id == job.c.id)
        .join(unit, job.c.unit_id == unit.c.id)
        .order_by(attempt.c.id)
    )


def _work(conn: sa.Connection, job_ids: Sequence[int]) -> dict[int, Any]:
    """Read everything that job documents are made of, by job."""
    job, unit, task, production = schema.job, schema.unit, schema.task, schema.production
    query = (
        sa.select(unit, job.c.id.label("job_id"), production.c.release, production.c.name.label("production"))
        .select_from(job)
        .join(unit, job.c.unit_id == unit.c.id)
        .join(task, unit.c.task_id == task.c.id)
        .join(production, task.c.production_id == production.c.id)
    )
    return {
        row.job_id: row for part in batched(job_ids) for row in conn.execute(query.where(job.c.id.in_(part)))
    }


def _tries(conn: sa.Connection, job_ids: Sequence[int]) -> Counter[int]:
    """Count the attempts at jobs."""
    attempt = schema.attempt
    query = sa.select(attempt.c.job_id, sa.func.count().label("n")).group_by(attempt.c.job_id)
    found: Counter[int] = Counter()
    for part in batched(job_ids):
        found.update({r.job_id: r.n for r in conn.execute(query.where(attempt.c.job_id.in_(part)))})
    return found


def _document(
    workspace: Workspace,
    row: Any,
    places: Places,
    number: int,
    farm: str,
    commands: Mapping[str, list[str]],
) -> JobDoc:
    definition = row.definition
    first = [row.first_run, row.first_section, row.first_event]
    last = [row.last_run, row.last_section, row.last_event]
    limits = {"heartbeat_s": workspace.settings.limits.heartbeat_s} | definition["limits"]
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
        "output_directory": str(places.output),
        "scratch": str(places.scratch),
        "commands": {name: list(argv) for name, argv in commands.items()},
    }
    return document  # type: ignore[return-value]


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
