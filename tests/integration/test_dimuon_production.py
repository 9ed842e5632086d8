"""The production of muon pairs: the second sample experiment runs the same kind of production file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from beamwright.agents.loop import Produce
from beamwright.conditions import tags
from beamwright.core.settings import DEFAULT_SETTINGS
from beamwright.db import schema
from beamwright.event.collection import CollectionReader
from beamwright.production import experiment as experiments
from beamwright.production.access import Access
from beamwright.production.spec import load_spec
from beamwright.production.workspace import Workspace

pytestmark = pytest.mark.demo


class Done:
    """A finished production, and what it left."""

    def __init__(self, root: Path) -> None:
        experiment = experiments.load("dimuon.experiment:experiment")
        self.workspace = Workspace.create(root, DEFAULT_SETTINGS)
        spec = load_spec(experiment.productions["zmass"])
        Produce(self.workspace, spec, experiment, 2, experiment.deliveries("zmass"), lambda done: None).run()
        with self.workspace.db.read() as conn:
            access = Access(conn, "zmass")
            self.links = access.links()
            self.figures = experiment.figures(access).document()  # type: ignore[misc]
            self.collections = access.collections()
            self.scales = access.constants("dimuon/MomentumScale")
            self.hash = tags.members(conn, "dimuon")

    def ledger(self, step: str) -> list[Any]:
        ledger, unit, task = schema.ledger, schema.unit, schema.task
        query = (
            sa.select(ledger)
            .join(unit, ledger.c.unit_id == unit.c.id)
            .join(task, unit.c.task_id == task.c.id)
            .where(task.c.step == step)
        )
        with self.workspace.db.read() as conn:
            return list(conn.execute(query))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return Done(tmp_path_factory.mktemp("zmass") / "workspace")


def test_the_scale_of_the_first_run_is_taken_and_that_of_the_second_is_not_significant(done: Done) -> None:
    first, second = done.links
    assert (first.state, second.state) == ("accepted", "carried")
    assert "not significant" in second.reason
    assert second.result == second.start == first.result
    assert [scale.origin for scale in done.scales] == ["fitted", "carried"]
    assert len({scale.payload_id for scale in done.scales}) == 1


def test_every_event_is_accounted_for_once(done: Done) -> None:
    rows = {step: done.ledger(step) for step in ("reco", "skim", "merged")}
    for row in (row for found in rows.values() for row in found):
        assert row.read == row.written + row.filtered + row.prescaled + row.quarantined
    assert sum(row.read for row in rows["reco"]) == 500
    z = sum(row.written for row in rows["skim"])
    assert 400 < z == sum(row.written for row in rows["merged"])


def test_the_merged_skim_holds_the_candidates_of_both_runs_with_corrected_masses(done: Done) -> None:
    (merged,) = [c for c in done.collections if c.step == "merged"]
    value = float(done.scales[0].constants["scale"][0])
    with CollectionReader(merged.files) as reader:
        index = reader.index("event")
        assert sorted(set(index.run.tolist())) == [148029, 148031]
        for run in (148029, 148031):
            pairs = reader.read("event", np.flatnonzero(index.run == run), ["Pair"])["Pair"]
            assert np.allclose(pairs.mass, pairs.measured * value)
            assert ((pairs.mass >= 80.0) & (pairs.mass <= 100.0)).all()


def test_the_figures_tell_peaks_before_and_after_and_why_the_scale_was_carried(done: Done) -> None:
    calibration, physics = done.figures
    assert [row[0] for row in calibration["tables"][0]["rows"]] == [148029, 148031]
    values = {value["name"]: value["value"] for value in physics["values"]}
    assert values["peak, run 148029, corrected"] == pytest.approx(91.19, abs=0.02)
    assert values["peak, run 148031, measured"] == pytest.approx(90.95, abs=0.02)
    assert physics["plots"][0]["curves"]
