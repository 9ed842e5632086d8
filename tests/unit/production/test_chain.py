"""The chain of rolling calibrations in the database: order, carry, late runs, one transaction."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from beamwright.conditions import tags
from beamwright.core.errors import ConflictError, StateError
from beamwright.db import history, schema
from beamwright.db.engine import Database
from beamwright.production import chain, tasks
from beamwright.production.chain import Outcome
from beamwright.production.progress import Progress
from beamwright.production.spec import read_spec
from support.chains import FACTS, SPEC, World, constants


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


def test_a_second_chain_that_would_write_the_same_tag_is_refused_by_name(world: World) -> None:
    world.deliver(1)

    def other(text: str) -> None:
        with world.db.begin() as conn:
            made = tasks.start(conn, read_spec(text, "spec"), FACTS, "dev+test", world.tick())
            plan = tasks.plan(conn, made)
            chain.extend(conn, plan, plan.tasks["pass1"], world.tick())

    with pytest.raises(ConflictError, match="other/pass1 would write tag gt/Gain .* chain of test/pass1"):
        other(SPEC.replace('name = "test"', 'name = "other"'))
    other(SPEC.replace('name = "test"', 'name = "other"').replace('"gt"', '"gt2"'))


# --- the part of a chain that says what is to be done next


def decisions(one: chain.Chain) -> list[Any]:
    """Return all that the calibrator asks of a chain."""
    first = one.next_waiting
    return [
        one.next, first, one.accumulated, one.generation,
        first is not None and one.started_after(first),
        first is not None and chain.start_constants(one, first, {"Gain": "initial"}),
        first is not None and (before := one.before(first)) is not None and before.state,
    ]  # fmt: skip


def assert_open_is_enough(world: World) -> None:
    with world.db.read() as conn:
        task_id = world.plan(conn).tasks["pass1"].id
        (whole,), (part,) = chain.read(conn, task_id), chain.read_open(conn, task_id)
    assert decisions(part) == decisions(whole)
    assert all(link in whole.links for link in part.links) and len(part.links) <= 6


def test_few_links_say_what_is_to_be_done_next_in_any_state(world: World) -> None:
    for run in (1, 3):
        world.deliver(run)
        assert_open_is_enough(world)
    first = world.collect(1)
    assert_open_is_enough(world)
    world.conclude([first], 1.5)
    assert_open_is_enough(world)
    third = world.collect(3)
    world.conclude([third], 1.75)
    assert_open_is_enough(world)
    world.deliver(2)  # late: what was concluded after it counts, what it starts from lies before
    assert_open_is_enough(world)
    with world.db.read() as conn:
        (part,) = chain.read_open(conn, world.plan(conn).tasks["pass1"].id)
    waiting = part.next_waiting
    assert waiting is not None and part.started_after(waiting)
    assert chain.start_constants(part, waiting, world.initial) == first_result(world)
    with world.db.begin() as conn:
        chain.carry(conn, part, [waiting], "gt", first_result(world), "late", world.tick(), "late")
    assert_open_is_enough(world)


def first_result(world: World) -> dict[str, str]:
    return world.link(1).result


def test_a_chunk_is_linked_once_however_often_the_chain_is_extended(world: World) -> None:
    world.deliver(1, 1, (0, 4), end=False)
    with world.db.read() as conn:
        mark = chain.chunk_mark(conn)
    world.deliver(1, 2, (5, 9))
    with world.db.begin() as conn:
        assert chain.chunk_mark(conn) != mark
        plan = world.plan(conn)
        chain.extend(conn, plan, plan.tasks["pass1"], world.tick())
    assert [link.interval.first[1] for link in world.chain().links] == [0, 5]
