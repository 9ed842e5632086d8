"""Decisions about collections: what takes the place of what, and what must not be used any more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from beamwright.catalog import datasets
from beamwright.catalog.datasets import Collection, Dataset
from beamwright.core.did import Did
from beamwright.core.errors import ConflictError, UnknownNameError, UsageError
from beamwright.db import history, schema


@dataclass(frozen=True)
class Decision:
    """A collection that is not used any more, and what held it: ``frozen`` datasets keep it, as they must."""

    collection: str
    state: str
    successor: str | None
    frozen: tuple[str, ...]
    derived: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """How two sets of collections differ; ``replaced`` are pairs of what went and what took its place."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    replaced: tuple[tuple[str, str], ...]
    kept: int
    events: int

    def document(self) -> dict[str, Any]:
        """Return a JSON-ready form; ``events`` is by how many events the second set is larger."""
        pairs = [{"old": old, "new": new} for old, new in self.replaced]
        names = {"added": list(self.added), "removed": list(self.removed), "replaced": pairs}
        return names | {"kept": self.kept, "events": self.events}


def find(conn: sa.Connection, did: Did) -> Any:
    """Return the row of a collection.

    Raises: UnknownNameError with the nearest name of that scope.
    """
    table = schema.collection
    row = conn.execute(sa.select(table).where(table.c.scope == did.scope, table.c.name == did.name)).first()
    if row is None:
        known = conn.execute(sa.select(table.c.name).where(table.c.scope == did.scope).limit(10_000))
        raise UnknownNameError("collection", str(did), [f"{did.scope}:{name}" for (name,) in known])
    return row


def look_up(conn: sa.Connection, name: str) -> Any:
    """Return the row of the one collection whose name this is, or is the beginning of.

    Raises: UnknownNameError, UsageError when several begin like this.
    """
    scope, colon, rest = name.partition(":")
    table = schema.collection
    if colon and rest:
        exact = sa.select(table).where(table.c.scope == scope, table.c.name == rest)
        if (row := conn.execute(exact).first()) is not None:
            return row
    begins = table.c.name.startswith(rest, autoescape=True)
    rows = conn.execute(sa.select(table).where(table.c.scope == scope, begins).limit(5)).all()
    if len(rows) > 1:
        some = ", ".join(sorted(f"{row.scope}:{row.name}" for row in rows)[:4])
        raise UsageError(f"several collections begin with {name!r}: {some}", hint="write more of the name")
    return rows[0] if rows else find(conn, Did.parse(name))


def supersede(
    conn: sa.Connection, old: Did, new: Did | None, reason: str, now: float, actor: str
) -> Decision:
    """Decide that a collection is not used any more, in favour of another where there is one.

    Raises: UsageError without a reason, StateError unless it is valid, ConflictError when the other is no
    successor: it must be valid, of the same stream, and hold events of the same keys.
    """
    row = find(conn, old)
    successor = None if new is None else _successor(conn, row, new)
    return _decide(conn, row, "superseded", successor, reason, now, actor)


def withdraw(conn: sa.Connection, did: Did, reason: str, now: float, actor: str) -> Decision:
    """Decide that a collection is bad: nothing takes its place.

    Raises: UsageError without a reason, StateError unless it is valid.
    """
    return _decide(conn, find(conn, did), "bad", None, reason, now, actor)


def replace(conn: sa.Connection, old_id: int, new_id: int, reason: str, now: float, actor: str) -> None:
    """Write down that a collection took the place of a superseded one."""
    values = {"old_id": old_id, "new_id": new_id, "actor": actor, "reason": reason, "created": now}
    conn.execute(sa.insert(schema.supersession).values(**values))


def successors(conn: sa.Connection, ids: Sequence[int]) -> dict[int, int]:
    """Return what was decided to take the place of collections, one step on."""
    table, found = schema.supersession, dict[int, int]()
    chosen = sa.select(table.c.old_id, table.c.new_id).where(table.c.new_id.is_not(None))
    for start in range(0, len(ids), datasets.PAGE):
        part = table.c.old_id.in_(ids[start : start + datasets.PAGE])
        found |= {row.old_id: row.new_id for row in conn.execute(chosen.where(part))}
    return found


def compare(conn: sa.Connection, one: Sequence[Collection], other: Sequence[Collection]) -> Difference:
    """Return how a set of collections differs from another: what was added, removed and replaced."""
    old, new = {c.id: c for c in one}, {c.id: c for c in other}
    gone = [c for c in one if c.id not in new]
    fresh = [c for c in other if c.id not in old]
    pairs = _replacements(conn, gone, fresh)
    taken = {new_id for _, new_id in pairs}
    left = {old_id for old_id, _ in pairs}
    return Difference(
        added=tuple(str(c.did) for c in fresh if c.id not in taken),
        removed=tuple(str(c.did) for c in gone if c.id not in left),
        replaced=tuple((str(old[a].did), str(new[b].did)) for a, b in pairs),
        kept=len(old) - len(gone),
        events=sum(c.events for c in other) - sum(c.events for c in one),
    )


def since(conn: sa.Connection, dataset: Dataset, moment: float) -> Difference:
    """Return what was added to a dataset, removed and replaced since a time."""
    return compare(conn, datasets.collections(conn, dataset, moment), datasets.collections(conn, dataset))


def _replacements(
    conn: sa.Connection, gone: Sequence[Collection], fresh: Sequence[Collection]
) -> list[tuple[int, int]]:
    """Pair what went with what was decided to take its place, or holds the same keys of its stream."""
    decided = successors(conn, [c.id for c in gone])
    present = {c.id for c in fresh}
    groups: dict[tuple[Any, ...], list[Collection]] = {}
    for new in fresh:
        groups.setdefault(_group(new), []).append(new)
    found = []
    for old in gone:
        said = _followed(conn, decided.get(old.id), present)
        alike = (new.id for new in groups.get(_group(old), ()) if _meets(old, new))
        new_id = said if said is not None else next(alike, None)
        if new_id is not None:
            found.append((old.id, new_id))
    return found


def _group(c: Collection) -> tuple[Any, ...]:
    """What two collections of the same events have in common."""
    return c.stream, c.tier, c.is_mc, c.is_resampled, c.interval.series


def _meets(one: Collection, other: Collection) -> bool:
    return one.interval.first <= other.interval.last and other.interval.first <= one.interval.last


def _followed(conn: sa.Connection, start: int | None, wanted: set[int]) -> int | None:
    while start is not None and start not in wanted:
        start = successors(conn, [start]).get(start)
    return start


def _successor(conn: sa.Connection, old: Any, did: Did) -> Any:
    new = find(conn, did)
    if new.id == old.id:
        raise ConflictError(f"collection {did} cannot take its own place", hint="name another")
    is_alike = (new.stream, new.series, new.is_mc) == (old.stream, old.series, old.is_mc)
    if not is_alike or new.first_run > old.last_run or old.first_run > new.last_run:
        raise ConflictError(
            f"collection {did} holds none of the events of {old.scope}:{old.name}",
            hint="a successor holds the same keys of the same stream",
        )
    if new.state != "valid":
        raise ConflictError(f"collection {did} is {new.state}", hint="a successor is valid")
    return new


def _decide(
    conn: sa.Connection, row: Any, state: str, successor: Any, reason: str, now: float, actor: str
) -> Decision:
    if not reason.strip():
        raise UsageError("a decision about a collection needs a reason", hint="say what is wrong with it")
    table = schema.collection
    history.move(conn, table, row.id, row.state, state, actor=actor, reason=reason, at=now)
    if successor is not None:
        replace(conn, row.id, successor.id, reason, now, actor)
    name = None if successor is None else f"{successor.scope}:{successor.name}"
    frozen, derived = _frozen_with(conn, row.id), _derived(conn, row.id)
    return Decision(f"{row.scope}:{row.name}", state, name, frozen, derived)


def _frozen_with(conn: sa.Connection, collection_id: int) -> tuple[str, ...]:
    link, dataset = schema.dataset_collection, schema.dataset
    chosen = sa.select(dataset).join(link, link.c.dataset_id == dataset.c.id)
    chosen = chosen.where(link.c.collection_id == collection_id, dataset.c.state == "frozen")
    rows = conn.execute(chosen.order_by(dataset.c.scope, dataset.c.name, dataset.c.version))
    return tuple(f"{row.scope}:{row.name}@{row.version}" for row in rows)


def _derived(conn: sa.Connection, collection_id: int) -> tuple[str, ...]:
    """Return the valid collections that were made from one, one step on."""
    link, table = schema.unit_input, schema.collection
    chosen = sa.select(table.c.scope, table.c.name).join(link, link.c.unit_id == table.c.unit_id)
    chosen = chosen.where(link.c.collection_id == collection_id, table.c.state == "valid")
    rows = conn.execute(chosen.order_by(table.c.scope, table.c.name))
    return tuple(f"{row.scope}:{row.name}" for row in rows)
