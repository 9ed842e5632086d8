"""How many inputs make a unit, and where one input is cut: by records, files, runs or size."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from beamwright.production import inputs, merging
from beamwright.production.progress import Progress
from beamwright.production.spec import DatasetSpec, StepSpec, split_input
from beamwright.production.tasks import Task

MB = 1_000_000


@dataclass(frozen=True)
class Part:
    """An input that may share a unit with its neighbours: its run and its size in bytes."""

    run: int
    size: int


def shares(step: StepSpec) -> bool:
    """Tell whether a step takes several inputs into one unit."""
    return step.files > 1 or step.group_mb is not None or step.by_run


def groups(parts: Sequence[Part], step: StepSpec, crosses_runs: bool, is_complete: bool) -> list[slice]:
    """Cut inputs in key order into groups, one for each unit.

    A group closes when it has as many files or bytes as the step wants, or at the end of its run where it
    must not cross that; the last one closes when nothing more comes. So groups depend on the inputs alone.
    """
    found, start, total = [], 0, 0
    most = step.files if step.files > 1 else len(parts) + 1
    limit = step.group_mb * MB if step.group_mb is not None else float("inf")
    for position, part in enumerate(parts):
        total += part.size
        is_last = position + 1 == len(parts)
        ends_run = not is_last and parts[position + 1].run != part.run
        is_full = position + 1 - start >= most or total >= limit
        if is_full or (ends_run and (step.by_run or not crosses_runs)) or (is_last and is_complete):
            found.append(slice(start, position + 1))
            start, total = position + 1, 0
    return found


def most_records(step: StepSpec, records: int, size: int) -> int | None:
    """Return the largest number of records in a unit of an input with so many records and bytes."""
    if step.split_mb is None:
        return step.split
    by_size = max(1, int(records * step.split_mb * MB / size)) if size else records
    return min(by_size, step.split or by_size)


def chunk_groups(progress: Progress, task: Task, dataset: DatasetSpec) -> list[list[Any]]:
    """Return the groups of chunks that a task can take into one unit each now, and has not.

    A chunk that came after its group was taken is a group of its own.
    """
    rows = [r for r in inputs.chunks(progress.conn, dataset) if r.records.get(task.facts.record)]
    new = {row.id for row in progress.new_chunks(task, dataset)}
    crosses, found = not task.facts.reads, []
    for series, numbers in dataset.runs.items():
        ended = progress.ended(dataset, series)
        prefix = list(itertools.takewhile(lambda run, ended=ended: run in ended, numbers))  # type: ignore[misc]
        ready = [r for r in rows if r.series == series and r.number in (prefix if crosses else ended)]
        sizes = inputs.chunk_sizes(progress.conn, [row.id for row in ready])
        parts = [Part(row.number, sizes.get(row.id, 0)) for row in ready]
        is_complete = not crosses or len(prefix) == len(numbers)
        found += [ready[group] for group in groups(parts, task.step, crosses, is_complete)]
    return _new(found, new)


def collection_groups(progress: Progress, task: Task, name: str) -> list[list[Any]]:
    """Return the groups of collections of ``step.stream`` that a task can take into one unit each now."""
    head, stream = split_input(name)
    rows = inputs.collections(progress.conn, progress.plan.tasks[head].id, stream)
    new = {row.id for row in progress.new_collections(task, name)}
    crosses, found = not task.facts.reads, []
    for (series, *_), members in sorted(merging.compatible(rows).items()):
        done, is_complete = progress.finished_prefix(head, series)
        ready = [row for row in members if row.first_run in done]
        sizes = merging.sizes(progress.conn, [row.id for row in ready])
        parts = [Part(row.first_run, sizes[row.id]) for row in ready]
        ends = is_complete or not crosses
        found += [ready[group] for group in groups(parts, task.step, crosses, ends)]
    return _new(found, new)


def _new(found: Sequence[list[Any]], new: set[int]) -> list[list[Any]]:
    left = [[row for row in group if row.id in new] for group in found]
    return [group for group in left if group]
