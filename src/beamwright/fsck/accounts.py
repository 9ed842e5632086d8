"""Invariants of the ledger: an account of its own, by inputs rather than by lines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from beamwright.core.messages import ACCUMULATOR, HISTOGRAMS, PAYLOAD_PREFIX
from beamwright.db import schema
from beamwright.fsck.model import Context, Finding, interval_of

TERMS = ("read", "created", "written", "filtered", "prescaled", "quarantined")
_CONCLUDED = ("ok", "excluded", "cancelled")
_SETTLED = ("ok", "excluded", "superseded", "cancelled", "split")


def balanced(context: Context) -> Iterator[Finding]:
    """Invariant 3: lines, the events of outputs, and the named quarantined records agree."""
    yield from _unbalanced(context)
    yield from _written(context)
    yield from _named(context)


def _unbalanced(context: Context) -> Iterator[Finding]:
    table = schema.ledger
    for row in context.conn.execute(sa.select(table)):
        terms = [int(getattr(row, term)) for term in TERMS]
        came = terms[0] + terms[1] if row.requested is None else row.requested
        is_made = row.requested is None or row.requested == row.created + row.quarantined
        if min(terms) < 0 or came != sum(terms[2:]) or not is_made:
            counts = ", ".join(f"{term} {value}" for term, value in zip(TERMS, terms, strict=True))
            yield f"unit {row.unit_id}", f"{row.record}/{row.stream} does not balance: {counts}"


def _written(context: Context) -> Iterator[Finding]:
    """A stream's file holds what its line says was written: of the created records where it has any."""
    ledger, output = schema.ledger, schema.output
    lines: dict[tuple[int, str], list[Any]] = defaultdict(list)
    for row in context.conn.execute(sa.select(ledger)):
        lines[row.unit_id, row.stream].append(row)
    collections = sa.select(output).where(output.c.collection_id.is_not(None))
    for row in context.conn.execute(collections):
        mine = lines.get((row.unit_id, row.stream), [])
        made = [line for line in mine if line.created]
        written = sum(line.written for line in made or mine)
        if not mine:
            yield f"unit {row.unit_id}", f"has stream {row.stream} without a line in the ledger"
        elif written != row.events:
            yield f"unit {row.unit_id}", f"wrote {written} to {row.stream}, which holds {row.events}"


def _named(context: Context) -> Iterator[Finding]:
    ledger, quarantine = schema.ledger, schema.quarantine
    columns = (quarantine.c.unit_id, quarantine.c.record)
    counted = sa.select(*columns, sa.func.count().label("number")).group_by(*columns)
    named = {(row.unit_id, row.record): row.number for row in context.conn.execute(counted)}
    for row in context.conn.execute(sa.select(ledger)):
        number = named.get((row.unit_id, row.record), 0)
        if row.quarantined != number:
            text = f"{row.record}/{row.stream}: {row.quarantined} quarantined, {number} named"
            yield f"unit {row.unit_id}", text


def each_event_once(context: Context) -> Iterator[Finding]:
    """Invariant 2: in a closed task no job is open, no key of an input is read twice and none is left out."""
    task = schema.task
    for row in context.conn.execute(sa.select(task.c.id, task.c.step).where(task.c.state == "closed")):
        yield from _open_jobs(context, row)
        yield from _inputs(context, row)


def _open_jobs(context: Context, task: Any) -> Iterator[Finding]:
    job, unit = schema.job, schema.unit
    query = sa.select(job.c.id, job.c.state).join(unit, job.c.unit_id == unit.c.id)
    for row in context.conn.execute(query.where(unit.c.task_id == task.id, job.c.state.not_in(_SETTLED))):
        yield f"task {task.id} ({task.step})", f"is closed while job {row.id} is {row.state}"


def _inputs(context: Context, task: Any) -> Iterator[Finding]:
    """Look at each input for itself: who reads it, which keys, and how many records come out."""
    yield from _requests(context, task)
    readers: dict[tuple[str, int], list[Any]] = defaultdict(list)
    for row in _reading(context, task.id):
        kind = "chunk" if row.chunk_id is not None else "collection"
        readers[kind, row.chunk_id if kind == "chunk" else row.collection_id].append(row)
    for (kind, input_id), units in sorted(readers.items()):
        name = f"task {task.id} ({task.step})"
        for stream in sorted({stream for unit in units for stream in _streams(unit)}):
            mine = [unit for unit in units if stream in _streams(unit)]
            for problem in _keys(mine):
                yield name, f"{kind} {input_id}, stream {stream}: {problem}"
            for problem in _count(context, kind, input_id, mine, stream):
                yield name, f"{kind} {input_id}, stream {stream}: {problem}"


def _requests(context: Context, task: Any) -> Iterator[Finding]:
    """Units that generate share no key, and account for all that was requested of them."""
    unit, job, ledger = schema.unit, schema.job, schema.ledger
    query = sa.select(unit).join(job, job.c.unit_id == unit.c.id).where(unit.c.kind == "generate")
    units = context.conn.execute(query.where(unit.c.task_id == task.id, job.c.state == "ok")).all()
    name = f"task {task.id} ({task.step})"
    runs: dict[tuple[str, int], list[Any]] = defaultdict(list)
    for row in units:
        runs[row.series, row.first_run].append(row)
    for problem in (problem for mine in runs.values() for problem in _keys(mine)):
        yield name, problem
    sums = sa.select(ledger.c.unit_id, ledger.c.stream, ledger.c.requested).where(
        ledger.c.unit_id.in_(sa.select(unit.c.id).where(unit.c.task_id == task.id))
    )
    said = {(row.unit_id, row.stream): row.requested for row in context.conn.execute(sums)}
    for row in units:
        for stream in sorted(_streams(row)):
            wanted = row.definition["records"][row.record]
            if said.get((row.id, stream)) != wanted:
                yield name, f"unit {row.id}, stream {stream}: {wanted} were requested of it"


def _reading(context: Context, task_id: int) -> Sequence[Any]:
    unit, link, job = schema.unit, schema.unit_input, schema.job
    query = (
        sa.select(unit, link.c.chunk_id, link.c.collection_id, job.c.state.label("job_state"))
        .join(link, link.c.unit_id == unit.c.id)
        .join(job, job.c.unit_id == unit.c.id)
        .where(unit.c.task_id == task_id, job.c.state.in_(_CONCLUDED))
        .where(unit.c.kind.not_in(("fit", "generate")))
    )
    return context.conn.execute(query.order_by(unit.c.id)).all()


def _streams(unit: Any) -> set[str]:
    declared = set((unit.definition or {}).get("streams") or {})
    return {s for s in declared if s not in (HISTOGRAMS, ACCUMULATOR) and not s.startswith(PAYLOAD_PREFIX)}


def _keys(units: list[Any]) -> Iterator[str]:
    """No two units take the same key of the input."""
    for position, one in enumerate(units):
        for other in units[position + 1 :]:
            common = interval_of(one).intersect(interval_of(other))
            if common is not None:
                yield f"{common} is read by units {one.id} and {other.id}"


def _count(context: Context, kind: str, input_id: int, units: list[Any], stream: str) -> Iterator[str]:
    """The records of the input that were read are all that it holds.

    A unit with several inputs (a merge) reads them whole: what it read is compared with all of them together.
    """
    several = [unit for unit in units if len(_inputs_of(context, unit.id)) > 1]
    if several:
        for unit in (unit for unit in several if unit.job_state != "excluded"):
            wanted = sum(_held(context, k, i, unit.record) for k, i in _inputs_of(context, unit.id))
            read = _read(context, [unit.id], unit.record, stream)
            if read != wanted:
                yield f"unit {unit.id} read {read} of the {wanted} records of its inputs"
        return
    record = units[0].record
    wanted, read = (
        _held(context, kind, input_id, record),
        _read(context, [u.id for u in units], record, stream),
    )
    given_up = [unit for unit in units if unit.job_state == "excluded"]  # a person has approved it
    known = [(unit.definition.get("records") or {}).get(record) for unit in given_up]
    read += sum(wanted if number is None else int(number) for number in known)
    if read != wanted:
        yield f"{read} of {wanted} records were read"


def _inputs_of(context: Context, unit_id: int) -> list[tuple[str, int]]:
    link = schema.unit_input
    rows = context.conn.execute(sa.select(link).where(link.c.unit_id == unit_id))
    return [
        ("chunk", r.chunk_id) if r.chunk_id is not None else ("collection", r.collection_id) for r in rows
    ]


def _held(context: Context, kind: str, input_id: int, record: str) -> int:
    if kind == "chunk":
        table = schema.chunk
        records = context.conn.execute(sa.select(table.c.records).where(table.c.id == input_id)).scalar_one()
        return int(records.get(record, 0))
    table = schema.collection
    return int(context.conn.execute(sa.select(table.c.events).where(table.c.id == input_id)).scalar_one())


def _read(context: Context, units: list[int], record: str, stream: str) -> int:
    table = schema.ledger
    chosen = sa.and_(table.c.unit_id.in_(units), table.c.stream == stream)
    query = sa.select(sa.func.coalesce(sa.func.sum(table.c.read), 0)).where(chosen)
    return int(context.conn.execute(query.where(table.c.record == record) if record else query).scalar_one())
