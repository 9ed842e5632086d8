"""A calibrator on a chain of four runs in a workspace of its own; jobs end as a test says."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from beamwright.agents.calibrator import Calibrator
from beamwright.catalog import runs
from beamwright.conditions import tags
from beamwright.core.clock import ManualClock
from beamwright.db import schema
from beamwright.db.engine import insert_id
from beamwright.production import chain, tasks
from beamwright.production.chain import FINAL, Link
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
REPEATED = SPEC + "rounds = 2\ntolerance = 0.05\n"
FACTS = {"pass1": Facts("", {}, ("Gain",), ("Gain",), ("event",))}


class ChainBench:
    """One chain of four runs; fits need 20 hits and may wait for a second run."""

    def __init__(self, root: Path, text: str = SPEC) -> None:
        self.root = root
        self.workspace = Workspace.open(root)
        self.clock = ManualClock(1000.0)
        self.workspace.clock = self.clock
        spec = read_spec(text, "machine")
        with self.workspace.db.begin() as conn:
            self.production = tasks.start(conn, spec, FACTS, "dev+test", 1.0)
            load_constants(conn, spec, experiment, 1.0)
        self.calibrator = Calibrator(self.workspace, experiment, self.production, Run())
        self.initial = toy.gain_payload(1.0).id

    def bring(self, run: int, records: int = 5) -> None:
        """Deliver a run, whole; again makes no difference."""
        document = {
            "series": "A", "run": run, "tier": "raw", "sequence": 1, "reader": "toy", "files": [],
            "first_section": 0, "last_section": 9, "records": {}, "is_mc": False, "end_marker": True,
        }  # fmt: skip
        with self.workspace.db.begin() as conn:
            counts = {"event": records}
            runs.deliver(conn, document, {}, self.clock.now(), records=counts, index_file="none")

    def task(self, conn: sa.Connection) -> int:
        return tasks.plan(conn, self.production).tasks["pass1"].id

    def links(self) -> tuple[Link, ...]:
        with self.workspace.db.read() as conn:
            return tuple(link for one in chain.read(conn, self.task(conn)) for link in one.links)

    def state(self, run: int) -> str:
        return next((link.state for link in self.links() if number(link) == run), "")

    def jobs(self, kind: str) -> list[int]:
        """Return the units of a kind whose jobs wait to be run."""
        unit, job = schema.unit, schema.job
        query = sa.select(unit.c.id).join(job, job.c.unit_id == unit.c.id)
        with self.workspace.db.read() as conn:
            wanted = query.where(unit.c.kind == kind, job.c.state == "prepared").order_by(unit.c.id)
            return list(conn.execute(wanted).scalars())

    def collect(self, unit_id: int, hits: int) -> None:
        self.finish(unit_id, {"statistics": {"GainFit": hits}}, {"accumulator": b"sums"})

    def propose(self, unit_id: int, decision: str, gain: float | None) -> str:
        """End a fit with a new gain, or with what its collectors applied; return the payload's id."""
        with self.workspace.db.read() as conn:
            applied = next(link.applied["Gain"] for link in self.links() if link.fit_unit_id == unit_id)
            payload = tags.get_payload(conn, applied) if gain is None else toy.gain_payload(gain)
        fit = {"decision": decision, "reason": decision, "tags": ["Gain"], "figures": {}}
        self.finish(unit_id, {"fits": {"GainFit": fit}}, {"payload:Gain": payload.data})
        return payload.id

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
                self._store(conn, unit_id, attempt, stream, data)
            done = sa.update(schema.job).where(schema.job.c.id == job.id)
            conn.execute(done.values(state="ok"))

    def _store(self, conn: sa.Connection, unit_id: int, attempt: int, stream: str, data: bytes) -> None:
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

    # --- what must be so at any moment

    def check_constants(self, by_hand: Mapping[int, str] | None = None) -> dict[int, str]:
        """Constants are stored exactly for what is concluded, or was loaded by hand; return them by run."""
        expected = {number(link): link.result["Gain"] for link in self.links() if link.state in FINAL}
        assert all(expected.get(run, gain) == gain for run, gain in (by_hand or {}).items())
        expected |= by_hand or {}
        with self.workspace.db.read() as conn:
            names = set(conn.execute(sa.select(schema.tag.c.name)).scalars())
            held = tags.intervals(conn, "gt/Gain") if names else []
            swept = tags.members(conn, "gt").get("gt/Gain", 0)
            assert swept == (tags.version_of(conn, "gt/Gain") if names else 0)
        assert [v.interval.first[0] for v in held] == sorted(expected)
        assert {v.interval.first[0]: v.payload_id for v in held} == expected
        return expected

    def check_accumulator(self) -> None:
        """The accumulator holds what accumulates, of two runs at most."""
        with self.workspace.db.read() as conn:
            chains = chain.read(conn, self.task(conn))
        for one in chains:
            assert sorted(one.accumulated) == sorted(li.id for li in one.links if li.state == "accumulating")
            assert len(one.accumulated) <= 2

    def check_work(self) -> None:
        """A run is collected once in a generation and round; what is to be fitted is being fitted."""
        unit, job = schema.unit, schema.job
        query = sa.select(unit.c.id, unit.c.kind, unit.c.first_run, job.c.state)
        with self.workspace.db.read() as conn:
            rows = list(conn.execute(query.join(job, job.c.unit_id == unit.c.id)))
        found = [row.first_run for row in rows if row.kind == "collect" and row.state != "superseded"]
        assert len(found) == len(set(found))
        states = {row.id: row.state for row in rows}
        for link in self.links():
            if link.state == "collecting":
                assert states[link.collect_unit_id or 0] != "superseded"
            if link.state == "accumulating" and link.fit_unit_id is not None:
                assert states[link.fit_unit_id] != "superseded", "a link waits for a fit that nobody makes"


def number(link: Link) -> int:
    return link.interval.first[0]
