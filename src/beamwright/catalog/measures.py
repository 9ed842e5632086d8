"""What runs are worth, their luminosity and live time: said once, corrected with a reason, known of any time.

The row of a run holds what is known now. Each change is a line of history, which keeps what was known before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from beamwright.core.errors import UsageError
from beamwright.core.runs import MEASURES
from beamwright.db import history, schema

_CHANGES = ("measured", "corrected")
_PAGE = 500


def measure(conn: sa.Connection, run_id: int, values: Mapping[str, float], now: float, actor: str) -> None:
    """Say what a run is worth where nobody has yet; the history keeps who did."""
    conn.execute(sa.update(schema.run).where(schema.run.c.id == run_id).values(dict(values)))
    told = ", ".join(f"{name} {value:g}" for name, value in sorted(values.items()))
    history.record(conn, "run", run_id, "measured", actor=actor, reason=told, at=now, data=dict(values))


def correct(
    conn: sa.Connection, run_id: int, values: Mapping[str, float], reason: str, now: float, actor: str
) -> None:
    """Say anew what a run is worth; what was known is known of the time before.

    Raises: UsageError without a reason.
    """
    if not reason.strip():
        raise UsageError("a correction needs a reason", hint="say what was wrong")
    table = schema.run
    row = conn.execute(sa.select(table).where(table.c.id == run_id).with_for_update()).one()
    was = {name: getattr(row, name) for name in values}
    conn.execute(sa.update(table).where(table.c.id == run_id).values(dict(values)))
    told = ", ".join(f"{name} {_shown(was[name])} → {value:.12g}" for name, value in sorted(values.items()))
    data = dict(values) | {"was": was}
    reason = f"{told}: {reason.strip()}"
    history.record(conn, "run", run_id, "corrected", actor=actor, reason=reason, at=now, data=data)


def former(conn: sa.Connection, ids: Iterable[int]) -> dict[int, list[tuple[str, Any]]]:
    """Return what was known of runs until it was corrected, as (measure, value)."""
    line, wanted = schema.history, sorted({str(n) for n in ids})
    found: dict[int, list[tuple[str, Any]]] = {}
    chosen = sa.select(line.c.object, line.c.data).where(line.c.kind == "run", line.c.target == "corrected")
    for start in range(0, len(wanted), _PAGE):
        for row in conn.execute(chosen.where(line.c.object.in_(wanted[start : start + _PAGE]))):
            found.setdefault(int(row.object), []).extend(row.data["was"].items())
    return found


def then(as_of: float) -> dict[str, sa.ColumnElement[Any]]:
    """Return what the measures of a run were at a time: what the first change after it found, or what is."""
    return {name: _then(schema.run, name, as_of) for name in MEASURES}


def _then(table: sa.Table, name: str, as_of: float) -> sa.ColumnElement[Any]:
    line = schema.history
    mine = (line.c.kind == "run", line.c.object == sa.cast(table.c.id, sa.Text), line.c.at > as_of)
    changed = (*mine, line.c.target.in_(_CHANGES), line.c.data[name].as_float().is_not(None))
    later = sa.exists().where(*changed).correlate(table)
    was = sa.select(line.c.data[("was", name)].as_float()).where(*changed).order_by(line.c.at, line.c.id)
    return sa.case((later, was.limit(1).correlate(table).scalar_subquery()), else_=table.c[name])


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.12g}"
