"""Where files are: at which endpoint, and what a site lacks; asked of the catalogue, never of a storage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from beamwright.catalog.files import ENDPOINT
from beamwright.catalog.query import Among
from beamwright.catalog.vocabulary import state_then
from beamwright.core.errors import UnknownNameError
from beamwright.db import schema

THERE = ("present", "verified")
LIVE = (*THERE, "suspect")
COMING = ("planned", "copying")


def endpoints(conn: sa.Connection, sites: Mapping[str, str], site: str) -> dict[str, str]:
    """Return the site of each endpoint: those declared, our own, and those that have replicas."""
    replica = schema.replica
    # One step of the index from each endpoint to the next, however many replicas it has.
    first = sa.select(sa.func.min(replica.c.endpoint).label("endpoint")).cte("walk", recursive=True)
    following = sa.select(sa.func.min(replica.c.endpoint)).where(replica.c.endpoint > first.c.endpoint)
    walk = first.union_all(sa.select(following.scalar_subquery()).where(first.c.endpoint.is_not(None)))
    used = conn.execute(sa.select(walk.c.endpoint).where(walk.c.endpoint.is_not(None))).scalars()
    return {ENDPOINT: site} | {name: name for name in used if name != ENDPOINT} | dict(sites)


def at(known: Mapping[str, str], place: str) -> list[str]:
    """Return the endpoints of a place: an endpoint itself, or all those of a site.

    Raises: UnknownNameError.
    """
    found = [place] if place in known else sorted(name for name, site in known.items() if site == place)
    if not found:
        raise UnknownNameError("endpoint or site", place, {*known, *known.values()})
    return found


def lacking(
    places: Sequence[str], is_narrow: bool = False, as_of: float | None = None
) -> sa.ColumnElement[bool]:
    """Return the condition on ``file`` that none of the places holds it, or held it at a time.

    Two indexes tell that of all files by their numbers; of a few files (``is_narrow``), each asks for its own
    replicas.
    """
    replica, state = schema.replica, state_then(schema.replica, as_of)
    if is_narrow:
        return ~_exists(places, state.in_(THERE))
    there = (replica.c.endpoint.in_(list(places)), state.in_(THERE))
    return Among(schema.file.c.id, sa.select(replica.c.file_id).where(*there), is_outside=True, by_keys=True)


def known_at(places: Sequence[str], as_of: float | None = None) -> sa.ColumnElement[bool]:
    """Return the condition on ``file`` that one of the places has, or had, a replica that counts."""
    return _exists(places, state_then(schema.replica, as_of) != "deleted")


def _exists(places: Sequence[str], state: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    replica = schema.replica
    mine = (replica.c.endpoint.in_(list(places)), replica.c.file_id == schema.file.c.id)
    return sa.select(replica.c.id).where(*mine, state).correlate(schema.file).exists()


def held(places: Sequence[str], as_of: float | None = None) -> sa.ColumnElement[bool]:
    """Return the condition on ``replica`` that it counts, or counted, at one of the places."""
    state = state_then(schema.replica, as_of)
    return sa.and_(schema.replica.c.endpoint.in_(list(places)), state != "deleted")


def summary(conn: sa.Connection) -> list[dict[str, Any]]:
    """Return files and bytes by endpoint and state."""
    replica, file = schema.replica, schema.file
    chosen = (
        sa.select(
            replica.c.endpoint,
            replica.c.state,
            sa.func.count().label("files"),
            sa.func.sum(file.c.size).label("bytes"),
        )
        .join(file, replica.c.file_id == file.c.id)
        .group_by(replica.c.endpoint, replica.c.state)
        .order_by(replica.c.endpoint, replica.c.state)
    )
    return [row._asdict() | {"bytes": int(row.bytes)} for row in conn.execute(chosen)]


def of_files(conn: sa.Connection, ids: Sequence[int], as_of: float | None = None) -> dict[int, list[str]]:
    """Return per file the endpoints that hold it or will, or did at a time, the latter with their state."""
    replica = schema.replica
    state = state_then(replica, as_of).label("state")
    chosen = sa.select(replica.c.file_id, replica.c.endpoint, state)
    found: dict[int, list[str]] = {id: [] for id in ids}
    for row in conn.execute(chosen.where(replica.c.file_id.in_(list(ids))).order_by(replica.c.endpoint)):
        if row.state in THERE:
            found[row.file_id].append(row.endpoint)
        elif row.state in COMING:
            found[row.file_id].append(f"{row.endpoint} ({row.state})")
    return found
