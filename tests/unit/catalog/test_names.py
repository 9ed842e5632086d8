"""Names: found by how they begin, along an index, and the nearest one for a value that nothing has."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from beamwright.catalog import asking
from beamwright.catalog.asking import Question, ask
from beamwright.catalog.registering import register
from beamwright.catalog.writers import Source
from beamwright.core.canonical import sha256_hex
from beamwright.db import bulk, schema
from beamwright.db.columns import Label
from beamwright.db.engine import Database


def file(name: str) -> dict[str, Any]:
    digest = sha256_hex(name.encode())
    return {"name": name, "size": 5, "sha256": digest, "adler32": digest[:8], "tier": "dst"}


@pytest.fixture
def catalogue(database: Database) -> Database:
    """Files of three scopes, with names that a language would sort otherwise than their characters."""
    names = [
        f"{scope}:{name}{n}"
        for scope in ("mc", "ana", "b2")
        for name in ("Z", "a", "a_", "A-", "b")
        for n in range(100)
    ]
    register(database, "file", enumerate(map(file, names), 1), Source("list", 1.0))
    with database.begin() as conn:
        bulk.analyse(conn, [schema.file])
    return database


@pytest.mark.parametrize(
    ("where", "number"),
    [
        ("name ~ 'Z1*'", 33),
        ("name ~ 'a_9?'", 30),
        ("name == 'b77'", 3),
        ("name in ['A-5', 'a5', 'c5']", 6),
        ("scope == 'b2' and name ~ 'A-1*'", 11),
        ("not name ~ 'Z*' and name != 'a1'", 1197),
        ("name ~ '*99'", 15),
    ],
)
def test_names_are_found_by_how_they_begin(catalogue: Database, where: str, number: int) -> None:
    with catalogue.read() as conn:
        found = list(ask(conn, Question("file", where)))
        assert len(found) == number
        names = [(row["scope"], row["name"]) for row in found]
        assert names == sorted(names)


@pytest.mark.parametrize("where", ["name ~ 'Z1*'", "name == 'Z1'"])
def test_an_index_leads_to_names_without_their_scope(catalogue: Database, where: str) -> None:
    with catalogue.read() as conn:
        if catalogue.is_postgresql:  # there are too few rows here for an index to be worth it
            conn.execute(sa.select(sa.func.set_config("enable_seqscan", "off", True)))
        plan = "\n".join(asking.explain(conn, Question("file", where))["plan"])
    if catalogue.is_postgresql:
        assert "(name >= 'Z1'" in plan or "(name = 'Z1'" in plan, plan
    else:
        assert "(scope=? AND name>? AND name<?)" in plan or "(scope=? AND name=?)" in plan, plan


def test_labels_are_sorted_by_their_characters(database: Database) -> None:
    """What the revisions say of a column's order is what the tables say."""
    if not database.is_postgresql:
        return
    wanted = {
        (table.name, column.name)
        for table in schema.metadata.tables.values()
        for column in table.columns
        if column.type is Label
    }
    sorted_so = sa.text(
        "SELECT c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
        "JOIN pg_collation o ON o.oid = a.attcollation "
        "WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND o.collname = 'C'"
    )
    with database.read() as conn:
        assert {(table, column) for table, column in conn.execute(sorted_so)} == wanted
