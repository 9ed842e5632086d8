"""What a person does to a chain: hold, accept, reject, skip back; each with a reason, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from beamwright.conditions import tags
from beamwright.conditions.payload import Payload
from beamwright.core.errors import StateError, UnknownNameError, UsageError
from beamwright.core.messages import PAYLOAD_PREFIX
from beamwright.core.runs import EVENT_MAX, RUN_MAX, SECTION_MAX, Interval
from beamwright.db import history, schema
from beamwright.production import chain, inputs
from beamwright.production.chain import Chain, Link, Outcome
from beamwright.production.experiment import Experiment
from beamwright.production.publishing import initial_constants
from beamwright.production.tasks import Plan, Task, plan

ACTOR = "operator"


@dataclass(frozen=True)
class Place:
    """A run's links in a chain, with all around them."""

    plan: Plan
    task: Task
    chain: Chain
    run: int

    @property
    def links(self) -> list[Link]:
        return [link for link in self.chain.links if link.interval.first[0] == self.run]

    @property
    def global_tags(self) -> list[str]:
        """The global tags that the chain's constants are published into."""
        return sorted({d.global_tag for d in self.plan.datasets_of(self.task, self.chain.series)})

    def __str__(self) -> str:
        return f"{self.plan.spec.name}/{self.task.step.name} {self.chain.series}/{self.run}"


@dataclass(frozen=True)
class Why:
    """Who does something, why and when."""

    actor: str
    reason: str
    now: float


def locate(conn: sa.Connection, series: str, run: int, production: str = "", step: str = "") -> Place:
    """Return the place of a run in the one chain that is meant.

    Raises: UnknownNameError, UsageError where several chains have the run.
    """
    ids = conn.execute(sa.select(schema.production.c.id).order_by(schema.production.c.id)).scalars().all()
    places = [place for i in ids for place in _places(conn, plan(conn, i), series, run)]
    found = [p for p in places if production in ("", p.plan.spec.name) and step in ("", p.task.step.name)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f"{p.plan.spec.name}/{p.task.step.name}" for p in found)
        raise UsageError(
            f"run {series}/{run} stands in {len(found)} chains: {names}",
            hint="say which with --production and --step",
        )
    raise UnknownNameError("run in a chain", f"{series}/{run}", _known(conn))


def hold(conn: sa.Connection, place: Place, why: Why) -> list[Link]:
    """Stop a chain before a run that it has not begun.

    Raises: StateError when it has begun.
    """
    waiting = [link for link in place.links if link.state == "waiting"]
    if not waiting:
        state = place.links[-1].state
        raise StateError(f"{place} is {state}", hint="hold a later run, or skip back to this one")
    for link in waiting:
        _move(conn, link, "held", why)
    return waiting


def accept(conn: sa.Connection, place: Place, why: Why) -> list[Link]:
    """Take the constants of a held link's rejected fit; let one that was held before it began go on.

    Raises: StateError when the run is not held, or its fit gave no constants.
    """
    group = _held(place)
    if group[0].fit_unit_id is None:
        for link in group:
            _move(conn, link, "waiting", why)
        return group
    outcomes = _proposed(conn, place, group[0], why)
    for link in group:
        tag = _global_tag(conn, place, link)
        result = chain.publish_link(conn, tag, link, place.chain.generation, outcomes, why.now)
        _move(conn, link, "accepted", why, result=result)
    return group


def reject(conn: sa.Connection, place: Place, experiment: Experiment, why: Why) -> list[Link]:
    """Carry the previous constants through a held link.

    Raises: StateError when the run is not held, or earlier ones are not concluded.
    """
    group = _held(place)
    _check_turn(place, group[0])
    start = group[0].start
    if not start:
        initial = initial_constants(conn, experiment, place.task, place.chain.series, why.now)
        start = chain.start_constants(place.chain, group[0], initial)
    outcomes = {role: Outcome(payload_id, "carried", why.reason) for role, payload_id in start.items()}
    for link in group:
        tag = _global_tag(conn, place, link)
        result = chain.publish_link(conn, tag, link, place.chain.generation, outcomes, why.now)
        _move(conn, link, "carried", why, start=start, result=result)
    return group


def skip_back(conn: sa.Connection, place: Place, why: Why) -> list[Link]:
    """Open a new generation of a chain from a run on; return the links that it invalidates.

    Their constants are withdrawn, so that what they cover is uncovered until the chain has rolled again. Runs
    before stay as they are, and so does what people decided: constants that were loaded by hand, runs that
    are held before they began. Chains that read these constants are skipped back with it.
    Raises: StateError when nothing from the run on has begun, or a global tag is frozen.
    """
    _check_open(conn, place)
    again = _begun(place)
    if not again:
        raise StateError(f"{place} has not begun", hint="there is nothing to skip back")
    _skip(conn, place, again, why)
    for other in _dependents(conn, place):
        more = _begun(other)
        _skip(conn, other, more, replace(why, reason=f"{why.reason} ({place} is skipped back)"))
        again += more
    return again


def _begun(place: Place) -> list[Link]:
    return [li for li in place.chain.links if li.interval.first[0] >= place.run and li.has_begun]


def _dependents(conn: sa.Connection, place: Place) -> list[Place]:
    """Return the begun chains of the production that read what a chain makes, directly or not, in order."""
    made, found = set(place.task.facts.tags), []
    for task in place.plan.tasks.values():
        reads = set(task.facts.reads) - set(task.facts.tags)
        if task.step.kind != "calibrate" or task.id == place.task.id or not reads & made:
            continue
        for one in chain.read(conn, task.id):
            other = Place(place.plan, task, one, place.run)
            if one.series == place.chain.series and set(other.global_tags) & set(place.global_tags):
                made |= set(task.facts.tags)
                found += [other] if _begun(other) else []
    return found


def _skip(conn: sa.Connection, place: Place, again: Sequence[Link], why: Why) -> None:
    """Invalidate links of one chain, and give it a new generation in which they wait."""
    generation = place.chain.generation + 1
    note = {"actor": why.actor, "reason": why.reason}
    for link in again:
        history.move(conn, schema.chain_link, link.id, link.state, "invalidated", at=why.now, **note)
        chain.add_link(conn, place.chain.id, generation, link.chunk_id, link.interval, why.now)
    _drop_work(conn, place.chain, again, why)
    _open_generation(conn, place.chain, generation, again)
    _withdraw(conn, place, why.now)
    reopen(conn, place.task, why)
    data = {"series": place.chain.series, "run": place.run, "generation": generation}
    history.record(conn, "task", place.task.id, "skipped back", at=why.now, data=data, **note)


def reopen(conn: sa.Connection, task: Task, why: Why) -> None:
    """Let a closed task, and its production, take up work again."""
    if task.state == "closed":
        history.move(
            conn, schema.task, task.id, "closed", "active", actor=why.actor, reason=why.reason, at=why.now
        )
    production = schema.production
    conn.execute(sa.update(production).where(production.c.id == task.production_id).values(finished=None))


def supersede_jobs(conn: sa.Connection, unit_ids: Sequence[int], why: Why) -> None:
    """Let nothing more be expected of units' jobs; late reports of theirs are superseded, too."""
    job = schema.job
    for row in conn.execute(sa.select(job).where(job.c.unit_id.in_(unit_ids)).order_by(job.c.id)).all():
        if row.state not in ("superseded", "cancelled", "split"):
            history.move(
                conn, job, row.id, row.state, "superseded", actor=why.actor, reason=why.reason, at=why.now
            )


# --- finding ------------------------------------------------------------------------------------------


def _places(conn: sa.Connection, current: Plan, series: str, run: int) -> list[Place]:
    found = [
        Place(current, task, one, run)
        for task in current.tasks.values()
        if task.step.kind == "calibrate"
        for one in chain.read(conn, task.id)
        if one.series == series
    ]
    return [place for place in found if place.links]


def _known(conn: sa.Connection) -> list[str]:
    link = schema.chain_link
    rows = conn.execute(sa.select(link.c.series, link.c.first_run).distinct())
    return [f"{row.series}/{row.first_run}" for row in rows]


def _held(place: Place) -> list[Link]:
    """Return the held links of a run, with those that share the fit."""
    held = [link for link in place.links if link.state == "held"]
    if not held:
        raise StateError(
            f"{place} is {place.links[-1].state}, not held",
            hint="only what is held can be accepted or rejected; skip back to what was concluded",
        )
    unit_id = held[0].fit_unit_id
    return held if unit_id is None else [li for li in place.chain.links if li.fit_unit_id == unit_id]


def _check_turn(place: Place, link: Link) -> None:
    """Refuse to conclude a link out of order: the constants that it would carry are not known yet.

    Earlier ones that accumulate until more has come are passed over: what they started from is carried.
    """
    links = place.chain.links
    left = (one for one in links[: links.index(link)] if one.state not in chain.FINAL)
    earlier = next((one for one in left if one.state != "accumulating" or one.fit_unit_id is not None), None)
    if earlier is not None:
        raise StateError(
            f"{place} is held before its turn: {earlier.interval} is {earlier.state}",
            hint="wait until the chain has come to it, or accept it to let it go on by itself",
        )


def _global_tag(conn: sa.Connection, place: Place, link: Link) -> str:
    datasets = place.plan.datasets_of(place.task, place.chain.series)
    return inputs.chunk_of(conn, datasets, link.chunk_id)[1].global_tag


# --- accepting ----------------------------------------------------------------------------------------


def _proposed(conn: sa.Connection, place: Place, link: Link, why: Why) -> dict[str, Outcome]:
    """Store the payloads that a held link's fit proposed; return what the roles become."""
    assert link.fit_unit_id is not None
    outcomes = {}
    for role in place.task.facts.tags:
        document = inputs.unit_outputs(conn, [link.fit_unit_id], PAYLOAD_PREFIX + role)[0]
        payload = Payload.received("arrays", Path(document["path"]).read_bytes())
        tags.put_payload(conn, payload, why.now)
        origin = "carried" if payload.id == link.start.get(role) else "fitted"
        outcomes[role] = Outcome(payload.id, origin, why.reason)
    if all(outcome.origin == "carried" for outcome in outcomes.values()):
        raise StateError(f"the fit of {place} gave no constants", hint="reject it: that carries the previous")
    return outcomes


def _move(conn: sa.Connection, link: Link, target: str, why: Why, **values: Mapping[str, Any]) -> None:
    history.move(
        conn,
        schema.chain_link,
        link.id,
        link.state,
        target,
        actor=why.actor,
        reason=why.reason,
        at=why.now,
        **values,
    )
    chain.note(conn, link, why.reason)


# --- skipping back ------------------------------------------------------------------------------------


def _check_open(conn: sa.Connection, place: Place) -> None:
    table = schema.global_tag
    frozen = sa.select(table.c.name).where(table.c.name.in_(place.global_tags), table.c.state == "frozen")
    name = conn.execute(frozen).scalar()
    if name is not None:
        raise StateError(
            f"global tag {name} is frozen: its constants stay",
            hint="start a production with another global tag and calibrate again there",
        )
    if place.task.state not in ("active", "closed"):
        raise StateError(
            f"task {place.task.step.name} is {place.task.state}",
            hint="`beamwright explain` says what it lacks",
        )


def _drop_work(conn: sa.Connection, one: Chain, again: Sequence[Link], why: Why) -> None:
    """Supersede collectors, and the fits that no concluded earlier link rests on."""
    kept = {li.fit_unit_id for li in one.links if li not in again and li.state in chain.FINAL}
    units = {link.collect_unit_id for link in again} | {link.fit_unit_id for link in again} - kept
    supersede_jobs(conn, sorted(unit for unit in units if unit is not None), why)
    link = schema.chain_link
    # An earlier link that waits for such a fit is fitted without what was invalidated.
    fits = sorted({li.fit_unit_id for li in again if li.fit_unit_id is not None})
    waiting = sa.update(link).where(link.c.fit_unit_id.in_(fits), link.c.state == "accumulating")
    conn.execute(waiting.values(fit_unit_id=None))


def _open_generation(conn: sa.Connection, one: Chain, generation: int, again: Sequence[Link]) -> None:
    dropped = {link.id for link in again}
    left = [link_id for link_id in one.accumulated if link_id not in dropped]
    table = schema.chain
    conn.execute(sa.update(table).where(table.c.id == one.id).values(generation=generation, accumulated=left))


def _withdraw(conn: sa.Connection, place: Place, now: float) -> None:
    """Take the chain's constants from the run on out of the open global tags."""
    first, last = (place.run, 0, 0), (RUN_MAX, SECTION_MAX, EVENT_MAX)
    interval = Interval(place.chain.series, first, last)
    for global_tag in place.global_tags:
        held = tags.members(conn, global_tag)
        names = [f"{global_tag}/{role}" for role in place.task.facts.tags]
        versions = {
            name: tags.withdraw(conn, name, interval, now, keep=("loaded",)) for name in names if name in held
        }
        tags.sweep(conn, global_tag, versions, now)
