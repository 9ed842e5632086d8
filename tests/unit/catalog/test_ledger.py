"""The rules of the ledger, each with a planted miscount; statements are tested on a sample production."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from beamwright.catalog.ledger import TERMS, Line, Share, line_problems, task_problems, totals
from beamwright.core.runs import Interval
from beamwright.db import schema
from beamwright.db.engine import Database
from beamwright.db.migrations import guards
from support.world import World

LEFT, RIGHT = Interval.sections("A", 1, 0, 4), Interval.sections("A", 1, 5, 9)
SHARES = [
    Share(1, "process", "event", LEFT, frozenset({"dst"}), frozenset({"chunk 1"})),
    Share(2, "process", "event", RIGHT, frozenset({"dst"}), frozenset({"chunk 1"})),
]
LINES = [
    Line(1, "event", "dst", LEFT, 10, 0, 6, 2, 1, 1),
    Line(2, "event", "dst", RIGHT, 5, 0, 5, 0, 0, 0),
]
HELD = {("chunk 1", "event"): 15}
NAMED = {(1, "event"): 1}


def test_a_balanced_task_has_no_problem() -> None:
    assert task_problems(SHARES, LINES, HELD, NAMED) == []


@pytest.mark.parametrize("term", ["read", "created", "written", "filtered", "prescaled", "quarantined"])
@pytest.mark.parametrize("by", [1, -1])
def test_a_miscount_of_any_term_is_found(term: str, by: int) -> None:
    wrong = replace(LINES[0], **{term: getattr(LINES[0], term) + by})
    assert any("does not balance" in problem for problem in line_problems(wrong))
    assert task_problems(SHARES, [wrong, LINES[1]], HELD, NAMED)


def test_two_miscounts_that_cancel_are_found_when_records_vanish() -> None:
    wrong = replace(LINES[0], read=9, written=5)
    assert line_problems(wrong) == []
    problems = task_problems(SHARES, [wrong, LINES[1]], HELD, NAMED)
    assert problems == ["event/dst: 14 of 15 records of chunk 1 were read"]


def test_a_unit_without_a_line_is_named() -> None:
    problems = task_problems(SHARES, LINES[:1], HELD, NAMED)
    assert "unit 2 (process) has no line for event/dst" in problems


def test_a_record_read_by_two_units_is_named() -> None:
    shares = [SHARES[0], replace(SHARES[1], interval=Interval.sections("A", 1, 4, 9))]
    problems = task_problems(shares, LINES, HELD, NAMED)
    assert len(problems) == 1 and "both read chunk 1" in problems[0]


def test_quarantined_records_must_be_named() -> None:
    assert task_problems(SHARES, LINES, HELD, {}) == ["unit 1, event/dst: 1 quarantined, 0 named"]


def test_created_records_balance_as_well() -> None:
    made = Line(1, "built", "dst", LEFT, 0, 7, 5, 1, 0, 1)
    assert task_problems(SHARES, [*LINES, made], HELD, NAMED | {(1, "built"): 1}) == []
    assert line_problems(replace(made, created=8)) != []


def test_units_that_share_sources_are_counted_together() -> None:
    merged = Share(3, "merge", "event", LEFT, frozenset({"dst"}), frozenset({"collection 1", "collection 2"}))
    line = Line(3, "event", "dst", LEFT, 11, 0, 11, 0, 0, 0)
    held = {("collection 1", "event"): 6, ("collection 2", "event"): 5}
    assert task_problems([merged], [line], held, {}) == []
    held["collection 2", "event"] = 4
    assert task_problems([merged], [line], held, {}) == [
        "event/dst: 11 of 10 records of collection 1, collection 2 were read"
    ]


def test_totals_are_added_up_from_the_lines_whenever_they_are_asked_for(
    database: Database, tmp_path: Path
) -> None:
    world = World(database, tmp_path, kind="bundle").build()
    wanted = {"read": 20, "created": 0, "written": 14, "filtered": 4, "prescaled": 0, "quarantined": 2}
    with database.begin() as conn:
        (found,) = totals(conn, world.ids["reco"])
        assert {term: found[term] for term in TERMS} == wanted
        assert (found["record"], found["stream"], found["kind"], found["units"]) == (
            "event",
            "dst",
            "data",
            2,
        )
        assert found["balanced"] and totals(conn, 99) == []
        guards.release(conn, "ledger")
        second = schema.ledger.c.unit_id == world.ids["unit2"]
        conn.execute(sa.update(schema.ledger).where(second).values(read=11))
        conn.execute(sa.update(schema.run).where(schema.run.c.number == 2).values(is_mc=True))
        drifted = totals(conn, world.ids["reco"])
    assert [(t["kind"], t["read"], t["balanced"]) for t in drifted] == [
        ("data", 10, True),
        ("simulation", 11, False),
    ]
