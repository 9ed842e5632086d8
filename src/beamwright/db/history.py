"""State changes and their history: what was done when, by whom and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

import sqlalchemy as sa

from beamwright.core import states
from beamwright.core.errors import StateError, UnknownNameError
from beamwright.db import bulk, schema, writing

_KINDS = {"chain_link": "chain"}
_IDS: sa.BindParameter[Any] = sa.bindparam("ids", expanding=True)


@dataclass(frozen=True)
class Entry:
    """One line of history; ``source`` is None for a creation or for an action that changes no state."""

    id: int
    at: float
    kind: str
    object: str
    source: str | None
    target: str
    actor: str
    reason: str
    data: dict[str, Any]


def move(
    conn: sa.Connection,
    table: sa.Table,
    id: int,
    source: str,
    target: str,
    *,
    actor: str,
    reason: str = "",
    at: float,
    **values: Any,
) -> None:
    """Change one row's state from ``source`` to ``target``, set further columns, and write the history row.

    Raises: StateError when the transition is not allowed or the row is not in ``source``.
    """
    kind = _KINDS.get(table.name, table.name)
    _check(conn, table, kind, id, source, target)
    new: dict[str, Any] = writing.encoded(table, {name: [value] for name, value in values.items()})
    where: dict[str, Any] = {"id": [id], "state": [source]}
    if writing.update_each(conn, table, where, new | {"state": [target]}) != 1:
        raise _missed(conn, table, kind, id, source, target)
    _write(conn, kind, [id], source=source, target=target, actor=actor, reason=reason, at=at)


def move_all(
    conn: sa.Connection,
    table: sa.Table,
    ids: Iterable[int],
    source: str,
    target: str,
    *,
    actor: str,
    reason: str = "",
    at: float,
    **values: Any,
) -> None:
    """Change many rows like ``move``; when one cannot move, the error ends the transaction for all."""
    kind = _KINDS.get(table.name, table.name)
    wanted = sorted(set(ids))
    states.check(kind, source, target, f"{len(wanted)} rows")
    # The numbers are no part of the statement: it is compiled once.
    found = sa.update(table).where(table.c.id.in_(_IDS), table.c.state == source)
    for start in range(0, len(wanted), 500):
        part = wanted[start : start + 500]
        if conn.execute(found.values(values | {"state": target}), {"ids": part}).rowcount != len(part):
            raise _missed_one(conn, table, kind, part, source, target)
    _write(conn, kind, wanted, source=source, target=target, actor=actor, reason=reason, at=at)


class Move(NamedTuple):
    """One change of state among many: the row's id, from where to where, why, and further columns.

    ``then`` are further steps of the row, each a state and why, that follow at once: nobody sees it between.
    """

    id: int
    source: str
    target: str
    reason: str = ""
    values: Mapping[str, Any] = MappingProxyType({})
    then: tuple[tuple[str, str], ...] = ()

    @property
    def last(self) -> str:
        """The state in which the row ends."""
        return self.then[-1][0] if self.then else self.target


def move_each(conn: sa.Connection, table: sa.Table, moves: Sequence[Move], *, actor: str, at: float) -> None:
    """Change many rows, each in its own way, in the order of their ids.

    The history has their first steps as given, then their second ones. When one cannot move, the error ends
    the transaction for all.
    """
    kind = _KINDS.get(table.name, table.name)
    steps = list(_steps(moves))
    for step in steps:
        _check_each(conn, table, kind, step)
    groups: dict[tuple[str, ...], list[Move]] = {}
    for one in moves:
        groups.setdefault(tuple(one.values), []).append(one)
    for names, group in groups.items():
        ordered = sorted(group, key=lambda one: one.id)  # who locks in one order does not block another
        where: dict[str, Any] = {"id": [one.id for one in ordered], "state": [one.source for one in ordered]}
        new: dict[str, Any] = {"state": [one.last for one in ordered]}
        new |= writing.encoded(table, {name: [one.values[name] for one in ordered] for name in names})
        if writing.update_each(conn, table, where, new) != len(group):
            raise _missed_move(conn, table, kind, group)
    lines = [one for step in steps for one in step]
    changes: dict[str, Any] = {"source": [o.source for o in lines], "target": [o.target for o in lines]}
    reasons = [one.reason for one in lines]
    _write(conn, kind, [one.id for one in lines], **changes, actor=actor, reason=reasons, at=at)


def _steps(moves: Sequence[Move]) -> Iterator[Sequence[Move]]:
    """Yield all first steps, then all second ones, and so on."""
    while moves:
        yield moves
        longer = [one for one in moves if one.then]
        moves = [Move(one.id, one.target, *one.then[0], then=one.then[1:]) for one in longer]


def _check_each(conn: sa.Connection, table: sa.Table, kind: str, moves: Sequence[Move]) -> None:
    """Refuse transitions that the state machine does not hold; most moves of a list are alike."""
    for source, target in {(one.source, one.target) for one in moves}:
        if not states.allowed(kind, source, target):
            wrong = next(one for one in moves if (one.source, one.target) == (source, target))
            _check(conn, table, kind, wrong.id, source, target)


def _missed_move(conn: sa.Connection, table: sa.Table, kind: str, moves: Sequence[Move]) -> Exception:
    """Find the move that could not be made: its row is not where all of them lead."""
    state = sa.select(table.c.state).where(table.c.id == sa.bindparam("_id"))
    missed = (one for one in moves if conn.execute(state, {"_id": one.id}).scalar() != one.last)
    wrong = next(missed, moves[0])
    return _missed(conn, table, kind, wrong.id, wrong.source, wrong.last)


def record(
    conn: sa.Connection,
    kind: str,
    object: str | int,
    target: str,
    *,
    actor: str,
    reason: str = "",
    at: float,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Write a history row for a creation, or for an action that changes no state."""
    _write(conn, kind, [object], target=target, actor=actor, reason=reason, at=at, data=data)


def record_all(
    conn: sa.Connection,
    kind: str,
    objects: Iterable[str | int],
    target: str,
    *,
    actor: str,
    reason: str = "",
    at: float,
    then: Sequence[str] = (),
) -> None:
    """Write the history rows of many creations; ``then`` are states that all have gone on to at once."""
    made = list(objects)
    way = [target, *then]
    for source, state in pairwise(way):
        states.check(kind, source, state, f"{len(made)} rows")
    sources = [before for before in (None, *way[:-1]) for _ in made]
    targets = [state for state in way for _ in made]
    changes: dict[str, Any] = {"source": sources, "target": targets} if then else {"target": target}
    _write(conn, kind, made * len(way), **changes, actor=actor, reason=reason, at=at)


def of(conn: sa.Connection, kind: str, object: str | int) -> list[Entry]:
    """Return the history of one object, oldest first."""
    table = schema.history
    query = sa.select(table).where(table.c.kind == kind, table.c.object == str(object)).order_by(table.c.id)
    return [Entry(*row) for row in conn.execute(query)]


def last(conn: sa.Connection) -> int:
    """Return the number of the newest line."""
    return int(conn.execute(sa.select(sa.func.max(schema.history.c.id))).scalar() or 0)


def _write(
    conn: sa.Connection,
    kind: str,
    objects: Sequence[str | int],
    *,
    source: Sequence[str | None] | str | None = None,
    target: Sequence[str] | str,
    actor: str,
    reason: Sequence[str] | str = "",
    at: float,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Write lines, of which each has its own object, state and reason, or all the same."""
    if not objects:
        return
    said = {"source": source, "target": target, "reason": reason}
    names = [str(one) for one in objects]
    common = {"at": at, "kind": kind, "actor": actor, "data": writing.documents([dict(data or {})])[0]}
    bulk.load(conn, schema.history, {"object": names} | said | common)


def _missed(conn: sa.Connection, table: sa.Table, kind: str, id: int, source: str, target: str) -> Exception:
    state = conn.execute(sa.select(table.c.state).where(table.c.id == id)).scalar()
    if state is None:
        return UnknownNameError(kind, str(id))
    return StateError(
        f"{kind} {_called(conn, table, id)} is {state}, not {source}, and was not made {target}",
        hint="somebody else moved it first; look at its history and decide anew",
        overtaken=True,
    )


def _check(conn: sa.Connection, table: sa.Table, kind: str, id: int, source: str, target: str) -> None:
    """Refuse a transition that the state machine does not hold, by the name of what should make it."""
    if not states.allowed(kind, source, target):
        states.check(kind, source, target, _called(conn, table, id))


def _called(conn: sa.Connection, table: sa.Table, id: int) -> str:
    """Return the name by which people know a row."""
    job, unit, task, production = schema.job, schema.unit, schema.task, schema.production
    names: dict[str, tuple[Any, sa.FromClause]] = {
        "job": (sa.func.substr(unit.c.key, 1, 12), job.join(unit, job.c.unit_id == unit.c.id)),
        "attempt": (sa.func.substr(schema.attempt.c.nonce, 1, 12), schema.attempt),
        "task": (production.c.name + "/" + task.c.step, task.join(production)),
        "run": (schema.run.c.series + "/" + sa.cast(schema.run.c.number, sa.Text), schema.run),
    }
    name, source = names.get(table.name, (_written(table), table))
    return str(conn.execute(sa.select(name).select_from(source).where(table.c.id == id)).scalar() or id)


def _written(table: sa.Table) -> sa.ColumnElement[Any]:
    """Return the column, or columns, in which a row has its name; its id where it has none."""
    if "scope" in table.c:
        name = table.c.scope + ":" + table.c.name
        return name + "@" + sa.cast(table.c.version, sa.Text) if table.name == "dataset" else name
    return table.c.name if "name" in table.c else table.c.id


def _missed_one(
    conn: sa.Connection, table: sa.Table, kind: str, ids: list[int], source: str, target: str
) -> Exception:
    hit = sa.select(table.c.id).where(table.c.id.in_(ids), table.c.state == target)
    missing = sorted(set(ids) - set(conn.execute(hit).scalars()))
    return _missed(conn, table, kind, (missing or ids)[0], source, target)
