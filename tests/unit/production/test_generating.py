"""What is generated: how many events each run is to have, their keys, the seeds of units, the errors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from beamwright.core.errors import ConfigError, ConflictError, ModuleError, UnknownNameError
from beamwright.core.runs import Interval
from beamwright.db import schema
from beamwright.db.engine import Database, insert_id
from beamwright.event.generating import generator, normal, requested_keys, uniform
from beamwright.production import facts, generating, splitting, tasks, units
from beamwright.production.requests import filled, shared
from beamwright.production.spec import read_spec
from beamwright.production.splitting import Covered, Run
from beamwright.production.tasks import Facts, Plan, Task
from support import toy
from support.toy_production import experiment

TEXT = """
name = "sim"
experiment = "support.toy_production:experiment"

[[dataset]]
name = "beam"
runs = { A = [1, 2, 3] }
global_tag = "t"

[[step]]
name = "generate"
kind = "generate"
inputs = ["beam"]
path = "free"
split = 100
request = { events = 300 }
"""


def planned(conn: sa.Connection, text: str = TEXT) -> tuple[Plan, Task]:
    production = tasks.start(conn, read_spec(text, "f"), {"generate": FACTS}, "r", 0.0)
    plan = tasks.plan(conn, production)
    return plan, plan.tasks["generate"]


FACTS = Facts("event", {"mc": "mc"}, (), (), ("event",))


def add_run(conn: sa.Connection, number: int, *chunks: tuple[int, int, int], **values: Any) -> None:
    """Enter a run; each chunk is (first section, last section, events)."""
    flags = {"end_marker": True, "is_mc": False, "is_resampled": False, "conditions": {}}
    row = {"series": "A", "number": number, "tier": "raw", "state": "closed", "version": 1, "created": 0.0}
    run_id = insert_id(conn, schema.run, **(row | flags | values))
    for sequence, (first, last, events) in enumerate(chunks, 1):
        place = {"run_id": run_id, "sequence": sequence, "first_section": first, "last_section": last}
        kept = {"records": {"event": events}, "reader": "toy", "index_file": "", "delivery_hash": "x"}
        insert_id(conn, schema.chunk, **place, **kept, created=0.0)


def sections_of(chunk: Any) -> Any:
    sections = np.arange(chunk.first_section, chunk.last_section + 1)
    return np.repeat(sections, chunk.records["event"] // len(sections))


def plan_units(conn: sa.Connection, task: Task, one: generating.RunRequest) -> list[units.UnitPlan]:
    found = []
    for item in generating.items(conn, task, one, sections_of):
        covered = {interval: Covered() for interval, _ in splitting.ranges(item, task.step.split)}
        for unit in splitting.process_units(task, item, covered, Run(), task.step.split):
            request = generating.request_document(task, item, unit.interval)
            found.append(replace(unit, definition=unit.definition | {"request": request}))
    return found


def plan_all(conn: sa.Connection, text: str = TEXT) -> dict[int, list[units.UnitPlan]]:
    plan, task = planned(conn, text)
    found = {}
    for (_, run), one in generating.run_requests(conn, plan, task).items():
        found[run] = plan_units(conn, task, one)
        units.add_units(conn, task, found[run], 0.0)
    return found


def keys(plans: list[units.UnitPlan]) -> list[tuple[int, int]]:
    parts = [requested_keys(unit.definition["request"]["keys"]) for unit in plans]
    return [(int(s), int(e)) for sections, events in parts for s, e in zip(sections, events, strict=True)]


def test_each_run_has_its_events_spread_over_the_sections_of_its_chunks(database: Database) -> None:
    with database.begin() as conn:
        add_run(conn, 1, (0, 4, 40))
        add_run(conn, 2, (0, 4, 40), (7, 11, 40))
        add_run(conn, 3)
        found = plan_all(conn)
        assert {run: len(plans) for run, plans in found.items()} == {1: 3, 2: 4, 3: 0}
        assert [event for _, event in keys(found[2])] == list(range(300))
        sections, counts = np.unique([section for section, _ in keys(found[2])], return_counts=True)
        assert sections.tolist() == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11] and set(counts) == {30}
        assert all(u.definition["is_mc"] and u.interval.last[1] != 6 for u in found[2])
        assert not plan_all(conn)[1]  # nothing is left


def test_events_lie_where_the_data_lie(sqlite_database: Database) -> None:
    data = {"event/section": np.array([3, 3, 3, 9], np.uint32), "slice/section": np.arange(2)}
    with sqlite_database.begin() as conn:
        add_run(conn, 1, (0, 2**32 - 1, 4))
        add_run(conn, 2, (5, 9, 0))
        plan, task = planned(conn)
        first, second, _ = generating.run_requests(conn, plan, task).values()
        held = generating.chunk_sections(task, data)
        (item,) = generating.items(conn, task, first, lambda _: held)
        (empty,) = generating.items(conn, task, second, lambda _: held[:0])
    sections, counts = np.unique(item.keys[0], return_counts=True)
    assert (sections.tolist(), counts.tolist()) == ([3, 9], [225, 75])
    assert set(empty.keys[0].tolist()) == {5} and empty.interval.first == (2, 5, 0)
    assert generating.chunk_sections(task, {"slice/section": np.arange(2)}).tolist() == [0, 1]
    assert not len(generating.chunk_sections(task, {}))


def test_a_run_that_has_not_ended_waits(database: Database) -> None:
    with database.begin() as conn:
        add_run(conn, 1, (0, 4, 40), state="open")
        plan, task = planned(conn)
        told = generating.obstacles(conn, plan, task)
        assert told == [f"step generate, run A:{run}: it has not ended" for run in (1, 2, 3)]


@pytest.mark.parametrize(
    ("request_text", "numbers"),
    [
        ('{ events = 3, per = "record" }', {1: 30, 2: 60, 3: 90}),
        ('{ events = 2, per = "record", record = "slice" }', {1: 0, 2: 0, 3: 0}),
        ('{ events = 0.5, per = "luminosity" }', {1: 5, 2: 10, 3: 15}),
        ('{ events = 10, per = "livetime" }', {1: 10, 2: 20, 3: 30}),
        ('{ events = 100, per = "all" }', {1: 34, 2: 33, 3: 33}),
        ('{ events = 100, per = "all", share = "luminosity" }', {1: 17, 2: 33, 3: 50}),
    ],
)
def test_events_are_asked_for_by_what_a_run_has(
    sqlite_database: Database, request_text: str, numbers: dict[int, int]
) -> None:
    with sqlite_database.begin() as conn:
        for run in (1, 2, 3):
            add_run(conn, run, (0, 4, 10 * run), luminosity=10.0 * run, livetime=1.0 * run)
        plan, task = planned(conn, TEXT.replace("{ events = 300 }", request_text))
        wanted = {run: one.wanted for (_, run), one in generating.run_requests(conn, plan, task).items()}
    assert wanted == numbers


def test_what_a_run_is_measured_by_has_to_be_known(sqlite_database: Database) -> None:
    text = TEXT.replace("{ events = 300 }", '{ events = 9, per = "all", share = "luminosity" }')
    with sqlite_database.begin() as conn:
        for run in (1, 2, 3):
            add_run(conn, run, (0, 4, 40), luminosity=None if run == 2 else 1.0)
        plan, task = planned(conn, text)
        told = generating.obstacles(conn, plan, task)
    assert len(told) == 3 and "run A:2: its luminosity is not known" in told[0]


def test_a_simulated_run_grows_and_a_run_of_data_says_why_it_does_not(sqlite_database: Database) -> None:
    more = TEXT.replace("300", "450")
    simulated = 'global_tag = "t"\nis_mc = true'
    with sqlite_database.begin() as conn:
        first = plan_all(conn, TEXT.replace('global_tag = "t"', simulated))[1]
        again = plan_all(conn, more.replace('global_tag = "t"', simulated))[1]
    assert keys(first) + keys(again) == [(0, event) for event in range(450)]
    assert [u.interval.first[2] for u in again] == [300, 400]


def test_a_run_of_data_that_has_its_events_is_not_laid_out_anew(sqlite_database: Database) -> None:
    with sqlite_database.begin() as conn:
        for run in (1, 2, 3):
            add_run(conn, run, (0, 4, 40))
        plan_all(conn)
        assert not plan_all(conn, TEXT.replace("300", "450"))[1]
        plan, task = planned(conn, TEXT.replace("300", "450"))
        (told, *_) = generating.obstacles(conn, plan, task)
    assert "has 300 of 450 events" in told and "beamwright task redo sim/generate" in told


def test_what_is_given_up_half_way_is_planned_again_exactly(sqlite_database: Database) -> None:
    with sqlite_database.begin() as conn:
        for run in (1, 2, 3):
            add_run(conn, run, (0, 4, 40))
        before = plan_all(conn)[1]
        unit, job = schema.unit, schema.job
        middle = sa.select(unit.c.id).where(unit.c.first_run == 1, unit.c.first_event == 100)
        conn.execute(sa.update(job).where(job.c.unit_id.in_(middle)).values(state="superseded"))
        (again,) = plan_all(conn)[1]
    assert keys([again]) == keys(before[1:2])
    assert again.definition["seeds"] != before[1].definition["seeds"]  # the same events are not made twice


def test_no_two_units_share_a_seed_and_the_error_names_the_first(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.begin() as conn:
        for run in (1, 2, 3):
            add_run(conn, run, (0, 4, 40))
        seeds = [u.definition["seeds"]["job"] for plans in plan_all(conn).values() for u in plans]
        assert len(set(seeds)) == 9 and all(0 <= seed < 2**63 for seed in seeds)
        monkeypatch.setattr(splitting, "_seed", lambda *_: seeds[4])
        other = TEXT.replace('name = "sim"', 'name = "other"')
        with pytest.raises(ConflictError, match="two new units of step generate share a seed"):
            plan_all(conn, other)
        one = other.replace("300", "1").replace("[1, 2, 3]", "[1]").replace('"other"', '"third"')
        with pytest.raises(ConflictError, match=f"has generated with seed {seeds[4]} of .*:free already"):
            plan_all(conn, one)


def test_seeds_follow_from_production_step_unit_configuration_and_edition() -> None:
    spec = read_spec(TEXT, "f")
    task = Task(1, 1, "sim", "e", "r", "active", 1, "hash", spec.step[0], FACTS)
    where = Interval.sections("A", 1)
    others = [
        splitting._seed(task, "generate", where, 0),
        splitting._seed(task, "generate", where, 1),
        splitting._seed(task, "generate", Interval.sections("A", 2), 0),
        splitting._seed(replace(task, config_version=2), "generate", where, 0),
        splitting._seed(replace(task, production="sim2"), "generate", where, 0),
    ]
    assert len(set(others)) == 5 and others[0] == splitting._seed(task, "generate", where, 0)


@given(st.integers(0, 10_000), st.lists(st.floats(0, 1e9), min_size=1, max_size=20))
def test_shares_add_up_exactly(total: int, weights: list[float]) -> None:
    parts = shared(total, weights)
    assert sum(parts) == (total if any(weights) else 0)
    assert all(part == 0 for part, weight in zip(parts, weights, strict=True) if not weight)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("request = { events = 300 }", "", "is of kind generate and has no request"),
        ('kind = "generate"', 'kind = "process"', "is of kind process and has a request"),
        ("events = 300", 'events = 300, per = "luminosty"', "luminosity"),
        ("events = 300", "events = 0.5", "is 0.5 events"),
        ("events = 300", 'events = 300, share = "livetime"', "shares out what is no total"),
        ("events = 300", 'events = 3, reader = "toy"', "has a command or a reader alone"),
        ("events = 300", 'events = 3, reader = "toy", command = ["x"]', "does not tell its command {seed}"),
        ("events = 300", 'events = 3, reader = "toy", command = ["{sed}"]', "tells its command {sed}.*seed"),
        ("split = 100", "files = 3", "splits or groups its inputs"),
        ("split = 100", "prescale = { event = 2 }", "prescales what it generates"),
        ('"t"', '"t"\nis_mc = true', "whose runs are simulated"),
    ],
)
def test_wrong_requests_are_refused_by_name(old: str, new: str, message: str) -> None:
    text = TEXT.replace("300 }", '300, per = "record" }') if "is_mc" in new else TEXT
    with pytest.raises(ConfigError, match=message):
        try:
            read_spec(text.replace(old, new), "sim.toml")
        except ConfigError as error:
            raise ConfigError(str(error)) from None


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ('"free"', '"frei"', UnknownNameError),
        ('"free"', '"plain"', ModuleError),  # it reads hits, and nothing makes them
        ('"free"', '"bursts"', ConfigError),
        (
            "events = 300",
            'events = 3, reader = "toi", command = ["{seed}{events}{output}"]',
            UnknownNameError,
        ),
    ],
)
def test_a_path_must_be_able_to_start_from_nothing(old: str, new: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        facts.production_facts(experiment, read_spec(TEXT.replace(old, new), "f"))


def test_a_command_is_told_what_it_is_to_make() -> None:
    told = {"seed": 7, "output": "/x/generated"}
    assert filled(["gen", "--seed={seed}", "{output}.root"], told) == ["gen", "--seed=7", "/x/generated.root"]


def test_random_numbers_follow_from_seed_and_lane_alone() -> None:
    seeds = np.arange(20_000, dtype=np.uint64)
    numbers = uniform(seeds, 3)
    assert np.array_equal(numbers[::-1], uniform(seeds[::-1], 3)) and 0 <= numbers.min() < numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.01 and abs(np.corrcoef(numbers, uniform(seeds, 4))[0, 1]) < 0.03
    assert abs(normal(seeds).std() - 1) < 0.02 and abs(normal(seeds, 1).mean()) < 0.03
    assert generator(5).random() == generator(5).random() != generator(6).random()
    assert toy.uniform(seeds, 3).shape == numbers.shape
