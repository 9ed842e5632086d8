"""What a dataset is worth: the luminosity or live time of its runs, and what is missing of it, and why.

What went into a dataset is what the units at its root read, by the ledger; what was delivered is what the
chunks hold. The share of a run that is missing, or was quarantined on the way, costs that share of the run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import sqlalchemy as sa

from beamwright.catalog import asking
from beamwright.catalog.datasets import PAGE, Collection
from beamwright.catalog.vocabulary import there
from beamwright.core.runs import EVENT_MAX, SECTION_MAX
from beamwright.db import schema

Measure = Literal["luminosity", "livetime"]
RunName = tuple[str, int]

UNITS = {"luminosity": "/nb", "livetime": "s"}


@dataclass(frozen=True)
class RunShare:
    """A run of a dataset: what it measures, and the shares of it that are missing and quarantined."""

    series: str
    run: int
    state: str
    amount: float | None
    missing: float
    quarantined: float
    why: str

    @property
    def is_complete(self) -> bool:
        return not self.why

    @property
    def kept(self) -> float:
        return (self.amount or 0.0) * max(0.0, 1.0 - self.missing - self.quarantined)


@dataclass(frozen=True)
class Worth:
    """The sum over the runs of a dataset."""

    measure: Measure
    runs: tuple[RunShare, ...]

    def document(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        known = [run for run in self.runs if run.amount is not None]
        complete = [run for run in known if run.is_complete]
        return {
            "measure": self.measure,
            "unit": UNITS[self.measure],
            "total": sum(run.kept for run in known),
            "complete": sum(run.kept for run in complete),
            "lost in partial runs": sum((run.amount or 0.0) * run.missing for run in known),
            "lost to quarantine": sum((run.amount or 0.0) * run.quarantined for run in known),
            "runs": len(self.runs),
            "complete runs": sum(run.is_complete for run in self.runs),
            f"runs without {self.measure}": len(self.runs) - len(known),
            "not complete": [asdict(run) for run in self.runs if not run.is_complete],
        }


def worth(
    conn: sa.Connection, found: Sequence[Collection], measure: Measure, as_of: float | None = None
) -> Worth:
    """Return what the runs of these collections are, or were known to be, worth, run by run."""
    units, roots = _ancestry(conn, {c.unit_id for c in found if c.unit_id is not None})
    read = _read(conn, roots)
    lost = _quarantined(conn, units)
    given = [c for c in found if c.unit_id is None]
    rows = _runs(conn, [*read], given, as_of)
    held = _held(conn, [row.id for row in rows], as_of)
    shares = []
    for row in rows:
        name = (row.series, row.number)
        kinds = held.get(row.id, {})
        seen = read.get(name, {})
        record = next(iter(seen), None)
        if record is None:
            shares.append(_declared(row, [c for c in given if c.interval.series == row.series], measure))
            continue
        delivered = kinds.get(record, 0)
        wanted = max(((row.expected or {}).get("records") or {}).get(record, 0), delivered, 1)
        shares.append(_share(row, seen[record], lost.get(name, 0), delivered, wanted, measure))
    return Worth(measure, tuple(shares))


def _share(row: Any, read: int, lost: int, delivered: int, wanted: int, measure: Measure) -> RunShare:
    reasons = []
    if row.state != "closed":
        reasons.append(f"it is {row.state}")
    if delivered < wanted:
        reasons.append(f"{delivered} of {wanted} records were delivered")
    if read < delivered:
        reasons.append(f"{read} of {delivered} records went in")
    if lost:
        reasons.append(f"{lost} records are quarantined")
    missing, gone = max(0.0, 1 - read / wanted), lost / wanted
    amount: float | None = getattr(row, measure)
    return RunShare(row.series, row.number, row.state, amount, missing, gone, "; ".join(reasons))


def _declared(row: Any, collections: Sequence[Collection], measure: Measure) -> RunShare:
    """Return the share of a run that collections from elsewhere say to cover: all of it, or nobody knows."""
    first, last = (row.number, 0, 0), (row.number, SECTION_MAX, EVENT_MAX)
    whole = any(c.interval.first <= first and c.interval.last >= last for c in collections)
    reasons = [] if whole else ["its collections hold a part of it, and nobody says how much"]
    if row.state not in ("closed", "announced"):
        reasons.append(f"it is {row.state}")
    amount: float | None = getattr(row, measure)
    return RunShare(row.series, row.number, row.state, amount, 0.0 if whole else 1.0, 0.0, "; ".join(reasons))


def _ancestry(conn: sa.Connection, units: set[int]) -> tuple[set[int], set[int]]:
    """Return the units that collections come from at any distance, and those of them that read chunks."""
    link, collection = schema.unit_input, schema.collection
    chosen = sa.select(link.c.unit_id, link.c.chunk_id, collection.c.unit_id.label("maker"))
    chosen = chosen.outerjoin(collection, link.c.collection_id == collection.c.id)
    known, roots, waiting = set(units), set[int](), set(units)
    while waiting:
        rows = [
            row for part in _parts(waiting) for row in conn.execute(chosen.where(link.c.unit_id.in_(part)))
        ]
        roots |= {row.unit_id for row in rows if row.chunk_id is not None}
        waiting = {row.maker for row in rows if row.maker is not None} - known
        known |= waiting
    return known, roots


def _read(conn: sa.Connection, units: set[int]) -> dict[RunName, dict[str, int]]:
    """Return how many records of its kind each run gave, by the ledger; a unit reads one run."""
    table, unit = schema.ledger, schema.unit
    most = sa.func.max(table.c.read).label("read")
    columns = (table.c.unit_id, table.c.record, unit.c.series, unit.c.first_run)
    chosen = sa.select(*columns, most).join(unit, table.c.unit_id == unit.c.id)
    chosen = chosen.where(table.c.record == unit.c.record).group_by(*columns)
    found: dict[RunName, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for part in _parts(units):
        for row in conn.execute(chosen.where(table.c.unit_id.in_(part))):
            found[row.series, row.first_run][row.record] += row.read
    return found


def _quarantined(conn: sa.Connection, units: set[int]) -> dict[RunName, int]:
    table = schema.quarantine
    chosen = sa.select(table.c.series, table.c.run, sa.func.count()).group_by(table.c.series, table.c.run)
    found: dict[RunName, int] = defaultdict(int)
    for part in _parts(units):
        for series, run, number in conn.execute(chosen.where(table.c.unit_id.in_(part))):
            found[series, run] += number
    return found


def _runs(
    conn: sa.Connection, names: list[RunName], given: Sequence[Collection], as_of: float | None
) -> list[Any]:
    """Return the runs of these names and those in the ranges of collections that came from elsewhere."""
    table, found = schema.run, dict[int, Any]()
    known = asking.words(conn, "run", as_of)
    columns = [known.then.get(c.name, c).label(c.name) for c in table.c]
    chosen = sa.select(*columns).where(*there(table, as_of))
    by_series: dict[str, list[int]] = defaultdict(list)
    for series, number in names:
        by_series[series].append(number)
    for series, numbers in by_series.items():
        for part in _parts(numbers):
            mine = (table.c.series == series, table.c.number.in_(part))
            rows = conn.execute(chosen.where(*mine, table.c.id.in_(sa.select(schema.chunk.c.run_id))))
            found |= {row.id: row for row in rows}
    for c in given:
        ends = table.c.number.between(c.interval.first[0], c.interval.last[0])
        same = (table.c.series == c.interval.series, table.c.is_mc == c.is_mc)
        found |= {row.id: row for row in conn.execute(chosen.where(*same, ends))}
    return sorted(found.values(), key=lambda row: (row.series, row.number, row.tier))


def _held(conn: sa.Connection, runs: Sequence[int], as_of: float | None) -> dict[int, dict[str, int]]:
    """Return how many records of each kind the chunks of runs hold."""
    chunk, found = schema.chunk, dict[int, dict[str, int]]()
    for part in _parts(runs):
        mine = (chunk.c.run_id.in_(part), *there(chunk, as_of))
        rows = conn.execute(sa.select(chunk.c.run_id, chunk.c.records).where(*mine))
        for run_id, records in rows:
            kinds = found.setdefault(run_id, {})
            for kind, number in records.items():
                kinds[kind] = kinds.get(kind, 0) + number
    return found


def _parts(ids: Iterable[int]) -> Iterable[list[int]]:
    wanted = sorted(ids)
    return (wanted[start : start + PAGE] for start in range(0, len(wanted), PAGE))
