"""How long runs take from their delivery to the feedback of pass 1 and to their end, against the goals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from beamwright.catalog import processing
from beamwright.catalog.processing import Times
from beamwright.core.settings import Goals
from beamwright.production.figures import Figures, Table, Value
from beamwright.report.grid import DONE

Row = dict[str, Any]
RunKey = tuple[str, int]
FEEDBACK, FULL = "feedback", "full"
NAMES = {FEEDBACK: "feedback", FULL: "the end"}


def latencies(grid: Row, times: Mapping[RunKey, Times], goals: Goals, now: float) -> list[Row]:
    """Return, by run, the hours until pass 1 had settled it and until everything had, or up to now.

    ``in_time`` is None for what is not done and not late yet.
    """
    kinds = {column["step"]: column["kind"] for column in grid["columns"]}
    cells: dict[RunKey, list[tuple[str, str]]] = defaultdict(list)
    for row in grid["rows"]:
        cells[row["series"], row["run"]] += [
            (kinds[step], cell["state"]) for step, cell in row["cells"].items()
        ]
    found = []
    for run in sorted(set(cells) & set(times)):
        first = [state for kind, state in cells[run] if kind == "calibrate"]
        at = times[run]
        if first:
            found.append(_row(run, FEEDBACK, first, at.delivered, at.calibrated, goals.feedback_h, now))
        every = [state for _, state in cells[run]]
        found.append(_row(run, FULL, every, at.delivered, at.done, goals.full_h, now))
    return found


def reached(conn: sa.Connection, production: Row, grid: Row, goals: Goals, now: float) -> list[Row]:
    """Return the latencies of a production of which the grid is known."""
    return latencies(grid, processing.times(conn, production["id"]), goals, now)


def drawn(rows: Sequence[Row]) -> Row | None:
    """Return what the report shows of latencies: the slowest run to each goal, and all runs."""
    if not rows:
        return None
    made = Figures()
    about = "Hours from the delivery of a run's first chunk to what pass 1 says of it, and to its end."
    section = made.section("latency", "From delivery to result", about)
    goals = [goal for goal in (FEEDBACK, FULL) if any(row["goal"] == goal for row in rows)]
    for goal in goals:
        mine = [row for row in rows if row["goal"] == goal]
        slowest = max(mine, key=lambda row: row["hours"])
        in_time = sum(row["in_time"] is True for row in mine)
        so_far = "" if slowest["is_done"] else " so far"
        note = f"run {slowest['series']}/{slowest['run']}{so_far}; {in_time} of {len(mine)} runs in time"
        name = f"slowest run to {NAMES[goal]}"
        section.values.append(Value(name, _hours(slowest), "h", high=slowest["goal_h"], note=note))
    found = {(row["series"], row["run"], row["goal"]): row for row in rows}
    told = []
    for series, run in sorted({(row["series"], row["run"]) for row in rows}):
        reached_ones = [found.get((series, run, goal)) for goal in goals]
        told.append([f"{series}/{run}", *(_hours(row) for row in reached_ones), _state(reached_ones)])
    columns = ["run", *(NAMES[goal] for goal in goals), "in time"]
    section.tables.append(Table.of("By run", columns, told, units=("", *("h" for _ in goals), "")))
    return made.document()[0]


def _hours(row: Row | None) -> float | None:
    return None if row is None else float(f"{row['hours']:.3g}")


def _state(mine: Sequence[Row | None]) -> str:
    """Say whether a run reached its goals in time."""
    late = [NAMES[row["goal"]] for row in mine if row is not None and row["in_time"] is False]
    if late:
        return f"not to {' and '.join(late)}"
    return "yes" if all(row is None or row["in_time"] for row in mine) else "not yet done"


def summary_lines(rows: Sequence[Row]) -> list[str]:
    """Say, by goal, how many runs were in time, and which was the slowest."""
    lines = []
    for goal in (FEEDBACK, FULL):
        mine = [row for row in rows if row["goal"] == goal]
        if mine:
            slowest = max(mine, key=lambda row: row["hours"])
            in_time = sum(row["in_time"] is True for row in mine)
            state = "" if slowest["is_done"] else " so far"
            lines.append(
                f"{goal}: {in_time} of {len(mine)} runs within {slowest['goal_h']:g} h of their delivery, "
                f"{slowest['series']}/{slowest['run']} took longest{state}: {slowest['hours']:.3g} h"
            )
    return lines


def _row(
    run: RunKey,
    goal: str,
    states: Sequence[str],
    delivered: float,
    end: float | None,
    limit: float,
    now: float,
) -> Row:
    is_done = all(state in DONE for state in states)
    # A chain that came through without any job settled the run when it was delivered.
    hours = max(0.0, ((delivered if end is None else end) if is_done else now) - delivered) / 3600
    in_time = hours <= limit if is_done or hours > limit else None
    place = {"series": run[0], "run": run[1], "goal": goal, "goal_h": limit}
    return place | {"hours": hours, "is_done": is_done, "in_time": in_time}
