"""A configuration changes: what is done stays, what is missing or asked for is done under the new one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from beamwright import fsck
from beamwright.catalog import ledger
from beamwright.cli.main import run as beamwright
from beamwright.core.errors import StateError
from beamwright.core.runs import Interval
from beamwright.db import lookup, schema
from beamwright.db.engine import Database
from beamwright.production import counting, tasks
from beamwright.production.spec import ProductionSpec, read_spec
from beamwright.production.tasks import Facts
from beamwright.production.units import UnitPlan, add_units
from support.toy_production import RECO, SMALL, SPEC, ToyProduction, whole_runs

OPEN = SPEC.replace("freeze = true", "freeze = false")
OTHER = OPEN.replace('path = "reco"', 'path = "reco"\nseed = 7')
FACTS = {name: Facts("event", {"dst": "dst"}) for name in ("pass1", "reco", "bursts", "skim", "merge")}


def versions(done: ToyProduction, state: str) -> dict[str, list[int]]:
    """Return the configuration versions of the collections in a state, by step."""
    task, unit, collection = schema.task, schema.unit, schema.collection
    query = sa.select(task.c.step, unit.c.config_version).join(unit, unit.c.task_id == task.c.id)
    query = query.join(collection, collection.c.unit_id == unit.c.id).where(collection.c.state == state)
    found: dict[str, list[int]] = {}
    with done.workspace.db.read() as conn:
        for step, version in conn.execute(query.order_by(unit.c.id)):
            found.setdefault(step, []).append(version)
    return found


def test_finished_work_stays_until_it_is_asked_for_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = ToyProduction(tmp_path, OPEN)
    done.produce()
    once = versions(done, "valid")
    done.text = OTHER
    done.produce()
    assert versions(done, "valid") == once and set(once["reco"]) == {1}
    with done.workspace.db.read() as conn:
        task = lookup.find_task(conn, "toy/reco")
        assert task.config_version == 2
        assert [row["config_version"] for row in counting.composition(conn, task.id)] == [1]
    monkeypatch.chdir(done.workspace.root)
    assert beamwright(["task", "redo", "toy/reco", "--run", "A/3", "--reason", "a better seed"]) == 0
    done.produce()
    with done.workspace.db.read() as conn:
        mixed = [row["config_version"] for row in counting.composition(conn, task.id)]
    assert mixed == [1, 2]
    assert beamwright(["task", "redo", "toy/reco", "--reason", "a better seed"]) == 0
    done.produce()
    again = versions(done, "valid")
    for step in ("reco", "skim", "bursts"):
        assert len(again[step]) == len(once[step])
    assert set(again["reco"]) == {2} and set(again["bursts"]) == {1}
    assert {row.state for row in done.rows(schema.task)} == {"closed"}
    assert [str(v) for v in fsck.run(done.workspace.db, done.workspace.root)] == []
    assert beamwright(["task", "redo", "toy/reco", "--reason", "again"]) == 0
    assert "there are none" in capsys.readouterr().err
    assert beamwright(["task", "redo", "toy/reco", "--reason", "again", "--run", "3"]) == 2


MERGE = """
[[step]]
name = "merge"
kind = "merge"
inputs = ["reco.dst"]
target_mb = 1000
"""
MORE = """
[[dataset]]
name = "more"
runs = { A = [3] }
global_tag = "toy-real"
"""


def test_a_dataset_that_is_added_is_worked_on_and_nothing_else_is_done_again(tmp_path: Path) -> None:
    done = ToyProduction(tmp_path, SMALL + RECO + MERGE, given=whole_runs(tmp_path, 1, 2))
    done.produce()
    assert {row.state for row in done.rows(schema.task)} == {"closed"}
    before = {(row.key, row.id) for row in done.rows(schema.unit)}
    attempts = len(done.rows(schema.attempt))

    done.text = (
        (SMALL + RECO + MERGE)
        .replace("[[step]]", f"{MORE}\n[[step]]", 1)
        .replace('["raw"]', '["raw", "more"]')
    )
    done.given = whole_runs(tmp_path, 3)
    done.produce()
    new = [row for row in done.rows(schema.unit) if (row.key, row.id) not in before]
    assert before <= {(row.key, row.id) for row in done.rows(schema.unit)}
    assert {row.first_run for row in new if row.kind != "merge"} == {3}
    assert len(done.rows(schema.attempt)) == attempts + len(new)
    assert set(versions(done, "valid")["reco"]) == {1}
    merged = [row for row in done.rows(schema.collection) if row.name.startswith("merge.dst")]
    assert sum(row.events for row in merged if row.state == "valid") == 3 * 64
    assert {row.state for row in done.rows(schema.task)} == {"closed"}
    assert [str(v) for v in fsck.run(done.workspace.db, done.workspace.root)] == []


def test_what_was_not_done_of_a_chunk_is_planned_again_beside_what_was(tmp_path: Path) -> None:
    made = ToyProduction(tmp_path, OPEN.replace("split = 25", "split = 10"))
    unit, job = schema.unit, schema.job
    states = sa.select(job.c.state).join(unit, job.c.unit_id == unit.c.id).join(schema.task)

    def stop(_done: int) -> None:
        with made.workspace.db.read() as conn:
            mine = (schema.task.c.step == "reco", unit.c.first_run == 1)
            found = list(conn.execute(states.where(*mine)).scalars())
        if found.count("ok") >= 2 and len(set(found)) > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.produce(on_turn=stop)
    made.text = OTHER.replace("split = 25", "split = 15")
    made.produce()
    assert {row.state for row in made.rows(schema.task)} == {"closed"}
    assert set(versions(made, "valid")["reco"]) == {1, 2}
    with made.workspace.db.read() as conn:
        (line,) = [row for row in ledger.totals(conn, _task(made, "reco")) if row["stream"] == "dst"]
    assert (line["read"], line["balanced"]) == (200, True)
    assert [str(v) for v in fsck.run(made.workspace.db, made.workspace.root)] == []


def _task(made: ToyProduction, step: str) -> int:
    return int(made.rows(schema.task, schema.task.c.step == step)[0].id)


def spec(text: str, **members: Any) -> ProductionSpec:
    read = read_spec(text, "toy.toml")
    return ProductionSpec.model_validate(read.model_dump() | members)


def begun(conn: sa.Connection, state: str, **members: Any) -> int:
    """Start a production with one unit of its second step in a state; return the id of the unit's job."""
    production = tasks.start(conn, spec(OPEN, constants=[], **members), FACTS, "sha256:a", 0.0)
    task = tasks.plan(conn, production).tasks["reco"]
    definition = {"inputs": [], "streams": {}, "limits": {}}
    add_units(conn, task, [UnitPlan("process", Interval.sections("A", 1), "event", definition)], 0.0)
    conn.execute(sa.update(schema.job).values(state=state))
    return int(conn.execute(sa.select(schema.job.c.id)).scalar_one())


@pytest.mark.parametrize("state", ["prepared", "failed", "held", "running"])
def test_what_is_not_done_is_planned_under_the_new_configuration(database: Database, state: str) -> None:
    with database.begin() as conn:
        job = begun(conn, state)
        tasks.start(conn, spec(OTHER, constants=[]), FACTS, "sha256:a", 1.0)
        row = conn.execute(sa.select(schema.job.c.state).where(schema.job.c.id == job)).one()
    assert row.state == "superseded"


def test_rules_and_cuts_are_no_new_configuration(database: Database) -> None:
    with database.begin() as conn:
        job = begun(conn, "prepared")
        more = 'split = 5\nscouts = 1\npriority = 9\nretry = [{ action = "hold" }]'
        changed = OPEN.replace("split = 25", more)
        tasks.start(conn, spec(changed, constants=[]), FACTS, "sha256:a", 1.0)
        row = conn.execute(sa.select(schema.job).where(schema.job.c.id == job)).one()
    assert (row.state, row.priority) == ("prepared", 9)


def test_a_step_on_a_withdrawn_dataset_is_refused(database: Database) -> None:
    with database.begin() as conn:
        begun(conn, "ok")
        values = {"scope": "toy", "name": "reco.dst", "version": 1, "state": "withdrawn", "query": {}}
        conn.execute(sa.insert(schema.dataset).values(values | {"created": 0.0}))
        more = '\n[[step]]\nname = "late"\npath = "again"\ninputs = ["reco.dst"]\n'
        with pytest.raises(StateError, match="toy:reco.dst, which was withdrawn"):
            facts = FACTS | {"late": Facts("event", {"skim": "skim"})}
            tasks.start(conn, spec(OPEN + more, constants=[]), facts, "sha256:a", 1.0)


def test_a_uniform_production_refuses_a_change_that_would_mix(database: Database) -> None:
    with database.begin() as conn:
        begun(conn, "ok", uniform=True)
        with pytest.raises(StateError, match="is uniform, and step reco has done 1 unit"):
            tasks.start(conn, spec(OTHER, constants=[], uniform=True), FACTS, "sha256:a", 1.0)


def test_a_uniform_production_that_has_done_nothing_may_change(database: Database) -> None:
    with database.begin() as conn:
        begun(conn, "prepared", uniform=True)
        tasks.start(conn, spec(OTHER, constants=[], uniform=True), FACTS, "sha256:a", 1.0)
        assert conn.execute(sa.select(schema.job.c.state)).scalar_one() == "superseded"
