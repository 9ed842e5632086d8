"""Durable claims: a name held by one holder until a deadline, across processes and restarts."""

from __future__ import annotations

import sqlalchemy as sa

from beamwright.db.engine import insert_new
from beamwright.db.schema import claim


def take(conn: sa.Connection, name: str, holder: str, now: float, seconds: float) -> bool:
    """Take the claim when it is free, expired or ours; tell whether it is ours now."""
    values = {"holder": holder, "taken": now, "deadline": now + seconds}
    free = sa.or_(claim.c.holder == holder, claim.c.deadline <= now)
    if conn.execute(sa.update(claim).where(claim.c.name == name, free).values(values)).rowcount == 1:
        return True
    return insert_new(conn, claim, {"name": name} | values) == 1


def renew(conn: sa.Connection, name: str, holder: str, now: float, seconds: float) -> bool:
    """Move the deadline of a claim that is still ours; False when somebody else has taken it."""
    mine = sa.update(claim).where(claim.c.name == name, claim.c.holder == holder)
    return conn.execute(mine.values(deadline=now + seconds)).rowcount == 1


def drop(conn: sa.Connection, name: str, holder: str) -> bool:
    """Give the claim up; False when it was not ours."""
    return conn.execute(sa.delete(claim).where(claim.c.name == name, claim.c.holder == holder)).rowcount == 1


def holder(conn: sa.Connection, name: str) -> tuple[str, float] | None:
    """Return who holds the claim and until when, or None."""
    row = conn.execute(sa.select(claim.c.holder, claim.c.deadline).where(claim.c.name == name)).first()
    return (row.holder, row.deadline) if row else None
