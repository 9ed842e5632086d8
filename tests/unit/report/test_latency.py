"""How long runs took against the goals: what is settled, what is under way, what is late already."""

from __future__ import annotations

from typing import Any

from beamwright.catalog.processing import Times, times
from beamwright.core.settings import Goals
from beamwright.db import views
from beamwright.report import document, html, schema
from beamwright.report.grid import grid
from beamwright.report.latency import drawn, latencies, summary_lines

GOALS = Goals(feedback_h=2, full_h=24)
HOUR = 3600.0
COLUMNS = [{"step": "pass1", "kind": "calibrate"}, {"step": "reco", "kind": "process"}]


def cells(run: int, **states: str) -> dict[str, Any]:
    return {"series": "A", "run": run, "cells": {step: {"state": state} for step, state in states.items()}}


def told(rows: list[dict[str, Any]], at: dict[int, Times], now: float) -> dict[tuple[int, str], Any]:
    found = latencies(
        {"columns": COLUMNS, "rows": rows}, {("A", n): one for n, one in at.items()}, GOALS, now
    )
    return {
        (row["run"], row["goal"]): (round(row["hours"], 3), row["is_done"], row["in_time"]) for row in found
    }


def test_a_run_is_held_against_both_goals() -> None:
    at = Times(delivered=HOUR, calibrated=2 * HOUR, done=31 * HOUR)
    assert told([cells(1, pass1="accepted", reco="ok")], {1: at}, 99 * HOUR) == {
        (1, "feedback"): (1.0, True, True),
        (1, "full"): (30.0, True, False),
    }


def test_what_is_not_done_counts_up_to_now_and_is_late_only_when_it_is() -> None:
    rows, at = [cells(1, pass1="waiting", reco="waiting")], {1: Times(0.0, None, None)}
    assert told(rows, at, HOUR) == {
        (1, "feedback"): (1.0, False, None),
        (1, "full"): (1.0, False, None),
    }
    assert told(rows, at, 3 * HOUR)[1, "feedback"] == (3.0, False, False)


def test_a_chain_that_passed_without_a_job_took_no_time_and_all_chunks_count() -> None:
    rows = [cells(1, pass1="carried"), cells(1, pass1="carried", reco="prepared")]
    found = told(rows, {1: Times(0.0, None, None)}, HOUR)
    assert found == {(1, "feedback"): (0.0, True, True), (1, "full"): (1.0, False, None)}


def test_a_summary_names_the_slowest_run() -> None:
    rows = [cells(1, pass1="accepted"), cells(2, pass1="waiting")]
    at = {("A", 1): Times(0.0, HOUR, HOUR), ("A", 2): Times(0.0, None, None)}
    found = latencies({"columns": COLUMNS, "rows": rows}, at, GOALS, 3 * HOUR)
    assert summary_lines(found)[0] == (
        "feedback: 1 of 2 runs within 2 h of their delivery, A/2 took longest so far: 3 h"
    )
    assert summary_lines([]) == []


def test_times_are_those_of_accepted_work_over_the_run(conn) -> None:
    (production,) = views.productions(conn)
    found = times(conn, production["id"])
    shown = grid(conn, production)
    assert {(row["series"], row["run"]) for row in shown["rows"]} <= set(found)
    one = next(iter(sorted(found)))
    assert times(conn, production["id"], *one) == {one: found[one]}
    assert all(t.done is None or t.done >= (t.calibrated or 0.0) for t in found.values())


def test_the_report_shows_the_slowest_run_to_each_goal_and_every_run() -> None:
    rows = [cells(1, pass1="accepted", reco="ok"), cells(2, pass1="accepted", reco="waiting")]
    at = {("A", 1): Times(0.0, HOUR, 2 * HOUR), ("A", 2): Times(0.0, 3 * HOUR, 3 * HOUR)}
    shown = drawn(latencies({"columns": COLUMNS, "rows": rows}, at, GOALS, 9 * HOUR))
    assert shown is not None
    assert [(v["name"], v["value"], v["verdict"], v["note"]) for v in shown["values"]] == [
        ("slowest run to feedback", 3.0, "bad", "run A/2; 1 of 2 runs in time"),
        ("slowest run to the end", 9.0, "good", "run A/2 so far; 1 of 2 runs in time"),
    ]
    (table,) = shown["tables"]
    assert table["rows"] == [["A/1", 1.0, 2.0, "yes"], ["A/2", 3.0, 9.0, "not to feedback"]]
    assert drawn([]) is None


def test_the_page_of_a_production_holds_its_latency(conn) -> None:
    (production,) = views.productions(conn)
    built = document.build(conn, production, goals=GOALS, now=9 * HOUR)
    schema.check(built)
    assert "From delivery to result" in html.page(built) and built["latency"]
    assert "From delivery to result" not in html.page(document.build(conn, production))
