"""The tutorial is followed as it stands: its files are written, its commands are run."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.guides import Follower, commands, files

TUTORIAL = "tutorials/your-first-experiment.md"


@pytest.fixture(scope="module")
def follower(tmp_path_factory: pytest.TempPathFactory) -> Follower:
    reader = Follower(tmp_path_factory.mktemp("tutorial"))
    reader.write(files(TUTORIAL))
    for command in commands(TUTORIAL):
        reader.run(command)
    return reader


def _rows(follower: Follower, command: str) -> list[dict[str, Any]]:
    lines = follower.run(f"beamwright {command} --workspace lab --json").splitlines()
    return [json.loads(line) for line in lines]


def test_every_event_of_both_runs_comes_out_merged(follower: Follower) -> None:
    events = {
        (run, spill, event)
        for run in (7, 8)
        for spill, event, *_ in (
            line.split(",") for line in (follower.folder / f"data/run{run}.csv").read_text().splitlines()[1:]
        )
    }
    merged = [row for row in _rows(follower, "collection ls") if "merge" in json.dumps(row)]
    assert sum(row["events"] for row in merged if row["stream"] == "dst") == len(events)


def test_the_gains_follow_the_drift_and_the_energies_do_not(follower: Follower) -> None:
    lines = follower.said["python look.py"].splitlines()
    gains = [float(line.split()[-1]) for line in lines if "fitted" in line]
    energies = [float(line.split()[-2]) for line in lines if line.startswith("run")]
    assert len(gains) == len(energies) == 2
    assert gains[1] / gains[0] == pytest.approx(1.05, abs=0.01)
    assert energies[1] / energies[0] == pytest.approx(1.0, abs=0.03)


def test_the_report_is_written(follower: Follower) -> None:
    assert "The first two runs of the bench" in (follower.folder / "lab/reports/first.html").read_text()
