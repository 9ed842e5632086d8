"""A production on a real Slurm: the same files as from local farms, with nothing changed in the task."""

from __future__ import annotations

from pathlib import Path

import pytest

from beamwright.db import schema
from support.slurm import missing, running
from support.toy_production import SPEC, ToyProduction, deliver

SETTINGS = """
format = 1

[farm.cluster]
scheduler = "slurm"
slots = 8
poll_s = 0.3
options = ["--nodelist=n1"]

[farm.far]
scheduler = "slurm"
slots = 4
poll_s = 0.3
options = ["--nodelist=n2"]
"""

pytestmark = pytest.mark.skipif(bool(missing()), reason="Slurm is not installed")


@pytest.mark.parametrize("is_whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_production_on_slurm_equals_one_on_local_farms(is_whole: bool, tmp_path: Path) -> None:
    local, there = toy(tmp_path / "local", is_whole), toy(tmp_path / "there", is_whole, settings=SETTINGS)
    local.produce()
    with running(tmp_path / "slurm"):
        there.produce()
    assert there.collections() == local.collections()  # to the byte
    attempts = there.rows(schema.attempt)
    assert {row.farm for row in attempts} <= {"cluster", "far"}
    assert {row.state for row in attempts} == {"accepted"}
    assert all("_" in row.batch_id for row in attempts)


@pytest.mark.slow  # Slurm's commands wait some seconds for a controller
def test_a_production_outlives_a_controller_that_is_down(tmp_path: Path) -> None:
    with running(tmp_path / "slurm") as slurm:
        there = toy(tmp_path / "there", is_whole=False, settings=SETTINGS)
        turns_down: list[int] = []

        def disturb(done: int) -> None:
            if len(turns_down) == 5 or not (turns_down or submitted(there)):
                return
            if not turns_down:
                slurm.stop_controller()
            turns_down.append(done)
            if len(turns_down) == 5:
                slurm.start_controller()

        there.produce(on_turn=disturb)
    assert len(turns_down) == 5
    assert {row.state for row in there.rows(schema.job)} == {"ok"}
    assert {row.state for row in there.rows(schema.attempt)} == {"accepted"}


def toy(root: Path, is_whole: bool, **more: str) -> ToyProduction:
    """Return the toy production, whole or with one small run and two of its steps."""
    if is_whole:
        return ToyProduction(root, **more)
    given = [deliver(root / "raw", 1, 1, range(3))]
    text = SPEC[: SPEC.index('[[step]]\nname = "bursts"')].replace("[1, 2, 3]", "[1]")
    return ToyProduction(root, text, given=given, **more)


def submitted(production: ToyProduction) -> list[object]:
    return production.rows(schema.attempt, schema.attempt.c.state == "submitted")
