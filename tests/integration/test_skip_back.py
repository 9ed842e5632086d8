"""Skip-back on a whole production: constants roll anew, stale outputs are listed and done again."""

from __future__ import annotations

from pathlib import Path

import pytest

from beamwright.db import schema
from beamwright.fsck import run as fsck
from beamwright.production import interventions, redoing, tasks
from beamwright.production.interventions import Why
from support.toy_production import SPEC, ToyProduction, deliveries

OPEN = SPEC.replace("freeze = true\n", "")
# A smaller sample gives other constants.
CHANGED = OPEN.replace('calibrations = ["GainFit"]', 'calibrations = ["GainFit"]\nprescale = { event = 2 }')
WHY = Why("shifter", "the map was wrong", 5.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ToyProduction:
    """A production that was finished, skipped back to its second run, configured otherwise, and redone."""
    toy = ToyProduction(tmp_path_factory.mktemp("toy"), OPEN)
    toy.produce()
    return toy


def _skip(toy: ToyProduction, run: int) -> int:
    with toy.workspace.db.begin() as conn:
        return len(interventions.skip_back(conn, interventions.locate(conn, "A", run), WHY))


def _stale(toy: ToyProduction) -> list[redoing.Stale]:
    with toy.workspace.db.read() as conn:
        return redoing.stale(conn, tasks.plan(conn, tasks.find(conn, "toy")))


def _links(toy: ToyProduction) -> list[tuple[int, int, int, str]]:
    rows = toy.rows(schema.chain_link)
    return sorted((row.first_run, row.first_section, row.generation, row.state) for row in rows)


def test_skipping_back_rolls_anew_and_redoes_what_has_changed(made: ToyProduction) -> None:
    toy = made
    before = {row.name: row for row in toy.rows(schema.collection)}
    assert _stale(toy) == []
    assert _skip(toy, 2) == 3
    stale = _stale(toy)
    assert {one.step for one in stale} == {"reco", "skim", "merge"}
    assert {one.interval.first[0] for one in stale if one.step == "reco"} == {2, 3}
    changed = ToyProduction(toy.root, CHANGED, given=toy.given)
    changed.produce()
    generations = {(run, generation) for run, _, generation, state in _links(toy) if state == "accepted"}
    assert generations == {(1, 0), (2, 1), (3, 1)}
    assert {one.reason for one in _stale(toy)} >= {"it resolves to other constants now"}
    with toy.workspace.db.begin() as conn:
        redone = redoing.redo(conn, tasks.plan(conn, tasks.find(conn, "toy")), WHY)
    changed.produce()
    assert _stale(toy) == []
    after = {row.name: row for row in toy.rows(schema.collection, schema.collection.c.state == "valid")}
    gone = {name.partition(":")[2] for one in redone for name in one.collections}
    assert gone and not gone & set(after) and set(before) - gone <= set(after)
    assert {name for name in after if name not in before and ".e2" in name}
    assert sum(row.events for row in after.values()) > 0
    assert fsck(toy.workspace.db, toy.workspace.root) == []


def test_a_run_that_never_comes_does_not_keep_the_others_from_their_end(tmp_path: Path) -> None:
    text = SPEC.replace(
        'global_tag = "toy-real"\n\n[[step]]', 'global_tag = "toy-real"\nskip_after_s = 0\n\n[[step]]', 1
    )
    given = [one for one in deliveries(tmp_path / "raw") if one.run != 2]
    toy = ToyProduction(tmp_path, text, given=given)
    toy.produce()
    runs = {row.number: row.state for row in toy.rows(schema.run)}
    assert runs == {1: "closed", 2: "incomplete", 3: "closed"}
    assert {row.first_run: row.state for row in toy.rows(schema.chain_link)} == {1: "accepted", 3: "accepted"}
    assert {row.state for row in toy.rows(schema.task)} == {"closed"}
    assert fsck(toy.workspace.db, toy.workspace.root) == []
