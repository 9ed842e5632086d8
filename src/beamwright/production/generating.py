"""Generation, run by run: how many events each run is to have, which have a unit, and the keys of the others.

Event ``i`` of the ``n`` of a run has the number ``i`` and lies in the section of record ``floor(i m / n)`` of
the ``m`` of its data, in key order: conditions that change within a run are met as data met them. A unit is a
stretch of numbers. A run that is only simulated has section 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from beamwright.core.runs import Interval
from beamwright.db import schema
from beamwright.event.generating import requested_keys
from beamwright.production import inputs
from beamwright.production.requests import RequestSpec, shared
from beamwright.production.spec import DatasetSpec, ProductionSpec
from beamwright.production.splitting import Item
from beamwright.production.tasks import Plan, Task

Sections = Callable[[Any], NDArray[Any]]

ENDED = ("closed", "incomplete")
GONE = ("superseded", "split")


@dataclass(frozen=True)
class RunRequest:
    """What one run is to have: ``wanted`` events, None while ``reason`` keeps anybody from telling;
    ``planned`` of them have units.
    """

    dataset: DatasetSpec
    series: str
    run: int
    wanted: int | None
    planned: int
    chunks: tuple[Any, ...] = ()
    reason: str = ""

    @property
    def left(self) -> int:
        """How many events have no unit yet."""
        return max(0, (self.wanted or 0) - self.planned)


def run_requests(conn: sa.Connection, plan: Plan, task: Task) -> dict[tuple[str, int], RunRequest]:
    """Return what each run that a step generates for is to have, by series and number."""
    assert task.step.request is not None, "a step that generates has a request"
    planned, found = _planned(conn, task), {}
    for name in task.step.inputs:
        dataset = plan.spec.datasets()[name]
        rows = _runs(conn, plan.spec, dataset)
        chunks = {} if plan.spec.is_made(dataset) else _chunks(conn, dataset)
        for key, (wanted, reason) in _wanted(task, task.step.request, rows, chunks).items():
            mine = tuple(chunks.get(key, ()))
            found[key] = RunRequest(dataset, *key, wanted, planned.get(key, 0), mine, reason)
    return found


def obstacles(conn: sa.Connection, plan: Plan, task: Task) -> list[str]:
    """Say why runs do not get the events that they are to have."""
    found = []
    for one in run_requests(conn, plan, task).values():
        where = f"step {task.step.name}, run {one.series}:{one.run}"
        if one.wanted is None:
            found.append(f"{where}: {one.reason}")
        elif one.left and not _may_grow(conn, task, one):
            found.append(
                f"{where} has {one.planned} of {one.wanted} events, laid out in its sections for another "
                f"number; `beamwright task redo {task.production}/{task.step.name}` makes them anew"
            )
    return found


def items(conn: sa.Connection, task: Task, one: RunRequest, sections_of: Sections) -> list[Item]:
    """Return the events of a run that have no unit, one item for each stretch of them in one chunk.

    ``sections_of`` gives the sections of a chunk's records, in key order.
    """
    if not one.left or not _may_grow(conn, task, one):
        return []
    assert one.wanted is not None, "something is left only of what is wanted"
    sections, owners = _places(one, sections_of)
    numbers = np.arange(one.wanted, dtype=np.int64)
    place = numbers * len(sections) // one.wanted
    free = np.ones(one.wanted, np.bool_)
    for first, last in _stretches(conn, task, one):
        free[first : last + 1] = False
    owner = owners[place]
    records, at = {task.facts.record: one.wanted}, sections[place]
    found = [_item(one, at[a:b], numbers[a:b], int(owner[a]), records) for a, b in _parts(free, owner)]
    return [inputs.with_edition(conn, task, item) for item in found]


def request_document(task: Task, item: Item, interval: Interval) -> dict[str, Any]:
    """Return what a unit is asked for: its keys, compressed, and the program that makes its events."""
    assert item.keys is not None and task.step.request is not None
    sections, events = item.keys
    first, last = (np.searchsorted(events, end) for end in (interval.first[2], interval.last[2] + 1))
    inside, numbers = sections[first:last], events[first:last]
    cuts = [0, *(np.flatnonzero(np.diff(inside)) + 1).tolist(), len(inside)]
    keys = [[int(inside[a]), int(numbers[a]), b - a] for a, b in pairwise(cuts) if b > a]
    of = item.records[task.facts.record]
    return {"keys": keys, "of": of, "made_by": task.step.request.command, "reader": task.step.request.reader}


def again(item: Item, row: Any) -> Item:
    """Return the item of a unit (a row) with the keys of its events, for it to be cut smaller."""
    request = row.definition["request"]
    return replace(item, keys=requested_keys(request["keys"]), records={row.record: request["of"]})


def _item(
    one: RunRequest, at: NDArray[Any], numbers: NDArray[Any], owner: int, records: dict[str, int]
) -> Item:
    ends = [(one.run, int(at[i]), int(numbers[i])) for i in (0, -1)]
    chunk_ids = (one.chunks[owner].id,) if one.chunks else ()
    return Item(
        Interval(one.series, *ends), (), one.dataset.global_tag, True, one.dataset.is_resampled, records,
        chunk_ids=chunk_ids, keys=(at.astype(np.uint32), numbers.astype(np.uint64)),
    )  # fmt: skip


def _parts(free: NDArray[np.bool_], owner: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Yield the stretches of free numbers, each in one chunk."""
    changes = (free[1:] != free[:-1]) | (owner[1:] != owner[:-1])
    cuts = [0, *(np.flatnonzero(changes) + 1).tolist(), len(free)]
    yield from ((a, b) for a, b in pairwise(cuts) if b > a and free[a])


def _places(one: RunRequest, sections_of: Sections) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sections that a run's events are spread over, and which chunk each is of."""
    spans = [sections_of(chunk) for chunk in one.chunks]
    if not any(len(span) for span in spans):
        first = one.chunks[0].first_section if one.chunks else 0
        return np.array([first], np.int64), np.zeros(1, np.int64)
    owners = np.repeat(np.arange(len(spans)), [len(span) for span in spans])
    return np.concatenate(spans).astype(np.int64), owners


def chunk_sections(task: Task, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Return the sections of the records of a chunk by its key index: those of the kind that is generated
    where there are any, else those of the kind of which there are most.
    """
    kinds = {
        name.removesuffix("/section"): column for name, column in arrays.items() if name.endswith("/section")
    }
    found = kinds.get(task.facts.record, np.zeros(0, np.uint32))
    return found if len(found) else max(kinds.values(), key=len, default=found)


def _may_grow(conn: sa.Connection, task: Task, one: RunRequest) -> bool:
    """Tell whether what is left has its place between the units of a run: they were laid out alike."""
    if not one.planned or not one.chunks:
        return True
    laid = {row.definition["request"]["of"] for row in _units(conn, task, one, schema.unit.c.definition)}
    return laid == {one.wanted}


# --- how many ----------------------------------------------------------------------------------------------

_Key = tuple[str, int]


def _wanted(
    task: Task, request: RequestSpec, rows: dict[_Key, Any], chunks: dict[_Key, list[Any]]
) -> dict[_Key, tuple[int | None, str]]:
    """Return how many events each run is to have, or why nobody can tell."""
    measured = {key: _measure(task, request, row, chunks.get(key, ())) for key, row in rows.items()}
    if request.per != "all":
        return {
            key: (None if size is None else round(request.events * size), reason)
            for key, (size, reason) in measured.items()
        }
    unknown = next((f"run {k[0]}:{k[1]}: {r}" for k, (size, r) in measured.items() if size is None), "")
    if unknown and request.share != "run":
        reason = f"the total is shared out when all runs are known, and {unknown}"
        return dict.fromkeys(measured, (None, reason))
    weights = [1.0 if request.share == "run" else size or 0.0 for size, _ in measured.values()]
    parts = shared(int(request.events), weights)
    return {
        key: (None if size is None else part, reason)
        for (key, (size, reason)), part in zip(measured.items(), parts, strict=True)
    }


def _measure(task: Task, request: RequestSpec, row: Any, chunks: Sequence[Any]) -> tuple[float | None, str]:
    """Return what a run's number of events is in proportion to, or why it is not known."""
    if row == "made":
        return 1.0, ""
    if row is None or row.state not in ENDED:
        return None, "it has not ended"
    if not chunks:
        return 0.0, ""
    if request.measure == "run":
        return 1.0, ""
    if request.measure == "record":
        kind = request.record or task.facts.record
        return float(sum(chunk.records.get(kind, 0) for chunk in chunks)), ""
    size = getattr(row, request.measure)
    if size is None:
        return None, f"its {request.measure} is not known; `beamwright run register` enters it"
    return float(size), ""


# --- statements --------------------------------------------------------------------------------------------


def _runs(conn: sa.Connection, spec: ProductionSpec, dataset: DatasetSpec) -> dict[_Key, Any]:
    """Return the rows of a dataset's runs, "made" for those that are only simulated."""
    keys = [(series, number) for series, numbers in sorted(dataset.runs.items()) for number in numbers]
    if spec.is_made(dataset):
        return dict.fromkeys(keys, "made")
    run = schema.run
    query = sa.select(run).where(run.c.tier == dataset.tier, run.c.series.in_(list(dataset.runs)))
    known = {(row.series, row.number): row for row in conn.execute(query)}
    return {key: known.get(key) for key in keys}


def _chunks(conn: sa.Connection, dataset: DatasetSpec) -> dict[_Key, list[Any]]:
    found: dict[_Key, list[Any]] = {}
    for row in inputs.chunks(conn, dataset):
        found.setdefault((row.series, row.number), []).append(row)
    return found


def _planned(conn: sa.Connection, task: Task) -> dict[_Key, int]:
    """Return how many events of each run have a unit: units are stretches of numbers."""
    unit, job = schema.unit, schema.job
    number = sa.func.sum(unit.c.last_event - unit.c.first_event + 1)
    query = (
        sa.select(unit.c.series, unit.c.first_run, number.label("events"))
        .join(job, job.c.unit_id == unit.c.id)
        .where(unit.c.task_id == task.id, unit.c.kind == "generate", job.c.state.not_in(GONE))
        .group_by(unit.c.series, unit.c.first_run)
    )
    return {(row.series, row.first_run): int(row.events) for row in conn.execute(query)}


def _stretches(conn: sa.Connection, task: Task, one: RunRequest) -> list[tuple[int, int]]:
    rows = _units(conn, task, one, schema.unit.c.first_event, schema.unit.c.last_event)
    return [(row.first_event, row.last_event) for row in rows]


def _units(conn: sa.Connection, task: Task, one: RunRequest, *columns: sa.Column[Any]) -> Sequence[Any]:
    """Return columns of the units of a run that stand."""
    unit, job = schema.unit, schema.job
    mine = (unit.c.task_id == task.id, unit.c.kind == "generate", job.c.state.not_in(GONE))
    query = sa.select(*columns).join(job, job.c.unit_id == unit.c.id).where(*mine)
    return conn.execute(query.where(unit.c.series == one.series, unit.c.first_run == one.run)).all()
