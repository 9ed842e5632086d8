"""What a person does to a chain: hold, accept, reject, skip back."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from beamwright.conditions import tags
from beamwright.core.errors import StateError, UnknownNameError
from beamwright.db import history, schema
from beamwright.db.engine import Database
from beamwright.production import chain, interventions
from beamwright.production.interventions import Place, Why
from support.chains import World, constants

WHY = Why("shifter", "the high voltage tripped", 9000.0)


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def rolled(world: World, last: int = 3) -> World:
    """Calibrate runs 1 to last with gains 1.1, 1.2, …"""
    for run in range(1, last + 1):
        world.deliver(run)
        world.conclude([world.collect(run)], 1 + run / 10)
    return world


def place(conn: sa.Connection, run: int) -> Place:
    return interventions.locate(conn, "A", run)


def skip(world: World, run: int) -> list[chain.Link]:
    with world.db.begin() as conn:
        return interventions.skip_back(conn, place(conn, run), WHY)


def resolved(world: World, run: int, version: int | None = None) -> list[str]:
    with world.db.read() as conn:
        interval = world.link(run).interval
        return [piece[2] for piece in tags.resolve(conn, "gt", ["Gain"], interval, version).pieces]


def test_skipping_back_uncovers_what_follows_and_leaves_what_is_before(world: World) -> None:
    rolled(world)
    assert [link.interval.first[0] for link in skip(world, 2)] == [2, 3]
    assert [(link.state, link.generation) for link in world.chain().links] == [
        ("accepted", 0), ("waiting", 1), ("waiting", 1),
    ]  # fmt: skip
    assert resolved(world, 1) == [constants(1.1).id] and resolved(world, 2) == resolved(world, 3) == []
    assert resolved(world, 3, version=3) == [constants(1.3).id], "older versions answer as before"


def test_after_skipping_back_the_chain_rolls_from_the_run_before(world: World) -> None:
    rolled(world)
    skip(world, 2)
    again = world.collect(2)
    assert again.start == {"Gain": constants(1.1).id}
    world.conclude([again], 1.25)
    assert resolved(world, 2) == [constants(1.25).id]
    assert world.collect(3).start == {"Gain": constants(1.25).id}
    with world.db.read() as conn:
        assert {v.generation for v in tags.intervals(conn, "gt/Gain")} == {0, 1}


def test_a_collector_runs_again_in_the_new_generation_and_the_old_job_is_superseded(world: World) -> None:
    old = rolled(world).link(2)
    skip(world, 2)
    new = world.collect(2)
    assert new.collect_unit_id != old.collect_unit_id
    with world.db.read() as conn:
        job = schema.job
        state = sa.select(job.c.state).where(job.c.unit_id == old.collect_unit_id)
        assert conn.execute(state).scalar_one() == "superseded"
        names = conn.execute(sa.select(schema.unit.c.definition)).scalars().all()
    streams = [d["streams"]["accumulator"]["name"] for d in names if d["kind"] == "collect"]
    assert len(streams) == len(set(streams))


def test_what_was_accumulating_before_the_run_is_fitted_without_what_was_skipped(world: World) -> None:
    world.deliver(1), world.deliver(2)
    first, second = world.collect(1), world.collect(2)
    with world.db.begin() as conn:
        chain.request_fit(conn, [first, second], second.collect_unit_id or 0)
    skip(world, 2)
    assert world.chain().accumulated == (first.id,)
    assert (world.link(1).state, world.link(1).fit_unit_id) == ("accumulating", None)


def test_nothing_can_be_skipped_that_has_not_begun_or_is_frozen(world: World) -> None:
    world.deliver(1)
    with pytest.raises(StateError, match="has not begun"):
        skip(world, 1)
    world.conclude([world.collect(1)], 1.1)
    with world.db.begin() as conn:
        tags.freeze(conn, "gt", world.tick())
    with pytest.raises(StateError, match="frozen"):
        skip(world, 1)
    with pytest.raises(UnknownNameError, match="A/7"):
        skip(world, 7)


def test_an_agent_that_read_the_chain_before_a_skip_back_does_nothing(world: World) -> None:
    rolled(world, 2)
    world.deliver(3)
    before, link = world.chain(), world.link(3)
    skip(world, 2)
    with pytest.raises(chain.Outdated), world.db.begin() as conn:
        chain.confirm(conn, before, [link])
    with world.db.begin() as conn:
        chain.confirm(conn, world.chain(), [world.link(3)])


def test_a_held_run_stops_the_chain_until_it_is_let_go(world: World) -> None:
    world.deliver(1), world.deliver(2)
    with world.db.begin() as conn:
        interventions.hold(conn, place(conn, 1), WHY)
    assert world.link(1).state == "held" and world.waits(2) == "A:1..1:100 is held"
    with world.db.begin() as conn:
        interventions.accept(conn, place(conn, 1), WHY)
    assert world.link(1).state == "waiting" and world.waits(1) == ""
    with world.db.read() as conn:
        told = history.of(conn, "chain", world.link(1).id)[-1]
    assert (told.actor, told.reason) == ("shifter", "the high voltage tripped")


def test_what_has_begun_is_not_held_and_what_is_not_held_is_not_accepted(world: World) -> None:
    rolled(world, 1)
    for act in (interventions.hold, interventions.accept):
        with pytest.raises(StateError, match="skip back"), world.db.begin() as conn:
            act(conn, place(conn, 1), WHY)


def test_a_rejected_run_carries_the_constants_before_it_with_the_reason(world: World) -> None:
    rolled(world, 1)
    world.deliver(2)
    world.conclude([world.collect(2)], 9.0, origin="carried", on_reject="hold")
    experiment: Any = None  # not asked: the link knows what it started from
    with world.db.begin() as conn:
        interventions.reject(conn, place(conn, 2), experiment, WHY)
    assert world.link(2).state == "carried" and resolved(world, 2) == [constants(1.1).id]
    with world.db.read() as conn:
        assert tags.intervals(conn, "gt/Gain")[-1].reason == "the high voltage tripped"


def test_a_skip_back_is_all_or_nothing_wherever_it_is_cut(world: World) -> None:
    rolled(world)
    before = (world.chain(), [resolved(world, run) for run in (1, 2, 3)])
    cuts = 0

    class Cut(Exception):
        pass

    while True:
        left = [cuts]

        def count(*_: Any, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Cut

        try:
            with world.db.begin() as conn:
                sa.event.listen(conn, "before_cursor_execute", count)
                interventions.skip_back(conn, place(conn, 2), WHY)
        except Cut:
            assert (world.chain(), [resolved(world, run) for run in (1, 2, 3)]) == before
            cuts += 1
        else:
            break
    assert cuts > 20 and world.chain().generation == 1 and resolved(world, 3) == []
