"""The chain of rolling calibrations: strictly in run order, constants stored exactly once.

One chain per calibrate step and series; one link per chunk. A link's ``start`` are the constants of the link
before it, which its collector applies, in a further round with what the round before ``proposed``; its
``result`` are the constants that its interval gets. Storing constants, emptying the accumulator and advancing
the chain is one transaction (``conclude``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import sqlalchemy as sa

from beamwright.conditions import tags
from beamwright.conditions.payload import Payload
from beamwright.core.errors import ConflictError
from beamwright.core.runs import Interval, gaps
from beamwright.db import history, schema
from beamwright.db.engine import insert_id
from beamwright.production.spec import DatasetSpec
from beamwright.production.tasks import Plan, Task
from beamwright.production.tasks import plan as read_plan
from beamwright.production.units import interval_columns, row_interval

ACTOR = "calibrator"
FINAL = ("accepted", "carried")
UNDER_WAY = ("collecting", "accumulating", "fitted", "rejected", "held")

Constants = dict[str, str]  # role -> payload id

_COLUMNS = [column for column in schema.chain_link.c if column.name not in ("figures", "reason")]
_PLACE = [schema.chain_link.c[name] for name in ("first_run", "first_section", "first_event")]


@dataclass(frozen=True)
class Link:
    """One chunk's place in a chain, in its present state."""

    id: int
    chain_id: int
    chunk_id: int
    interval: Interval
    generation: int
    state: str
    collect_unit_id: int | None
    fit_unit_id: int | None
    start: Constants
    result: Constants
    created: float = 0.0
    round: int = 1
    proposed: Constants = field(default_factory=dict)

    @property
    def applied(self) -> Constants:
        """The constants that its collector applies."""
        return self.start | self.proposed

    @property
    def has_begun(self) -> bool:
        """Whether it has left the state waiting otherwise than by being held in it."""
        return self.state != "waiting" and not (self.state == "held" and self.collect_unit_id is None)


@dataclass(frozen=True)
class Chain:
    """A chain with its links in key order; ``accumulated`` are the links whose accumulators wait for a
    fit.
    """

    id: int
    series: str
    generation: int
    accumulated: tuple[int, ...]
    links: tuple[Link, ...]

    @property
    def next(self) -> Link | None:
        """The first link that is not concluded."""
        return next((link for link in self.links if link.state not in FINAL), None)

    @property
    def next_waiting(self) -> Link | None:
        """The first link that has not begun."""
        return next((link for link in self.links if link.state == "waiting"), None)

    def before(self, link: Link) -> Link | None:
        """Return the link just before."""
        position = self.links.index(link)
        return self.links[position - 1] if position else None

    def started_after(self, link: Link) -> bool:
        """Tell whether a later link has begun."""
        return any(other.has_begun for other in self.links[self.links.index(link) + 1 :])


class Outdated(Exception):
    """A chain is no longer as it was read; read it again and decide anew."""


@dataclass(frozen=True)
class Outcome:
    """What a link's roles end as: payload id, origin (fitted, carried, late) and reason, by role."""

    payload_id: str
    origin: str
    reason: str


def extend(conn: sa.Connection, plan: Plan, task: Task, now: float) -> None:
    """Make a chain for each series of the step's datasets, and a link for each chunk that has none.

    Raises: ConflictError when another chain writes the same tag for the series.
    """
    for name in task.step.inputs:
        for row in _unlinked(conn, task, plan.spec.datasets()[name]):
            chain_id, generation = _chain(conn, plan, task, row.series)
            interval = Interval.sections(row.series, row.number, row.first_section, row.last_section)
            add_link(conn, chain_id, generation, row.id, interval, now)


def chunk_mark(conn: sa.Connection) -> tuple[int, int]:
    """Return what changes with every chunk that is registered."""
    table = schema.chunk
    count, last = conn.execute(sa.select(sa.func.count(), sa.func.max(table.c.id))).one()
    return int(count), int(last or 0)


def read(conn: sa.Connection, task_id: int) -> list[Chain]:
    """Return the chains of a calibrate step, by series."""
    return [_read_chain(conn, row, _links(conn, row.id)) for row in _chains(conn, task_id)]


def read_open(conn: sa.Connection, task_id: int) -> list[Chain]:
    """Return the chains of a calibrate step with those links alone that say what is to be done next.

    These are the ones under way, the first that waits, the last that is concluded, and the one that was
    concluded just before each of these; however long a chain is, they are few.
    """
    return [_read_chain(conn, row, _open_links(conn, row.id)) for row in _chains(conn, task_id)]


def confirm(conn: sa.Connection, chain: Chain, group: Sequence[Link] = ()) -> None:
    """Make sure, in a write transaction, that a chain and links of it are still as they were read.

    Raises: Outdated when a person has moved something meanwhile.
    """
    table, link = schema.chain, schema.chain_link
    present = sa.select(table.c.generation).where(table.c.id == chain.id).with_for_update()
    states = sa.select(link.c.id, link.c.state).where(link.c.id.in_([one.id for one in group]))
    found = {row.id: row.state for row in conn.execute(states)} if group else {}
    if conn.execute(present).scalar_one() != chain.generation or any(
        found[one.id] != one.state for one in group
    ):
        raise Outdated


def waits_for(conn: sa.Connection, plan: Plan, task: Task, chain: Chain, link: Link) -> str:
    """Say what a waiting link waits for, or nothing: earlier runs not closed, earlier chunks, the link
    before it.
    """
    previous = chain.before(link)
    if previous is not None and previous.state not in (*FINAL, "accumulating"):
        return f"{previous.interval} is {previous.state}"
    if previous is not None and previous.fit_unit_id is not None and previous.state == "accumulating":
        return f"{previous.interval} is being fitted"
    return _missing(conn, plan, task, link) or _uncovered(conn, plan, task, link)


def is_complete(conn: sa.Connection, plan: Plan, task: Task, chain: Chain) -> bool:
    """Tell whether no further chunk of the chain's series is expected."""
    datasets = plan.datasets_of(task, chain.series)
    return all(_closed(conn, chain.series, d.tier).issuperset(d.runs[chain.series]) for d in datasets)


def has_started(conn: sa.Connection, task_id: int, series: str, run: int, sequence: int) -> bool:
    """Tell whether the chain of a series has begun with a chunk."""
    chain, link, chunk = schema.chain, schema.chain_link, schema.chunk
    query = (
        sa.select(link.c.state)
        .join(chain, link.c.chain_id == chain.c.id)
        .join(chunk, link.c.chunk_id == chunk.c.id)
    )
    here = (
        chain.c.task_id == task_id,
        link.c.series == series,
        link.c.first_run == run,
        chunk.c.sequence == sequence,
    )
    return any(state != "waiting" for state in conn.execute(query.where(*here)).scalars())


def start_constants(chain: Chain, link: Link, initial: Constants) -> Constants:
    """Return the constants that a link starts from: the results of the last concluded link before it, or
    the initial ones; what shares an accumulator starts from the same.
    """
    earlier = chain.links[: chain.links.index(link)]
    found = dict(initial)
    for other in earlier:
        found.update(other.result)
    return next((dict(other.start) for other in earlier if other.id in chain.accumulated), found)


def begin(conn: sa.Connection, link: Link, unit_id: int, start: Constants, now: float) -> None:
    """Let a link collect."""
    values: dict[str, Any] = {"collect_unit_id": unit_id, "start": start}
    history.move(conn, schema.chain_link, link.id, "waiting", "collecting", actor=ACTOR, at=now, **values)


def accumulate(conn: sa.Connection, chain: Chain, link: Link, now: float) -> None:
    """Add a link's accumulator to the chain's."""
    history.move(conn, schema.chain_link, link.id, "collecting", "accumulating", actor=ACTOR, at=now)
    set_accumulated(conn, chain, [*chain.accumulated, link.id])


def request_fit(conn: sa.Connection, group: Sequence[Link], unit_id: int) -> None:
    """Note the unit that fits a group of accumulating links."""
    table = schema.chain_link
    changed = sa.update(table).where(
        table.c.id.in_([link.id for link in group]), table.c.state == "accumulating"
    )
    conn.execute(changed.values(fit_unit_id=unit_id))


def repeat(
    conn: sa.Connection,
    chain: Chain,
    group: Sequence[Link],
    units: Sequence[int],
    proposed: Constants,
    reason: str,
    now: float,
) -> None:
    """Let fitted links collect once more, in ``units``, with what their fit proposed."""
    for link, unit_id in zip(group, units, strict=True):
        values: dict[str, Any] = {
            "collect_unit_id": unit_id,
            "fit_unit_id": None,
            "proposed": link.proposed | proposed,
            "round": link.round + 1,
        }
        values |= {"actor": ACTOR, "reason": reason, "at": now}
        history.move(conn, schema.chain_link, link.id, "accumulating", "collecting", **values)
    set_accumulated(conn, chain, [i for i in chain.accumulated if i not in {link.id for link in group}])


def carry(
    conn: sa.Connection,
    chain: Chain,
    group: Sequence[Link],
    global_tag: str,
    start: Constants,
    reason: str,
    now: float,
    origin: str = "carried",
) -> None:
    """Give links the constants that they started from, flagged, and empty the accumulator of theirs."""
    outcomes = {role: Outcome(payload_id, origin, reason) for role, payload_id in start.items()}
    for link in group:
        result = publish_link(conn, global_tag, link, chain.generation, outcomes, now)
        values = {"start": start, "result": result}
        history.move(
            conn,
            schema.chain_link,
            link.id,
            link.state,
            "carried",
            actor=ACTOR,
            reason=reason,
            at=now,
            **values,
        )
        note(conn, link, reason)
    set_accumulated(conn, chain, [i for i in chain.accumulated if i not in {link.id for link in group}])


def conclude(
    conn: sa.Connection, chain: Chain, group: Sequence[Link], global_tag: str, payloads: Mapping[str,
    Payload],
    outcomes: Mapping[str, Outcome], figures: Mapping[str, Any], on_reject: str, now: float,
) -> None:  # fmt: skip
    """Store a fit's constants, empty the accumulator and advance the chain: the caller's one transaction
    does all or nothing.
    """
    fitted = {role for role, outcome in outcomes.items() if outcome.origin == "fitted"}
    for role in sorted(fitted):
        tags.put_payload(conn, payloads[role], now)
    reason = "; ".join(
        f"{role}: {outcome.reason}" for role, outcome in sorted(outcomes.items()) if outcome.reason
    )
    result = {role: outcome.payload_id for role, outcome in outcomes.items()}
    for link in group:
        values: dict[str, Any] = {"result": result, "figures": dict(figures)}
        history.move(
            conn,
            schema.chain_link,
            link.id,
            "accumulating",
            "fitted",
            actor=ACTOR,
            reason=reason,
            at=now,
            **values,
        )
        note(conn, link, reason)
        if _settle(conn, link, bool(fitted), on_reject, reason, now):
            remember(conn, link, publish_link(conn, global_tag, link, chain.generation, outcomes, now))
    set_accumulated(conn, chain, [])


def note(conn: sa.Connection, link: Link, reason: str) -> None:
    """Keep the reason with the link, too: a column of the same name as an argument of the history."""
    table = schema.chain_link
    conn.execute(sa.update(table).where(table.c.id == link.id).values(reason=reason))


def _settle(
    conn: sa.Connection, link: Link, is_accepted: bool, on_reject: str, reason: str, now: float
) -> bool:
    """Move a fitted link to its end; tell whether its interval is now covered."""
    table = schema.chain_link
    if is_accepted:
        history.move(conn, table, link.id, "fitted", "accepted", actor=ACTOR, reason=reason, at=now)
        return True
    history.move(conn, table, link.id, "fitted", "rejected", actor=ACTOR, reason=reason, at=now)
    target = "held" if on_reject == "hold" else "carried"
    history.move(conn, table, link.id, "rejected", target, actor=ACTOR, reason=reason, at=now)
    return target == "carried"


def publish_link(
    conn: sa.Connection,
    global_tag: str,
    link: Link,
    generation: int,
    outcomes: Mapping[str, Outcome],
    now: float,
) -> Constants:
    """Append the link's interval to each tag and sweep the new versions into the open global tag.

    What was loaded by hand stays, and is what the next link starts from.
    """
    versions: dict[str, int] = {}
    by_hand: Constants = {}
    for role, outcome in sorted(outcomes.items()):
        tag = f"{global_tag}/{role}"
        tags.create_tag(conn, tag, "arrays", now)
        loaded = [v for v in tags.intervals(conn, tag, overlapping=link.interval) if v.origin == "loaded"]
        if loaded and loaded[-1].interval.last >= link.interval.last:
            by_hand[role] = loaded[-1].payload_id
        left = gaps(link.interval, [v.interval for v in loaded])
        rows = [(part, outcome.payload_id, outcome.origin, outcome.reason) for part in left]
        versions[tag] = tags.append(conn, tag, rows, now, generation=generation)
    tags.sweep(conn, global_tag, {tag: version for tag, version in versions.items() if version}, now)
    return {role: outcome.payload_id for role, outcome in outcomes.items()} | by_hand


def remember(conn: sa.Connection, link: Link, result: Constants) -> None:
    """Keep what a concluded link's interval has, which is what the next link starts from."""
    table = schema.chain_link
    conn.execute(sa.update(table).where(table.c.id == link.id).values(result=result))


def _chain(conn: sa.Connection, plan: Plan, task: Task, series: str) -> tuple[int, int]:
    table = schema.chain
    row = conn.execute(
        sa.select(table).where(table.c.task_id == task.id, table.c.series == series)
    ).one_or_none()
    if row is not None:
        return row.id, row.generation
    _check_owner(conn, plan, task, series)
    return insert_id(conn, table, task_id=task.id, series=series, generation=0, accumulated=[]), 0


def check_new(conn: sa.Connection, plan: Plan) -> list[tuple[Task, str]]:
    """Return the chains that a production does not have yet, by step and series.

    Raises: ConflictError where one would write a tag that another chain writes.
    """
    table, owners, new = schema.chain, dict[tuple[str, str], str](), []
    for step, task in plan.tasks.items():
        query = sa.select(table.c.series).where(table.c.task_id == task.id)
        begun = set(conn.execute(query).scalars())
        for series in _series(plan, task) if task.step.kind == "calibrate" else ():
            for tag in sorted(_written(plan, task)):
                if (owner := owners.setdefault((tag, series), step)) != step:
                    raise _second(plan, task, tag, series, f"{plan.spec.name}/{owner}")
            if series not in begun:
                _check_owner(conn, plan, task, series)
                new.append((task, series))
    return new


def _series(plan: Plan, task: Task) -> list[str]:
    datasets = plan.spec.datasets()
    return sorted({series for name in task.step.inputs for series in datasets[name].runs})


def _second(plan: Plan, task: Task, tag: str, series: str, owner: str) -> ConflictError:
    return ConflictError(
        f"step {plan.spec.name}/{task.step.name} would write tag {tag} for series {series}, "
        f"which the chain of {owner} writes",
        hint="one chain writes a tag: use another global tag, or take that chain's constants",
    )


def _check_owner(conn: sa.Connection, plan: Plan, task: Task, series: str) -> None:
    """Refuse a second chain that would write the same tags for a series."""
    table = schema.chain
    mine = _written(plan, task)
    others = sa.select(schema.task.c.id, schema.task.c.production_id)
    others = others.join(table, table.c.task_id == schema.task.c.id).where(table.c.series == series)
    for row in conn.execute(others.where(schema.task.c.id != task.id)).all():
        other = plan if row.production_id == plan.id else read_plan(conn, row.production_id)
        for step, one in other.tasks.items():
            both = sorted(mine & _written(other, one)) if one.id == row.id else []
            if both:
                raise _second(plan, task, both[0], series, f"{other.spec.name}/{step}")


def _written(plan: Plan, task: Task) -> set[str]:
    """Return the tags that a calibrating step writes."""
    datasets = plan.spec.datasets()
    into = {datasets[name].global_tag for name in task.step.inputs if name in datasets}
    return {f"{global_tag}/{role}" for global_tag in into for role in task.facts.tags}


def add_link(
    conn: sa.Connection, chain_id: int, generation: int, chunk_id: int, interval: Interval, now: float
) -> None:
    """Give a chunk a waiting link."""
    values: dict[str, Any] = {"start": {}, "result": {}, "figures": {}, "reason": "", "created": now}
    link_id = insert_id(
        conn,
        schema.chain_link,
        chain_id=chain_id,
        chunk_id=chunk_id,
        generation=generation,
        state="waiting",
        **values,
        **interval_columns(interval),
    )
    history.record(conn, "chain", link_id, "waiting", actor=ACTOR, at=now)


def _chains(conn: sa.Connection, task_id: int) -> list[Any]:
    table = schema.chain
    return list(conn.execute(sa.select(table).where(table.c.task_id == task_id).order_by(table.c.series)))


def _read_chain(conn: sa.Connection, row: Any, links: Iterable[Link]) -> Chain:
    ordered = sorted(links, key=lambda link: link.interval)
    return Chain(row.id, row.series, row.generation, tuple(row.accumulated), tuple(ordered))


def _links(conn: sa.Connection, chain_id: int) -> list[Link]:
    """Return the newest link of each chunk."""
    table = schema.chain_link
    query = sa.select(*_COLUMNS).where(table.c.chain_id == chain_id).order_by(table.c.generation)
    return list({row.chunk_id: _link(row) for row in conn.execute(query)}.values())


def _open_links(conn: sa.Connection, chain_id: int) -> list[Link]:
    """Return the links that ``read_open`` tells of; an invalidated one always has a newer one."""
    table = schema.chain_link
    mine = sa.select(*_COLUMNS).where(table.c.chain_id == chain_id)
    found = [_link(row) for row in conn.execute(mine.where(table.c.state.in_(UNDER_WAY)))]
    first = mine.where(table.c.state == "waiting").order_by(*_PLACE).limit(1)
    found += [_link(row) for row in conn.execute(first)]
    last = [column.desc() for column in _PLACE]
    ends = [None, *(link.interval.first for link in found)]
    concluded: dict[int, Link] = {}
    for state, end in product(FINAL, ends):
        query = mine.where(table.c.state == state).order_by(*last).limit(1)
        if end is not None:
            query = query.where(sa.tuple_(*_PLACE) < sa.tuple_(*map(sa.literal, end)))
            query = query.where(table.c.first_run <= end[0])
        concluded |= {row.id: _link(row) for row in conn.execute(query)}
    return found + list(concluded.values())


def _unlinked(conn: sa.Connection, task: Task, dataset: DatasetSpec) -> list[Any]:
    """Return the chunks of a dataset that are in no chain of a step, in key order."""
    run, chunk, link, chain = schema.run, schema.chunk, schema.chain_link, schema.chain
    mine = sa.select(chain.c.id).where(chain.c.task_id == task.id)
    linked = sa.select(link.c.id).where(link.c.chain_id.in_(mine), link.c.chunk_id == chunk.c.id).exists()
    query = (
        sa.select(chunk.c.id, chunk.c.first_section, chunk.c.last_section, run.c.series, run.c.number)
        .join(run, chunk.c.run_id == run.c.id)
        .where(run.c.tier == dataset.tier, run.c.series.in_(list(dataset.runs)), ~linked)
        .order_by(run.c.series, run.c.number, chunk.c.first_section)
    )
    numbers = {series: set(runs) for series, runs in dataset.runs.items()}
    return [row for row in conn.execute(query) if row.number in numbers[row.series]]


def _link(row: Any) -> Link:
    return Link(
        row.id,
        row.chain_id,
        row.chunk_id,
        row_interval(row),
        row.generation,
        row.state,
        row.collect_unit_id,
        row.fit_unit_id,
        dict(row.start),
        dict(row.result),
        row.created,
        row.round or 1,
        dict(row.proposed or {}),
    )


def _missing(conn: sa.Connection, plan: Plan, task: Task, link: Link) -> str:
    """Name the first run or chunk before the link that is expected and not there."""
    chunk = schema.chunk
    series, number = link.interval.series, link.interval.first[0]
    for name in task.step.inputs:
        dataset = plan.spec.datasets()[name]
        earlier = [n for n in dataset.runs.get(series, ()) if n < number]
        closed = _closed(conn, series, dataset.tier) if earlier else set()
        if left := [n for n in earlier if n not in closed]:
            return f"run {series}:{left[0]} is not closed"
    mine = sa.select(chunk.c.run_id, chunk.c.sequence).where(chunk.c.id == link.chunk_id)
    run_id, sequence = conn.execute(mine).one()
    there = conn.execute(
        sa.select(sa.func.count()).where(chunk.c.run_id == run_id, chunk.c.sequence < sequence)
    ).scalar_one()
    return (
        "" if there == sequence - 1 else f"run {series}:{number} lacks {sequence - 1 - there} earlier chunks"
    )


def _uncovered(conn: sa.Connection, plan: Plan, task: Task, link: Link) -> str:
    """Name what other calibrations have not given yet for the link's interval."""
    foreign = set(task.facts.reads) - set(task.facts.tags)
    for dataset in plan.datasets_of(task, link.interval.series) if foreign else []:
        for role, gap in tags.resolve(conn, dataset.global_tag, foreign, link.interval).gaps:
            return f"{role} does not cover {gap}"
    return ""


def _closed(conn: sa.Connection, series: str, tier: str) -> set[int]:
    """Return the runs of a series of which no more is expected."""
    run = schema.run
    query = sa.select(run.c.number).where(run.c.series == series, run.c.tier == tier)
    return set(conn.execute(query.where(run.c.state.in_(("closed", "incomplete")))).scalars())


def set_accumulated(conn: sa.Connection, chain: Chain, link_ids: list[int]) -> None:
    """Keep which links' accumulators a chain has gathered for its next fit."""
    conn.execute(sa.update(schema.chain).where(schema.chain.c.id == chain.id).values(accumulated=link_ids))
