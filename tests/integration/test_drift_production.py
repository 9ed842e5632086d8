"""A production of the drift chamber: chains that need each other, rounds until they converge, known truth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from beamwright.agents.loop import Produce
from beamwright.cli.main import run as command
from beamwright.cli.report import compile_document
from beamwright.core.errors import ConfigError
from beamwright.core.settings import DEFAULT_SETTINGS
from beamwright.db import schema
from beamwright.event.calibration import Calibration
from beamwright.event.table import Table
from beamwright.fsck import run as fsck
from beamwright.production import experiment as experiments
from beamwright.production import interventions
from beamwright.production.access import Access, Link
from beamwright.production.facts import production_facts
from beamwright.production.interventions import Why
from beamwright.production.spec import read_spec
from beamwright.production.workspace import Workspace
from drift.calibrations import ALIGNMENT, OFFSETS, Alignment, TimeOffsets
from drift.pulls import pulls
from drift.truth import LAYERS, RESOLUTION, VELOCITY, Z

EXPERIMENT = experiments.load("drift.experiment:experiment")
TEXT = EXPERIMENT.productions["drift"].read_text().replace("freeze = true\n", "")
WHY = Why("shifter", "the pulser was wrong", 5.0)


class Done:
    """A finished production."""

    def __init__(self, root: Path, text: str = TEXT, runs: tuple[int, ...] = tuple(range(1, 13))) -> None:
        numbers = ", ".join(map(str, runs))
        text = text.replace("drift = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]", f"drift = [{numbers}]")
        self.workspace, self.spec = Workspace.create(root, DEFAULT_SETTINGS), read_spec(text, "drift.toml")
        self.given = [one for one in EXPERIMENT.deliveries("drift") if one.run in runs]
        self.produce()

    def produce(self) -> None:
        Produce(self.workspace, self.spec, EXPERIMENT, 1, list(self.given), lambda done: None).run()

    def links(self, step: str) -> dict[int, Link]:
        with self.workspace.db.read() as conn:
            return {link.run: link for link in Access(conn, "drift").links(step)}

    def rows(self, table: sa.Table, *where: sa.ColumnElement[bool]) -> list[sa.Row]:
        with self.workspace.db.read() as conn:
            return list(conn.execute(sa.select(table).where(*where)))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return Done(tmp_path_factory.mktemp("drift") / "workspace")


def test_constants_of_a_production_lie_around_the_truth_as_their_errors_say(done: Done) -> None:
    with done.workspace.db.read() as conn:
        access = Access(conn, "drift")
        found = {
            role: np.concatenate([p.values for p in pulls(access, role)]) for role in (OFFSETS, ALIGNMENT)
        }
        shown = EXPERIMENT.figures(access).document() if EXPERIMENT.figures else []
    assert {role: len(values) for role, values in found.items()} == {OFFSETS: 240, ALIGNMENT: 36}
    for values in found.values():
        assert abs(values.mean()) < 4 / np.sqrt(values.size)
        assert abs(values.std() - 1) < 4 / np.sqrt(values.size)
    values = [value for section in shown for value in section["values"]]
    assert len(values) == 4 and all(value["verdict"] == "good" for value in values)


ALONE = """
from drift.calibrations import Alignment, TimeOffsets
from drift.experiment import constants as sets
from drift.reader import BANKS, DriftReader

calibrations = [Alignment(), TimeOffsets()]
constants = {one.tag: one.payload for one in sets("drawn")}
banks, reader = BANKS, DriftReader
"""


def test_calibrations_give_alone_on_a_file_what_they_give_in_a_production(
    done: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "steering.py").write_text(ALONE)
    (raw,) = (one.files[0].path for one in done.given if one.run == 1)
    words = ["-i", raw, "--series", "drift", "--run", "1", "--rounds", "8", "--tolerance", "0.0005", "--json"]
    assert command(["calibrate", str(tmp_path / "steering.py"), *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["constants"] == done.links("offsets")[1].result | done.links("align")[1].result
    assert told["converged"] and told["rounds"] == 3


def test_the_alignment_of_a_run_waits_for_the_offsets_of_that_run(done: Done) -> None:
    entry = schema.history
    begun, covered = {}, {}
    links = {row.id: row for row in done.rows(schema.chain_link)}
    steps = {row.id: row.step for row in done.rows(schema.task)}
    chains = {row.id: steps[row.task_id] for row in done.rows(schema.chain)}
    for row in sorted(done.rows(entry, entry.c.kind == "chain"), key=lambda row: row.id):
        link = links[int(row.object)]
        if chains[link.chain_id] == "align" and row.target == "collecting":
            begun.setdefault(link.first_run, row.id)
        if chains[link.chain_id] == "offsets" and row.target in ("accepted", "carried"):
            covered.setdefault(link.first_run, row.id)
    assert begun and all(covered[run] < first for run, first in begun.items())


def test_an_alignment_is_repeated_until_it_has_converged(done: Done) -> None:
    steps = {row.id: row.step for row in done.rows(schema.task)}
    chains = {row.id: steps[row.task_id] for row in done.rows(schema.chain)}
    rounds = {
        row.first_run: row.round for row in done.rows(schema.chain_link) if chains[row.chain_id] == "align"
    }
    assert rounds[1] == 3 and all((number or 1) <= 3 for number in rounds.values())
    jobs = done.rows(sa.join(schema.job, schema.unit, schema.job.c.unit_id == schema.unit.c.id))
    collected = [row for row in jobs if row.kind == "collect" and row.task_id == _task(steps, "align")]
    current = [row for row in collected if row.state == "ok"]
    assert len(current) == 12 and {row.state for row in collected} == {"ok", "superseded"}


def test_bad_and_missing_data_carry_the_constants_of_the_run_before(done: Done) -> None:
    offsets, align = done.links("offsets"), done.links("align")
    assert "channel 13 is not finite" in offsets[5].reason
    assert offsets[8].reason == "no pulse records"
    assert align[10].reason == "too little statistics: Alignment 27 of 50"
    for links, run in ((offsets, 5), (offsets, 8), (align, 10)):
        assert links[run].state == "carried" and links[run].result == links[run - 1].result
    assert fsck(done.workspace.db, done.workspace.root) == []


def test_a_run_without_any_data_to_calibrate_on_is_judged_unknown(done: Done) -> None:
    verdict = schema.verdict
    (row,) = done.rows(verdict, verdict.c.run == 8, verdict.c.subject == "pulser")
    assert (row.tier, row.value, row.version) == ("raw", "unknown", 1)
    assert "width_ns is not there" in row.reason


def test_the_report_draws_references_and_trends_over_the_runs(done: Done) -> None:
    figures = {section["name"]: section for section in compile_document(done.workspace, "drift")["figures"]}
    plots = {plot["title"]: plot for plot in figures["quality"]["plots"]}
    assert [curve["label"] for curve in plots["residuals to the track"]["curves"]] == [
        "series drift",
        "reference",
    ]
    trend = plots["width_ns: value by run, series drift"]
    value, low, high = trend["curves"]
    assert value["x"] == [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12] and trend["verdict"] == "good"
    assert (low["y"], high["y"]) == ([1.5, 1.5], [2.5, 2.5])
    assert figures["quality"]["plots"][0]["verdict"] == "good"
    assert plots["hits by channel"]["note"].endswith("bad in drift/5"), "a run that is bad alone is named"


def test_skipping_back_takes_the_chains_along_that_read_its_constants(done: Done) -> None:
    before = {step: done.links(step) for step in ("offsets", "align")}
    with done.workspace.db.begin() as conn:
        place = interventions.locate(conn, "drift", 11, step="offsets")
        moved = interventions.skip_back(conn, place, WHY)
    assert [link.interval.first[0] for link in moved] == [11, 12, 11, 12]
    done.produce()
    for step, links in before.items():
        again = done.links(step)
        assert {run: link.result for run, link in again.items()} == {
            run: link.result for run, link in links.items()
        }
    generations = [row.generation for row in done.rows(schema.chain_link) if row.first_run == 12]
    assert sorted(generations) == [0, 0, 1, 1]
    assert fsck(done.workspace.db, done.workspace.root) == []


def test_what_has_not_converged_at_the_bound_is_rejected_and_carried(tmp_path: Path) -> None:
    text = TEXT.replace("rounds = 8", "rounds = 2").replace(
        'inputs = ["reco.good"]', 'inputs = ["reco.good"]'
    )
    short = "parameters = { Alignment = { step = 0.2 } }\nrounds = 2"
    found = Done(tmp_path / "workspace", text.replace("rounds = 2", short), runs=(1,))
    link = found.links("align")[1]
    assert link.state == "carried" and link.result == link.start
    assert "not converged: constants still move by more than 0.0005 in round 2" in link.reason


class Circle(TimeOffsets):
    """Offsets that would need the alignment."""

    reads = ("Pulse", f"{ALIGNMENT}@conditions")

    @property
    def name(self) -> str:
        return "TimeOffsets"


def test_chains_that_wait_for_each_other_are_refused_by_name() -> None:
    kinds: dict[str, type[Calibration]] = {"TimeOffsets": Circle, "Alignment": Alignment}
    with pytest.raises(ConfigError, match="offsets, align wait for each other"):
        production_facts(replace(EXPERIMENT, calibrations=kinds), read_spec(TEXT, "drift.toml"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '["Alignment"]',
            '["TimeOffsets"]',
            "drift/align would write tag drift/TimeOffsets for series drift",
        ),
        ('initial = { drift = "drawn" }\n', "", "has no initial constants for TimeOffsets"),
        ('"drawn"', '"drwan"', "did you mean drawn"),
    ],
)
def test_chains_that_cannot_be_are_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    workspace = Workspace.create(tmp_path / "workspace", DEFAULT_SETTINGS)
    (tmp_path / "wrong.toml").write_text(TEXT.replace(old, new))
    for more in (["--dry-run"], []):
        assert command(["produce", str(tmp_path / "wrong.toml"), "-w", str(workspace.root), *more]) != 0
        assert message in capsys.readouterr().err
    with workspace.db.read() as conn:
        assert conn.execute(sa.select(schema.production)).first() is None


def _task(steps: dict[int, str], name: str) -> int:
    return next(number for number, step in steps.items() if step == name)


def test_simulated_tracks_are_found_where_they_were_generated_in_each_run_s_detector(done: Done) -> None:
    text = EXPERIMENT.productions["simulation"].read_text().replace(", 4, 5, 6, 7, 8, 9, 10, 11, 12]", "]")
    spec = read_spec(
        text.replace('deliveries = "drift"\n', 'deliveries = "drift"\nfreeze = false\n'), "s.toml"
    )
    Produce(done.workspace, spec, EXPERIMENT, 1, [], lambda _: None).run()
    tracks = {one.run: one.records["event"] for one in done.given if one.run in (1, 2, 3)}
    with done.workspace.db.read() as conn:
        access = Access(conn, "simulation")
        found = access.collections(step="merged")
        pulls_of = [_pulls(batch) for batch in access.batches(found, ["Track", "TrueTrack"])]
    assert sum(one.events for one in found) == 3 * sum(tracks.values()) and all(one.is_mc for one in found)
    pull = np.concatenate(pulls_of)
    assert len(pull) > 0.95 * 3 * sum(tracks.values())
    assert abs(pull.mean()) < 0.1 and abs(pull.std() - 1) < 0.1
    assert [str(one) for one in fsck(done.workspace.db, done.workspace.root)] == []


def _pulls(batch: dict[str, Table]) -> np.ndarray:
    """Return (found - generated) / error of the position in the first layer."""
    tracks, true = batch["Track"], batch["TrueTrack"]
    line = np.stack([np.ones(LAYERS), Z], axis=1)
    error = VELOCITY * RESOLUTION * np.sqrt(np.linalg.inv(line.T @ line)[0, 0])
    pull: np.ndarray = (tracks.position - true.position[tracks.record_index]) / error
    return pull
