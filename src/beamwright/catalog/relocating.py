"""A workspace whose folder was moved or copied: its database names files at the old place, until it is told.

Each file is read at the new place, in full, before the database says that it is there. What is only listed
as lost, planned or deleted is not read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from beamwright.catalog import verifying
from beamwright.catalog.replicas import LIVE
from beamwright.core.errors import ConflictError, UsageError
from beamwright.db import history, schema, writing

_PAGE = 1000

_Columns = dict[str, Sequence[Any]]


@dataclass(frozen=True)
class Found:
    """A replica and its path at the new place; ``seen`` is what reading gave, None for what is not read."""

    id: int
    old: str
    path: str
    seen: verifying.Seen | None

    @property
    def is_right(self) -> bool:
        return self.seen is None or self.seen.outcome == "verified"


def former_root(conn: sa.Connection) -> str | None:
    """Return where the newest attempt had the workspace, None where there is none."""
    table = schema.attempt
    row = conn.execute(sa.select(table).order_by(table.c.id.desc()).limit(1)).first()
    if row is None:
        return None
    root, mark, _ = row.directory.rpartition(f"/farms/{row.farm}/jobs/")
    return root if mark else None


def look(conn: sa.Connection, old: str, new: str) -> Iterator[Found]:
    """Yield the replicas below the old place, each read where it should be now.

    Raises: UsageError when the places are one.
    """
    if old == new or not Path(old).is_absolute():
        raise UsageError(f"{old} is not another place", hint="name the folder where the workspace was")
    replica, file = schema.replica, schema.file
    columns = (replica.c.id, replica.c.path, replica.c.state, file.c.scope, file.c.name)
    chosen = sa.select(*columns, file.c.size, file.c.sha256, file.c.adler32).join(file).order_by(replica.c.id)
    below = chosen.where(replica.c.path.startswith(f"{old}/", autoescape=True))
    for row in conn.execute(below.execution_options(yield_per=_PAGE)).mappings():
        path = new + row["path"][len(old) :]
        place = {"replica_id": row["id"], "path": path, "replica": row["state"]}
        seen = verifying.read({**row, **place}) if row["state"] in LIVE else None
        yield Found(row["id"], row["path"], path, seen)


def settle(
    conn: sa.Connection, found: Sequence[Found], old: str, new: str, now: float, actor: str
) -> dict[str, int]:
    """Let the database name the new place; return how many replicas, attempts and units name it now.

    Raises: ConflictError when replicas changed since they were looked at, or the new place is known already.
    """
    reason = f"from {old} to {new}"
    _settle_replicas(conn, found, now, actor)
    history.record_all(
        conn, "replica", [one.id for one in found], "relocated", actor=actor, reason=reason, at=now
    )
    counts = {"replicas": len(found), "attempts": _settle_attempts(conn, old, new)}
    counts["units"] = _settle_units(conn, old, new)
    history.record(conn, "workspace", new, "relocated", actor=actor, reason=reason, at=now, data=counts)
    return counts


def _settle_replicas(conn: sa.Connection, found: Sequence[Found], now: float, actor: str) -> None:
    table = schema.replica
    for start in range(0, len(found), _PAGE):
        part = found[start : start + _PAGE]
        taken = sa.select(table.c.path).where(table.c.path.in_([one.path for one in part]))
        known = conn.execute(taken.limit(1)).scalar()
        if known is not None:
            raise ConflictError(f"{known} is registered already", hint="work went on at the new place")
        where: _Columns = {"id": [one.id for one in part], "path": [one.old for one in part]}
        if writing.update_each(conn, table, where, {"path": [one.path for one in part]}) != len(part):
            raise ConflictError("others changed the replicas meanwhile", hint="stop them; then do it again")
    read = [one for one in found if one.seen is not None]
    if read:
        ids, seen = [one.id for one in read], [one.seen for one in read if one.seen is not None]
        marks: _Columns = {"inode": [s.inode for s in seen], "mtime_ns": [s.mtime_ns for s in seen]}
        writing.update_each(conn, table, {"id": ids}, marks)
        verified: _Columns = {"id": ids, "state": ["verified"] * len(ids)}
        by: _Columns = {"verified_by": [actor] * len(ids), "verified_at": [now] * len(ids)}
        writing.update_each(conn, table, verified, by)


def _settle_attempts(conn: sa.Connection, old: str, new: str) -> int:
    column = schema.attempt.c.directory
    below = column.startswith(f"{old}/", autoescape=True)
    there = sa.literal(new, sa.Text) + sa.func.substr(column, len(old) + 1)
    return conn.execute(sa.update(schema.attempt).where(below).values(directory=there)).rowcount


def _settle_units(conn: sa.Connection, old: str, new: str) -> int:
    """Rewrite the definitions of units, which name inputs by path, also for jobs that are still to run."""
    table, number, last = schema.unit, 0, 0
    chosen = sa.select(table.c.id, table.c.definition).order_by(table.c.id).limit(_PAGE)
    while rows := conn.execute(chosen.where(table.c.id > last)).all():
        last = rows[-1].id
        changed = {row.id: _placed(row.definition, f"{old}/", f"{new}/") for row in rows}
        for row in rows:
            if changed[row.id] != row.definition:
                values = {"definition": changed[row.id]}
                number += conn.execute(sa.update(table).where(table.c.id == row.id).values(values)).rowcount
    return number


def _placed(value: Any, old: str, new: str) -> Any:
    """Return a document with the paths below one folder put below another."""
    if isinstance(value, dict):
        return {name: _placed(member, old, new) for name, member in value.items()}
    if isinstance(value, list):
        return [_placed(member, old, new) for member in value]
    return new + value[len(old) :] if isinstance(value, str) and value.startswith(old) else value


def differs(one: Found) -> str:
    """Say what is wrong with a file at the new place."""
    assert one.seen is not None
    missing = not os.path.exists(one.path)
    return "it is not there" if missing else one.seen.problem
