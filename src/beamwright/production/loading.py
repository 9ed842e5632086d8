"""Constants loaded by hand, and where they may begin: not before what a chain has calibrated already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from beamwright.conditions import tags
from beamwright.conditions.payload import Payload
from beamwright.core.errors import ConditionsError, StateError, UsageError
from beamwright.core.runs import Interval, Position, after
from beamwright.db import history, schema
from beamwright.production import chain, redoing, tasks
from beamwright.production.interventions import Why
from beamwright.production.redoing import Stale
from beamwright.production.tasks import Plan, Task


@dataclass(frozen=True)
class Loaded:
    """What a load gave: the tag's version, the payload, and the outputs that do not stand any more."""

    tag: str
    version: int
    payload_id: str
    stale: list[Stale]


def load(
    conn: sa.Connection, tag: str, interval: Interval, payload: Payload, why: Why, force: bool = False
) -> Loaded:
    """Load constants into a tag, called GLOBALTAG/ROLE, and sweep it into its global tag.

    ``force`` replaces what is there and lets them start before the next run that is not calibrated.
    Raises: UsageError, ConditionsError (order), ConflictError (overlap), StateError (frozen).
    """
    global_tag, slash, role = tag.rpartition("/")
    if not slash or not global_tag or not role:
        raise UsageError(f"{tag!r} is no tag that can be loaded into", hint="write GLOBALTAG/ROLE")
    if not force:
        check_order(conn, global_tag, role, interval)
    tags.create_global_tag(conn, global_tag, why.now, why.actor)
    tags.create_tag(conn, tag, payload.kind, why.now)
    payload_id = tags.put_payload(conn, payload, why.now)
    row = (interval, payload_id, "loaded", why.reason)
    version = tags.append(conn, tag, [row], why.now, replace=force)
    tags.sweep(conn, global_tag, {tag: version}, why.now)
    _take_up(conn, global_tag, role, interval, payload_id, why)
    data = {"interval": interval.document(), "payload": payload_id, "version": version}
    history.record(conn, "tag", tag, "loaded", actor=why.actor, reason=why.reason, at=why.now, data=data)
    return Loaded(tag, version, payload_id, outdated(conn, global_tag))


def check_order(conn: sa.Connection, global_tag: str, role: str, interval: Interval) -> None:
    """Refuse constants that start before the next run that a chain of the role has not concluded.

    Raises: ConditionsError.
    """
    for plan, task in _calibrating(conn, global_tag, role):
        for one in chain.read(conn, task.id):
            if one.series == interval.series and one.links and interval.first < _next(one):
                place = f"{one.series}/{_next(one)[0]}"
                raise ConditionsError(
                    f"constants for {interval} start before {place}, the next run that the chain of "
                    f"{plan.spec.name}/{task.step.name} has not calibrated",
                    hint="start there or later; --force replaces what is there and makes outputs stale",
                )


def _take_up(
    conn: sa.Connection, global_tag: str, role: str, interval: Interval, payload_id: str, why: Why
) -> None:
    """Let concluded links that end in the interval give what was loaded: the next ones start from it."""
    for _, task in _calibrating(conn, global_tag, role):
        for one in chain.read(conn, task.id):
            for link in one.links:
                end = Interval(one.series, link.interval.last, link.interval.last)
                if link.state in chain.FINAL and interval.covers(end):
                    chain.remember(conn, link, link.result | {role: payload_id})
                    chain.note(conn, link, f"{role} was loaded by hand: {why.reason}")


def freeze(conn: sa.Connection, global_tag: str, why: Why, force: bool = False) -> str:
    """Freeze a global tag; return its Merkle hash.

    Raises: StateError, naming what was processed and would resolve otherwise, unless ``force``.
    """
    found = outdated(conn, global_tag)
    if found and not force:
        shown = "; ".join(f"{one.step} {one.interval}: {one.reason}" for one in found[:5])
        left = f"; and {len(found) - 5} more" if len(found) > 5 else ""
        raise StateError(
            f"{len(found)} processed units would resolve otherwise under {global_tag}: {shown}{left}",
            hint="redo them (`beamwright calibration redo`), or freeze with --force",
            units=[[one.step, str(one.interval), one.reason] for one in found],
        )
    return tags.freeze(conn, global_tag, why.now, why.actor, why.reason)


def outdated(conn: sa.Connection, global_tag: str) -> list[Stale]:
    """Return what was processed under a global tag, in any production, and does not stand any more."""
    return [
        one
        for plan in _plans(conn)
        if global_tag in {dataset.global_tag for dataset in plan.spec.dataset}
        for one in redoing.stale(conn, plan, global_tag)
    ]


def otherwise(conn: sa.Connection, global_tag: str) -> list[tuple[str, Stale]]:
    """Return, with its production, what was processed under other global tags and would resolve otherwise
    under this one: what a reprocessing with it changes.
    """
    tags.members(conn, global_tag)  # whether it is there
    plans = _plans(conn)
    return [(plan.spec.name, one) for plan in plans for one in redoing.otherwise(conn, plan, global_tag)]


def _next(one: chain.Chain) -> Position:
    return one.next.interval.first if one.next is not None else after(one.links[-1].interval.last)


def _calibrating(conn: sa.Connection, global_tag: str, role: str) -> list[tuple[Plan, Task]]:
    found: list[tuple[Plan, Task]] = []
    for plan in _plans(conn):
        datasets: dict[str, Any] = plan.spec.datasets()
        for task in plan.tasks.values():
            into = {datasets[name].global_tag for name in task.step.inputs if name in datasets}
            if task.step.kind == "calibrate" and role in task.facts.tags and global_tag in into:
                found.append((plan, task))
    return found


def _plans(conn: sa.Connection) -> list[Plan]:
    table = schema.production
    ids = conn.execute(sa.select(table.c.id).order_by(table.c.id)).scalars().all()
    return [tasks.plan(conn, production_id) for production_id in ids]
