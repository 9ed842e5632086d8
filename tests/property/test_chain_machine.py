"""The calibrator on a chain, with everything that can happen to it, against a simple model.

Runs come in any order, with and without data; collectors and fits end in every way; people hold, accept,
reject and skip back at any time. After each step the chain is compared with what a few plain rules allow.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from beamwright.agents.calibrator import Calibrator
from beamwright.catalog import runs
from beamwright.conditions import tags
from beamwright.core.clock import ManualClock
from beamwright.core.errors import BeamwrightError
from beamwright.db import schema
from beamwright.db.engine import insert_id
from beamwright.production import chain, interventions, tasks
from beamwright.production.chain import FINAL, Link
from beamwright.production.interventions import Why
from beamwright.production.publishing import load_constants
from beamwright.production.spec import read_spec
from beamwright.production.splitting import Run
from beamwright.production.tasks import Facts
from beamwright.production.workspace import Workspace
from support import toy
from support.toy_production import experiment

RUNS = (1, 2, 3, 4)
SPEC = """
name = "machine"
experiment = "toy"
[[dataset]]
name = "raw"
runs = { A = [1, 2, 3, 4] }
global_tag = "gt"
[[step]]
name = "pass1"
kind = "calibrate"
inputs = ["raw"]
calibrations = ["GainFit"]
initial = { A = "initial" }
max_runs = 2
on_reject = "hold"
"""
FACTS = {"pass1": Facts("", {}, ("Gain",), ("Gain",), ("event",))}
run_numbers = st.sampled_from(RUNS)


class ChainMachine(RuleBasedStateMachine):
    """One chain of four runs; fits need 20 hits and may wait for a second run."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp()) / "workspace"
        shutil.copytree(self.template, self.root)
        self.workspace = Workspace.open(self.root)
        self.clock = ManualClock(1000.0)
        self.workspace.clock = self.clock
        spec = read_spec(SPEC, "machine")
        with self.workspace.db.begin() as conn:
            production = tasks.start(conn, spec, FACTS, "dev+test", 1.0)
            load_constants(conn, spec, experiment, 1.0)
        self.production = production
        self.calibrator = Calibrator(self.workspace, experiment, production, Run())
        self.initial = toy.gain_payload(1.0).id
        self.proposed: dict[int, str] = {}  # fit unit -> payload that it proposed
        self.accepted: dict[int, bool] = {}  # fit unit -> whether its own verdict took it
        self.past: dict[int, dict[int, str]] = {0: {}}  # version of the tag -> payload by run
        self.gains = 1.0
        self.seen: tuple[Link, ...] = ()

    def teardown(self) -> None:
        try:
            self.come_to_an_end()
        finally:
            self.workspace.db.close()
            shutil.rmtree(self.root.parent)

    def come_to_an_end(self) -> None:
        """Whatever happened, a chain ends when all is there, jobs succeed and nobody holds it."""
        for run in RUNS:
            self.bring(run, 5)
        for _ in range(60):
            self.clock.sleep(2)
            self.calibrator.turn()
            self.succeed()
            for run in RUNS:
                if self.state(run) == "held":
                    self.act(interventions.reject, run, experiment, is_allowed=True)
        assert [number(link) for link in self.links() if link.state in FINAL] == list(RUNS)

    def succeed(self) -> None:
        for unit_id in self.jobs("collect"):
            self.finish(unit_id, {"statistics": {"GainFit": 30}}, {"accumulator": b"sums"})
        for unit_id in self.jobs("fit"):
            self.fit(unit_id, "accept")

    # --- what happens

    @rule(run=run_numbers, records=st.sampled_from((0, 5, 5)))
    def deliver(self, run: int, records: int) -> None:
        self.bring(run, records)

    def bring(self, run: int, records: int) -> None:
        document = {
            "series": "A", "run": run, "tier": "raw", "sequence": 1, "reader": "toy", "files": [],
            "first_section": 0, "last_section": 9, "records": {}, "is_mc": False, "end_marker": True,
        }  # fmt: skip
        with self.workspace.db.begin() as conn:
            counts = {"event": records}
            runs.deliver(conn, document, {}, self.clock.now(), records=counts, index_file="none")

    @rule(times=st.sampled_from((1, 3)))
    def turn(self, times: int) -> None:
        for _ in range(times):
            self.clock.sleep(2)
            self.calibrator.turn()
            self.compare()

    @precondition(lambda self: self.jobs("collect"))
    @rule(hits=st.sampled_from((10, 30)))
    def collected(self, hits: int) -> None:
        self.finish(self.jobs("collect")[0], {"statistics": {"GainFit": hits}}, {"accumulator": b"sums"})

    @precondition(lambda self: self.jobs("fit"))
    @rule(decision=st.sampled_from(("accept", "accept", "reject", "carry")))
    def fitted(self, decision: str) -> None:
        self.fit(self.jobs("fit")[0], decision)

    def fit(self, unit_id: int, decision: str) -> None:
        self.gains += 0.125
        start = next(link.start["Gain"] for link in self.links() if link.fit_unit_id == unit_id)
        with self.workspace.db.read() as conn:
            before = tags.get_payload(conn, start)
        payload = before if decision == "carry" else toy.gain_payload(self.gains)
        fit = {"decision": decision, "reason": decision, "tags": ["Gain"], "figures": {}}
        self.finish(unit_id, {"fits": {"GainFit": fit}}, {"payload:Gain": payload.data})
        self.proposed[unit_id], self.accepted[unit_id] = payload.id, decision == "accept"

    @precondition(lambda self: self.jobs("collect") + self.jobs("fit"))
    @rule()
    def failed(self) -> None:
        unit_id = (self.jobs("collect") + self.jobs("fit"))[0]
        with self.workspace.db.begin() as conn:
            failed = sa.update(schema.job).where(schema.job.c.unit_id == unit_id)
            conn.execute(failed.values(state="failed", failures=99))

    @rule(run=run_numbers)
    def skip_back(self, run: int) -> None:
        begun = any(link.state != "waiting" for link in self.links() if number(link) >= run)
        is_there = run in map(number, self.links())
        self.act(interventions.skip_back, run, is_allowed=begun and is_there)
        self.seen = self.links() if begun and is_there else self.seen

    @rule(run=run_numbers)
    def hold(self, run: int) -> None:
        self.act(interventions.hold, run, is_allowed=self.state(run) == "waiting")
        self.compare()

    @rule(run=run_numbers)
    def accept(self, run: int) -> None:
        link = next((link for link in self.links() if number(link) == run), None)
        is_allowed = link is not None and link.state == "held"
        if link is not None and link.fit_unit_id in self.proposed:
            is_allowed = is_allowed and self.proposed[link.fit_unit_id] != link.start["Gain"]
        self.act(interventions.accept, run, is_allowed=is_allowed)
        self.compare()

    @rule(run=run_numbers)
    def reject(self, run: int) -> None:
        self.act(interventions.reject, run, experiment, is_allowed=self.state(run) == "held")
        self.compare()

    # --- what must be so

    def compare(self) -> None:
        """Each change of a link must follow the rules, and concluded links stay as they are."""
        before = {number(link): link for link in self.seen}
        links = self.links()
        for position, link in enumerate(links):
            old = before.get(number(link))
            if old is not None and old.state in FINAL:
                assert (link.state, link.result) == (old.state, old.result), "what is concluded stays"
            elif old is None or old.state != link.state:
                self.check_change(link, links[:position], links[position + 1 :])
        self.seen = links

    def check_change(self, link: Link, earlier: tuple[Link, ...], later: tuple[Link, ...]) -> None:
        rolled = [one.result["Gain"] for one in earlier if one.state in FINAL]
        if link.state == "collecting":
            assert [number(one) for one in earlier] == list(RUNS[: len(earlier)]), "no run is passed over"
            assert all(one.state in (*FINAL, "accumulating") for one in earlier), "strictly in run order"
            assert all(one.state == "waiting" for one in later)
            assert link.start == {"Gain": rolled[-1] if rolled else self.initial}
        if link.state == "accepted":
            assert link.fit_unit_id is not None
            assert link.result == {"Gain": self.proposed[link.fit_unit_id]}
        if link.state == "carried":
            assert link.result == link.start, "carried is what was there"

    @invariant()
    def constants_are_stored_once_for_what_is_concluded(self) -> None:
        expected = {number(link): link.result["Gain"] for link in self.links() if link.state in FINAL}
        with self.workspace.db.read() as conn:
            names = set(conn.execute(sa.select(schema.tag.c.name)).scalars())
            held = tags.intervals(conn, "gt/Gain") if names else []
            version = tags.version_of(conn, "gt/Gain") if names else 0
        assert [v.interval.first[0] for v in held] == sorted(expected)
        assert {v.interval.first[0]: v.payload_id for v in held} == expected
        assert self.past.setdefault(version, expected) == expected

    @invariant()
    def old_versions_answer_as_they_did(self) -> None:
        with self.workspace.db.read() as conn:
            for version, expected in self.past.items():
                if version:
                    held = tags.intervals(conn, "gt/Gain", version)
                    assert {v.interval.first[0]: v.payload_id for v in held} == expected

    @invariant()
    def the_accumulator_holds_what_accumulates(self) -> None:
        with self.workspace.db.read() as conn:
            chains = chain.read(conn, self.task(conn))
        for one in chains:
            assert set(one.accumulated) == {li.id for li in one.links if li.state == "accumulating"}
            assert len(one.accumulated) <= 2

    @invariant()
    def a_run_is_collected_once_in_a_generation(self) -> None:
        unit, job = schema.unit, schema.job
        query = (
            sa.select(unit.c.first_run)
            .join(job, job.c.unit_id == unit.c.id)
            .where(unit.c.kind == "collect", job.c.state != "superseded")
        )
        with self.workspace.db.read() as conn:
            found = list(conn.execute(query).scalars())
        assert len(found) == len(set(found))

    # --- helpers

    def task(self, conn: sa.Connection) -> int:
        return tasks.plan(conn, self.production).tasks["pass1"].id

    def links(self) -> tuple[Link, ...]:
        with self.workspace.db.read() as conn:
            return tuple(link for one in chain.read(conn, self.task(conn)) for link in one.links)

    def state(self, run: int) -> str:
        return next((link.state for link in self.links() if number(link) == run), "")

    def jobs(self, kind: str) -> list[int]:
        unit, job = schema.unit, schema.job
        query = sa.select(unit.c.id).join(job, job.c.unit_id == unit.c.id)
        with self.workspace.db.read() as conn:
            wanted = query.where(unit.c.kind == kind, job.c.state == "prepared").order_by(unit.c.id)
            return list(conn.execute(wanted).scalars())

    def act(self, action: Any, run: int, *more: Any, is_allowed: bool) -> None:
        try:
            with self.workspace.db.begin() as conn:
                place = interventions.locate(conn, "A", run)
                action(conn, place, *more, Why("shifter", "why not", self.clock.now()))
        except BeamwrightError:
            assert not is_allowed
        else:
            assert is_allowed

    def finish(self, unit_id: int, figures: dict[str, Any], outputs: dict[str, bytes]) -> None:
        """Leave what an accepted report leaves."""
        with self.workspace.db.begin() as conn:
            job = conn.execute(sa.select(schema.job).where(schema.job.c.unit_id == unit_id)).one()
            times = {"leased": 1.0, "deadline": 2.0, "farm": "near", "directory": "jobs"}
            attempt = insert_id(
                conn, schema.attempt, job_id=job.id, number=1, nonce=f"n{unit_id}", state="accepted",
                figures=figures, **times,
            )  # fmt: skip
            for stream, data in outputs.items():
                self.store(conn, unit_id, attempt, stream, data)
            done = sa.update(schema.job).where(schema.job.c.id == job.id)
            conn.execute(done.values(state="ok"))

    def store(self, conn: sa.Connection, unit_id: int, attempt: int, stream: str, data: bytes) -> None:
        path = self.root / f"{unit_id}.{stream.replace(':', '.')}"
        path.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        file = insert_id(
            conn, schema.file, scope="machine", name=path.name, kind="bundle", size=len(data), sha256=digest,
            adler32="0", tier="raw", attempt_id=attempt, lineage={}, created=1.0,
        )  # fmt: skip
        place = {"endpoint": "near", "path": str(path), "state": "verified"}
        insert_id(conn, schema.replica, file_id=file, **place)
        insert_id(
            conn, schema.output, unit_id=unit_id, stream=stream, attempt_id=attempt, file_id=file, events=0
        )


def number(link: Link) -> int:
    return link.interval.first[0]


@pytest.mark.parametrize(
    "examples", [10, pytest.param(750, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_a_chain_does_what_the_rules_allow_and_nothing_else(tmp_path: Path, examples: int) -> None:
    workspace = Workspace.create(tmp_path / "template")
    workspace.db.close()
    ChainMachine.template = tmp_path / "template"
    chosen = settings(
        max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(ChainMachine, settings=chosen)
