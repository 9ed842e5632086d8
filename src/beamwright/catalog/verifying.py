"""Reading replicas in full: does a storage hold what is registered?"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from beamwright import durable
from beamwright.catalog.asking import Question, ask
from beamwright.db import history, schema

WAITING = ("present", "suspect")


@dataclass(frozen=True)
class Seen:
    """What reading a replica gave; ``outcome`` is verified, suspect or unread."""

    replica_id: int
    file: str
    path: str
    was: str
    outcome: str
    problem: str = ""
    inode: int | None = None
    mtime_ns: int | None = None


def waiting(conn: sa.Connection, question: Question, places: Sequence[str]) -> list[dict[str, Any]]:
    """Return the replicas of files at endpoints that nobody has read, or that did not hold what they should.

    Raises: UsageError for a wrong expression, TooSlowError.
    """
    replica = schema.replica
    here = sa.and_(replica.c.endpoint.in_(list(places)), replica.c.state.in_(WAITING))
    columns = (replica.c.id.label("replica_id"), replica.c.path, replica.c.state.label("replica"))
    names = ("replica_id", "path", "replica", "scope", "name", "size", "sha256", "adler32")
    return [{n: row[n] for n in names} for row in ask(conn, question, here, columns=columns, join=replica)]


def read(row: dict[str, Any]) -> Seen:
    """Read a replica, where its path leads to a file of this machine, and compare it with its file."""
    place = (int(row["replica_id"]), f"{row['scope']}:{row['name']}", str(row["path"]), str(row["replica"]))
    if not Path(row["path"]).is_absolute():
        return Seen(*place, "unread", "its path is none of this machine")
    try:
        status = os.stat(row["path"])
        found = durable.hash_file(row["path"])
    except OSError as error:
        return Seen(*place, "unread", f"it cannot be read: {error.strerror}")
    if found.size != row["size"]:
        return Seen(*place, "suspect", f"it has {found.size} bytes, registered are {row['size']}")
    if (found.sha256, found.adler32) != (row["sha256"], row["adler32"]):
        problem = f"it has sha256 {found.sha256[:12]}, registered is {row['sha256'][:12]}"
        return Seen(*place, "suspect", problem)
    return Seen(*place, "verified", "", status.st_ino, status.st_mtime_ns)


def settle(conn: sa.Connection, seen: Iterable[Seen], actor: str, now: float) -> int:
    """Keep what was read: good replicas are verified, others suspect; return how many changed."""
    moves = [
        history.Move(one.replica_id, one.was, one.outcome, one.problem, _kept(one, actor, now))
        for one in seen
        if one.outcome not in ("unread", one.was)
    ]
    history.move_each(conn, schema.replica, moves, actor=actor, at=now)
    return len(moves)


def _kept(one: Seen, actor: str, now: float) -> dict[str, Any]:
    if one.outcome != "verified":
        return {}
    return {"verified_by": actor, "verified_at": now, "inode": one.inode, "mtime_ns": one.mtime_ns}
