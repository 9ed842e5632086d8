"""Finding datasets by what they hold."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from beamwright.catalog import asking, datasets, query
from beamwright.catalog.asking import Question
from beamwright.catalog.query import Field
from beamwright.catalog.vocabulary import Vocabulary, known_states, there
from beamwright.core.errors import BeamwrightError
from beamwright.core.states import states
from beamwright.db import schema

Row = dict[str, Any]


def find_datasets(conn: sa.Connection, question: Question) -> list[Row]:
    """Return the datasets that hold collections for which an expression holds, with how many these are.

    The expression speaks of collections, and with ``dataset.name``, ``.version`` and ``.state`` of
    the dataset itself. Without one, all are returned.

    Raises: UsageError for a wrong expression, TooSlowError.
    """
    known = asking.words(conn, "collection", question.as_of)
    tree = None if question.where is None else query.parse(question.where)
    is_own = tree is not None and all(token.text.startswith("dataset.") for token in query.names(tree))
    if question.where is not None:  # said once for all, before any dataset is looked at
        query.compile(question.where, known.fields | _own("", 0, ""), known.functions)
    found = []
    with asking.bounded(conn, question):
        for row in _datasets(conn, question.as_of):
            own = _own(f"{row['scope']}:{row['name']}", row["version"], row["state"])
            number, events = _holding(conn, row, question, known, own)
            if tree is None or number or (is_own and _is_met(conn, question.where or "", own)):
                found.append(_told(row) | {"collections": number, "events": events})
    return found


def _own(did: str, version: int, state: str) -> dict[str, Field]:
    return {
        "dataset.name": Field(sa.literal(did, sa.Text)),
        "dataset.version": Field(sa.literal(version, sa.Integer)),
        "dataset.state": Field(sa.literal(state, sa.Text), values=known_states("dataset")),
    }


def _is_met(conn: sa.Connection, where: str, own: dict[str, Field]) -> bool:
    return bool(conn.execute(sa.select(sa.literal(1)).where(query.compile(where, own))).first())


def _holding(
    conn: sa.Connection, row: Row, question: Question, known: Vocabulary, own: dict[str, Field]
) -> tuple[int, int]:
    """Count the collections of a dataset that meet the expression, and their events."""
    table = schema.collection
    counted = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(table.c.events), 0)).select_from(table)
    if question.where is not None:
        counted = counted.where(query.compile(question.where, known.fields | own, known.functions))
    if row["state"] == "open":
        assert known.state is not None
        counted = counted.where(known.state == "valid", *there(table, question.as_of))
        try:
            counted = counted.where(*datasets.conditions(row["query"], known))
        except BeamwrightError:
            return 0, 0  # it asks for metadata that are not declared here
    else:
        link = schema.dataset_collection
        listed = sa.select(link.c.collection_id).where(link.c.dataset_id == row["id"])
        counted = counted.where(table.c.id.in_(listed))
    number, events = conn.execute(counted).one()
    return int(number), int(events)


def _datasets(conn: sa.Connection, as_of: float | None) -> list[Row]:
    table, line = schema.dataset, schema.history
    chosen = sa.select(table).where(*there(table, as_of))
    rows = [
        dict(row)
        for row in conn.execute(chosen.order_by(table.c.scope, table.c.name, table.c.version)).mappings()
    ]
    if as_of is not None:
        told = sa.select(line.c.object, line.c.target).where(line.c.kind == "dataset", line.c.at <= as_of)
        told = told.where(line.c.target.in_(sorted(states("dataset")))).order_by(line.c.at, line.c.id)
        then = {row.object: row.target for row in conn.execute(told)}
        rows = [row | {"state": then.get(str(row["id"]), row["state"])} for row in rows]
    return rows


def _told(row: Row) -> Row:
    return {"did": f"{row['scope']}:{row['name']}"} | {
        k: v for k, v in row.items() if k not in ("id", "scope", "name")
    }
