"""Reprocessing with a frozen global tag beside prompt processing, and what is not to be mixed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from beamwright.agents.loop import Produce
from beamwright.cli.main import run as command
from beamwright.conditions import tags
from beamwright.core.errors import BeamwrightError, StateError
from beamwright.core.runs import Interval
from beamwright.db import schema
from beamwright.db.engine import Database
from beamwright.fsck import run as fsck
from beamwright.production import interventions, loading, projection, tasks
from beamwright.production.interventions import Why
from beamwright.production.spec import read_spec
from beamwright.production.tasks import Facts
from support import toy_production
from support.toy_production import RECO, SMALL, ToyProduction, whole_runs

PROMPT = SMALL.replace("small", "prompt") + RECO + "split = 30\n"
MORE = PROMPT.replace("[1, 2]", "[1, 2, 3, 4]")
AGAIN = (
    SMALL.partition("[[step]]")[0].replace("small", "again").replace("toy-real", "again-1")
    + RECO
    + "split = 30\n"
)
WHY = Why("shifter", "all is there", 5.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ToyProduction:
    """Two runs promptly processed; then they are reprocessed while two more come in."""
    root = tmp_path_factory.mktemp("again")
    given = whole_runs(root, 1, 2)
    toy = ToyProduction(root, PROMPT, given=given)
    toy.produce()
    with toy.workspace.db.begin() as conn:
        tags.create_global_tag(conn, "again-1", 5.0)
        tags.sweep(conn, "again-1", tags.members(conn, "toy-real"), 5.0)
        loading.freeze(conn, "again-1", WHY)
    more = whole_runs(root, 3, 4)
    experiment = toy_production.experiment
    again = Produce(toy.workspace, read_spec(AGAIN, "again"), experiment)
    Produce(toy.workspace, read_spec(MORE, "prompt"), experiment, 1, more, beside=[again]).run()
    return toy


def rows(toy: ToyProduction, production: str) -> list[sa.Row]:
    unit, task, job, attempt = schema.unit, schema.task, schema.job, schema.attempt
    query = (
        sa.select(unit, task.c.step, attempt.c.started, attempt.c.ended, attempt.c.release)
        .select_from(unit.join(task, unit.c.task_id == task.c.id).join(schema.production))
        .join(job, job.c.unit_id == unit.c.id)
        .join(attempt, sa.and_(attempt.c.job_id == job.c.id, attempt.c.state == "accepted"))
        .where(schema.production.c.name == production)
    )
    with toy.workspace.db.read() as conn:
        return list(conn.execute(query))


def test_both_are_done_and_were_worked_on_at_the_same_time(made: ToyProduction) -> None:
    prompt = [row for row in rows(made, "prompt") if row.first_run > 2]
    again = rows(made, "again")
    assert {row.first_run for row in again} == {1, 2}
    assert min(row.started for row in again) < max(row.ended for row in prompt)
    assert min(row.started for row in prompt) < max(row.ended for row in again)
    assert {row.state for row in made.rows(schema.task)} == {"closed"}
    assert fsck(made.workspace.db, made.workspace.root) == []


def test_a_reprocessing_has_one_release_and_the_constants_of_its_frozen_tag(made: ToyProduction) -> None:
    again = rows(made, "again")
    assert len({row.release for row in again}) == 1
    assert {row.definition["global_tag"] for row in again} == {"again-1"}
    prompt = [row for row in rows(made, "prompt") if row.step == "reco"]
    before = {(row.first_run, row.first_section): row.resolved_hash for row in prompt}
    for row in again:
        assert row.resolved_hash == before[row.first_run, row.first_section]


def test_a_frozen_tag_does_not_follow_the_open_one(made: ToyProduction) -> None:
    third = Interval.sections("A", 3, 0, 7)
    with made.workspace.db.read() as conn:
        assert tags.resolve(conn, "again-1", ["Gain"], third).gaps
        assert not tags.resolve(conn, "toy-real", ["Gain"], third).gaps


def test_freezing_names_every_processed_run_that_would_resolve_otherwise(
    made: ToyProduction, capsys: pytest.CaptureFixture[str]
) -> None:
    toy = made
    with toy.workspace.db.begin() as conn:
        place = interventions.locate(conn, "A", 3, production="prompt")
        interventions.skip_back(conn, place, WHY)
    changed = MORE.replace('["GainFit"]', '["GainFit"]\nprescale = { event = 2 }')
    Produce(toy.workspace, read_spec(changed, "prompt"), toy_production.experiment, 1).run()
    with toy.workspace.db.begin() as conn:
        with pytest.raises(StateError) as refused:
            loading.freeze(conn, "toy-real", WHY)
        named = {(step, interval) for step, interval, _ in refused.value.data["units"]}
        assert {step for step, _ in named} == {"reco"}
        assert {interval.partition(":")[2][0] for _, interval in named} == {"3", "4"}
        assert loading.outdated(conn, "again-1") == []
    root = str(toy.root / "workspace")
    assert command(["conditions", "freeze", "toy-real", "--reason", "end of year", "-w", root]) != 0
    told = capsys.readouterr().err
    assert "would resolve otherwise under toy-real" in told and told.count("reco A:3") >= 1
    # A tag for a reprocessing of all: it says what of the prompt processing will change, and what will not.
    with toy.workspace.db.begin() as conn:
        tags.create_global_tag(conn, "again-2", 9.0)
        tags.sweep(conn, "again-2", tags.members(conn, "toy-real"), 9.0)
    assert command(["conditions", "freeze", "again-2", "--reason", "all", "--json", "-w", root]) == 0
    listed = json.loads(capsys.readouterr().out)["otherwise"]
    assert {(row["production"], row["step"]) for row in listed} == {("prompt", "reco")}
    assert {row["interval"].partition(":")[2][0] for row in listed} == {"3", "4"}
    assert {row["reason"] for row in listed} == {"it was made with other constants, under toy-real"}


# --- what is not to be mixed

FACTS = {"reco": Facts("event", {"dst": "dst"}, ("Gain",), (), ("event",))}


def start(db: Database, text: str, release: str = "sha256:one") -> int:
    with db.begin() as conn:
        return tasks.start(conn, read_spec(text, "again"), FACTS, release, 9.0)


@pytest.fixture
def frozen(sqlite_database: Database) -> Database:
    with sqlite_database.begin() as conn:
        for name in ("again-1", "again-2"):
            tags.create_global_tag(conn, name, 1.0)
        tags.freeze(conn, "again-1", 2.0)
    return sqlite_database


UNIFORM = AGAIN.replace('name = "again"\n', 'name = "again"\nuniform = true\n')


def test_a_uniform_production_refuses_another_release_by_name(frozen: Database) -> None:
    assert start(frozen, UNIFORM) == start(frozen, UNIFORM)
    with pytest.raises(BeamwrightError, match="again runs under release sha256:one, and this is sha256:two"):
        start(frozen, UNIFORM, "sha256:two")


def test_a_uniform_production_refuses_an_open_global_tag_by_name(frozen: Database) -> None:
    with pytest.raises(StateError, match="global tag again-2 is not frozen"):
        start(frozen, UNIFORM.replace("again-1", "again-2"))
    with pytest.raises(StateError, match="global tag nowhere is not frozen"):
        start(frozen, UNIFORM.replace("again-1", "nowhere"))


def test_a_uniform_production_refuses_other_constants_by_name(frozen: Database) -> None:
    start(frozen, UNIFORM)
    with pytest.raises(StateError, match="again is uniform, and runs under global tag again-1"):
        start(frozen, UNIFORM.replace("again-1", "again-2"))


def test_a_run_that_the_frozen_tag_does_not_cover_is_refused(made: ToyProduction) -> None:
    with made.workspace.db.read() as conn:
        found = tags.resolve(conn, "again-1", ["Gain"], Interval.sections("A", 4, 0, 7))
    assert [role for role, _ in found.gaps] == ["Gain"]


# --- by when


def test_progress_is_projected_against_a_deadline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [toy_production.deliver(tmp_path / "raw", run, 1, range(8)) for run in (1, 2)]
    toy = ToyProduction(tmp_path, PROMPT, given=given)
    toy.produce()
    with toy.workspace.db.begin() as conn:
        table = schema.production
        conn.execute(sa.update(table).values(spec=read_spec(MORE, "prompt").model_dump(mode="json")))
    with toy.workspace.db.read() as conn:
        plan = tasks.plan(conn, 1)
        ended = max(row.ended for row in rows(toy, "prompt"))
        begun = min(row.leased for row in toy.rows(schema.attempt))
        found = {row.step: row for row in projection.project(conn, plan, ended + 60, ended + 3600)}
    for row in found.values():
        assert (row.done, row.expected) == (2, 4) and row.rate_h is not None
        assert row.finish is not None and ended + 60 < row.finish <= ended + 60 + 2 * (ended + 60 - begun)
        assert row.late_s == pytest.approx(row.finish - ended - 3600) and row.late_s < 0
    shown = ["production", "show", "prompt", "-w", str(tmp_path / "workspace")]
    assert command([*shown, "--deadline", "2000-01-01", "--json"]) == 0
    assert '"in_time": false' in capsys.readouterr().out
    assert command([*shown, "--deadline", "2000-01-01"]) == 0
    assert "pass1: 2 of 4 runs" in (told := capsys.readouterr().out) and "days late" in told


def test_nothing_done_gives_no_date() -> None:
    assert projection._rate([], 1.0, 2.0) is None
    assert projection._rate([11.0, 12.0, 13.0, 14.0], 1.0, 14.0) == pytest.approx(1.0)
