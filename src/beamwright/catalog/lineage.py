"""Lineage both ways: what a thing was made from, and all that was made from it, as a graph.

Data flow from runs over raw files and chunks, through units of work and the constants that they applied, to
collections and datasets. ``trace`` follows that up or down from anything, generation by generation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa

from beamwright.catalog import datasets
from beamwright.catalog.constants import Constants
from beamwright.core.did import Did
from beamwright.db import schema

Direction = Literal["ancestors", "descendants"]
Key = tuple[str, int | str]
Pair = tuple[int | str, Key]

MOST = 5000
MOST_STEPS = 50_000
PAGE = 5000


@dataclass(frozen=True)
class Node:
    """A thing in a lineage; ``like`` is equal for things that are drawn as one where there are many."""

    kind: str
    id: int | str
    name: str
    note: str = ""
    like: str = ""
    number: int = 1

    @property
    def key(self) -> Key:
        return self.kind, self.id


@dataclass
class Graph:
    """What was found: nodes by key with their distance, edges in the direction in which data flow."""

    start: Key
    direction: Direction
    nodes: dict[Key, Node] = field(default_factory=dict)
    distance: dict[Key, int] = field(default_factory=dict)
    edges: set[tuple[Key, Key]] = field(default_factory=set)
    is_cut: bool = False

    def ordered(self) -> list[Node]:
        """Return the nodes, nearest first, then by kind and name."""
        return sorted(self.nodes.values(), key=lambda n: (self.distance[n.key], n.kind, n.name, str(n.id)))

    def document(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        names = {key: f"{node.kind} {node.name}" for key, node in self.nodes.items()}
        nodes = [
            {"kind": n.kind, "name": n.name, "note": n.note, "distance": self.distance[n.key]}
            for n in self.ordered()
        ]
        edges = sorted([names[a], names[b]] for a, b in self.edges)
        start = names[self.start]
        return {"of": start, "direction": self.direction, "nodes": nodes, "edges": edges, "cut": self.is_cut}

    def counts(self) -> dict[str, int]:
        """Return how many things of each kind there are, without the one that was asked about."""
        found: dict[str, int] = {}
        for key, node in self.nodes.items():
            if key != self.start:
                found[node.kind] = found.get(node.kind, 0) + node.number
        return dict(sorted(found.items()))


def trace(conn: sa.Connection, start: Key, direction: Direction, most: int = MOST) -> Graph:
    """Return everything that a thing was made from, or that was made from it, but at most so many things."""
    graph = Graph(start, direction)
    walker = _Walker(conn)
    step = walker.up if direction == "ancestors" else walker.down
    graph.distance[start] = 0
    front = [start]
    while front and not graph.is_cut:
        following: dict[Key, None] = {}
        for key, there in _steps(step, front):
            if there not in graph.distance and there not in following:
                if len(graph.distance) + len(following) >= most:
                    graph.is_cut = True
                    break
                following[there] = None
            graph.edges.add((there, key) if direction == "ancestors" else (key, there))
        for key in following:
            graph.distance[key] = graph.distance[front[0]] + 1
        front = list(following)
        graph.is_cut = graph.is_cut or walker.is_cut
    walker.most = None  # whatever was found is named
    for kind in dict.fromkeys(kind for kind, _ in graph.distance):
        graph.nodes |= {
            node.key: node for node in walker.named(kind, [n for k, n in graph.distance if k == kind])
        }
    graph.edges = {(a, b) for a, b in graph.edges if a in graph.nodes and b in graph.nodes}
    return graph


def _steps(step: Callable[[str, list[Any]], Iterator[Pair]], front: list[Key]) -> Iterator[tuple[Key, Key]]:
    """Yield what is one step away from things, kind by kind."""
    for kind in dict.fromkeys(kind for kind, _ in front):
        for here, there in step(kind, [n for k, n in front if k == kind]):
            yield (kind, here), there


class _Walker:
    """One step up or down from many things, with few statements; ``is_cut`` when one found too much."""

    def __init__(self, conn: sa.Connection) -> None:
        self.conn = conn
        self.is_cut = False
        self.most: int | None = MOST_STEPS
        self.constants = Constants(conn)

    def up(self, kind: str, ids: list[Any]) -> Iterator[Pair]:
        steps: dict[str, Callable[[list[Any]], Iterator[Pair]]] = {
            "dataset": self._members,
            "collection": self._made_collection,
            "file": self._made_file,
            "unit": self._taken,
            "chunk": self._raw,
            "payload": self._fitted,
            "attempt": self._unit_of_attempt,
        }
        return steps[kind](ids) if kind in steps else iter(())

    def down(self, kind: str, ids: list[Any]) -> Iterator[Pair]:
        steps: dict[str, Callable[[list[Any]], Iterator[Pair]]] = {
            "run": self._delivered,
            "file": self._used_file,
            "chunk": self._takers_of_chunk,
            "unit": self._gave,
            "collection": self._takers_of_collection,
            "payload": self._appliers,
            "tag": self._payloads,
            "task": self._units_of_task,
            "production": self._units_of_production,
            "attempt": self._unit_of_attempt,
            "release": self._run_with,
        }
        return steps[kind](ids) if kind in steps else iter(())

    # --- up

    def _members(self, ids: list[Any]) -> Iterator[Pair]:
        table = schema.dataset
        for row in self.conn.execute(sa.select(table).where(table.c.id.in_(ids))):
            found = datasets.find(self.conn, Did(row.scope, row.name), row.version)
            yield from ((row.id, ("collection", c.id)) for c in datasets.collections(self.conn, found))

    def _made_collection(self, ids: list[Any]) -> Iterator[Pair]:
        table, link = schema.collection, schema.collection_file
        for row in self._rows(sa.select(table.c.id, table.c.unit_id), table.c.id, ids):
            if row.unit_id is not None:
                yield row.id, ("unit", row.unit_id)
        own = sa.select(link.c.collection_id, link.c.file_id).join(table, table.c.id == link.c.collection_id)
        for row in self._rows(own.where(table.c.unit_id.is_(None)), link.c.collection_id, ids):
            yield row.collection_id, ("file", row.file_id)

    def _made_file(self, ids: list[Any]) -> Iterator[Pair]:
        file, attempt, job, parent = schema.file, schema.attempt, schema.job, schema.file_parent
        made = sa.select(file.c.id, job.c.unit_id).join(attempt, file.c.attempt_id == attempt.c.id).join(job)
        yield from ((row.id, ("unit", row.unit_id)) for row in self._rows(made, file.c.id, ids))
        told = sa.select(parent.c.file_id, parent.c.parent_id).join(file, parent.c.file_id == file.c.id)
        for row in self._rows(told.where(file.c.attempt_id.is_(None)), parent.c.file_id, ids):
            yield row.file_id, ("file", row.parent_id)
        link, chunk = schema.chunk_file, schema.chunk
        raw = sa.select(link.c.file_id, chunk.c.run_id).join(chunk).distinct()
        yield from ((row.file_id, ("run", row.run_id)) for row in self._rows(raw, link.c.file_id, ids))

    def _taken(self, ids: list[Any]) -> Iterator[Pair]:
        link = schema.unit_input
        for row in self._rows(sa.select(link), link.c.unit_id, ids):
            kind, n = (
                ("chunk", row.chunk_id) if row.chunk_id is not None else ("collection", row.collection_id)
            )
            yield row.unit_id, (kind, n)
        for unit_id, applied in self.constants.of(ids).items():
            yield from ((unit_id, ("payload", n)) for found in applied.values() for n in found)
        yield from ((child, ("unit", parent)) for child, parent in self._through_files(ids, "ancestors"))

    def _raw(self, ids: list[Any]) -> Iterator[Pair]:
        link = schema.chunk_file
        for row in self._rows(sa.select(link), link.c.chunk_id, ids):
            yield row.chunk_id, ("file", row.file_id)

    def _fitted(self, ids: list[Any]) -> Iterator[Pair]:
        for n in ids:
            yield from ((n, ("unit", unit_id)) for unit_id in self.constants.fitted_by(str(n)))

    # --- down

    def _delivered(self, ids: list[Any]) -> Iterator[Pair]:
        link, chunk = schema.chunk_file, schema.chunk
        chosen = sa.select(chunk.c.run_id, link.c.file_id).join(link, link.c.chunk_id == chunk.c.id)
        yield from ((row.run_id, ("file", row.file_id)) for row in self._rows(chosen, chunk.c.run_id, ids))

    def _used_file(self, ids: list[Any]) -> Iterator[Pair]:
        link, member, parent, file = (
            schema.chunk_file,
            schema.collection_file,
            schema.file_parent,
            schema.file,
        )
        for row in self._rows(sa.select(link), link.c.file_id, ids):
            yield row.file_id, ("chunk", row.chunk_id)
        for row in self._rows(sa.select(member), member.c.file_id, ids):
            yield row.file_id, ("collection", row.collection_id)
        told = sa.select(parent.c.file_id, parent.c.parent_id).join(file, parent.c.file_id == file.c.id)
        for row in self._rows(told.where(file.c.attempt_id.is_(None)), parent.c.parent_id, ids):
            yield row.parent_id, ("file", row.file_id)

    def _takers_of_chunk(self, ids: list[Any]) -> Iterator[Pair]:
        link = schema.unit_input
        for row in self._rows(sa.select(link), link.c.chunk_id, ids):
            yield row.chunk_id, ("unit", row.unit_id)

    def _takers_of_collection(self, ids: list[Any]) -> Iterator[Pair]:
        link, listed = schema.unit_input, schema.dataset_collection
        for row in self._rows(sa.select(link), link.c.collection_id, ids):
            yield row.collection_id, ("unit", row.unit_id)
        for row in self._rows(sa.select(listed), listed.c.collection_id, ids):
            yield row.collection_id, ("dataset", row.dataset_id)

    def _gave(self, ids: list[Any]) -> Iterator[Pair]:
        table = schema.output
        for row in self._rows(sa.select(table), table.c.unit_id, ids):
            if row.collection_id is not None:
                yield row.unit_id, ("collection", row.collection_id)
        for n in ids:
            yield from ((n, ("payload", found)) for found in self.constants.given_by(int(n)))
        yield from ((parent, ("unit", child)) for child, parent in self._through_files(ids, "descendants"))

    def _appliers(self, ids: list[Any]) -> Iterator[Pair]:
        for n in ids:
            yield from ((n, ("unit", unit_id)) for unit_id in self.constants.appliers(str(n)))

    def _payloads(self, ids: list[Any]) -> Iterator[Pair]:
        table = schema.iov
        for row in self._rows(sa.select(table.c.tag_id, table.c.payload_id).distinct(), table.c.tag_id, ids):
            yield row.tag_id, ("payload", row.payload_id)

    def _units_of_task(self, ids: list[Any]) -> Iterator[Pair]:
        table = schema.unit
        chosen = sa.select(table.c.id, table.c.task_id)
        yield from ((row.task_id, ("unit", row.id)) for row in self._rows(chosen, table.c.task_id, ids))

    def _units_of_production(self, ids: list[Any]) -> Iterator[Pair]:
        unit, task = schema.unit, schema.task
        chosen = sa.select(unit.c.id, task.c.production_id).join(task, unit.c.task_id == task.c.id)
        rows = self._rows(chosen, task.c.production_id, ids)
        yield from ((row.production_id, ("unit", row.id)) for row in rows)

    def _unit_of_attempt(self, ids: list[Any]) -> Iterator[Pair]:
        attempt, job = schema.attempt, schema.job
        chosen = sa.select(attempt.c.id, job.c.unit_id).join(job, attempt.c.job_id == job.c.id)
        yield from ((row.id, ("unit", row.unit_id)) for row in self._rows(chosen, attempt.c.id, ids))

    def _run_with(self, ids: list[Any]) -> Iterator[Pair]:
        attempt, job, table = schema.attempt, schema.job, schema.collection
        ran = sa.select(attempt.c.release, job.c.unit_id).join(job, attempt.c.job_id == job.c.id).distinct()
        for row in self._rows(ran.where(attempt.c.state == "accepted"), attempt.c.release, ids):
            yield row.release, ("unit", row.unit_id)
        told = sa.select(table.c.release, table.c.id).where(table.c.unit_id.is_(None))
        for row in self._rows(told, table.c.release, ids):
            yield row.release, ("collection", row.id)

    # --- both

    def _through_files(self, ids: list[Any], direction: Direction) -> Iterator[tuple[int, int]]:
        """Yield (unit, unit that it was made from) where files that are no collections link them."""
        parent, child, link = schema.file.alias(), schema.file.alias(), schema.file_parent
        maker, user = schema.output.alias(), schema.output.alias()
        chosen = (
            sa.select(user.c.unit_id.label("child"), maker.c.unit_id.label("parent"))
            .select_from(link)
            .join(child, link.c.file_id == child.c.id)
            .join(parent, link.c.parent_id == parent.c.id)
            .join(user, user.c.file_id == child.c.id)
            .join(maker, maker.c.file_id == parent.c.id)
            .where(maker.c.collection_id.is_(None))
            .distinct()
        )
        column = user.c.unit_id if direction == "ancestors" else maker.c.unit_id
        yield from ((row.child, row.parent) for row in self._rows(chosen, column, ids))

    def named(self, kind: str, ids: list[Any]) -> Iterator[Node]:
        """Yield the nodes of things."""
        describe = {
            "run": self._name_runs,
            "chunk": self._name_chunks,
            "unit": self._name_units,
            "payload": self._name_payloads,
        }
        if kind in describe:
            yield from describe[kind](ids)
        elif kind in ("file", "collection", "dataset"):
            yield from self._name_dids(kind, ids)
        elif kind == "release":
            yield from (Node(kind, n, str(n)) for n in ids)
        else:
            yield from self._name_plain(kind, ids)

    def _name_runs(self, ids: list[Any]) -> Iterator[Node]:
        table = schema.run
        for r in self._rows(sa.select(table), table.c.id, ids):
            yield Node("run", r.id, f"{r.series}/{r.number}", f"{r.tier}, {r.state}", f"runs of {r.series}")

    def _name_chunks(self, ids: list[Any]) -> Iterator[Node]:
        chunk, run = schema.chunk, schema.run
        chosen = sa.select(chunk.c.id, chunk.c.sequence, run.c.series, run.c.number).join(run)
        for r in self._rows(chosen, chunk.c.id, ids):
            yield Node("chunk", r.id, f"{r.series}/{r.number}/{r.sequence}", "", f"chunks of {r.series}")

    def _name_units(self, ids: list[Any]) -> Iterator[Node]:
        unit, task, job = schema.unit, schema.task, schema.job
        chosen = sa.select(unit.c.id, unit.c.key, unit.c.kind, task.c.step, job.c.state)
        chosen = chosen.join(task, unit.c.task_id == task.c.id).outerjoin(job, job.c.unit_id == unit.c.id)
        for r in self._rows(chosen, unit.c.id, ids):
            yield Node("unit", r.id, r.key[:12], f"{r.step}, {r.state or 'no job'}", f"{r.kind} of {r.step}")

    def _name_payloads(self, ids: list[Any]) -> Iterator[Node]:
        table, iov, tag = schema.payload, schema.iov, schema.tag
        tags: dict[str, set[str]] = {}
        used = sa.select(iov.c.payload_id, tag.c.name).join(tag, iov.c.tag_id == tag.c.id).distinct()
        for row in self._rows(used, iov.c.payload_id, ids):
            tags.setdefault(row.payload_id, set()).add(row.name)
        for r in self._rows(sa.select(table.c.id, table.c.kind), table.c.id, ids):
            names = ", ".join(sorted(tags.get(r.id, ()))[:3]) or r.kind
            yield Node("payload", r.id, r.id[:16], names, f"constants {names}")

    def _name_dids(self, kind: str, ids: list[Any]) -> Iterator[Node]:
        table = {"file": schema.file, "collection": schema.collection, "dataset": schema.dataset}[kind]
        for r in self._rows(sa.select(table), table.c.id, ids):
            if kind == "file":
                yield Node(
                    kind, r.id, f"{r.scope}:{r.name}", f"{r.kind}, {r.tier}", f"{r.kind} files {r.tier}"
                )
            elif kind == "collection":
                like = f"{r.tier} {r.stream} of {r.scope}"
                yield Node(kind, r.id, f"{r.scope}:{r.name}", f"{r.state}, {r.events} events", like)
            else:
                yield Node(kind, r.id, f"{r.scope}:{r.name}@{r.version}", r.state, f"datasets of {r.scope}")

    def _name_plain(self, kind: str, ids: list[Any]) -> Iterator[Node]:
        tables = {"tag": schema.tag, "production": schema.production, "task": schema.task}
        if kind == "attempt":
            table = schema.attempt
            for r in self._rows(sa.select(table), table.c.id, ids):
                yield Node(kind, r.id, r.nonce[:12], f"on {r.farm}, {r.state}")
            return
        table = tables[kind]
        for r in self._rows(sa.select(table), table.c.id, ids):
            yield Node(kind, r.id, r.step if kind == "task" else r.name)

    def _rows(self, statement: sa.Select[Any], column: Any, ids: Iterable[Any]) -> Iterator[Any]:
        """Yield the rows of a statement for many values of a column."""
        wanted = list(ids)
        for start in range(0, len(wanted), PAGE):
            part = statement.where(column.in_(wanted[start : start + PAGE]))
            found = self.conn.execute(part.limit(self.most)).all()
            self.is_cut = self.is_cut or len(found) == self.most
            yield from found
