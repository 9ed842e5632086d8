"""How inputs become units: cut by records and size, several in one, and cut again after a failure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from beamwright import fsck
from beamwright.agents.planner import Planner
from beamwright.cli.main import run as beamwright
from beamwright.core.errors import ConfigError
from beamwright.core.runs import after
from beamwright.db import schema
from beamwright.production import grouping
from beamwright.production.grouping import Part, groups, most_records
from beamwright.production.spec import StepSpec, read_spec
from beamwright.production.splitting import Run
from beamwright.production.units import row_interval
from support.toy_production import SPEC, ToyProduction

CUT = (
    SPEC.replace("split = 25", "by_run = true")
    .replace('path = "bursts"', 'path = "bursts"\nfiles = 3')
    .replace('path = "again"\ninputs = ["reco.dst"]', 'path = "again"\ninputs = ["reco.dst"]\nsplit = 30')
)


def step(**members: Any) -> StepSpec:
    return StepSpec.model_validate({"name": "s", "inputs": ["d"], "path": "p"} | members)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> ToyProduction:
    made = ToyProduction(tmp_path_factory.mktemp("units"), CUT)
    made.produce()
    return made


def units(done: ToyProduction, name: str) -> list[Any]:
    (task,) = done.rows(schema.task, schema.task.c.step == name)
    return done.rows(schema.unit, schema.unit.c.task_id == task.id)


def test_all_of_a_run_makes_one_unit(done: ToyProduction) -> None:
    found = units(done, "reco")
    assert [row.first_run for row in sorted(found, key=lambda row: row.first_run)] == [1, 2, 3]
    assert {row.first_run: len(row.definition["inputs"]) for row in found} == {1: 1, 2: 2, 3: 1}
    assert {row.first_run: row.definition["records"]["event"] for row in found} == {1: 80, 2: 72, 3: 48}


def test_several_chunks_of_several_runs_make_one_unit_where_no_constants_are_read(
    done: ToyProduction,
) -> None:
    found = units(done, "bursts")
    reads = any(row.definition["reads"] for row in found)
    sizes = sorted(len(row.definition["inputs"]) for row in found)
    assert sizes == ([1, 1, 2] if reads else [1, 3])


def test_one_collection_makes_several_units_of_exact_ranges(done: ToyProduction) -> None:
    planned = [row for row in units(done, "skim") if "split_from" not in row.definition]
    found = sorted((row_interval(row), row.definition["records"]) for row in planned)
    by_run: dict[int, list[Any]] = {}
    for interval, records in found:
        by_run.setdefault(interval.first[0], []).append((interval, records["event"]))
    assert {run: [n for _, n in parts] for run, parts in by_run.items()} == {
        1: [30, 30, 20], 2: [30, 30, 12], 3: [30, 18]
    }  # fmt: skip
    for parts in by_run.values():
        assert all(after(a.last) == b.first for (a, _), (b, _) in zip(parts, parts[1:], strict=False))


def test_the_ledger_balances_and_every_invariant_holds_however_it_was_cut(done: ToyProduction) -> None:
    assert {row.state for row in done.rows(schema.task)} == {"closed"}
    assert [str(v) for v in fsck.run(done.workspace.db, done.workspace.root)] == []
    events = {name: n for name, (n, _) in done.collections().items() if name.startswith("merge.dst")}
    assert sum(events.values()) == 200


def test_a_failed_unit_is_cut_in_two_and_its_children_carry_its_range(done: ToyProduction) -> None:
    parent = max(units(done, "skim"), key=lambda row: row.definition["records"]["event"])
    with done.workspace.db.begin() as conn:
        wish = sa.update(schema.job).where(schema.job.c.unit_id == parent.id)
        conn.execute(wish.values(state="failed", wish="split"))
        conn.execute(sa.update(schema.task).values(state="active"))
        conn.execute(sa.update(schema.production).values(finished=None))
    before = {row.id for row in units(done, "skim")}
    Planner(done.workspace, 1, Run()).turn()
    children = sorted((r for r in units(done, "skim") if r.id not in before), key=row_interval)
    assert [row.definition["records"]["event"] for row in children] == [15, 15]
    first, second = (row_interval(row) for row in children)
    whole = row_interval(parent)
    assert (first.first, second.last) == (whole.first, whole.last) and after(first.last) == second.first
    assert {row.definition["split_from"] for row in children} == {parent.key}
    (job,) = done.rows(schema.job, schema.job.c.unit_id == parent.id)
    assert job.state == "split" and job.wish is None


def test_groups_depend_on_the_inputs_alone() -> None:
    parts = [Part(run, size * grouping.MB) for run, size in ((1, 4), (1, 4), (1, 1), (2, 3), (3, 9), (3, 1))]

    def found(is_complete: bool, crosses: bool = True, seen: int = 6, **members: Any) -> list[list[int]]:
        cut = groups(parts[:seen], step(**members), crosses, is_complete)
        return [list(range(6))[one] for one in cut]

    assert found(True, files=2) == [[0, 1], [2, 3], [4, 5]]
    assert found(True, crosses=False, files=2) == [[0, 1], [2], [3], [4, 5]]
    assert found(True, group_mb=8) == [[0, 1], [2, 3, 4], [5]]
    assert found(False, group_mb=8) == [[0, 1], [2, 3, 4]]
    assert found(True, by_run=True) == [[0, 1, 2], [3], [4, 5]]
    for seen in range(1, 6):
        early = found(False, seen=seen, group_mb=8)
        assert early == found(True, group_mb=8)[: len(early)]


def test_a_size_is_turned_into_records() -> None:
    assert most_records(step(split_mb=1), 1000, 10_000_000) == 100
    assert most_records(step(split_mb=1, split=30), 1000, 10_000_000) == 30
    assert most_records(step(split_mb=1e-9), 1000, 10_000_000) == 1
    assert most_records(step(), 1000, 10_000_000) is None


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("split = 5\nfiles = 2", "both splits"),
        ("split = 0", "it is 1 or more"),
        ("by_run = 3", "by_run"),
    ],
)
def test_an_impossible_split_is_refused_when_the_file_is_read(tmp_path: Path, more: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_spec(SPEC.replace("split = 25", more), "toy.toml")
    with pytest.raises(ConfigError, match="only `process` steps"):
        read_spec(SPEC.replace("target_mb = 1000", "split = 5"), "toy.toml")


def test_a_dry_run_prints_the_jobs_that_would_be_made_and_makes_none(
    done: ToyProduction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "other.toml"
    more = '\n[[step]]\nname = "more"\npath = "bursts"\ninputs = ["raw"]\nsplit = 20\n'
    file.write_text(CUT.replace("freeze = true", "freeze = false") + more)
    monkeypatch.chdir(done.workspace.root)
    before = {t.name: done.rows_of(t) for t in schema.metadata.sorted_tables}
    snapshots = set((done.workspace.root / "snapshots").iterdir())
    assert beamwright(["produce", str(file), "--dry-run", "--json"]) == 0
    found = [row for row in json.loads(capsys.readouterr().out)["jobs"] if row["step"] == "more"]
    records = {len(row["inputs"]) for row in found}
    assert len(found) >= 4 and records == {1} and {row["kind"] for row in found} == {"process"}
    assert beamwright(["produce", str(file), "--dry-run"]) == 0
    assert "more" in capsys.readouterr().out
    file.write_text(file.read_text() + 'farms = ["near", "neer"]\n')
    assert beamwright(["produce", str(file), "--dry-run"]) == 2
    assert "step 'more' may run at 'neer'" in (said := capsys.readouterr().err) and "mean near?" in said
    assert beamwright(["produce", str(file)]) == 2
    assert "'neer', which is no farm" in capsys.readouterr().err
    assert {t.name: done.rows_of(t) for t in schema.metadata.sorted_tables} == before
    assert set((done.workspace.root / "snapshots").iterdir()) == snapshots


RAW, STORED = 'inputs = ["raw"]\npath = "plain"', 'inputs = ["reco.dst"]\npath = "again"'
MADE = 'kind = "generate"\ninputs = ["raw"]\npath = "free"'


@pytest.mark.parametrize(
    ("step_text", "records", "inputs"),
    [
        (f"{RAW}\nsplit = 20", [20, 20, 20, 20, 20, 20, 20, 12, 20, 20, 8], {1}),  # events
        (f"{RAW}\nsplit_mb = 0.0004", range(5, 20), {1}),  # size
        (f"{RAW}\nfiles = 2", range(2, 3), {2}),  # files
        (f"{RAW}\nby_run = true", [80, 72, 48], {1, 2}),  # runs
        (f"{RAW}\ngroup_mb = 100", [200], {4}),  # many small ones in one unit
        (f"{STORED}\nsplit = 50", [50, 30, 50, 22, 48], {1}),  # entry ranges inside one collection
        (f"{STORED}\nsplit_mb = 0.002", range(5, 30), {1}),
        (f"{STORED}\nfiles = 3", range(1, 2), {3}),  # several collections per unit
        (
            f"{MADE}\nsplit = 30\nrequest = {{ events = 50 }}",
            [30, 20, 28, 22, 30, 20],
            {0},
        ),  # generation, chunk by chunk
    ],
    ids=["events", "size", "files", "runs", "grouping", "entries", "size of entries", "inputs", "seeds"],
)
def test_a_dry_run_shows_what_every_way_of_cutting_makes(
    done: ToyProduction, tmp_path: Path, capsys: pytest.CaptureFixture[str], step_text: str,
    records: list[int] | range, inputs: set[int],
) -> None:  # fmt: skip
    file = tmp_path / "more.toml"
    file.write_text(CUT.replace("freeze = true", "") + f'\n[[step]]\nname = "extra"\n{step_text}\n')
    where = ["-w", str(done.workspace.root)]
    assert beamwright(["produce", str(file), "--dry-run", "--json", *where]) == 0
    told = json.loads(capsys.readouterr().out)["jobs"]
    jobs = sorted((job for job in told if job["step"] == "extra"), key=lambda job: job["interval"])
    found = [job["records"] for job in jobs]
    if isinstance(records, range):
        assert len(jobs) in records
    else:
        assert sorted(found) == sorted(records)
    if None not in found:
        assert sum(found) == (150 if "generate" in step_text else 200)
    assert {len(job["inputs"]) for job in jobs} <= inputs and max(
        len(job["inputs"]) for job in jobs
    ) in inputs
    assert len({job["seed"] for job in jobs}) == len(jobs)
    assert len({job["interval"] for job in jobs}) == len(jobs)
    if "generate" in step_text:
        assert beamwright(["produce", str(file), "--dry-run", *where]) == 0
        shown = capsys.readouterr().out
        assert all(str(job["seed"]) in shown for job in jobs)
