from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from beamwright.catalog import datasets, files, ledger
from beamwright.core.did import Did
from beamwright.core.errors import ConflictError, UnknownNameError, UsageError
from beamwright.db import history, schema
from beamwright.db.engine import Database
from beamwright.db.migrations import guards
from support.world import World

RECO = {"production": "p", "step": "reco", "stream": "dst"}
NAME = Did("p", "dst")


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    return World(database, tmp_path).build()


def test_criteria_choose_collections_in_key_order(world: World) -> None:
    with world.db.read() as conn:
        assert [str(c.did) for c in datasets.find_collections(conn, RECO)] == ["p:reco/dst.1", "p:reco/dst.2"]
        assert [str(c.did) for c in datasets.find_collections(conn, {"where": "run == 2"})] == [
            "p:merged/dst",
            "p:reco/dst.2",
        ]
        assert datasets.find_collections(conn, {"is_mc": True}) == []
        assert len(datasets.find_collections(conn, {"step": ["reco", "merged"]})) == 3


def test_an_unknown_criterion_suggests_the_nearest(world: World) -> None:
    with world.db.read() as conn, pytest.raises(UsageError, match="did you mean stream"):
        datasets.find_collections(conn, {"streem": "dst"})


def test_an_open_dataset_grows_and_a_frozen_one_does_not(world: World) -> None:
    with world.db.begin() as conn:
        made = datasets.create(conn, NAME, RECO | {"where": "run == 1"}, 1.0)
        assert datasets.create(conn, NAME, RECO | {"where": "run == 1"}, 2.0) == made
        with pytest.raises(ConflictError, match="open with another query"):
            datasets.create(conn, NAME, RECO, 2.0)
        content = datasets.freeze(conn, NAME, 3.0)
        assert datasets.freeze(conn, NAME, 4.0) == content
        frozen = datasets.find(conn, NAME)
        assert (frozen.state, frozen.content_hash) == ("frozen", content)
        history.move(
            conn, schema.collection, world.ids["collection1"], "valid", "superseded", actor="op", at=5.0
        )
        assert [str(c.did) for c in datasets.collections(conn, frozen)] == ["p:reco/dst.1"]


def test_a_dataset_after_a_frozen_one_is_its_next_version(world: World) -> None:
    with world.db.begin() as conn:
        datasets.create(conn, NAME, RECO | {"where": "run == 1"}, 1.0)
        first = datasets.freeze(conn, NAME, 2.0)
        second = datasets.create(conn, NAME, RECO, 3.0)
        assert second.version == 2
        assert datasets.freeze(conn, NAME, 4.0) != first
        assert datasets.find(conn, NAME, version=1).content_hash == first
        with pytest.raises(UnknownNameError, match=f"{NAME}@7"):
            datasets.find(conn, NAME, version=7)


def test_a_dataset_does_not_hold_the_same_events_twice(world: World) -> None:
    with world.db.begin() as conn:
        datasets.create(conn, NAME, {"stream": "dst"}, 1.0)
        with pytest.raises(ConflictError, match="the same events twice"):
            datasets.freeze(conn, NAME, 2.0)
        assert datasets.find(conn, NAME).state == "open"


def test_what_a_merge_leaves_out_is_not_in_a_dataset_twice(world: World) -> None:
    """A run that is done again, under another release, lies beside the merge of the runs around it."""
    with world.db.begin() as conn:
        third = {"first_run": 3, "last_run": 3}
        for table, id in ((schema.unit, world.ids["unit2"]), (schema.collection, world.ids["collection2"])):
            conn.execute(sa.update(table).where(table.c.id == id).values(third))
        merged = schema.collection.c.id == world.ids["collection"]
        conn.execute(sa.update(schema.collection).where(merged).values(last_run=3))
        again = dict(conn.execute(sa.select(schema.collection).where(merged)).mappings().one())
        again |= {"id": 99, "name": "merged/dst.2", "first_run": 2, "last_run": 2, "unit_id": None}
        conn.execute(sa.insert(schema.collection).values(again))
        datasets.create(conn, NAME, {"where": "name ~ 'merged*'"}, 1.0)
        assert [str(c.interval) for c in datasets.collections(conn, datasets.find(conn, NAME))] == [
            "A:1..3:9",
            "A:2..2:9",
        ]
        assert datasets.freeze(conn, NAME, 2.0, reason="both", allow_mixed=True)
        conn.execute(sa.update(schema.collection).where(schema.collection.c.id == 99).values(third))
        other = datasets.create(conn, Did.parse("ana:other"), {"where": "name ~ 'merged*'"}, 3.0)
        with pytest.raises(ConflictError, match="A:3..3:9 and A:3..3:9 of stream dst: the same events twice"):
            datasets.freeze(conn, other.did, 4.0)


def test_lineage_goes_both_ways(world: World) -> None:
    with world.db.read() as conn:
        merged = files.show(conn, "p:merged/dst")
        up = files.lineage(conn, merged.id, "ancestors")
        assert [(str(f.did), f.distance) for f in up] == [
            ("p:reco/dst.1", 1),
            ("p:reco/dst.2", 1),
            ("raw:A/1/run1.raw", 2),
            ("raw:A/2/run2.raw", 2),
        ]
        down = files.lineage(conn, world.ids["raw1"], "descendants")
        assert [str(f.did) for f in down] == ["p:reco/dst.1", "p:merged/dst"]
        assert files.lineage(conn, merged.id, "descendants") == []


def test_the_world_balances(world: World) -> None:
    with world.db.read() as conn:
        assert ledger.imbalances(conn, world.ids["reco"]) == []
        assert ledger.imbalances(conn, world.ids["merged"]) == []


@pytest.mark.parametrize("term", ledger.TERMS)
def test_a_planted_miscount_keeps_the_task_from_balancing(world: World, term: str) -> None:
    with world.db.begin() as conn:
        guards.release(conn, "ledger")
        column = schema.ledger.c[term]
        conn.execute(
            sa.update(schema.ledger)
            .where(schema.ledger.c.unit_id == world.ids["unit1"])
            .values({column: column + 1})
        )
        assert ledger.imbalances(conn, world.ids["reco"])
        assert ledger.imbalances(conn, world.ids["merged"]) == []


def test_a_lost_line_and_a_lost_collection_are_named(world: World) -> None:
    with world.db.begin() as conn:
        guards.release(conn, "ledger")
        conn.execute(sa.delete(schema.ledger).where(schema.ledger.c.unit_id == world.ids["unit1"]))
        assert f"unit {world.ids['unit1']} (process) has no line for event/dst" in ledger.imbalances(
            conn, world.ids["reco"]
        )
        conn.execute(
            sa.update(schema.collection)
            .where(schema.collection.c.id == world.ids["collection2"])
            .values(events=8)
        )
        assert ledger.imbalances(conn, world.ids["merged"])
