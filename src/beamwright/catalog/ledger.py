"""The ledger: each record of each kind goes into each stream, or is accounted for, exactly once.

The balance is checked by pure functions over plain lines; the statements only fetch them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from beamwright.core.balance import TERMS, imbalance, taken, terms
from beamwright.core.messages import ACCUMULATOR, HISTOGRAMS, PAYLOAD_PREFIX
from beamwright.core.runs import Interval, overlaps
from beamwright.db import schema

_GONE = TERMS[2:]
_KINDS = ("data", "simulation", "resampled")
_GIVEN_UP = ("excluded", "cancelled")


@dataclass(frozen=True)
class Line:
    """How the records of one kind in a unit's interval went into one stream.

    ``requested`` is the number of records that were to be generated, None where they were read.
    """

    unit: int
    record: str
    stream: str
    interval: Interval
    read: int
    created: int
    written: int
    filtered: int
    prescaled: int
    quarantined: int
    requested: int | None = None


@dataclass(frozen=True)
class Share:
    """A finished unit: the record kind it reads (a merge takes what comes), its streams and its sources."""

    unit: int
    kind: str
    record: str
    interval: Interval
    streams: frozenset[str]
    sources: frozenset[str]


def line_problems(line: Line) -> list[str]:
    """Return what is wrong with one line, in words."""
    name = f"unit {line.unit}, {line.record}/{line.stream}, {line.interval}"
    said = vars(line)
    found = [f"{name}: {term} is {said[term]}" for term in terms(said) if said[term] < 0]
    wrong = imbalance(said)
    return [*found, f"{name} does not balance: {wrong}"] if wrong else found


def task_problems(
    shares: Sequence[Share],
    lines: Sequence[Line],
    held: dict[tuple[str, str], int],
    quarantined: dict[tuple[int, str], int],
) -> list[str]:
    """Return what is wrong with a task's accounts, in words; nothing when each record is in each stream once.

    ``held`` gives the number of records by (source, record kind), ``quarantined`` the number of named records
    by (unit, record kind).
    """
    found = [problem for line in lines for problem in line_problems(line)]
    found += _unnamed(lines, quarantined)
    for (kind, record, stream), group in sorted(_by_stream(shares).items()):
        mine = {line.unit: line for line in lines if (line.record, line.stream) == (record, stream)}
        for share in group:
            if share.unit not in mine:
                found.append(f"unit {share.unit} ({kind}) has no line for {record}/{stream}")
        found += _twice(group, record, stream)
        found += _short(group, mine, held, record, stream)
    return found


def imbalances(conn: sa.Connection, task_id: int) -> list[str]:
    """Return what keeps a task's ledger from balancing, in words; nothing when it does."""
    lines = lines_of(conn, task_id)
    shares = _shares(conn, task_id, lines)
    held, quarantined = _held(conn, task_id, shares), _quarantined(conn, task_id)
    for line in _ignored(conn, task_id, shares, held):
        lines.append(line)
        quarantined[line.unit, line.record] = line.quarantined
    return task_problems(shares, lines, held, quarantined)


def totals(conn: sa.Connection, task_id: int) -> list[dict[str, Any]]:
    """Return the sums of a task's ledger per record kind, stream and kind of events, which never mix.

    They are added up from the lines whenever they are asked for: no count is kept that could drift from them.
    """
    table, unit = schema.ledger, schema.unit
    runs, made = _kinds_of_runs(), _kinds_of_units(task_id)
    mine = sa.and_(runs.c.series == table.c.series, runs.c.number == table.c.first_run)
    known = sa.func.coalesce(runs.c.rank, made.c.rank, 0)
    rank = sa.case((made.c.rank > runs.c.rank, made.c.rank), else_=known)
    keys = (table.c.record, table.c.stream, rank.label("rank"))
    sums = [sa.func.sum(table.c[term]).label(term) for term in (*TERMS, "requested")]
    query = (
        sa.select(*keys, *sums, sa.func.count().label("units"), _unbalanced(table).label("wrong"))
        .select_from(
            table.join(unit, table.c.unit_id == unit.c.id)
            .join(made, made.c.unit_id == table.c.unit_id, isouter=True)
            .join(runs, mine, isouter=True)
        )
        .where(unit.c.task_id == task_id)
    )
    return [
        {"record": row.record, "stream": row.stream, "kind": _KINDS[row.rank]}
        | {term: int(getattr(row, term)) for term in terms(dict(row._mapping))}
        | {"units": row.units, "balanced": not row.wrong}
        for row in conn.execute(query.group_by(*keys).order_by(*keys))
    ]


def _kinds_of_runs() -> sa.Subquery:
    run = schema.run
    runs = sa.select(run.c.series, run.c.number, sa.func.max(_rank(run)).label("rank"))
    return runs.group_by(run.c.series, run.c.number).subquery()


def _kinds_of_units(task_id: int) -> sa.Subquery:
    """What units wrote tells more than their runs: events are generated for runs of the detector, too."""
    made, unit = schema.collection, schema.unit
    query = sa.select(made.c.unit_id, sa.func.max(_rank(made)).label("rank"))
    mine = query.join(unit, made.c.unit_id == unit.c.id).where(unit.c.task_id == task_id)
    return mine.group_by(made.c.unit_id).subquery()


def _rank(table: sa.Table) -> sa.Case[int]:
    return sa.case((table.c.is_resampled, 2), (table.c.is_mc, 1), else_=0)


def _unbalanced(table: sa.Table) -> sa.ColumnElement[int]:
    """Count the lines that do not balance; see ``core.balance``."""
    gone = sum((table.c[term] for term in _GONE[1:]), start=table.c[_GONE[0]])
    came = sa.func.coalesce(table.c.requested, table.c.read + table.c.created)
    made = sa.func.coalesce(table.c.requested - table.c.created - table.c.quarantined, 0)
    is_right = sa.and_(came == gone, made == 0)
    return sa.func.sum(sa.case((is_right, 0), else_=1))


# --- the rules -----------------------------------------------------------------------------------


def _by_stream(shares: Iterable[Share]) -> dict[tuple[str, str, str], list[Share]]:
    found: dict[tuple[str, str, str], list[Share]] = defaultdict(list)
    for share in shares:
        for stream in share.streams:
            found[share.kind, share.record, stream].append(share)
    return found


def _unnamed(lines: Iterable[Line], quarantined: dict[tuple[int, str], int]) -> list[str]:
    """A quarantined record must be named by its key."""
    return [
        f"unit {line.unit}, {line.record}/{line.stream}: {line.quarantined} quarantined, "
        f"{quarantined.get((line.unit, line.record), 0)} named"
        for line in lines
        if line.quarantined != quarantined.get((line.unit, line.record), 0)
    ]


def _twice(group: Sequence[Share], record: str, stream: str) -> list[str]:
    """Two units of one source must not share an event key."""
    found = []
    by_source: dict[str, list[Share]] = defaultdict(list)
    for share in group:
        for source in share.sources:
            by_source[source].append(share)
    for source, users in sorted(by_source.items()):
        for one, other in overlaps(share.interval for share in users):
            found.append(f"{record}/{stream}: {one} and {other} both read {source}")
    return found


def _short(
    group: Sequence[Share], mine: dict[int, Line], held: dict[tuple[str, str], int], record: str, stream: str
) -> list[str]:
    """What the units read must be what their sources hold, for each set of units that share sources."""
    found = []
    for sources, units in _connected(group):
        wanted = sum(held.get((source, record), 0) for source in sources)
        read = sum(taken(vars(mine[unit])) for unit in units if unit in mine)
        if read != wanted:
            named = ", ".join(sorted(sources)[:3]) + (", …" if len(sources) > 3 else "")
            found.append(f"{record}/{stream}: {read} of {wanted} records of {named} were read")
    return found


def _connected(group: Sequence[Share]) -> list[tuple[frozenset[str], list[int]]]:
    """Return the sets of units that share sources, with all their sources."""
    found: list[tuple[frozenset[str], list[int]]] = []
    for share in group:
        touching = [part for part in found if part[0] & share.sources]
        sources = share.sources.union(*(part[0] for part in touching))
        units = [share.unit, *(unit for part in touching for unit in part[1])]
        found = [part for part in found if part not in touching] + [(sources, units)]
    return found


# --- statements ----------------------------------------------------------------------------------


def _is_event_stream(stream: str) -> bool:
    return stream not in (HISTOGRAMS, ACCUMULATOR) and not stream.startswith(PAYLOAD_PREFIX)


def _shares(conn: sa.Connection, task_id: int, lines: Sequence[Line]) -> list[Share]:
    """Return the finished units of a task that read records, and those that somebody gave up."""
    unit, job = schema.unit, schema.job
    query = (
        sa.select(unit)
        .join(job, job.c.unit_id == unit.c.id)
        .where(
            unit.c.task_id == task_id,
            job.c.state.in_(("ok", *_GIVEN_UP)),
            unit.c.kind.not_in(("fit", "gather")),
        )
    )
    rows = conn.execute(query.order_by(unit.c.id)).all()
    sources = _sources(conn, [row.id for row in rows])
    sources |= {row.id: [_request(row.id)] for row in rows if row.kind == "generate"}
    read = {line.unit: line.record for line in lines if not line.created}
    return [
        Share(
            row.id,
            row.kind,
            row.record or read.get(row.id, ""),
            _interval(row),
            _streams(row),
            frozenset(sources.get(row.id, ())),
        )
        for row in rows
    ]


def _ignored(
    conn: sa.Connection, task_id: int, shares: Sequence[Share], held: dict[tuple[str, str], int]
) -> list[Line]:
    """Return the accounts of units whose exclusion somebody approved: all their records are quarantined."""
    unit, job = schema.unit, schema.job
    query = sa.select(unit).join(job, job.c.unit_id == unit.c.id)
    rows = conn.execute(query.where(unit.c.task_id == task_id, job.c.state == "excluded")).all()
    sources = {share.unit: share.sources for share in shares}
    found = []
    for row in rows:
        known = (row.definition.get("records") or {}).get(row.record)
        whole = sum(held.get((source, row.record), 0) for source in sources.get(row.id, ()))
        number = whole if known is None else int(known)
        terms = (number, 0, 0, 0, 0, number)
        found += [Line(row.id, row.record, stream, _interval(row), *terms) for stream in _streams(row)]
    return found


def _request(unit_id: int) -> str:
    """Return the name of what a unit that generates takes its records from: its own request."""
    return f"the request of unit {unit_id}"


def _streams(unit: Any) -> frozenset[str]:
    declared = unit.definition.get("streams") or {}
    events = {stream for stream in declared if _is_event_stream(stream)}
    return frozenset(events or ({ACCUMULATOR} if ACCUMULATOR in declared else set()))


def _sources(conn: sa.Connection, units: Sequence[int]) -> dict[int, list[str]]:
    link = schema.unit_input
    found: dict[int, list[str]] = defaultdict(list)
    for row in conn.execute(sa.select(link).where(link.c.unit_id.in_(units)).order_by(link.c.id)):
        name = f"chunk {row.chunk_id}" if row.chunk_id is not None else f"collection {row.collection_id}"
        found[row.unit_id].append(name)
    return found


def lines_of(conn: sa.Connection, task_id: int) -> list[Line]:
    """Return the lines of a task."""
    table, unit = schema.ledger, schema.unit
    query = sa.select(table).join(unit, table.c.unit_id == unit.c.id).where(unit.c.task_id == task_id)
    counts = (*TERMS, "requested")
    return [
        Line(r.unit_id, r.record, r.stream, _interval(r), *(getattr(r, term) for term in counts))
        for r in conn.execute(query.order_by(table.c.id))
    ]


def _held(conn: sa.Connection, task_id: int, shares: Sequence[Share]) -> dict[tuple[str, str], int]:
    """Return how many records of the kinds that are read each source holds."""
    chunk, collection, link, unit = schema.chunk, schema.collection, schema.unit_input, schema.unit
    found: dict[tuple[str, str], int] = {}
    mine = sa.select(link.c.chunk_id, link.c.collection_id).join(unit, link.c.unit_id == unit.c.id)
    inputs = mine.where(unit.c.task_id == task_id).subquery()
    chunks = sa.select(chunk.c.id, chunk.c.records).where(chunk.c.id.in_(sa.select(inputs.c.chunk_id)))
    for row in conn.execute(chunks):
        found |= {(f"chunk {row.id}", record): number for record, number in row.records.items()}
    wanted = collection.c.id.in_(sa.select(inputs.c.collection_id))
    kinds = {share.record for share in shares}
    for row in conn.execute(sa.select(collection.c.id, collection.c.events).where(wanted)):
        found |= {(f"collection {row.id}", record): row.events for record in kinds}
    return found | _requests(conn, task_id)


def _requests(conn: sa.Connection, task_id: int) -> dict[tuple[str, str], int]:
    """Return how many records each unit of a task was to generate."""
    unit = schema.unit
    query = sa.select(unit.c.id, unit.c.record, unit.c.definition)
    rows = conn.execute(query.where(unit.c.task_id == task_id, unit.c.kind == "generate"))
    return {(_request(row.id), row.record): int(row.definition["records"][row.record]) for row in rows}


def _quarantined(conn: sa.Connection, task_id: int) -> dict[tuple[int, str], int]:
    table, unit = schema.quarantine, schema.unit
    query = (
        sa.select(table.c.unit_id, table.c.record, sa.func.count().label("number"))
        .join(unit, table.c.unit_id == unit.c.id)
        .where(unit.c.task_id == task_id)
        .group_by(table.c.unit_id, table.c.record)
    )
    return {(row.unit_id, row.record): row.number for row in conn.execute(query)}


def _interval(row: Any) -> Interval:
    first = (row.first_run, row.first_section, row.first_event)
    return Interval(row.series, first, (row.last_run, row.last_section, row.last_event))
