"""Explanations name what a thing is, its causes, its obstacles and the next step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from beamwright.catalog import datasets
from beamwright.core.did import Did
from beamwright.core.errors import UnknownNameError, UsageError
from beamwright.db import schema
from beamwright.db.engine import Database
from beamwright.production.explain import Explanation, explain
from support.sample_production import Sample, digest


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "beamwright.db")
    database.migrate()
    with database.begin() as conn:
        Sample(conn).build()
    yield database
    database.close()


def told(database: Database, name: str) -> Explanation:
    with database.read() as conn:
        return explain(conn, name)


@pytest.mark.parametrize(
    ("name", "kind", "what", "origin"),
    [
        ("A/2", "run", "2 chunks", "its link in the chain of step pass1 is carried (too few hits)"),
        ("A/2/2", "chunk", "sections 50 to 99", "file raw:A.2.2.raw (events)"),
        ("sample/reco", "task", "is closed with 4 units (4 ok)", "production sample declares it"),
        (digest("unit reco 0")[:12], "unit", "is ok: process over event records of A:1", "it takes A/1/1"),
        (digest("unit skim 10")[:12], "unit", "of step skim", "it takes sample:reco/dst.0"),
        ("sample:merged/good.A", "collection", "holds 205 records", "step merged made it in unit"),
        (
            "sample:merged/good.A.root",
            "file",
            "is a rntuple file",
            "it was made from sample:skim/good.10.root",
        ),
        ("raw:A.1.1.raw", "file", "is a raw file", "it was delivered, not made here"),
        (
            digest("c1")[:10],
            "payload",
            "constants (bytes, 64 bytes)",
            "step pass1 fitted it from chunk A/1/1",
        ),
        ("Scale", "tag", "over 3 intervals", "carried (too few hits)"),
        ("open-A", "global tag", "is frozen at version 3", "member Scale, version 3"),
        (
            "sample",
            "production",
            "of experiment toy is finished",
            "task sample/merged (merge) is closed: 1 ok",
        ),
        ("A:2:10:5", "event", "lies in the key range", "of step reco of sample"),
    ],
)
def test_everything_is_explained(database: Database, name: str, kind: str, what: str, origin: str) -> None:
    found = told(database, name)
    assert found.kind == kind
    assert what in found.what
    assert any(origin in line for line in found.origin), found.origin
    assert found.next, "there is always a next step"
    assert found.document()["what"] == found.what
    assert found.lines()[0] == found.what


def test_finished_things_are_held_up_by_nothing(database: Database) -> None:
    assert told(database, "A/1").holds == []
    assert told(database, "sample").holds == []


def test_failed_job_is_named_from_run_task_and_production_with_its_cause(database: Database) -> None:
    key = digest("unit reco 0")
    with database.begin() as conn:
        unit = conn.execute(sa.select(schema.unit.c.id).where(schema.unit.c.key == key)).scalar_one()
        job = conn.execute(sa.select(schema.job.c.id).where(schema.job.c.unit_id == unit)).scalar_one()
        conn.execute(
            sa.update(schema.job)
            .where(schema.job.c.id == job)
            .values(state="failed", reason="twice", failures=2)
        )
        ended = {"state": "rejected", "failure_class": "memory", "message": "4100 MB of 4000"}
        conn.execute(sa.update(schema.attempt).where(schema.attempt.c.job_id == job).values(ended))
    unit_told = told(database, key[:12])
    assert any("its attempts failed and none is left: twice" in line for line in unit_told.holds)
    assert any("memory (the memory limit was reached): 4100 MB of 4000" in line for line in unit_told.holds)
    assert any(f"beamwright job log {key[:12]}" in line for line in unit_told.next)
    for name in ("A/1", "A/1/1", "sample/reco", "sample"):
        assert any(key[:12] in line for line in told(database, name).holds), name


def test_attempt_is_explained_by_its_nonce(database: Database) -> None:
    with database.read() as conn:
        nonce = conn.execute(sa.select(schema.attempt.c.nonce)).scalars().first()
    found = told(database, nonce)
    assert found.kind == "attempt"
    assert "is accepted" in found.what


def test_quarantined_event_names_module_and_error(database: Database) -> None:
    found = told(database, "A:2:3:0")
    assert found.holds == ["module Fit could not process this event record: ValueError: no hits"]


def test_event_that_no_unit_covers_points_to_its_run(database: Database) -> None:
    found = told(database, "A:99:1:1")
    assert any("no unit covers its key" in line for line in found.holds)
    assert found.next == ["`beamwright explain A/99` explains its run"]


def test_dataset_tells_its_query_what_it_holds_and_what_follows_its_withdrawal(database: Database) -> None:
    did = Did.parse("ana:all")
    with database.begin() as conn:
        datasets.create(conn, did, {"where": "name ~ 'merged*'", "series": ["A", "B"]}, 1.0)
    found = told(database, "ana:all")
    assert "is open and finds now 1 collection." in found.what
    assert "its query is: name ~ 'merged*', series A, B" in found.origin
    assert found.next == ["freeze it to cite it: ana:all@1"]
    with database.begin() as conn:
        datasets.freeze(conn, did, 2.0)
        datasets.withdraw(conn, datasets.find(conn, did), "wrong cut", 3.0, "ada")
    found = told(database, "ana:all@1")
    assert "is withdrawn and lists 1 collection." in found.what
    assert found.holds == ["it was withdrawn: it must not be used"]
    assert found.next == ["`beamwright dataset define ana:all --where …` begins the next version"]


def test_unknown_and_ambiguous_names_are_refused_helpfully(database: Database) -> None:
    with pytest.raises(UnknownNameError) as unknown:
        told(database, "sampel")
    assert "sample" in unknown.value.hint
    with database.begin() as conn:
        conn.execute(sa.insert(schema.tag).values(name="sample", kind="arrays", version=1, created=0.0))
    with pytest.raises(UsageError, match="production sample, tag sample"):
        told(database, "sample")


@pytest.mark.parametrize(
    ("state", "held"), [("held", "a person decides"), ("waiting", "has not settled it"), ("invalidated", "")]
)
def test_a_run_says_what_its_place_in_a_chain_waits_for(database: Database, state: str, held: str) -> None:
    with database.begin() as conn:
        conn.execute(
            sa.update(schema.chain_link).where(schema.chain_link.c.first_run == 1).values(state=state)
        )
    mine = [
        reason for reason in told(database, "A/1").holds if "chain" in reason or "calibration step" in reason
    ]
    assert bool(mine) == bool(held) and all(held in reason for reason in mine)


@pytest.mark.parametrize(
    ("state", "holds", "step"),
    [
        ("verified", [], "nothing: it is registered, and a copy was verified"),
        ("present", ["nobody has read a copy of it yet"], "`beamwright file verify --at far` reads it"),
        ("suspect", ["its copy is suspect"], "`beamwright file verify --at far` reads it"),
        ("lost", ["its copy is lost"], "`beamwright fsck --deep` reads every copy"),
    ],
)
def test_a_copy_that_nobody_has_read_is_told(
    database: Database, state: str, holds: list[str], step: str
) -> None:
    table = schema.replica
    file = sa.select(schema.file.c.id).where(schema.file.c.scope == "raw").order_by(schema.file.c.id).limit(1)
    with database.begin() as conn:
        number = conn.execute(file).scalar_one()
        name = conn.execute(sa.select(schema.file.c.name).where(schema.file.c.id == number)).scalar_one()
        mine = sa.update(table).where(table.c.file_id == number)
        conn.execute(mine.values(state=state, endpoint="far"))
    found = told(database, f"raw:{name}")
    assert (found.holds, found.next) == (holds, [step])
