"""A tiny production of the trivial experiment: raw files, units over them, one merge per stream.

``python production.py WORKSPACE`` makes the workspace where there is none and works until nothing is left to
do; started again after any death, it goes on. Prints nothing but errors.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from beamwright import durable
from beamwright.agents.importer import Importer
from beamwright.agents.submitter import Submitter
from beamwright.agents.tracker import Tracker
from beamwright.batch.local import LocalScheduler
from beamwright.core.canonical import content_hash
from beamwright.db import history, schema
from beamwright.db.engine import insert_id, insert_ids
from beamwright.production import jobs
from beamwright.production.workspace import Workspace

RELEASE = "sha256:trivial"
# Records per section, sections per raw file and per unit, raw files.
EVENTS, SECTIONS, UNIT, CHUNKS = 6, 4, 2, 1
PAYLOAD = Path(__file__).with_name("start.py")
COMMANDS = {name: [sys.executable, str(PAYLOAD), name] for name in ("process", "validate")}
SETTINGS = """\
format = 1
[limits]
heartbeat_s = 0.5
[farm.near]
slots = 1
[farm.far]
slots = 1
"""
TIMES = {"created": 0.0}


def raw_bytes(chunk: int) -> bytes:
    """Return the content of a raw file: one poison (13) and many odd values in each."""
    lines = (
        f"{s} {e} {13 if s == chunk * SECTIONS and e == 1 else (7 * s + 3 * e) % 29 * 2 + (e % 3 == 0)}\n"
        for s in range(chunk * SECTIONS, (chunk + 1) * SECTIONS)
        for e in range(EVENTS)
    )
    return b"trivial 1\n" + "".join(lines).encode()


def make(root: Path, raw: Path | None = None) -> Workspace:
    """Make the workspace with its raw files, a task per step and the first units; idempotent."""
    workspace = (
        Workspace.open(root) if (root / "beamwright.toml").exists() else Workspace.create(root, SETTINGS)
    )
    workspace.db.migrate()
    raw = raw or root / "raw"
    durable.make_directory(raw)
    for chunk in range(CHUNKS):
        durable.put_once(raw / f"chunk{chunk}", raw_bytes(chunk))
    with workspace.db.begin() as conn:
        if conn.execute(sa.select(schema.production.c.id)).first() is None:
            populate(conn, raw)
    return workspace


def insert_production(conn: sa.Connection) -> None:
    """Make the production with its tasks."""
    values: dict[str, Any] = {
        "name": "p",
        "experiment": "trivial",
        "release": RELEASE,
        "spec": {},
        "spec_hash": "",
    }
    production = insert_id(conn, schema.production, **values, **TIMES)
    for step, kind in (("pass", "process"), ("merged", "merge")):
        insert_task(conn, production, step, kind)


def populate(conn: sa.Connection, raw: Path) -> None:
    insert_production(conn)
    run_id, rows = _announce_run(conn), []
    for chunk in range(CHUNKS):
        item = register_raw(conn, run_id, chunk, raw / f"chunk{chunk}")
        first = chunk * SECTIONS
        for low in range(first, first + SECTIONS, UNIT):
            interval = (1, low, 0), (1, low + UNIT - 1, EVENTS)
            records = {"event": EVENTS * UNIT}
            streams = ("dst", "skim", "histograms")
            rows.append(unit_row("pass", "process", interval, [item], streams, records=records))
    add_units(conn, "pass", rows)


def insert_task(conn: sa.Connection, production: int, step: str, kind: str) -> None:
    values: dict[str, Any] = {"config": {}, "config_hash": "c", "config_version": 1, "uniform": False}
    values |= {"production_id": production, "step": step, "kind": kind, "state": "draft"}
    task_id = insert_id(conn, schema.task, **values, **TIMES)
    history.record(conn, "task", task_id, "draft", actor="planner", at=0.0)
    history.move(conn, schema.task, task_id, "draft", "active", actor="planner", at=0.0)


def register_raw(conn: sa.Connection, run_id: int, number: int, path: Path) -> dict[str, Any]:
    """Register a raw file and return it as an input."""
    digest = durable.hash_file(path)
    content = {"size": digest.size, "sha256": digest.sha256, "adler32": digest.adler32}
    values = {"scope": "raw", "name": path.name, "kind": "raw", "tier": "raw", "lineage": {}}
    file_id = insert_id(conn, schema.file, **values, **content, **TIMES)
    _deliver(conn, run_id, number, file_id, path)
    place = {"reader": "trivial", "role": "main", "interval": None, "kind": "raw"}
    return {
        "path": str(path),
        "name": f"raw:{path.name}",
        "size": digest.size,
        "sha256": digest.sha256,
    } | place


def _announce_run(conn: sa.Connection) -> int:
    run: dict[str, Any] = {"series": "S", "number": 1, "tier": "raw", "state": "announced", "version": 1}
    run_id = insert_id(conn, schema.run, end_marker=True, is_mc=False, conditions={}, **run, **TIMES)
    history.record(conn, "run", run_id, "announced", actor="intake", at=0.0)
    return run_id


def _deliver(conn: sa.Connection, run_id: int, number: int, file_id: int, path: Path) -> None:
    """Write the chunk and replica that a delivery of one raw file leaves."""
    first, last = number * SECTIONS, (number + 1) * SECTIONS - 1
    chunk = {"run_id": run_id, "sequence": number + 1, "first_section": first, "last_section": last}
    chunk |= {"records": {}}
    more = {"reader": "trivial", "index_file": "", "delivery_hash": ""}
    chunk_id = insert_id(conn, schema.chunk, **chunk, **more, **TIMES)
    conn.execute(sa.insert(schema.chunk_file).values(chunk_id=chunk_id, file_id=file_id, role="main"))
    replica = {"file_id": file_id, "endpoint": "raw", "path": str(path), "state": "planned"}
    replica_id = insert_id(conn, schema.replica, **replica)
    history.record(conn, "replica", replica_id, "planned", actor="intake", at=0.0)
    at: dict[str, Any] = {"actor": "intake", "at": 0.0}
    for source, target in (("planned", "copying"), ("copying", "present"), ("present", "verified")):
        history.move(
            conn, schema.replica, replica_id, source, target, **at, verified_by="intake", verified_at=0.0
        )


def unit_row(
    step: str,
    kind: str,
    interval: tuple[tuple[int, int, int], tuple[int, int, int]],
    inputs: list[dict[str, Any]],
    streams: tuple[str, ...],
    **changes: Any,
) -> dict[str, Any]:
    """Return the columns of a unit, but for its task."""
    identities = [[item["name"], item["sha256"]] for item in inputs]
    key = content_hash([step, kind, interval, identities, streams, changes.get("config")])
    place = f"{interval[0][1]:03d}.{key[:6]}"
    declared = {
        s: {"tier": "dst", "name": f"{step}.{s}/{place}", "file": f"{step}.{s}.{place}"} for s in streams
    }
    definition: dict[str, Any] = {
        "kind": kind,
        "production": "p",
        "step": step,
        "experiment": "trivial",
        "path": "main",
        "calibrations": [],
        "config": {},
        "record": "event",
        "inputs": inputs,
        "snapshot": None,
        "global_tag": "",
        "reads": [],
        "streams": declared,
        "seeds": {"job": 1},
        "is_mc": False,
        "is_resampled": False,
        "tier": "dst",
        "workers": 1,
        "prescale": {},
        "limits": {"wall_s": 60.0, "memory_mb": 2000, "event_s": 5.0},
        "records": {},
        "farms": [],
    }
    resolved_hash = changes.pop("resolved_hash", "")
    ends = dict(zip(("first_run", "first_section", "first_event"), interval[0], strict=True))
    ends |= dict(zip(("last_run", "last_section", "last_event"), interval[1], strict=True))
    values: dict[str, Any] = {"key": key, "kind": kind, "record": "event", "stream": "", "series": "S"}
    values |= {"config_version": 1, "config_hash": "c", "resolved_hash": resolved_hash, "priority": 0}
    return values | ends | TIMES | {"definition": definition | changes}


def add_units(conn: sa.Connection, step: str, rows: list[dict[str, Any]]) -> list[int]:
    """Make units with their jobs, prepared; return the jobs' ids."""
    task_id = conn.execute(sa.select(schema.task.c.id).where(schema.task.c.step == step)).scalar_one()
    units = insert_ids(conn, schema.unit, [row | {"task_id": task_id} for row in rows])
    state = {"state": "prepared", "priority": 0, "failures": 0, "not_before": 0.0, "reason": ""} | TIMES
    jobs = insert_ids(conn, schema.job, [state | {"unit_id": unit_id} for unit_id in units])
    history.record_all(conn, "job", jobs, "prepared", actor="planner", at=0.0)
    return jobs


def add_unit(
    conn: sa.Connection,
    step: str,
    kind: str,
    interval: tuple[tuple[int, int, int], tuple[int, int, int]],
    inputs: list[dict[str, Any]],
    streams: tuple[str, ...],
    **changes: Any,
) -> int:
    """Make a unit with its job, prepared; return the job's id."""
    return add_units(conn, step, [unit_row(step, kind, interval, inputs, streams, **changes)])[0]


def plan_merges(workspace: Workspace) -> int:
    """Make the merge unit of each stream once all units of the first step are done: what a planner does."""
    unit = schema.unit
    with workspace.db.begin() as conn:
        if open_jobs(conn) or conn.execute(sa.select(unit.c.id).where(unit.c.kind == "merge")).first():
            return 0
        for stream in ("dst", "skim"):
            _plan_merge(conn, stream)
    return 1


def _plan_merge(conn: sa.Connection, stream: str) -> None:
    collection, link, file, replica = (
        schema.collection,
        schema.collection_file,
        schema.file,
        schema.replica,
    )
    rows = conn.execute(
        sa.select(collection.c.id, file.c.scope, file.c.name, file.c.size, file.c.sha256, replica.c.path)
        .join(link, link.c.collection_id == collection.c.id)
        .join(file, file.c.id == link.c.file_id)
        .join(replica, replica.c.file_id == file.c.id)
        .where(collection.c.stream == stream)
        .order_by(collection.c.name)
    ).all()
    place = {"kind": "rntuple", "reader": "", "role": stream, "interval": None}
    inputs = [
        {"path": r.path, "name": f"{r.scope}:{r.name}", "size": r.size, "sha256": r.sha256} | place
        for r in rows
    ]
    last = max(99, CHUNKS * SECTIONS)
    limits = {"wall_s": 60.0 + 0.05 * len(inputs), "memory_mb": 2000, "event_s": 5.0}
    job_id = add_unit(conn, "merged", "merge", ((1, 0, 0), (1, last, 99)), inputs, (stream,), limits=limits)
    unit_id = conn.execute(sa.select(schema.job.c.unit_id).where(schema.job.c.id == job_id)).scalar_one()
    links = [{"collection_id": r.id, "chunk_id": None, "position": i} for i, r in enumerate(rows)]
    conn.execute(sa.insert(schema.unit_input), [link | {"unit_id": unit_id} for link in links])


def open_jobs(conn: sa.Connection) -> int:
    query = sa.select(sa.func.count()).select_from(schema.job).where(schema.job.c.state.not_in(jobs.SETTLED))
    return int(conn.execute(query).scalar_one())


def produce(root: Path, fresh: bool) -> None:
    """Work until everything is merged."""
    workspace = make(root) if not (root / "beamwright.db").exists() else Workspace.open(root)
    with workspace.lock():
        with workspace.db.begin() as conn:
            jobs.prepare_again(conn, 1, "started again", workspace.clock.now())
        schedulers = {
            name: LocalScheduler(1, log=root / "logs" / f"{name}.log", fresh=fresh)
            for name in workspace.settings.farm
        }
        agents = [
            Submitter(workspace, schedulers, COMMANDS),
            Tracker(workspace, schedulers),
            Importer(workspace),
        ]
        try:
            _loop(workspace, agents, schedulers)
        finally:
            for scheduler in schedulers.values():
                scheduler.close()


def _loop(workspace: Workspace, agents: list[Any], schedulers: dict[str, LocalScheduler]) -> None:
    while True:
        done = sum(agent.turn() for agent in agents)
        if not done:
            with workspace.db.read() as conn:
                is_idle = not open_jobs(conn)
            if is_idle and not plan_merges(workspace):
                return
            with workspace.db.read() as conn:
                failed = conn.execute(
                    sa.select(schema.job.c.reason).where(schema.job.c.state == "failed")
                ).first()
            if failed:
                raise SystemExit(f"a job failed: {failed.reason}")
            next(iter(schedulers.values())).wait(0.005)


def _refuse_failures(workspace: Workspace) -> None:
    query = sa.select(schema.job.c.reason).where(schema.job.c.state == "failed")
    with workspace.db.read() as conn:
        failed = conn.execute(query).first()
    if failed:
        raise SystemExit(f"a job failed: {failed.reason}")


def enlarge(units: int, slots: int) -> None:
    """Make the production of this process larger: so many units, ten or more from each raw file."""
    global SECTIONS, CHUNKS, SETTINGS
    each = 10 if units < 10_000 else 50
    SECTIONS, CHUNKS = each * UNIT, units // each
    SETTINGS = re.sub(r"slots = \d+", f"slots = {slots}", SETTINGS)


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[2].isdigit():
        enlarge(int(sys.argv[2]), 2)
    produce(Path(sys.argv[1]), "--fresh" in sys.argv)
