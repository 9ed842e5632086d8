"""How far a production has come: which runs a step has finished, and what it has not taken up yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import sqlalchemy as sa

from beamwright.db import schema
from beamwright.production import inputs
from beamwright.production.generating import RunRequest, run_requests
from beamwright.production.holes import Hole, holes
from beamwright.production.spec import DatasetSpec, split_input
from beamwright.production.tasks import Plan, Task

# States of a job after which nothing more is expected of it, of a link of a chain, and of a run.
SETTLED = ("ok", "excluded", "superseded", "cancelled", "split")
CONCLUDED = ("accepted", "carried")
ENDED = ("closed", "incomplete")

RunKey = tuple[str, int]  # series, number
T = TypeVar("T")


@dataclass
class Progress:
    """A production as one connection sees it at one moment; what is asked for is read once."""

    conn: sa.Connection
    plan: Plan
    _rows: dict[tuple[int, str], Any] = field(default_factory=dict)
    _complete: dict[tuple[str, RunKey], bool] = field(default_factory=dict)

    def new_chunks(self, task: Task, dataset: DatasetSpec) -> list[Any]:
        """Return the chunks of a dataset that a task has no unit of, in key order."""
        return self._once(task, dataset.name, lambda: inputs.chunks(self.conn, dataset, without=task))

    def new_collections(self, task: Task, name: str) -> list[Any]:
        """Return the collections of ``step.stream`` that a task has no unit of, in key order."""
        head, stream = split_input(name)
        source = self.plan.tasks[head].id
        return self._once(
            task, name, lambda: inputs.collections(self.conn, source, stream, without_task=task.id)
        )

    def is_complete(self, step: str, run: RunKey) -> bool:
        """Tell whether a step has done everything that one run will ever give it."""
        if (step, run) not in self._complete:
            self._complete[step, run] = self._is_complete(self.plan.tasks[step], run)
        return self._complete[step, run]

    def is_done(self, task: Task) -> bool:
        """Tell whether a task has done all the work that its datasets, now complete, will ever give it."""
        step = task.step
        if not all(self.is_complete(step.name, run) for run in expected_runs(self.plan, step.name)):
            return False
        return step.kind != "merge" or not any(self.new_collections(task, name) for name in step.inputs)

    def finished_prefix(self, step: str, series: str) -> tuple[list[int], bool]:
        """Return the runs of a series up to the first unfinished by a step, and whether that is all."""
        done: list[int] = []
        for run in expected_runs(self.plan, step):
            if run[0] == series:
                if not self.is_complete(step, run):
                    return done, False
                done.append(run[1])
        return done, True

    def concluded(self, task: Task) -> list[RunKey]:
        """Return the runs through which a chain has come with all it has of them."""
        return [run for run, states in self._links(task).items() if all(s in CONCLUDED for s in states)]

    def ended(self, dataset: DatasetSpec, series: str) -> list[int]:
        """Return the runs of a dataset's series that nothing more is expected of, in order."""
        runs = dataset.runs[series]
        return [n for n in runs if self._runs.get((dataset.tier, series, n)) in ENDED]

    def _is_complete(self, task: Task, run: RunKey) -> bool:
        if task.step.kind == "calibrate":
            states = self._links(task).get(run, ())
            return self._never_came(task, run) or (
                bool(states) and all(state in CONCLUDED for state in states)
            )
        if task.step.kind == "generate" and not self._is_planned(task, run):
            return False
        return all(self._is_consumed(task, name, run) for name in task.step.inputs) and (
            (task.id, *run) not in self._open_jobs
        )

    def requests(self, task: Task) -> dict[RunKey, RunRequest]:
        """Return what each run is to have of a step that generates."""
        return self._once(task, "requests", lambda: run_requests(self.conn, self.plan, task))

    def holes(self, task: Task) -> list[Hole]:
        """Return the ranges of inputs that were given up and that no unit has now."""
        return self._once(task, "holes", lambda: holes(self.conn, task.id))

    def _is_planned(self, task: Task, run: RunKey) -> bool:
        """Tell whether all events that are wanted of a run have a unit."""
        one = self.requests(task).get(run)
        return one is None or (one.wanted is not None and not one.left)

    def _is_consumed(self, task: Task, name: str, run: RunKey) -> bool:
        """Tell whether an input has given a task all that it will ever have of a run."""
        if task.step.kind == "generate":
            return True
        if any((hole.interval.series, hole.interval.first[0]) == run for hole in self.holes(task)):
            return False
        head, stream = split_input(name)
        if stream:
            left = self.new_collections(task, name)
            return self.is_complete(head, run) and not any((r.series, r.first_run) == run for r in left)
        dataset = self.plan.spec.datasets()[head]
        if run[1] not in dataset.runs.get(run[0], ()):
            return True
        if self._runs.get((dataset.tier, *run)) not in ENDED:
            return False
        return not any((row.series, row.number) == run for row in self.new_chunks(task, dataset))

    def _never_came(self, task: Task, run: RunKey) -> bool:
        """Tell whether a run was given up without any chunk."""
        tiers = {self.plan.spec.datasets()[name].tier for name in task.step.inputs}
        return all(
            self._runs.get((tier, *run)) == "incomplete" and (tier, *run) not in self._delivered
            for tier in tiers
        )

    def _once(self, task: Task, name: str, read: Callable[[], T]) -> T:
        if (task.id, name) not in self._rows:
            self._rows[task.id, name] = read()
        found: T = self._rows[task.id, name]
        return found

    @cached_property
    def _open_jobs(self) -> set[tuple[int, str, int]]:
        """(task, series, run) that have a job which is not settled."""
        job, unit, task = schema.job, schema.unit, schema.task
        query = (
            sa.select(unit.c.task_id, unit.c.series, unit.c.first_run)
            .join(job, job.c.unit_id == unit.c.id)
            .join(task, unit.c.task_id == task.c.id)
            .where(task.c.production_id == self.plan.id, job.c.state.not_in(SETTLED))
            .distinct()
        )
        return {(row.task_id, row.series, row.first_run) for row in self.conn.execute(query)}

    @cached_property
    def _runs(self) -> dict[tuple[str, str, int], str]:
        """State by (tier, series, number)."""
        run = schema.run
        series = {name for dataset in self.plan.spec.dataset for name in dataset.runs}
        query = sa.select(run.c.tier, run.c.series, run.c.number, run.c.state).where(run.c.series.in_(series))
        return {(row.tier, row.series, row.number): row.state for row in self.conn.execute(query)}

    @cached_property
    def _delivered(self) -> set[tuple[str, str, int]]:
        """The runs that have a chunk, as (tier, series, number)."""
        run, chunk = schema.run, schema.chunk
        query = sa.select(run.c.tier, run.c.series, run.c.number).where(
            sa.select(chunk.c.id).where(chunk.c.run_id == run.c.id).exists(), run.c.state == "incomplete"
        )
        return {(row.tier, row.series, row.number) for row in self.conn.execute(query)}

    def _links(self, task: Task) -> dict[RunKey, list[str]]:
        link, chain = schema.chain_link, schema.chain
        query = sa.select(link.c.series, link.c.first_run, link.c.chunk_id, link.c.state)
        query = query.join(chain, link.c.chain_id == chain.c.id).where(chain.c.task_id == task.id)
        query = query.order_by(link.c.generation)
        rows = self._once(task, "links", lambda: list(self.conn.execute(query)))
        found: dict[RunKey, list[str]] = {}
        for row in {row.chunk_id: row for row in rows}.values():
            found.setdefault((row.series, row.first_run), []).append(row.state)
        return found


def expected_runs(plan: Plan, step: str) -> list[RunKey]:
    """Return all runs that a step will see, in key order."""
    runs: Iterable[RunKey] = (
        (series, number) for d in plan.roots(step) for series, numbers in d.runs.items() for number in numbers
    )
    return sorted(set(runs))
