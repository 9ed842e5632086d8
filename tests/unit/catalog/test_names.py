"""Names: found by how they begin, along an index, and the nearest one for a value that nothing has."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from beamwright.catalog import asking, metadata
from beamwright.catalog.asking import Question, ask
from beamwright.catalog.registering import register
from beamwright.catalog.unknown import unknown
from beamwright.catalog.writers import Source
from beamwright.core.canonical import sha256_hex
from beamwright.core.errors import UsageError
from beamwright.db import bulk, schema
from beamwright.db.columns import Label
from beamwright.db.engine import Database
from beamwright.quality import verdicts


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


@pytest.fixture
def runs(database: Database) -> Database:
    """Three runs with verdicts and metadata, of which one key has an index."""
    keys = {"target": {"type": "text", "indexed": True}, "shift": {"type": "text"}}
    with database.begin() as conn:
        metadata.declare(conn, {"name": "beam", "subject": "run", "key": keys}, 1.0)
    records = [
        {
            "series": "exp7",
            "number": n,
            "tier": "raw",
            "metadata": {"beam": {"target": "lead", "shift": "ann"}},
        }
        for n in (1, 2, 3)
    ]
    register(database, "run", enumerate(records, 1), Source("list", 1.0))
    with database.begin() as conn:
        verdicts.override(conn, "exp7", 1, "raw", "calo", "good", author="a", reason="r", now=2.0)
    return database


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("quality.good('kalo')", ["no verdict has the subject 'kalo': did you mean calo?"]),
        ("quality.bad('calo', tier='row')", ["no verdict has the tier 'row': did you mean raw?"]),
        ("tier == 'rav' and run > 1", ["no run has the tier 'rav': did you mean raw?"]),
        ("series in ['exp8', 'exp7'] and run > 9", ["no run has the series 'exp8': did you mean exp7?"]),
        ("beam.target == 'leed'", ["no run has the beam.target 'leed': did you mean lead?"]),
        ("beam.shift == 'anne'", ["no run has the beam.shift 'anne': did you mean ann?"]),
        ("not (tier == 'rav' or run > 0)", ["no run has the tier 'rav': did you mean raw?"]),
        ("tier == 'raw' and run > 9", []),
        ("series ~ 'exp8*'", []),
    ],
)
def test_an_empty_answer_names_the_values_that_nothing_has(
    runs: Database, where: str, told: list[str]
) -> None:
    with runs.read() as conn:
        assert list(ask(conn, Question("run", where))) == []
        assert unknown(conn, Question("run", where)) == told


def test_options_are_looked_at_like_expressions(runs: Database) -> None:
    with runs.read() as conn:
        told = unknown(conn, Question("run"), {"series": "exp", "tier": None})
        assert told == ["no run has the series 'exp': did you mean exp7?"]
        assert unknown(conn, Question("collection", "tier == 'dst'")) == ["no collection has the tier 'dst'"]


def test_what_takes_too_long_to_say_is_not_said(catalogue: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shortest time of PostgreSQL is a millisecond, in which it may find the value after all."""
    monkeypatch.setattr("beamwright.catalog.unknown.SECONDS", 1e-9)
    monkeypatch.setattr("beamwright.catalog.asking._STEPS", 1)
    with catalogue.read() as conn:
        told = unknown(conn, Question("file", "tier == 'x'"))
        assert told == [] or (catalogue.is_postgresql and "did you mean" not in told[0])
        assert len(list(ask(conn, Question("file", "name == 'Z1'")))) == 3  # the connection goes on


@pytest.mark.parametrize(("subject", "state"), [("run", "clsed"), ("collection", "vaild"), ("file", None)])
def test_a_state_that_never_is_is_an_error(runs: Database, subject: str, state: str | None) -> None:
    where = "replica in ['present', 'verifid']" if state is None else f"state == '{state}'"
    with runs.read() as conn, pytest.raises(UsageError, match="it is never") as caught:
        list(ask(conn, Question(subject, where, as_of=5.0)))
    assert "did you mean" in caught.value.hint
