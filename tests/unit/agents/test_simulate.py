"""The agents on a simulated clock: the same seed, the same history; every job ends; the invariants hold."""

from __future__ import annotations

from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from beamwright import fsck
from beamwright.agents.simulate import Behaviour, Simulation
from beamwright.core.clock import ManualClock
from beamwright.core.settings import Farm
from beamwright.db import schema
from beamwright.production.workspace import Workspace
from kill import production

ROUGH = Behaviour(60.0, 0.5, {"lost": 0.1, "node": 0.05, "application_crash": 0.03})


def simulated(root: Path, units: int, monkeypatch: pytest.MonkeyPatch, **slots: int) -> Workspace:
    for name in ("SECTIONS", "CHUNKS", "SETTINGS"):
        monkeypatch.setattr(production, name, getattr(production, name))
    production.enlarge(units, 1)
    opened = production.make(root)
    opened.db.close()
    numbers = count()
    workspace = Workspace(root, opened.settings, ManualClock(1000.0), lambda: f"{next(numbers):032x}")
    object.__setattr__(workspace.settings, "farm", {name: Farm(slots=n) for name, n in slots.items()})
    return workspace


def history_of(workspace: Workspace) -> list[Any]:
    with workspace.db.read() as conn:
        return list(conn.execute(sa.select(schema.history).order_by(schema.history.c.id)))


def test_a_simulated_production_ends_and_keeps_the_invariants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = simulated(tmp_path / "w", 60, monkeypatch, near=5, far=3)
    records = production.UNIT * production.EVENTS
    simulation = Simulation(
        workspace, {"near": ROUGH, "far": Behaviour(20.0)}, seed=3, records=records, turn_s=1.0
    )
    assert simulation.run() > 1200.0
    with workspace.db.read() as conn:
        states = Counter(conn.execute(sa.select(schema.job.c.state)).scalars())
        attempts = Counter(conn.execute(sa.select(schema.attempt.c.state)).scalars())
    assert states == {"ok": 60} and attempts["accepted"] == 60
    assert attempts["lost"] and attempts["rejected"]
    assert [str(v) for v in fsck.run(workspace.db, workspace.root, on_storage=False, now=1e9)] == []
    workspace.db.close()


def test_the_same_seed_gives_the_same_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    for name, seed in (("one", 5), ("two", 5), ("three", 6)):
        workspace = simulated(tmp_path / name, 20, monkeypatch, near=3)
        Simulation(workspace, {"near": ROUGH}, seed=seed, records=12).run()
        told.append([tuple(row) for row in history_of(workspace)])
        workspace.db.close()
    assert told[0] == told[1] != told[2]


def test_a_day_stops_when_it_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = simulated(tmp_path / "w", 20, monkeypatch, near=1)
    assert (
        Simulation(workspace, {"near": Behaviour(100.0)}, records=12, turn_s=1.0).run(until=1500.0) == 1500.0
    )
    with workspace.db.read() as conn:
        states = Counter(conn.execute(sa.select(schema.job.c.state)).scalars())
    assert 3 <= states["ok"] <= 5
    workspace.db.close()
