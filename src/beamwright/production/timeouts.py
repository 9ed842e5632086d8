"""Runs that do not come, or do not end: after the time that their dataset allows they are incomplete.

A chain, and the production's end, then go on without what is missing. What comes later opens the run again,
as a new version, and is late in its chain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from beamwright.catalog import runs
from beamwright.production.spec import DatasetSpec
from beamwright.production.tasks import Plan


@dataclass(frozen=True)
class Deadline:
    """When a run is given up, and why; ``is_known`` tells one that has begun from one that never came."""

    at: float
    series: str
    run: int
    dataset: DatasetSpec
    is_known: bool
    reason: str


def deadlines(conn: sa.Connection, plan: Plan) -> list[Deadline]:
    """Return the runs that are waited for with a limit, the next one to be given up first."""
    waited = [d for d in plan.spec.dataset if not plan.spec.is_made(d)]
    limited = [d for d in waited if d.close_after_s is not None or d.skip_after_s is not None]
    found = [one for dataset in limited for one in _of_dataset(conn, dataset)]
    return sorted(found, key=lambda one: (one.at, one.series, one.run))


def expire(conn: sa.Connection, plan: Plan, now: float) -> int:
    """Flag as incomplete what was waited for long enough; return how many runs that were."""
    due = [one for one in deadlines(conn, plan) if one.at <= now]
    for one in due:
        if one.is_known:
            runs.give_up(conn, one.series, one.run, one.dataset.tier, one.reason, now)
        else:
            flags = {"is_mc": one.dataset.is_mc, "is_resampled": one.dataset.is_resampled}
            runs.miss(conn, one.series, one.run, one.dataset.tier, one.reason, now, **flags)
    return len(due)


def _of_dataset(conn: sa.Connection, dataset: DatasetSpec) -> Iterator[Deadline]:
    for series, numbers in dataset.runs.items():
        seen = {run.number: run for run in runs.signs(conn, series, dataset.tier)}
        for number in numbers:
            after = [run.begun for run in seen.values() if run.number > number]
            if number in seen and seen[number].state == "open" and dataset.close_after_s is not None:
                at = seen[number].last + dataset.close_after_s
                reason = f"nothing more came for {dataset.close_after_s:g} s"
                yield Deadline(at, series, number, dataset, True, reason)
            if number not in seen and after and dataset.skip_after_s is not None:
                at = min(after) + dataset.skip_after_s
                reason = f"it did not come within {dataset.skip_after_s:g} s of a later run"
                yield Deadline(at, series, number, dataset, False, reason)
