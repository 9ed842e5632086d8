"""A production with one chain in the database, driven step by step as the calibrator does."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import sqlalchemy as sa

from beamwright.catalog import runs
from beamwright.conditions import tags
from beamwright.conditions.payload import Payload
from beamwright.core.runs import Interval
from beamwright.db.engine import Database
from beamwright.production import chain, tasks
from beamwright.production.chain import Chain, Link, Outcome
from beamwright.production.spec import read_spec
from beamwright.production.splitting import Covered, Item, Run, collect_unit
from beamwright.production.tasks import Facts, Plan
from beamwright.production.units import ensure_unit

SPEC = """
name = "test"
experiment = "toy"
[[dataset]]
name = "raw"
runs = { A = [1, 2, 3] }
global_tag = "gt"
[[step]]
name = "pass1"
kind = "calibrate"
inputs = ["raw"]
calibrations = ["gain"]
"""
FACTS = {"pass1": Facts("", {}, ("Gain",), ("Gain",), ("slice",))}


def constants(value: float) -> Payload:
    return Payload.arrays({"gain": np.array([value])})


@dataclass
class World:
    """A production with one chain; time goes on by one second with each call."""

    db: Database
    now: float = 1000.0
    production: int = 0
    initial: dict[str, str] = field(default_factory=dict)
    text: str = SPEC

    def __post_init__(self) -> None:
        with self.db.begin() as conn:
            self.production = tasks.start(conn, read_spec(self.text, "spec"), FACTS, "dev+test", self.tick())
            tags.create_global_tag(conn, "gt", self.now)
            self.initial = {"Gain": tags.put_payload(conn, constants(1.0), self.now)}

    def tick(self) -> float:
        self.now += 1
        return self.now

    def plan(self, conn: sa.Connection) -> Plan:
        return tasks.plan(conn, self.production)

    def deliver(
        self, run: int, sequence: int = 1, sections: tuple[int, int] = (0, 100), end: bool = True
    ) -> None:
        document = {
            "series": "A", "run": run, "tier": "raw", "sequence": sequence, "reader": "toy", "files": [],
            "first_section": sections[0], "last_section": sections[1], "records": {"slice": 5},
            "is_mc": False, "end_marker": end,
        }  # fmt: skip
        with self.db.begin() as conn:
            runs.deliver(conn, document, {}, self.tick(), records={"slice": 5}, index_file="none")
            plan = self.plan(conn)
            chain.extend(conn, plan, plan.tasks["pass1"], self.now)

    def chain(self) -> Chain:
        with self.db.read() as conn:
            (found,) = chain.read(conn, self.plan(conn).tasks["pass1"].id)
        return found

    def link(self, run: int, sequence: int = 0) -> Link:
        return [link for link in self.chain().links if link.interval.first[0] == run][sequence]

    def waits(self, run: int, sequence: int = 0) -> str:
        with self.db.read() as conn:
            plan = self.plan(conn)
            return chain.waits_for(conn, plan, plan.tasks["pass1"], self.chain(), self.link(run, sequence))

    def collect(self, run: int, sequence: int = 0) -> Link:
        link = self.link(run, sequence)
        with self.db.begin() as conn:
            task = self.plan(conn).tasks["pass1"]
            item = Item(link.interval, (), "gt", False, False, {"slice": 5}, (link.chunk_id,))
            item = replace(item, edition=self.chain().generation)
            unit_id = ensure_unit(conn, task, collect_unit(task, item, Covered(), Run()), self.tick())
            chain.begin(
                conn, link, unit_id, chain.start_constants(self.chain(), link, self.initial), self.now
            )
        with self.db.begin() as conn:
            chain.accumulate(conn, self.chain(), self.link(run, sequence), self.tick())
        return self.link(run, sequence)

    def conclude(
        self, group: list[Link], value: float, origin: str = "fitted", on_reject: str = "carry"
    ) -> None:
        payload = constants(value)
        payload_id = payload.id if origin == "fitted" else self.initial["Gain"]
        with self.db.begin() as conn:
            outcome = {"Gain": Outcome(payload_id, origin, "")}
            chain.conclude(
                conn,
                self.chain(),
                group,
                "gt",
                {"Gain": payload},
                outcome,
                {"gain": {}},
                on_reject,
                self.tick(),
            )

    def resolve(self, run: int) -> tags.Resolution:
        with self.db.read() as conn:
            return tags.resolve(conn, "gt", ["Gain"], Interval.sections("A", run, 0, 100))
