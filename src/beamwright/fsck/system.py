"""Invariants of the system itself: seals over the history, drills of the backups, brakes of clean-ups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from beamwright.core.canonical import content_hash, merkle_root
from beamwright.core.settings import Storage, read_settings
from beamwright.db import schema
from beamwright.fsck.model import Context, Finding

_LINE = ("id", "at", "kind", "object", "source", "target", "actor", "reason", "data")
_DRILLS = ("drilled", "drill-failed")
_DAY = 86_400.0


def sealed(context: Context) -> Iterator[Finding]:
    """Invariant 24, the chain: each seal follows the one before, and names the lines that are there."""
    last, chain = 0, ""
    for row in context.conn.execute(sa.select(schema.seal).order_by(schema.seal.c.id)).all():
        name = f"seal {row.id}"
        if row.first != last + 1 or row.last < row.first:
            yield name, f"covers lines {row.first} to {row.last}; the one before ends at {last}"
        if content_hash([chain, row.first, row.last, row.lines, row.root]) != row.chain:
            yield name, "does not follow from the seal before it and what it says itself"
        yield from _lines(context, row)
        last, chain = row.last, row.chain


def _lines(context: Context, seal: Any) -> Iterator[Finding]:
    table = schema.history
    chosen = sa.select(table).where(table.c.id.between(seal.first, seal.last)).order_by(table.c.id)
    leaves = [content_hash([getattr(row, name) for name in _LINE]) for row in context.conn.execute(chosen)]
    within = f"within lines {seal.first} to {seal.last} of the history"
    if len(leaves) != seal.lines:
        more = len(leaves) - seal.lines
        yield f"seal {seal.id}", f"{abs(more)} lines were {'added' if more > 0 else 'removed'} {within}"
    elif merkle_root(leaves) != seal.root:
        yield f"seal {seal.id}", f"a line was changed {within}"


def drilled(context: Context) -> Iterator[Finding]:
    """Invariant 24, the drill: whoever backs up has restored lately, and found everything."""
    table = schema.history
    chosen = sa.select(table).where(table.c.kind == "database").order_by(table.c.id)
    rows = context.conn.execute(chosen).all()
    drills = [row for row in rows if row.target in _DRILLS]
    backups = [row for row in rows if row.target == "backed-up"]
    limit = context.now - _drill_days(context) * _DAY
    if drills and drills[-1].target == "drill-failed":
        yield f"backup {drills[-1].object}", "was restored in a drill and is not as it should be"
    elif backups and max(row.at for row in (*drills, backups[0])) < limit:
        days = _drill_days(context)
        yield "backups", f"none was restored in a drill for {days:g} days (`beamwright db drill`)"


def chained_and_drilled(context: Context) -> Iterator[Finding]:
    """Invariant 24."""
    yield from sealed(context)
    yield from drilled(context)


def brakes_held(context: Context) -> Iterator[Finding]:
    """Invariant 19: no clean-up changed more than its brakes allow, but where a person released them."""
    table = schema.reconciliation
    total = 0
    for row in context.conn.execute(sa.select(table).order_by(table.c.listing_id)).all():
        total += row.lost
        files = row.lost + row.suspect
        figures = {
            "max_files": files,
            "max_bytes": row.bytes,
            "max_per_cent": 100 * files / row.live if row.live else 0.0,
        }
        over = [name for name, value in figures.items() if value > row.brakes.get(name, 0)]
        if over and not row.reason:
            yield f"reconciliation of listing {row.listing_id}", f"went past its brakes {', '.join(over)}"
    history = schema.history
    lost = sa.and_(history.c.kind == "replica", history.c.target == "lost", history.c.actor == "reconciler")
    found = context.conn.execute(sa.select(sa.func.count()).select_from(history).where(lost)).scalar_one()
    if found != total:
        yield "reconciliations", f"{found} replicas were declared lost, {total} by those that are on record"


def _drill_days(context: Context) -> float:
    settings = context.root / "beamwright.toml"
    if not settings.is_file():
        return Storage().drill_days
    return read_settings(settings.read_text(), str(settings)).database.drill_days
