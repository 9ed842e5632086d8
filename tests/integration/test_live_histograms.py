"""Histograms of runs while their jobs run: partial ones at the heartbeat, never of lost attempts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from beamwright.agents.loop import Produce
from beamwright.agents.monitor import Monitor
from beamwright.cli.main import run as command
from beamwright.core.histogram import Axis, HistogramSet
from beamwright.core.messages import HISTOGRAMS, PARTIAL_FILE
from beamwright.db import schema
from beamwright.db.engine import insert_id
from beamwright.fsck import run as fsck
from beamwright.production import live
from beamwright.production.access import Access
from beamwright.production.spec import read_spec
from beamwright.production.workspace import Workspace
from support import mortal, toy_production
from support.toy_production import ToyProduction

SPEC = """
name = "slow"
experiment = "support.toy_production:experiment"
[[dataset]]
name = "raw"
runs = { A = [1] }
global_tag = "toy-real"
[[step]]
name = "pass2"
path = "slow"
inputs = ["raw"]
split = 30000
"""
SETTINGS = """
format = 1
[limits]
heartbeat_s = 0.1
[farm.local]
slots = 2
"""


def test_a_run_is_shown_while_its_jobs_run_and_hidden_afterwards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [toy_production.deliver(tmp_path / "raw", 1, 1, range(5000))]
    toy = ToyProduction(tmp_path, SPEC, SETTINGS, given)
    seen: list[tuple[int, int, int]] = []
    told: list[dict[str, Any]] = []

    def look(done: int) -> None:
        for row in live.shown(toy.workspace, "slow"):
            entries = row["histograms"]["charge"].entries
            seen.append((entries, row["partial"], row["final"]))
            if not told and row["partial"]:
                command(["quality", "watch", "slow", "--json", "-w", str(tmp_path / "workspace")])
                told.append(json.loads(capsys.readouterr().out.splitlines()[0]))
                command(["quality", "watch", "-w", str(tmp_path / "workspace")])
                assert "charge" in capsys.readouterr().out

    toy.produce(on_turn=look)
    entries = [one for one, _, _ in seen]
    with toy.workspace.db.read() as conn:
        final = Access(conn, "slow").histograms("pass2")["charge"].entries
    assert entries == sorted(entries) and 0 < entries[0] < final, "it is shown before it is whole, and grows"
    assert any(partial for _, partial, _ in seen)
    (row,) = told
    assert (row["step"], row["series"], row["run"], row["units"]) == ("pass2", "A", 1, 2)
    assert row["histograms"]["charge"]["entries"] in entries
    assert live.shown(toy.workspace, "slow") == []
    assert fsck(toy.workspace.db, toy.workspace.root) == []
    assert command(["quality", "watch", "-w", str(tmp_path / "workspace")]) == 0
    assert "production slow has no run under way" in capsys.readouterr().err


def test_what_a_killed_attempt_had_filled_is_shown_until_it_dies_and_counts_nowhere(tmp_path: Path) -> None:
    given = [toy_production.deliver(tmp_path / "raw", 1, 1, range(5000))]
    text = SPEC.replace("toy_production", "mortal").replace('path = "slow"', 'path = "mortal"')
    text += f'parameters = {{ Mortal = {{ folder = "{tmp_path}" }} }}\n'
    toy, seen = ToyProduction(tmp_path, text, SETTINGS, given), list[int]()

    def look(done: int) -> None:
        for row in live.shown(toy.workspace, "slow"):
            seen.append(row["histograms"]["charge"].entries)
            if row["partial"]:
                (tmp_path / "shown").touch()

    Produce(toy.workspace, read_spec(text, "slow"), mortal.experiment, 1, given, look).run()
    with toy.workspace.db.read() as conn:
        final = Access(conn, "slow").histograms("pass2")["charge"].entries
    assert (tmp_path / "died").exists() and seen and seen[0] > 0 and max(seen) <= final
    states = [row.state for row in toy.rows(schema.attempt)]
    assert states.count("accepted") == 2 and len(states) == 3, (
        "one attempt died, and its unit was tried again"
    )
    undisturbed = ToyProduction(tmp_path / "again", SPEC, SETTINGS, given)
    undisturbed.produce()
    with undisturbed.workspace.db.read() as conn:
        assert Access(conn, "slow").histograms("pass2")["charge"].entries == final
    assert fsck(toy.workspace.db, toy.workspace.root) == []


# --- what counts, on planted attempts


def filled(number: int) -> HistogramSet:
    found = HistogramSet()
    found.book("h", Axis(4, 0.0, 4.0, "x"))
    found["h"].fill(np.full(number, 1.5))
    return found


class Planted:
    """A production with units of one run whose attempts stand as a test says."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace.create(root)
        with self.workspace.db.begin() as conn:
            self.production = insert_id(
                conn, schema.production, name="p", experiment="x", release="r", spec={}, spec_hash="",
                created=1.0,
            )  # fmt: skip
            self.task = insert_id(
                conn, schema.task, production_id=self.production, step="reco", kind="process", state="active",
                config_version=1, config={}, config_hash="", uniform=False, created=1.0,
            )  # fmt: skip
        self.count = 0

    def unit(self, state: str) -> int:
        self.count += 1
        place = {"series": "A", "first_run": 7, "first_section": 0, "first_event": 0}
        place |= {"last_run": 7, "last_section": 9, "last_event": 0}
        with self.workspace.db.begin() as conn:
            unit = insert_id(
                conn, schema.unit, key=f"u{self.count}", task_id=self.task, kind="process", record="event",
                config_version=1, config_hash="", resolved_hash="", stream="", definition={}, priority=0,
                created=1.0, **place,
            )  # fmt: skip
            return insert_id(
                conn, schema.job, unit_id=unit, state=state, priority=0, failures=0, not_before=0.0,
                reason="", created=1.0,
            )  # fmt: skip

    def attempt(self, job: int, number: int, state: str, entries: int) -> Path:
        directory = self.workspace.root / f"job{job}.{number}"
        directory.mkdir()
        (directory / PARTIAL_FILE).write_bytes(filled(entries).to_bytes())
        values = {"farm": "near", "directory": str(directory), "leased": 1.0, "deadline": 2.0}
        with self.workspace.db.begin() as conn:
            insert_id(
                conn,
                schema.attempt,
                job_id=job,
                number=number,
                nonce=f"{job}.{number}",
                state=state,
                **values,
            )
        return directory

    def output(self, job: int, entries: int) -> None:
        path = self.workspace.root / f"final{job}.bwb"
        path.write_bytes(filled(entries).to_bytes())
        with self.workspace.db.begin() as conn:
            unit = conn.execute(sa.select(schema.job.c.unit_id).where(schema.job.c.id == job)).scalar_one()
            attempt = conn.execute(
                sa.select(schema.attempt.c.id).where(schema.attempt.c.job_id == job)
            ).scalar_one()
            file = insert_id(
                conn, schema.file, scope="p", name=path.name, kind="bundle", size=1, sha256="0", adler32="0",
                tier="dst", attempt_id=attempt, lineage={}, created=1.0,
            )  # fmt: skip
            insert_id(conn, schema.replica, file_id=file, endpoint="near", path=str(path), state="verified")
            insert_id(
                conn,
                schema.output,
                unit_id=unit,
                stream=HISTOGRAMS,
                attempt_id=attempt,
                file_id=file,
                events=0,
            )

    def gather(self) -> dict[live.Key, live.Live]:
        with self.workspace.db.read() as conn:
            return live.gather(conn, self.production)


KEY = ("reco", "A", 7)


def test_only_accepted_units_and_the_attempts_under_way_count(tmp_path: Path) -> None:
    planted = Planted(tmp_path / "w")
    done = planted.unit("ok")
    planted.attempt(done, 1, "accepted", 1000)  # its partial ones are past: the output counts
    planted.output(done, 10)
    again = planted.unit("running")
    planted.attempt(again, 1, "lost", 1000)
    planted.attempt(again, 2, "killed", 1000)
    planted.attempt(again, 3, "running", 5)
    gone = planted.unit("superseded")
    planted.attempt(gone, 1, "superseded", 1000)
    planted.output(gone, 1000)
    failed = planted.unit("failed")
    planted.attempt(failed, 1, "rejected", 1000)
    planted.unit("prepared")
    found = planted.gather()[KEY]
    assert found.histograms["h"].entries == 15
    assert found.document() == {"final": 1, "partial": 1, "units": 4}


def test_the_latest_histograms_of_an_attempt_take_the_place_of_earlier_ones(tmp_path: Path) -> None:
    planted = Planted(tmp_path / "w")
    directory = planted.attempt(planted.unit("running"), 1, "running", 5)
    assert planted.gather()[KEY].histograms["h"].entries == 5
    (directory / PARTIAL_FILE).write_bytes(filled(8).to_bytes())
    assert planted.gather()[KEY].histograms["h"].entries == 8


@pytest.mark.parametrize("damage", [b"", b"nonsense", filled(3).to_bytes()[:-5]])
def test_a_damaged_partial_file_shows_nothing(tmp_path: Path, damage: bytes) -> None:
    planted = Planted(tmp_path / "w")
    directory = planted.attempt(planted.unit("running"), 1, "running", 5)
    (directory / PARTIAL_FILE).write_bytes(damage)
    found = planted.gather()[KEY]
    assert not found.histograms and found.document() == {"final": 0, "partial": 0, "units": 1}


def test_the_monitor_shows_what_is_new_and_nothing_when_all_is_done(tmp_path: Path) -> None:
    planted = Planted(tmp_path / "w")
    job = planted.unit("running")
    planted.attempt(job, 1, "running", 5)
    monitor = Monitor(planted.workspace, planted.production, "p")
    monitor.turn()
    (row,) = live.shown(planted.workspace, "p")
    assert row["histograms"]["h"].entries == 5
    with planted.workspace.db.begin() as conn:
        conn.execute(sa.update(schema.job).values(state="ok"))
    monitor._next = 0.0
    monitor.turn()
    assert live.shown(planted.workspace, "p") == []
