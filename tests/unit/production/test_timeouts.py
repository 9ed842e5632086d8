"""Runs that do not come or do not end: waited for, or given up after the time that their dataset allows."""

from __future__ import annotations

from beamwright.catalog import runs
from beamwright.db.engine import Database
from beamwright.production import timeouts
from beamwright.production.progress import Progress
from support.chains import SPEC, World

LIMITS = 'global_tag = "gt"\nclose_after_s = 100\nskip_after_s = 50\n'


def limited(database: Database, text: str = LIMITS) -> World:
    return World(database, text=SPEC.replace('global_tag = "gt"\n', text))


def expire(world: World, now: float) -> int:
    with world.db.begin() as conn:
        return timeouts.expire(conn, world.plan(conn), now)


def state(world: World, run: int) -> str:
    with world.db.read() as conn:
        return runs.find(conn, "A", run).state


def test_without_limits_a_run_is_waited_for(database: Database) -> None:
    world = limited(database, 'global_tag = "gt"\n')
    world.deliver(2, end=False)
    assert expire(world, 1e9) == 0 and world.waits(2) == "run A:1 is not closed"


def test_a_run_that_does_not_come_is_passed_over_some_time_after_a_later_one(database: Database) -> None:
    world = limited(database)
    world.deliver(2)
    assert expire(world, world.now + 49) == 0 and world.waits(2) == "run A:1 is not closed"
    assert expire(world, world.now + 50) == 1 and world.waits(2) == ""
    assert state(world, 1) == "incomplete" and expire(world, world.now + 60) == 0
    with world.db.read() as conn:
        assert Progress(conn, world.plan(conn)).is_complete("pass1", ("A", 1))


def test_what_comes_after_it_was_passed_over_is_late_and_not_lost(database: Database) -> None:
    world = limited(database)
    world.deliver(2)
    expire(world, world.now + 50)
    world.conclude([world.collect(2)], 1.5)
    world.deliver(1)
    assert state(world, 1) == "closed" and world.chain().started_after(world.link(1))
    with world.db.read() as conn:
        assert not Progress(conn, world.plan(conn)).is_complete("pass1", ("A", 1))


def test_a_run_that_gets_nothing_more_is_incomplete_and_each_chunk_starts_the_time_anew(
    database: Database,
) -> None:
    world = limited(database)
    world.deliver(1, 1, (0, 50), end=False)
    first = world.now
    world.now += 90
    world.deliver(1, 2, (51, 60), end=False)
    assert expire(world, first + 100) == 0
    assert expire(world, world.now + 100) == 1 and state(world, 1) == "incomplete"
    world.deliver(1, 3, (61, 70))
    assert state(world, 1) == "closed"


def test_a_clock_that_is_set_back_gives_up_nothing_and_one_ahead_nothing_for_good(database: Database) -> None:
    world = limited(database)
    world.deliver(2)
    assert expire(world, world.now - 86_400) == 0 and world.waits(2) == "run A:1 is not closed"
    assert expire(world, world.now + 86_400) == 1 and state(world, 1) == "incomplete"
    world.deliver(1)
    assert state(world, 1) == "closed" and expire(world, world.now) == 0
