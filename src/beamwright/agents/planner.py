"""The planner: makes units and jobs from what has arrived and is covered by conditions, and closes tasks
that are done.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from beamwright.agents.watch import Watch
from beamwright.catalog import ledger
from beamwright.core import bundle
from beamwright.event.collection import CollectionReader
from beamwright.production import (
    generating,
    grouping,
    inputs,
    inspection,
    mending,
    merging,
    redoing,
    smaller,
    splitting,
)
from beamwright.production.closing import close
from beamwright.production.holes import Hole
from beamwright.production.interventions import Why
from beamwright.production.progress import Progress
from beamwright.production.publishing import cover
from beamwright.production.spec import split_input
from beamwright.production.splitting import Item, Run
from beamwright.production.tasks import ACTOR, Plan, Task, plan
from beamwright.production.units import UnitPlan, add_units
from beamwright.production.workspace import Workspace


@dataclass(frozen=True)
class Step:
    """What is due for one task; ``smaller`` holds failed units with what takes their place, ``replaced``
    those that new ones stand in for; ``closing`` is empty, balanced or unbalanced.
    """

    task: Task
    units: list[UnitPlan] = field(default_factory=list)
    smaller: list[tuple[Any, list[UnitPlan]]] = field(default_factory=list)
    replaced: list[int] = field(default_factory=list)
    closing: str = ""


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
        with self.workspace.db.read() as conn:
            progress = Progress(conn, plan(conn, self.production_id))
            broken = mending.broken(conn, progress.plan)
            steps = [self.decide(progress, task) for task in progress.plan.tasks.values()]
        found = [mending.examine(unit, components) for unit, components in broken]
        if any(one.bad for one in found):
            return self._mend(progress.plan, [one for one in found if one.bad])
        return self._perform([step for step in steps if step.units or step.smaller or step.closing])

    def decide(self, progress: Progress, task: Task) -> Step:
        """Decide what is due for a task: units to be made or, where there are none, its closing."""
        if task.state not in ("active", "draining"):
            return Step(task)
        units: list[UnitPlan] = []
        cut: list[tuple[Any, list[UnitPlan]]] = []
        replaced: list[int] = []
        if task.step.kind == "process":
            units, cut = self._process(progress, task), self._smaller(progress.conn, task)
        if task.step.kind == "generate":
            units, cut = self._generate(progress, task), self._smaller(progress.conn, task)
        if task.step.kind == "merge":
            units, replaced = self._merge(progress, task)
        if units or cut or not progress.is_done(task):
            return Step(task, units, cut, replaced)
        is_balanced = not ledger.imbalances(progress.conn, task.id)
        return Step(task, closing="balanced" if is_balanced else "unbalanced")

    def _mend(self, current: Plan, found: list[mending.Broken]) -> int:
        """Have bad components of merges made again."""
        with self.workspace.db.begin() as conn:
            now = self.workspace.clock.now()
            return sum(mending.reset(conn, current, one, now) for one in found)

    def _perform(self, steps: list[Step]) -> int:
        if not steps:
            return 0
        done, now = 0, self.workspace.clock.now()
        with self.workspace.db.begin() as conn:
            for step in steps:
                if step.replaced:
                    why = Why(ACTOR, "an input came late or was done again", now)
                    redoing.supersede(conn, step.replaced, why)
                    redoing.redo(conn, plan(conn, self.production_id), why)
                done += len(add_units(conn, step.task, step.units, now))
                for row, children in step.smaller:
                    done += 1 + smaller.take_place(conn, step.task, row, children, now)
                if step.closing:
                    done += close(conn, step.task, step.closing == "balanced", now)
        return done

    # --- process steps

    def _process(self, progress: Progress, task: Task) -> list[UnitPlan]:
        items = [item for name in task.step.inputs for item in self._items(progress, task, name)]
        units = [unit for item in items for unit in self._covered_units(progress.conn, task, item)]
        return [
            *units,
            *(unit for hole in progress.holes(task) for unit in self._filled(progress, task, hole)),
        ]

    def _filled(self, progress: Progress, task: Task, hole: Hole) -> list[UnitPlan]:
        """Return units of a range that was given up, between others of its input."""
        conn = progress.conn
        whole = inputs.item_of(conn, [progress.plan.spec.datasets().get(n) for n in task.step.inputs], hole)
        if whole is None or inspection.gate(conn, task, hole.interval):
            return []
        item = inputs.with_edition(conn, task, replace(whole, interval=hole.interval))
        part = splitting.within(self._with_keys(conn, item, task, is_needed=True))
        if part.keys is None or not len(part.keys[0]):
            return []
        size = grouping.most_records(task.step, len(part.keys[0]), part.size)
        return self._covered(conn, task, part, size)

    def _items(self, progress: Progress, task: Task, name: str) -> list[Item]:
        """Return what of one input has no unit yet."""
        head, stream = split_input(name)
        conn, is_grouped = progress.conn, grouping.shares(task.step)
        if stream:
            alone = ([row] for row in progress.new_collections(task, name))
            groups = grouping.collection_groups(progress, task, name) if is_grouped else alone
            found = [inputs.collection_item(conn, rows) for rows in groups]
        else:
            dataset = progress.plan.spec.datasets()[head]
            each = ([row] for row in progress.new_chunks(task, dataset))
            groups = grouping.chunk_groups(progress, task, dataset) if is_grouped else each
            found = [inputs.chunks_item(conn, rows, dataset.global_tag) for rows in groups]
        return [inputs.with_edition(conn, task, item) for item in found]

    def _covered_units(self, conn: sa.Connection, task: Task, item: Item) -> list[UnitPlan]:
        """Return the units of an item, or none while its verdict or the conditions do not allow it."""
        if inspection.gate(conn, task, item.interval):
            return []
        keyed = self._with_keys(conn, item, task)
        size = None if keyed.keys is None else grouping.most_records(task.step, len(keyed.keys[0]), item.size)
        return self._covered(conn, task, keyed, size)

    def _covered(self, conn: sa.Connection, task: Task, item: Item, size: int | None) -> list[UnitPlan]:
        """Cut an item with its keys into units; none while the conditions do not cover all of it."""
        covered = {}
        for interval, _ in splitting.ranges(item, size):
            found = cover(self.workspace, conn, item.global_tag, task.facts.reads, interval)
            if found is None:
                return []
            covered[interval] = found
        return splitting.process_units(task, item, covered, self.run, size)

    def _with_keys(self, conn: sa.Connection, item: Item, task: Task, is_needed: bool = False) -> Item:
        """Give an item the keys of its records where it can be cut."""
        if len(item.chunk_ids) == 1:
            arrays = self._index(conn, item.chunk_ids[0])
            return replace(item, keys=splitting.key_arrays(arrays, task.facts.record))
        if item.collection_ids and (is_needed or task.step.split or task.step.split_mb):
            with CollectionReader([Path(one["path"]) for one in item.inputs]) as reader:
                index = reader.index(reader.record)
            return replace(item, keys=(index.section, index.event), runs=index.run)
        return item

    # --- generation

    def _generate(self, progress: Progress, task: Task) -> list[UnitPlan]:
        """Return the units of the events that have none, as far as conditions cover their runs."""
        wanted, conn = progress.requests(task).values(), progress.conn

        def sections_of(chunk: Any) -> Any:
            return generating.chunk_sections(task, self._index(conn, chunk.id))

        items = [item for one in wanted for item in generating.items(conn, task, one, sections_of)]
        return [
            unit for item in items for unit in self._requested(progress.conn, task, item, task.step.split)
        ]

    def _requested(self, conn: sa.Connection, task: Task, item: Item, size: int | None) -> list[UnitPlan]:
        """Cut what is to be generated into units, each with its part of the request."""
        return [
            replace(
                unit,
                definition=unit.definition
                | {"request": generating.request_document(task, item, unit.interval)},
            )
            for unit in self._covered(conn, task, item, size)
        ]

    def _index(self, conn: sa.Connection, chunk_id: int) -> dict[str, Any]:
        """Return the key index of a chunk."""
        name = inputs.index_file(conn, chunk_id)
        return bundle.unpack((self.workspace.root / "indexes" / name).read_bytes(), name)[0]

    # --- failed units that are to become smaller

    def _smaller(self, conn: sa.Connection, task: Task) -> list[tuple[Any, list[UnitPlan]]]:
        """Return the units that are to be cut in two, each with what takes its place."""
        found = []
        for row in smaller.wanted(conn, task.id):
            item = smaller.item_of(conn, row)
            is_made = row.kind == "generate"
            item = (
                generating.again(item, row) if is_made else self._with_keys(conn, item, task, is_needed=True)
            )
            inside = splitting.within(item)
            total = 0 if inside.keys is None else len(inside.keys[0])
            cut = self._requested if is_made else self._covered
            found.append((row, cut(conn, task, inside, -(-total // 2)) if total > 1 else []))
        return found

    # --- merge steps

    def _merge(self, progress: Progress, task: Task) -> tuple[list[UnitPlan], list[int]]:
        """Return the merges that can be made now, and the units whose place they take."""
        planned, replaced = [], []
        for name in task.step.inputs:
            stream = split_input(name)[1]
            for group in merging.closed_groups(progress, task, name):
                item = inputs.collection_item(progress.conn, group.rows)
                item = inputs.with_edition(progress.conn, task, item, stream)
                earlier = [int(unit.definition.get("edition") or 0) + 1 for unit in group.replaces]
                item = replace(item, edition=max([item.edition, *earlier]))
                tier = group.rows[0].tier
                planned.append(splitting.merge_unit(task, item, stream, tier, 1, self.run))
                replaced += [int(unit.id) for unit in group.replaces]
        return planned, replaced
