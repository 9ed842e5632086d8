"""Generation, run by run: what is requested is created or has failed by name; seeds and bytes are fixed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from beamwright import fsck
from beamwright.agents.planner import Planner
from beamwright.catalog import ledger
from beamwright.cli.main import run as beamwright
from beamwright.core.errors import ProductionFailedError
from beamwright.db import schema
from beamwright.event.collection import CollectionReader
from beamwright.event.metadata import read_metadata
from beamwright.production.splitting import Run
from beamwright.production.workspace import Workspace
from support.toy_production import SPEC, ToyProduction

HEAD = SPEC.partition('[[step]]\nname = "reco"')[0].replace("freeze = true", "freeze = false")
GENERATE = """
[[step]]
name = "generate"
kind = "generate"
inputs = ["raw"]
path = "gun"
split = 15
request = { events = 40 }
"""
REST = """
[[step]]
name = "simreco"
path = "reco"
inputs = ["generate.mc"]

[[step]]
name = "merge"
kind = "merge"
inputs = ["generate.mc", "simreco.dst"]
target_mb = 1000
"""
FREE = """
name = "free"
experiment = "support.toy_production:experiment"

[[dataset]]
name = "simulated"
runs = { A = [1, 2] }
global_tag = "free"
is_mc = true

[[step]]
name = "generate"
kind = "generate"
inputs = ["simulated"]
path = "free"
split = 10
request = { events = 25 }
"""


def units(made: ToyProduction) -> list[Any]:
    return made.rows(schema.unit, schema.unit.c.kind == "generate")


def files(made: ToyProduction, step: str, stream: str) -> list[Path]:
    file, replica = schema.file, schema.replica
    query = sa.select(replica.c.path).join(file, replica.c.file_id == file.c.id)
    with made.workspace.db.read() as conn:
        mine = file.c.name.startswith(f"{step}.{stream}/")
        return [Path(path) for path in conn.execute(query.where(mine).order_by(file.c.name)).scalars()]


def task_id(made: ToyProduction, step: str) -> int:
    return int(made.rows(schema.task, schema.task.c.step == step)[0].id)


def totals(made: ToyProduction, step: str) -> list[dict[str, Any]]:
    with made.workspace.db.read() as conn:
        return ledger.totals(conn, task_id(made, step))


@pytest.fixture(params=["sqlite", "postgresql"])
def done(request: pytest.FixtureRequest, tmp_path: Path) -> ToyProduction:
    """Pass 1 on data, events generated under its constants, reconstructed like data, merged."""
    text = HEAD + GENERATE.replace('path = "gun"', 'path = "gun"\nparameters = { Gun = { bad = 7 } }') + REST
    made = ToyProduction(tmp_path, text)
    if request.param == "postgresql":
        target = request.getfixturevalue("postgresql_new").set(drivername="postgresql")
        made.workspace.db.close()
        root = made.workspace.root
        assert beamwright(["db", "move", target.render_as_string(), "-w", str(root)]) == 0
        made.workspace = Workspace.open(root)
    made.produce()
    return made


def test_events_are_generated_reconstructed_and_merged_run_by_run(
    done: ToyProduction, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {row.state for row in done.rows(schema.task)} == {"closed"}
    (line,) = totals(done, "generate")
    named = ("kind", "requested", "created", "written", "quarantined", "read", "balanced")
    assert [line[name] for name in named] == ["simulation", 120, 117, 117, 3, 0, True]
    failed = {(q.run, q.event, q.error) for q in done.rows(schema.quarantine)}
    assert failed == {(run, 7, "ArithmeticError: no such event can be") for run in (1, 2, 3)}
    assert {row["kind"] for row in totals(done, "simreco")} == {"simulation"}
    merged = [c for c in done.rows(schema.collection) if c.name.startswith("merge.mc/")]
    assert [(c.events, c.is_mc, c.tier) for c in merged] == [(117, True, "mc")]
    assert [str(v) for v in fsck.run(done.workspace.db, done.workspace.root, deep=True)] == []
    check_conditions(done)
    check_seeds(done)
    check_shown(done, capsys)


def check_conditions(done: ToyProduction) -> None:
    """The charge shows the gain that pass 1 found for the run; the reconstruction takes it out again."""
    gains = {}
    for path in files(done, "generate", "mc"):
        with CollectionReader([path]) as reader:
            batch = reader.read("event", np.arange(len(reader.index("event"))))
            ratio = batch["Hit"].charge.reshape(-1, 2)[:, 0] / batch["Header"].energy
            gains.setdefault(batch.run, set()).update(np.round(ratio.astype(float), 5).tolist())
            assert read_metadata(path).lineage.is_mc
    assert sorted(gains) == [1, 2, 3] and len(set.union(*gains.values())) == 4  # run 2 has two chunks
    assert all(1.1 < gain < 1.4 for gain in set.union(*gains.values()))


def check_seeds(done: ToyProduction) -> None:
    """Each unit records its seed, its file has it, and the database lets no other unit have it."""
    seeds = {unit.id: unit.definition["seeds"]["job"] for unit in units(done)}
    assert len(set(seeds.values())) == len(seeds) >= 9
    kept = done.rows_of(schema.generation_seed)
    assert {(row.unit_id, row.seed) for row in kept} == set(seeds.items())
    assert {read_metadata(p).lineage.seeds["job"] for p in files(done, "generate", "mc")} == set(
        seeds.values()
    )
    taken = {"generator": kept[0].generator, "seed": kept[0].seed, "unit_id": 1}
    with pytest.raises(sa.exc.IntegrityError), done.workspace.db.begin() as conn:
        conn.execute(sa.insert(schema.generation_seed).values(taken))


def check_shown(done: ToyProduction, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["-w", str(done.workspace.root), "--json"]
    assert beamwright(["task", "show", "toy/generate", *where]) == 0
    shown = json.loads(capsys.readouterr().out)["generated"]
    assert {n: shown[n] for n in ("planned", "requested", "created")} == {
        "planned": 120, "requested": 120, "created": 117
    }  # fmt: skip
    assert shown["failed"] == {"ArithmeticError": 3}
    assert beamwright(["task", "show", "toy/generate", *where[:2]]) == 0
    assert "created    117\n" in capsys.readouterr().out
    assert [row["key"] for row in shown["failures"]] == ["A:1:1:7", "A:2:1:7", "A:3:1:7"]


def test_another_number_of_workers_and_a_rerun_give_the_same_bytes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one, two = (
        ToyProduction(tmp_path / "one", FREE, given=[]),
        ToyProduction(tmp_path / "two", FREE, given=[]),
    )
    one.given = two.given = []
    one.produce()
    two.produce(workers=2)
    assert one.collections() == two.collections() and len(units(one)) == 6
    where = ["-w", str(one.workspace.root), "--json"]
    unit = units(one)[3].key
    capfd.readouterr()
    assert beamwright(["job", "rerun", unit, "--here", str(tmp_path / "again"), *where]) == 0
    assert json.loads(capfd.readouterr().out)["outputs"] == {"mc": "equal", "histograms": "equal"}
    assert [str(v) for v in fsck.run(one.workspace.db, one.workspace.root)] == []
    with CollectionReader(files(one, "generate", "mc")) as reader:
        index = reader.index("event")
        assert [(int(r), int(e)) for r, e in zip(index.run, index.event, strict=True)] == [
            (run, event) for run in (1, 2) for event in range(25)
        ]
        assert len(set(reader.read("event", np.arange(25))["Header"].energy.tolist())) == 25
    check_smaller(one)


def check_smaller(made: ToyProduction) -> None:
    """A unit that is to become smaller is cut in two; each makes its part, with a seed of its own."""
    parent = units(made)[0]
    with made.workspace.db.begin() as conn:
        wish = sa.update(schema.job).where(schema.job.c.unit_id == parent.id)
        conn.execute(wish.values(state="failed", wish="split"))
        conn.execute(sa.update(schema.task).values(state="active"))
        conn.execute(sa.update(schema.production).values(finished=None))
    Planner(made.workspace, 1, Run()).turn()
    parts = [unit for unit in units(made) if unit.definition.get("split_from") == parent.key]
    assert [unit.definition["request"]["keys"] for unit in parts] == [[[0, 0, 5]], [[0, 5, 5]]]
    assert len({unit.definition["seeds"]["job"] for unit in [parent, *parts]}) == 3


PROGRAM = """import sys
_, seed, events, output = sys.argv
import json, random
stream = random.Random(int(seed))
keys = [[0, 1000 + i] for i in range(int(events)) if stream.random() < 2 and i != 3]
json.dump({"series": "A", "run": 1, "records": {"event": keys}}, open(output, "w"))
"""


def test_a_program_makes_events_and_those_that_it_leaves_out_have_failed_by_name(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = ["{python}", str(program), "{seed}", "{events}", "{output}"]
    request = f'{{ events = 12, command = {json.dumps(command)}, reader = "toy" }}'
    text = FREE.replace('path = "free"', 'path = "take"').replace("{ events = 25 }", request)
    made = ToyProduction(tmp_path, text.replace("[1, 2]", "[1]"))
    made.given = []
    made.produce()
    (line,) = totals(made, "generate")
    assert [line[name] for name in ("requested", "created", "quarantined")] == [12, 11, 1]
    assert [(q.event, q.error) for q in made.rows(schema.quarantine)] == [
        (9, "NotGenerated: the generator did not make this record")
    ]
    with CollectionReader(files(made, "generate", "mc")) as reader:
        assert reader.index("event").event.tolist() == [*range(9), 10, 11]
    assert [str(v) for v in fsck.run(made.workspace.db, made.workspace.root)] == []
    program.write_text("raise SystemExit(3)")
    again = ToyProduction(tmp_path / "again", text)
    again.given = []
    with pytest.raises(ProductionFailedError, match="application_error: the generator .* exit code 3"):
        again.produce()
