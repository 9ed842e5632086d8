"""Analyses: an analyst's own code over a dataset, in a scope of their own, gathered, within a quota."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from beamwright.agents.analysing import Analyse, prepare
from beamwright.catalog import datasets, ledger
from beamwright.cli.main import run as main
from beamwright.core.did import Did
from beamwright.core.errors import (
    ChecksumError,
    ConfigError,
    ProductionFailedError,
    UnknownNameError,
    UsageError,
)
from beamwright.core.histogram import HistogramSet
from beamwright.core.settings import Analyses, Analyst
from beamwright.db import history, schema
from beamwright.event.collection import CollectionReader
from beamwright.fsck import registry
from beamwright.production import analyses, fairness, sandboxes, tasks
from beamwright.production.spec import read_spec
from beamwright.production.units import row_interval
from support.toy_production import SPEC, ToyProduction

PLAIN = (
    SPEC[: SPEC.index("[[step]]")].replace("freeze = true", "")
    + """
[[step]]
name = "reco"
path = "plain"
inputs = ["raw"]
split = 25
"""
)
FILE = """
name = "widths"
scope = "{scope}"
experiment = "support.toy_production:experiment"
dataset = "toy:reco.dst"
code = "code"
path = "widths:path"
files = 2

[parameters.Widths]
least = 4.0

[output.histograms]
kind = "histograms"
[output.table]
kind = "parquet"
[output.bright]
kind = "events"
"""
CODE = """
from beamwright.core.histogram import Axis
from beamwright.event.module import Module, Parameter
from beamwright.event.path import Output, Path


class Widths(Module):
    reads = ("Sum",)
    least = Parameter(1.0, "GeV", "energy of a bright event")

    def book(self, histograms):
        self.sums = histograms.book("sums", Axis(20, 0.0, 40.0))

    def process(self, batch):
        batch.fill(self.sums, batch["Sum"].energy)
        batch.select(batch["Sum"].energy > self.least, "bright")


def path():
    return Path("widths", "event", [Widths()], [
        Output("table", ["Sum"]), Output("bright", ["Sum"], select="bright"), Output("spare", ["Sum"]),
    ])
"""


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> ToyProduction:
    """A finished production."""
    made = ToyProduction(tmp_path_factory.mktemp("analyses"), PLAIN)
    made.given = [replace(one, after="") for one in made.given]
    made.produce()
    return made


@dataclass
class Study:
    """An analyst with an analysis file and code beside the production's workspace."""

    toys: ToyProduction
    scope: str
    text: str = FILE
    code: str = CODE

    def write(self) -> Path:
        folder = self.toys.root / self.scope
        (folder / "code").mkdir(parents=True, exist_ok=True)
        (folder / "code" / "widths.py").write_text(self.code)
        (folder / "widths.toml").write_text(self.text.replace("{scope}", self.scope))
        return folder / "widths.toml"

    def run(self) -> Analyse:
        analysis = prepare(self.toys.workspace, self.write())
        analysis.run()
        return analysis


def sums(paths: list[str]) -> np.ndarray:
    with CollectionReader([Path(path) for path in paths]) as reader:
        parts = [batch["Sum"].energy for batch in reader.batches(["Sum"])]
    return np.concatenate(parts)


def stored(toys: ToyProduction, scope: str, stream: str) -> list[str]:
    collection, link, replica = schema.collection, schema.collection_file, schema.replica
    query = (
        sa.select(replica.c.path)
        .join(link, link.c.file_id == replica.c.file_id)
        .join(collection, link.c.collection_id == collection.c.id)
        .where(collection.c.scope == scope, collection.c.stream == stream)
        .order_by(collection.c.first_run, collection.c.first_section, collection.c.first_event)
    )
    with toys.workspace.db.read() as conn:
        return list(conn.execute(query).scalars())


def user_scopes(toys: ToyProduction) -> set[str]:
    """Return the scopes of the files that analyses made."""
    return {row.scope for row in toys.rows(schema.file, schema.file.c.tier == "user")}


def test_an_analysis_gives_what_its_code_finds_in_the_data(toys: ToyProduction) -> None:
    study = Study(toys, "user.ada")
    before = user_scopes(toys)
    analysis = study.run()
    truth = sums(stored(toys, "toy", "dst"))
    found = {row["stream"]: row for row in analyses.written(toys.workspace, analysis.spec.name)}
    histograms = HistogramSet.from_bytes(Path(found["histograms"]["path"]).read_bytes())
    assert histograms["sums"].entries == len(truth)
    assert histograms["sums"].values.tolist() == np.histogram(truth, 20, (0.0, 40.0))[0].tolist()
    table = pq.read_table(found["table"]["path"])
    assert len(table) == found["table"]["events"] == len(truth)
    energies = np.array([row["energy"] for row in table["Sum"].to_pylist()], np.float32)
    assert np.array_equal(energies, truth)
    bright = sums(stored(toys, "user.ada.widths", "bright"))
    assert np.array_equal(bright, truth[truth > 4.0])

    assert len(toys.rows(schema.unit, schema.unit.c.kind == "analyse")) > 1
    with toys.workspace.db.read() as conn:
        (task,) = tasks.plan(conn, analysis.production_id).tasks.values()
        assert task.state == "closed"
        assert ledger.imbalances(conn, task.id) == []
    assert user_scopes(toys) - before == {"user.ada.widths"}

    done = len(toys.rows(schema.attempt))
    study.run()
    assert len(toys.rows(schema.attempt)) == done  # nothing is done again
    study.code = CODE.replace("20, 0.0, 40.0", "10, 0.0, 40.0")
    study.run()
    (newest,) = [
        row for row in analyses.written(toys.workspace, analysis.spec.name) if row["stream"] == "histograms"
    ]
    assert len(HistogramSet.from_bytes(Path(newest["path"]).read_bytes())["sums"].values) == 10
    problems = registry.run(toys.workspace.db, toys.workspace.root, deep=True)
    assert [one for one in problems if one.invariant != 24] == []


def test_nothing_of_an_analysis_enters_what_productions_read(toys: ToyProduction) -> None:
    Study(toys, "user.cyd").run()
    with toys.workspace.db.begin() as conn:
        whole = datasets.create(conn, Did("toy", "all"), {"stream": "bright"}, 0.0)
        assert datasets.collections(conn, whole) == []
        with pytest.raises(UsageError, match=r"user\.cyd\.widths made: it belongs to user\.cyd"):
            datasets.create(conn, Did("toy", "mine"), {"production": "user.cyd.widths"}, 0.0)
        with pytest.raises(UsageError, match=r"belongs to user\.cyd"):
            datasets.create(conn, Did("user.bob.x", "hers"), {"production": "user.cyd.widths"}, 0.0)
        own = datasets.create(conn, Did("user.cyd.x", "own"), {"production": "user.cyd.widths"}, 0.0)
        assert datasets.collections(conn, own)
    with pytest.raises(ConfigError, match=r"'user\.cyd\.widths' is a name in the scope of an analyst"):
        read_spec(PLAIN.replace('name = "toy"', 'name = "user.cyd.widths"', 1), "x.toml")
    with pytest.raises(ConfigError, match=r"reads 'user\.cyd\.widths:bright', which belongs to an analyst"):
        read_spec(PLAIN.replace('inputs = ["raw"]', 'inputs = ["user.cyd.widths:bright"]', 1), "x.toml")


def test_who_reaches_the_quota_is_stopped_by_name(toys: ToyProduction) -> None:
    settings = toys.workspace.settings
    small = Analyses(scope={"user.dan": Analyst(quota_gb=1e-8)})
    toys.workspace.settings = settings.model_copy(update={"analyses": small})
    with pytest.raises(ProductionFailedError, match=r"outputs of user\.dan take .* the quota is 1e-08 GB"):
        Study(toys, "user.dan").run()
    with toys.workspace.db.begin() as conn:
        assert analyses.stored(conn, "user.dan") > 10
        held = sa.select(schema.task).where(schema.task.c.kind == "analyse", schema.task.c.state == "held")
        row = conn.execute(held).one()
        history.move(conn, schema.task, row.id, "held", "active", actor="ada", reason="raised", at=1.0)
    toys.workspace.settings = settings
    Study(toys, "user.dan").run()


def test_code_and_outputs_that_do_not_fit_are_refused_before_any_job(toys: ToyProduction) -> None:
    with pytest.raises(UnknownNameError, match="tabel"):
        Study(toys, "user.eve", FILE.replace("[output.table]", "[output.tabel]")).run()
    with pytest.raises(UnknownNameError, match="dts"):
        Study(toys, "user.eve", FILE.replace("toy:reco.dst", "toy:reco.dts")).run()
    with pytest.raises(ConfigError, match="'bright' cannot be histograms"):
        Study(toys, "user.eve", FILE.replace('kind = "events"', 'kind = "histograms"')).run()
    with pytest.raises(ConfigError, match="nothing_like_it"):
        Study(toys, "user.eve", code="import nothing_like_it\n").run()
    (toys.root / "user.eve" / "code" / "numpy.py").write_text("")
    with pytest.raises(UsageError, match="hide the installed module numpy"):
        Study(toys, "user.eve").run()
    assert not [row for row in toys.rows(schema.file) if row.scope.startswith("user.eve")]


def test_a_sandbox_is_named_by_its_content_and_nothing_else_is_run(tmp_path: Path) -> None:
    code = tmp_path / "code"
    (code / "pkg").mkdir(parents=True)
    (code / "pkg" / "__init__.py").write_text("x = 1\n")
    (code / "__pycache__").mkdir()
    first = sandboxes.keep(tmp_path, sandboxes.pack(code))
    (code / "__pycache__" / "pkg.pyc").write_text("noise")
    assert sandboxes.keep(tmp_path, sandboxes.pack(code)) == first
    (code / "pkg" / "__init__.py").write_text("x = 2\n")
    assert sandboxes.keep(tmp_path, sandboxes.pack(code)) != first
    sandboxes.unpack(Path(first["path"]), first["sha256"], tmp_path / "out")
    assert (tmp_path / "out" / "pkg" / "__init__.py").read_text() == "x = 1\n"
    with pytest.raises(ChecksumError, match="not what was kept"):
        sandboxes.unpack(Path(first["path"]), "0" * 64, tmp_path / "other")


def test_slots_are_shared_between_productions_and_analysts() -> None:
    settings = Analyses(share=0.25, scope={"user.bob": Analyst(weight=2.0)})
    owners = ["", "user.ada", "user.bob"]
    shares = fairness.weights(owners, settings)
    assert shares == {"": 0.75, "user.ada": 0.25 / 3, "user.bob": 0.5 / 3}
    queues = {name: [(name, n) for n in range(100)] for name in owners}
    turns = fairness.order(queues, {}, shares)
    first = [name for name, _ in turns[:36]]
    assert [first.count(name) for name in owners] == [27, 3, 6]
    assert [n for name, n in turns if name == ""] == list(range(100))
    late = [name for name, _ in fairness.order(queues, {"": 30}, shares)[:8]]
    assert "" not in late  # productions have more than their share already
    assert fairness.order({"user.ada": [1, 2]}, {}, fairness.weights(["user.ada"], settings)) == [1, 2]
    assert json.dumps(turns) == json.dumps(fairness.order(queues, {}, shares))


def test_the_commands_know_an_analysis(toys: ToyProduction, capsys: pytest.CaptureFixture[str]) -> None:
    study = Study(toys, "user.fay")
    study.run()
    where = ["--workspace", str(toys.workspace.root)]
    file = toys.root / "user.fay" / "widths.toml"

    def told(*words: str) -> str:
        capsys.readouterr()
        assert main([*words, *where]) == 0
        return capsys.readouterr().out

    (unit, *_) = toys.rows(schema.unit, schema.unit.c.kind == "analyse")
    (gathered, *_) = toys.rows(schema.unit, schema.unit.c.kind == "gather")
    assert "user.fay.widths" in told("task", "ls")
    assert "widths" in told("task", "show", "user.fay.widths/widths")
    assert "user.fay.widths" in told("production", "ls")
    assert "analyse" in told("job", "ls")
    assert "widths" in told("explain", unit.key[:12])
    assert "widths" in told("explain", gathered.key[:12])
    assert "near" in told("top", "--once")
    assert "user.fay.widths:widths.bright" in told("dataset", "ls")
    plan = json.loads(told("task", "analyse", str(file), "--dry-run", "--json"))
    assert plan["outputs"]["table"] == "parquet" and plan["jobs"] == []
    assert "user.fay.widths" in told("task", "analyse", str(file))


def test_a_dry_run_prints_the_jobs_of_an_analysis_and_leaves_nothing(
    toys: ToyProduction, capsys: pytest.CaptureFixture[str]
) -> None:
    study = Study(toys, "user.gil")
    file = str(study.write())
    before = toys.rows(schema.production), toys.rows(schema.unit), toys.rows(schema.dataset)
    kept = sorted((toys.workspace.root / sandboxes.FOLDER).glob("*"))
    where = ["--workspace", str(toys.workspace.root)]

    def told(*options: str) -> str:
        capsys.readouterr()
        assert main(["task", "analyse", file, "--dry-run", *options, *where]) == 0
        return capsys.readouterr().out

    plan, text = json.loads(told("--json")), told()
    assert (toys.rows(schema.production), toys.rows(schema.unit), toys.rows(schema.dataset)) == before
    assert sorted((toys.workspace.root / sandboxes.FOLDER).glob("*")) == kept
    planned = [(job["interval"], job["seed"], job["inputs"]) for job in plan["jobs"]]
    assert all(interval in text for interval, *_ in planned)

    analysis = study.run()
    with toys.workspace.db.read() as conn:
        (task,) = tasks.plan(conn, analysis.production_id).tasks.values()
    units = toys.rows(schema.unit, schema.unit.c.task_id == task.id, schema.unit.c.kind == "analyse")
    made = [(str(row_interval(u)), u.definition["seeds"]["job"], u.definition["inputs"]) for u in units]
    names = [(interval, seed, [one["name"] for one in items]) for interval, seed, items in made]
    assert len(planned) >= 2 and sorted(planned) == sorted(names)


BANKS = """
[bank.Brightness]
rows = "one"
doc = "How bright an event is."
[bank.Brightness.columns]
excess = { type = "f4", unit = "GeV" }
"""
OWN = (
    CODE.replace('reads = ("Sum",)', 'reads = ("Sum",)\n    writes = ("Brightness",)')
    .replace("        batch.fill(", '        excess = batch["Sum"].energy - self.least\n        batch.fill(')
    .replace(
        "        batch.select(", '        batch["Brightness"] = {"excess": excess}\n        batch.select('
    )
    .replace('"table", ["Sum"]', '"table", ["Sum", "Brightness"]')
    .replace('"bright", ["Sum"]', '"bright", ["Brightness"]')
)


def test_an_analysis_writes_banks_of_its_own(toys: ToyProduction) -> None:
    study = Study(toys, "user.bea", FILE.replace("[parameters", 'banks = "own.toml"\n[parameters', 1), OWN)
    (toys.root / "user.bea" / "code").mkdir(parents=True)
    bank_file = toys.root / "user.bea" / "code" / "own.toml"
    bank_file.write_text(BANKS)
    analysis = study.run()
    truth = sums(stored(toys, "toy", "dst"))
    found = {row["stream"]: row for row in analyses.written(toys.workspace, analysis.spec.name)}
    table = pq.read_table(found["table"]["path"])["Brightness"].to_pylist()
    assert [row["excess"] for row in table] == (truth - np.float32(4.0)).tolist()
    with CollectionReader([Path(p) for p in stored(toys, "user.bea.widths", "bright")]) as reader:
        excess = np.concatenate([batch["Brightness"].excess for batch in reader.batches(["Brightness"])])
        assert [column.unit for column in reader.declarations["Brightness"].columns] == ["GeV"]
    assert len(excess) == int((truth > 4.0).sum()) and excess.min() > 0
    bank_file.write_text(BANKS.replace("Brightness", "Sum"))
    with pytest.raises(ConfigError, match=r"own.toml declares 'Sum', a bank of the experiment"):
        study.run()
    bank_file.unlink()
    with pytest.raises(ConfigError, match=r"there is no bank file 'own.toml' in the code"):
        study.run()
