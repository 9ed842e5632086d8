"""A production on real batch systems: the same files as from local farms, the task unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from beamwright.db import schema
from support import gridengine, slurm
from support.toy_production import SPEC, ToyProduction, deliver

FARM = """
[farm.{name}]
scheduler = "{scheduler}"
slots = {slots}
poll_s = 0.3
options = {options}
"""


def settings(scheduler: str, cluster: list[str], far: list[str]) -> str:
    """Return two farms of one batch system."""
    farms = [("cluster", 8, cluster), ("far", 4, far)]
    tables = [FARM.format(name=n, scheduler=scheduler, slots=s, options=json.dumps(o)) for n, s, o in farms]
    return "format = 1\n" + "".join(tables)


SLURM = settings("slurm", ["--nodelist=n1"], ["--nodelist=n2"])
GRID_ENGINE = settings("gridengine", [], ["-p", "-1"])
no_slurm = pytest.mark.skipif(bool(slurm.missing()), reason="Slurm is not installed")
no_grid_engine = pytest.mark.skipif(bool(gridengine.missing()), reason="Grid Engine cannot be started here")


@pytest.mark.parametrize(
    ("server", "text", "is_whole"),
    [
        pytest.param(slurm, SLURM, False, marks=no_slurm),
        pytest.param(slurm, SLURM, True, marks=[no_slurm, pytest.mark.slow]),
        pytest.param(gridengine, GRID_ENGINE, False, marks=no_grid_engine),
    ],
)
def test_a_production_on_a_batch_system_equals_one_on_local_farms(
    server: ModuleType, text: str, is_whole: bool, tmp_path: Path
) -> None:
    local, there = toy(tmp_path / "local", is_whole), toy(tmp_path / "there", is_whole, settings=text)
    local.produce()
    with server.running(tmp_path / "server"):
        there.produce()
    assert there.collections() == local.collections()  # to the byte
    attempts = there.rows(schema.attempt)
    assert {row.farm for row in attempts} <= {"cluster", "far"}
    assert {row.state for row in attempts} == {"accepted"}
    assert all("_" in row.batch_id or "." in row.batch_id for row in attempts)


@no_slurm
@pytest.mark.slow  # Slurm's commands wait some seconds for a controller
def test_a_production_outlives_a_controller_that_is_down(tmp_path: Path) -> None:
    with slurm.running(tmp_path / "slurm") as server:
        there = toy(tmp_path / "there", is_whole=False, settings=SLURM)
        turns_down: list[int] = []

        def disturb(done: int) -> None:
            if len(turns_down) == 5 or not (turns_down or submitted(there)):
                return
            if not turns_down:
                server.stop_controller()
            turns_down.append(done)
            if len(turns_down) == 5:
                server.start_controller()

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
