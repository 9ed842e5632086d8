"""Merges: the same in whatever order their inputs arrive; one that fails has its bad components redone."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from beamwright import fsck
from beamwright.agents.planner import Planner
from beamwright.db import history, schema
from beamwright.event.store import merge_collections, read_metadata
from beamwright.production.splitting import Run
from beamwright.production.workspace import Workspace
from support.toy_production import SPEC, ToyProduction

SMALL = SPEC.replace("freeze = true", "freeze = false").replace("target_mb = 1000", "target_mb = 0.012")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> ToyProduction:
    made = ToyProduction(tmp_path_factory.mktemp("merges"), SMALL)
    made.produce()
    return made


def forget_merges(workspace: Workspace) -> None:
    """Take the production back to before anything was merged, with nothing of what is merged done."""
    unit, job = schema.unit, schema.job
    with workspace.db.begin() as conn:
        for trigger in conn.execute(
            sa.text("select name from sqlite_master where type = 'trigger'")
        ).scalars():
            conn.execute(sa.text(f'drop trigger "{trigger}"'))
        merges = sa.select(unit.c.id).where(unit.c.kind == "merge")
        written = sa.select(schema.collection.c.id).where(schema.collection.c.unit_id.in_(merges))
        conn.execute(sa.delete(schema.unit_input).where(schema.unit_input.c.unit_id.in_(merges)))
        conn.execute(
            sa.update(schema.collection).where(schema.collection.c.id.in_(written)).values(state="bad")
        )
        conn.execute(sa.update(job).where(job.c.unit_id.in_(merges)).values(state="superseded"))
        old = {"kind": "old", "stream": "old", "key": unit.c.key + "x"}
        conn.execute(sa.update(unit).where(unit.c.kind == "merge").values(old))
        conn.execute(sa.update(schema.task).values(state="active"))
        conn.execute(sa.update(schema.production).values(finished=None))


def arrive(workspace: Workspace, seed: int) -> list[tuple[str, list[str]]]:
    """Let the outputs arrive in a shuffled order, with the planner at work between; return what is merged."""
    unit, job, collection = schema.unit, schema.job, schema.collection
    read = sa.select(unit.c.id).where(unit.c.kind == "process")
    with workspace.db.begin() as conn:
        ids = list(conn.execute(read).scalars())
        conn.execute(sa.update(job).where(job.c.unit_id.in_(ids)).values(state="running"))
        conn.execute(sa.update(collection).where(collection.c.unit_id.in_(ids)).values(state="building"))
    random.Random(seed).shuffle(ids)
    planner = Planner(workspace, 1, Run())
    cuts = sorted(random.Random(seed).sample(range(1, len(ids)), 3))
    for part in (ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)):
        with workspace.db.begin() as conn:
            conn.execute(sa.update(job).where(job.c.unit_id.in_(part)).values(state="ok"))
            mine = sa.update(collection).where(collection.c.unit_id.in_(part))
            conn.execute(mine.values(state="valid"))
            history.record(conn, "job", part[0], "arrived", actor="test", at=0.0)
        planner.turn()
    with workspace.db.read() as conn:
        made = conn.execute(sa.select(unit).where(unit.c.kind == "merge")).all()
    return sorted((row.key, [item["path"] for item in row.definition["inputs"]]) for row in made)


def test_twenty_orders_of_arrival_give_the_same_merges(done: ToyProduction, tmp_path: Path) -> None:
    found = []
    for seed in range(20):
        root = tmp_path / f"order{seed}"
        root.mkdir()
        for name in ("beamwright.toml", "beamwright.db", "secret"):
            shutil.copy(done.workspace.root / name, root / name)
        for name in ("indexes", "snapshots"):
            (root / name).symlink_to(done.workspace.root / name)
        workspace = Workspace.open(root)
        if not seed:
            done.workspace.db.close()  # all of its log is in the file now
            shutil.copy(done.workspace.root / "beamwright.db", root / "beamwright.db")
        forget_merges(workspace)
        found.append(arrive(workspace, seed))
        workspace.db.close()
    assert len(found[0]) > 4
    assert all(merges == found[0] for merges in found)


def test_equal_merges_give_equal_bytes(done: ToyProduction, tmp_path: Path) -> None:
    (row, *_) = done.rows(schema.unit, schema.unit.c.kind == "merge")
    paths = [Path(item["path"]) for item in row.definition["inputs"]]
    lineage = read_metadata(paths[0]).lineage
    written = []
    for name in ("one", "two"):
        merge_collections(paths, tmp_path / name, lineage)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize("how", ["missing", "flipped"])
def test_a_merge_that_fails_names_its_components_and_has_them_made_again(tmp_path: Path, how: str) -> None:
    done = ToyProduction(tmp_path, SPEC.replace("freeze = true", "freeze = false"))
    spoiled: list[str] = []

    def spoil(_: int) -> None:
        """Spoil one collection of the first step when it is there, before it is merged."""
        if spoiled:
            return
        replica, file = schema.replica, schema.file
        query = sa.select(replica.c.path).join(file, replica.c.file_id == file.c.id)
        with done.workspace.db.read() as conn:
            path = conn.execute(query.where(file.c.name.like("bursts.burst/%"))).scalar()
        if path is not None:
            spoiled.append(path)
            data = bytearray(Path(path).read_bytes())
            Path(path).unlink()
            if how == "flipped":
                data[len(data) // 2] ^= 1
                Path(path).write_bytes(bytes(data))

    done.produce(on_turn=spoil)
    assert {row.state for row in done.rows(schema.task)} == {"closed"}
    bad = done.rows(schema.collection, schema.collection.c.state == "bad")
    assert len(bad) == 1
    (merge,) = lost_merges(done)
    with done.workspace.db.read() as conn:
        told = history.of(conn, "job", merge.id)[-1]
    assert told.target == "superseded" and bad[0].name in told.reason
    merged = [row for row in done.rows(schema.collection) if row.name.startswith("merge.burst")]
    assert [row.events for row in merged if row.state == "valid"] == [
        sum(r.events for r in done.rows(schema.collection) if r.stream == "burst" and r.state == "valid")
        - merged[-1].events
    ]
    left = [str(v) for v in fsck.run(done.workspace.db, done.workspace.root, on_storage=False)]
    assert left == []


def lost_merges(done: ToyProduction) -> list[Any]:
    job, unit = schema.job, schema.unit
    merges = [row.id for row in done.rows(unit, unit.c.kind == "merge")]
    return done.rows(job, job.c.unit_id.in_(merges), job.c.state == "superseded")
