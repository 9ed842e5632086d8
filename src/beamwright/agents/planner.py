"""The planner: makes units and jobs from what has arrived and is covered by conditions, and closes tasks
that are done.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import sqlalchemy as sa

from beamwright.agents.watch import Watch
from beamwright.catalog import ledger
from beamwright.core import bundle
from beamwright.production import inputs, merging, splitting
from beamwright.production.closing import close, is_done
from beamwright.production.inputs import chunks, collections
from beamwright.production.publishing import cover
from beamwright.production.spec import split_input
from beamwright.production.splitting import Item, Run
from beamwright.production.tasks import ACTOR, Facts, Plan, Task, plan
from beamwright.production.units import UnitPlan, add_units
from beamwright.production.workspace import Workspace


@dataclass
class Planner:
    """Plans one production."""

    workspace: Workspace
    production_id: int
    run: Run
    name: str = ACTOR

    def __post_init__(self) -> None:
        self._watch = Watch(self.workspace.db, self.workspace.clock)

    def turn(self) -> int:
        """Make the units that can be made and close the tasks that are done; return how many that were."""
        if not self._watch.is_due():
            return 0
        done = 0
        with self.workspace.db.read() as conn:
            current = plan(conn, self.production_id)
        for task in current.tasks.values():
            if task.state not in ("active", "draining"):
                continue
            if task.step.kind == "process":
                done += self._process(current, task)
            elif task.step.kind == "merge":
                done += self._merge(current, task)
            done += self._close(current, task)
        return done

    # --- process steps

    def _process(self, current: Plan, task: Task) -> int:
        made = 0
        with self.workspace.db.read() as conn:
            items = [item for name in task.step.inputs for item in self._items(conn, current, task, name)]
            planned = [units for item in items if (units := self._covered_units(conn, task, item))]
        for units in planned:
            made += self._add(task, units)
        return made

    def _items(self, conn: sa.Connection, current: Plan, task: Task, name: str) -> list[Item]:
        """Return what of one input has no unit yet."""
        head, stream = split_input(name)
        if stream:
            rows = collections(conn, current.tasks[head].id, stream, without_task=task.id)
            return [inputs.collection_item(conn, [row]) for row in rows]
        dataset = current.spec.datasets()[head]
        return [
            inputs.chunk_item(conn, row, dataset.global_tag) for row in chunks(conn, dataset, without=task)
        ]

    def _covered_units(self, conn: sa.Connection, task: Task, item: Item) -> list[UnitPlan]:
        """Return the units of an item, or none while the conditions do not cover all of it."""
        with_keys = self._with_keys(conn, item, task.facts) if item.chunk_ids else item
        covered = {}
        for interval, _ in splitting.ranges(with_keys, task.step.split):
            found = cover(self.workspace, conn, item.global_tag, task.facts.reads, interval)
            if found is None:
                return []
            covered[interval] = found
        return splitting.process_units(task, with_keys, covered, self.run)

    def _with_keys(self, conn: sa.Connection, item: Item, facts: Facts) -> Item:
        name = inputs.index_file(conn, item.chunk_ids[0])
        arrays, _ = bundle.unpack((self.workspace.root / "indexes" / name).read_bytes(), name)
        return replace(item, keys=splitting.key_arrays(arrays, facts.record))

    # --- merge steps

    def _merge(self, current: Plan, task: Task) -> int:
        planned = []
        with self.workspace.db.read() as conn:
            for name in task.step.inputs:
                head, stream = split_input(name)
                for group in merging.closed_groups(conn, current, task.step.name, head, stream):
                    item = inputs.collection_item(conn, group)
                    planned.append(splitting.merge_unit(task, item, stream, group[0].tier, 1, self.run))
        return self._add(task, planned)

    # --- all steps

    def _add(self, task: Task, units: list[UnitPlan]) -> int:
        if not units:
            return 0
        with self.workspace.db.begin() as conn:
            return len(add_units(conn, task, units, self.workspace.clock.now()))

    def _close(self, current: Plan, task: Task) -> int:
        """Move a task that has done all its work to draining, and close it when its ledger balances."""
        with self.workspace.db.read() as conn:
            if not is_done(conn, current, task):
                return 0
            problems = ledger.imbalances(conn, task.id)
        with self.workspace.db.begin() as conn:
            return close(conn, task, not problems, self.workspace.clock.now())
