"""The chain of rolling calibrations in the database: order, carry, late runs, one transaction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from beamwright.catalog import runs
from beamwright.conditions import tags
from beamwright.conditions.payload import Payload
from beamwright.core.errors import StateError
from beamwright.core.runs import Interval
from beamwright.db import history, schema
from beamwright.db.engine import Database
from beamwright.production import chain, tasks
from beamwright.production.chain import Chain, Link, Outcome
from beamwright.production.progress import Progress
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

    def __post_init__(self) -> None:
        with self.db.begin() as conn:
            self.production = tasks.start(conn, read_spec(SPEC, "spec"), FACTS, "dev+test", self.tick())
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
            item = Item(link.interval, (), "gt", False, False, {"slice": 5}, chunk_ids=(link.chunk_id,))
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


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def test_a_run_waits_for_the_one_before_it_even_when_that_is_not_there(world: World) -> None:
    world.deliver(2)
    assert world.waits(2) == "run A:1 is not closed"
    world.deliver(1)
    assert world.waits(1) == "" and world.waits(2) == "A:1..1:100 is waiting"


def test_constants_roll_from_run_to_run_by_payload_id(world: World) -> None:
    world.deliver(1), world.deliver(2)
    first = world.collect(1)
    assert first.start == world.initial
    world.conclude([first], 1.5)
    second = world.collect(2)
    assert second.start == {"Gain": constants(1.5).id} == world.link(1).result
    assert [piece[2] for piece in world.resolve(1).pieces] == [constants(1.5).id]
    assert world.resolve(2).gaps and world.link(1).state == "accepted"


def test_a_link_cannot_begin_twice(world: World) -> None:
    world.deliver(1)
    world.collect(1)
    with pytest.raises(StateError), world.db.begin() as conn:
        chain.begin(conn, world.link(1), 1, {}, world.tick())


def test_a_rejected_fit_carries_what_was_there_and_says_so(world: World) -> None:
    world.deliver(1)
    world.conclude([world.collect(1)], 9.0, origin="carried")
    assert world.link(1).state == "carried" and world.link(1).result == world.initial
    assert [piece[2] for piece in world.resolve(1).pieces] == [world.initial["Gain"]]
    with world.db.read() as conn:
        moves = [entry.target for entry in history.of(conn, "chain", world.link(1).id)]
    assert moves == ["waiting", "collecting", "accumulating", "fitted", "rejected", "carried"]


def test_a_held_link_covers_nothing_and_stops_the_chain(world: World) -> None:
    world.deliver(1), world.deliver(2)
    world.conclude([world.collect(1)], 9.0, origin="carried", on_reject="hold")
    assert world.link(1).state == "held" and world.resolve(1).gaps
    assert world.waits(2) == "A:1..1:100 is held"


def test_runs_that_share_an_accumulator_are_covered_together(world: World) -> None:
    world.deliver(1), world.deliver(2)
    first = world.collect(1)
    assert world.waits(2) == "" and world.resolve(1).gaps
    second = world.collect(2)
    assert world.chain().accumulated == (first.id, second.id) and second.start == world.initial
    world.conclude([world.link(1), world.link(2)], 1.25)
    assert world.chain().accumulated == ()
    assert world.resolve(1).pieces[0][2] == world.resolve(2).pieces[0][2] == constants(1.25).id


def test_a_late_run_is_told_from_one_that_is_in_time(world: World) -> None:
    world.deliver(1, 1, (0, 50), end=False), world.deliver(1, 3, (80, 100))
    assert world.waits(1, 1) == "A:1..1:50 is waiting"
    world.conclude([world.collect(1)], 1.5)
    assert world.waits(1, 1) == "run A:1 lacks 1 earlier chunks"
    world.deliver(1, 2, (51, 79))
    assert world.waits(1, 1) == "" and not world.chain().started_after(world.link(1, 1))
    world.conclude([world.collect(1, 1)], 1.6)
    world.conclude([world.collect(1, 2)], 1.7)
    assert world.chain().started_after(world.link(1, 0))


def test_storing_constants_emptying_the_accumulator_and_advancing_is_all_or_nothing(world: World) -> None:
    world.deliver(1)
    link = world.collect(1)

    class Crash(Exception):
        pass

    with pytest.raises(Crash), world.db.begin() as conn:
        outcome = {"Gain": Outcome(constants(2.0).id, "fitted", "")}
        chain.conclude(
            conn, world.chain(), [link], "gt", {"Gain": constants(2.0)}, outcome, {}, "carry", world.tick()
        )
        raise Crash
    assert (
        world.link(1).state == "accumulating"
        and world.chain().accumulated == (link.id,)
        and world.resolve(1).gaps
    )
    world.conclude([world.link(1)], 2.0)
    with pytest.raises(StateError):
        world.conclude([world.link(1)], 2.0)
    with world.db.read() as conn:
        assert len(tags.intervals(conn, "gt/Gain")) == 1


def test_a_calibrated_run_is_complete_and_others_are_not(world: World) -> None:
    world.deliver(1)
    world.conclude([world.collect(1)], 1.5)
    with world.db.read() as conn:
        progress = Progress(conn, world.plan(conn))
        assert progress.is_complete("pass1", ("A", 1)) and not progress.is_complete("pass1", ("A", 2))


def test_a_changed_step_gets_a_new_version_and_a_changed_name_of_a_farm_does_not(world: World) -> None:
    def version(text: str) -> Any:
        with world.db.begin() as conn:
            tasks.start(conn, read_spec(text, "spec"), FACTS, "dev+test", world.tick())
            return conn.execute(sa.select(schema.task.c.config_version)).scalar_one()

    assert version(SPEC + 'farms = ["near"]\n') == 1
    assert version(SPEC + "prescale = { slice = 2 }\n") == 2
    assert version(SPEC + "prescale = { slice = 2 }\n") == 2
