"""The calibrator: drives the chains of rolling calibrations, one link at a time and in run order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from beamwright.agents.watch import Watch
from beamwright.conditions import tags
from beamwright.conditions.payload import Payload, shift
from beamwright.core.messages import ACCUMULATOR, PAYLOAD_PREFIX
from beamwright.core.runs import Interval
from beamwright.production import chain, inputs, splitting
from beamwright.production.chain import Chain, Link, Outcome
from beamwright.production.experiment import Experiment
from beamwright.production.interventions import Why, supersede_jobs
from beamwright.production.publishing import initial_constants, publish
from beamwright.production.splitting import Covered, Item, Run, hull
from beamwright.production.tasks import Plan, Task, plan
from beamwright.production.timeouts import deadlines, expire
from beamwright.production.units import UnitJob, ensure_unit, unit_job
from beamwright.production.workspace import Workspace


@dataclass
class Calibrator:
    """Advances the chains of one production."""

    workspace: Workspace
    experiment: Experiment
    production_id: int
    run: Run
    name: str = chain.ACTOR
    _known: dict[str, dict[str, float]] = field(default_factory=dict)
    _marks: dict[int, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._watch = Watch(self.workspace.db, self.workspace.clock)

    def turn(self) -> int:
        """Advance every chain as far as it goes now; return how many links changed."""
        if not self._watch.is_due():
            return 0
        with self.workspace.db.read() as conn:
            current = plan(conn, self.production_id)
            is_overdue = any(one.at <= self.workspace.clock.now() for one in deadlines(conn, current))
        if is_overdue:
            with self.workspace.db.begin() as conn:
                expire(conn, current, self.workspace.clock.now())
        return int(is_overdue) + sum(
            self._task(current, task) for task in current.tasks.values() if task.step.kind == "calibrate"
        )

    def _task(self, current: Plan, task: Task) -> int:
        if task.state != "active":
            return 0
        with self.workspace.db.read() as conn:
            mark = chain.chunk_mark(conn)
        if mark != self._marks.get(task.id):
            with self.workspace.db.begin() as conn:
                chain.extend(conn, current, task, self.workspace.clock.now())
            self._marks[task.id] = mark
        with self.workspace.db.read() as conn:
            chains = chain.read_open(conn, task.id)
        return sum(self._advanced(current, task, one) for one in chains)

    def _advanced(self, current: Plan, task: Task, one: Chain) -> int:
        try:
            return self._chain(current, task, one)
        except chain.Outdated:
            return 0  # a person moved something meanwhile; the next turn reads the chain anew

    def _chain(self, current: Plan, task: Task, one: Chain) -> int:
        """Do the one thing that is due in a chain."""
        for link in one.links:
            if link.state == "held":
                return 0 if link.has_begun else self._flush(current, task, one)
            if link.state == "collecting":
                return self._collected(current, task, one, link)
            if link.state == "accumulating" and link.fit_unit_id is not None:
                return self._fitted(current, task, one, link)
            if link.state == "waiting":
                return self._flush(current, task, one) or self._start(current, task, one, link)
        return self._flush(current, task, one)

    # --- waiting

    def _start(self, current: Plan, task: Task, one: Chain, link: Link) -> int:
        with self.workspace.db.read() as conn:
            is_late = one.started_after(link)
            if not is_late and chain.waits_for(conn, current, task, one, link):
                return 0
            item = self._item(conn, current, task, one, link)
        start = chain.start_constants(one, link, self._initial(task, one.series))
        if is_late:
            return self._carry(
                one, [link], item.global_tag, start, "it arrived after a later run was calibrated", "late"
            )
        if not any(item.records.get(record) for record in task.facts.records):
            return self._carry(
                one, [link], item.global_tag, start, f"no {' or '.join(task.facts.records)} records"
            )
        return self._collect(task, one, link, item, start)

    def _collect(self, task: Task, one: Chain, link: Link, item: Item, start: chain.Constants) -> int:
        covered = self._snapshot(task, item, start)
        with self._advance(one, [link]) as conn:
            now = self.workspace.clock.now()
            unit_id = ensure_unit(conn, task, splitting.collect_unit(task, item, covered, self.run), now)
            chain.begin(conn, link, unit_id, start, now)
        return 1

    # --- collecting

    def _collected(self, current: Plan, task: Task, one: Chain, link: Link) -> int:
        """Add a finished accumulator to the chain's; a collector that failed for good carries its run."""
        with self.workspace.db.read() as conn:
            job = unit_job(conn, _known(link.collect_unit_id))
            item = self._item(conn, current, task, one, link)
        if job.state == "ok":
            with self._advance(one, [link]) as conn:
                chain.accumulate(conn, one, link, self.workspace.clock.now())
            return 1
        if self._is_lost(job):
            reason = "its collector failed; `beamwright explain` on its job says why"
            return self._carry(one, [link], item.global_tag, link.start, reason)
        return 0

    # --- accumulating

    def _flush(self, current: Plan, task: Task, one: Chain) -> int:
        """Fit the accumulated links, carry them, or wait for more, by statistics."""
        group = [link for link in one.links if link.id in one.accumulated]
        if not group:
            return 0
        with self.workspace.db.read() as conn:
            statistics = _sum(
                [unit_job(conn, _known(link.collect_unit_id)).figures["statistics"] for link in group]
            )
            may_wait = self._may_wait(conn, current, task, one, group)
            items = [self._item(conn, current, task, one, link) for link in group]
            accumulators = inputs.unit_outputs(
                conn, [_known(link.collect_unit_id) for link in group], ACCUMULATOR
            )
        if self._is_enough(task, statistics):
            whole = hull([i.interval for i in items])
            item = replace(items[0], interval=whole, inputs=accumulators, records={}, round=group[0].round)
            return self._fit(task, one, group, item)
        if may_wait:
            return 0
        minima = self._minima(task)
        text = ", ".join(
            f"{name} {value:g} of {minima[name]:g}" for name, value in sorted(statistics.items())
        )
        return self._carry(one, group, items[0].global_tag, group[0].start, f"too little statistics: {text}")

    def _may_wait(
        self, conn: sa.Connection, current: Plan, task: Task, one: Chain, group: Sequence[Link]
    ) -> bool:
        """Tell whether a group may still grow: by a run that is there, or by one that may come in time."""
        if group[0].round > 1 or len(group) >= task.step.max_runs:
            return False
        following = one.next_waiting
        if following is not None and not chain.waits_for(conn, current, task, one, following):
            return True
        if following is None and chain.is_complete(conn, current, task, one):
            return False
        waited = self.workspace.clock.now() - min(link.created for link in group)
        return task.step.max_wait_s is None or waited < task.step.max_wait_s

    def _fit(self, task: Task, one: Chain, group: Sequence[Link], item: Item) -> int:
        with self.workspace.db.read() as conn:
            held = _held(conn, task, item, group[0].applied)
        covered = self._snapshot(task, item, held)
        with self._advance(one, group) as conn:
            unit = splitting.fit_unit(task, item, covered, self.run)
            chain.request_fit(conn, group, ensure_unit(conn, task, unit, self.workspace.clock.now()))
        return 1

    def _minima(self, task: Task) -> dict[str, float]:
        """Return what each of a step's calibrations needs."""
        if task.step.name not in self._known:
            make = self.experiment.make_calibration
            made = [make(name, task.step.parameters) for name in task.step.calibrations]
            self._known[task.step.name] = {c.name: float(c.minimum) for c in made}
        return self._known[task.step.name]

    def _is_enough(self, task: Task, statistics: dict[str, float]) -> bool:
        """Any calibration with enough statistics makes a fit worth while; the others are carried by their
        own decision.
        """
        return any(statistics.get(name, 0) >= least for name, least in self._minima(task).items())

    def _fitted(self, current: Plan, task: Task, one: Chain, link: Link) -> int:
        """Store what a finished fit proposes, or collect once more with it."""
        unit_id = _known(link.fit_unit_id)
        group = [
            other for other in one.links if other.fit_unit_id == unit_id and other.state == "accumulating"
        ]
        with self.workspace.db.read() as conn:
            job = unit_job(conn, unit_id)
            tag = self._item(conn, current, task, one, link).global_tag
            if self._is_lost(job):
                reason = "the fit failed; `beamwright explain` on its job says why"
                return self._carry(one, group, tag, group[0].start, reason)
            if job.state != "ok":
                return 0
            files = {
                role: inputs.unit_outputs(conn, [unit_id], PAYLOAD_PREFIX + role)[0]["path"]
                for role in task.facts.tags
            }
        payloads = {role: Payload.received("arrays", Path(path).read_bytes()) for role, path in files.items()}
        fits = job.figures["fits"]
        if not self._has_converged(task, group[0], fits, payloads):
            if group[0].round < task.step.rounds:
                return self._repeat(current, task, one, group, fits, payloads)
            fits = _unconverged(fits, task.step.rounds, task.step.tolerance)
        is_refused = any(fit["decision"] == "reject" for fit in fits.values())
        on_reject = task.step.on_reject if is_refused else "carry"
        with self._advance(one, group) as conn:
            outcomes = _outcomes(fits, payloads, group[0])
            now = self.workspace.clock.now()
            chain.conclude(conn, one, group, tag, payloads, outcomes, fits, on_reject, now)
        return 1

    # --- further rounds

    def _has_converged(
        self, task: Task, link: Link, fits: dict[str, Any], payloads: dict[str, Payload]
    ) -> bool:
        """Tell whether what was accepted is, within the tolerance, what the collectors had applied."""
        if task.step.rounds == 1:
            return True
        with self.workspace.db.read() as conn:
            moved = [
                shift(tags.get_payload(conn, link.applied[role]), payloads[role])
                for role in sorted(_accepted(fits))
            ]
        return max(moved, default=0.0) <= task.step.tolerance

    def _repeat(
        self, current: Plan, task: Task, one: Chain, group: Sequence[Link], fits: dict[str, Any],
        payloads: dict[str, Payload],
    ) -> int:  # fmt: skip
        """Let the group collect again, with what this round's fit found."""
        new = {role: payloads[role] for role in _accepted(fits)}
        with self.workspace.db.begin() as conn:
            proposed = {
                role: tags.put_payload(conn, p, self.workspace.clock.now()) for role, p in new.items()
            }
        with self.workspace.db.read() as conn:
            items = [self._item(conn, current, task, one, link) for link in group]
        plans = []
        for item, link in zip(items, group, strict=True):
            covered = self._snapshot(task, item, link.applied | proposed)
            again = replace(item, round=link.round + 1)
            plans.append(splitting.collect_unit(task, again, covered, self.run))
        reason = f"round {group[0].round + 1}: constants moved by more than {task.step.tolerance:g}"
        done = {link.collect_unit_id for link in group} | {link.fit_unit_id for link in group}
        with self._advance(one, group) as conn:
            now = self.workspace.clock.now()
            supersede_jobs(conn, sorted(map(_known, done)), Why(chain.ACTOR, reason, now))
            units = [ensure_unit(conn, task, unit, now) for unit in plans]
            chain.repeat(conn, one, group, units, proposed, reason, now)
        return len(group)

    # --- helpers

    def _carry(
        self,
        one: Chain,
        group: Sequence[Link],
        tag: str,
        start: chain.Constants,
        reason: str,
        origin: str = "carried",
    ) -> int:
        with self._advance(one, group) as conn:
            chain.carry(conn, one, group, tag, start, reason, self.workspace.clock.now(), origin)
        return len(group)

    def _item(self, conn: sa.Connection, current: Plan, task: Task, one: Chain, link: Link) -> Item:
        row, dataset = inputs.chunk_of(conn, current.datasets_of(task, one.series), link.chunk_id)
        return replace(inputs.chunk_item(conn, row, dataset.global_tag), edition=one.generation)

    def _initial(self, task: Task, series: str) -> chain.Constants:
        with self.workspace.db.begin() as conn:
            return initial_constants(conn, self.experiment, task, series, self.workspace.clock.now())

    @contextmanager
    def _advance(self, one: Chain, group: Sequence[Link]) -> Iterator[sa.Connection]:
        """Give a write transaction in which the chain is as it was read."""
        with self.workspace.db.begin() as conn:
            chain.confirm(conn, one, group)
            yield conn

    def _snapshot(self, task: Task, item: Item, start: chain.Constants) -> Covered:
        with self.workspace.db.read() as conn:
            return publish(self.workspace, conn, item.global_tag, task.facts.reads, item.interval, start)

    def _is_lost(self, job: UnitJob) -> bool:
        return job.state == "failed" and job.failures >= self.workspace.settings.limits.tries


def _known(unit_id: int | None) -> int:
    assert unit_id is not None, "the state of the link says that it has this unit"
    return unit_id


def _sum(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    names = sorted({name for part in parts for name in part})
    return {name: sum(part.get(name, 0) for part in parts) for name in names}


def _held(conn: sa.Connection, task: Task, item: Item, applied: chain.Constants) -> chain.Constants:
    """Return what holds at the start of an interval, by role: what a fit starts from."""
    foreign = set(task.facts.reads) - set(applied)
    start = Interval(item.interval.series, item.interval.first, item.interval.first)
    pieces = tags.resolve(conn, item.global_tag, foreign, start).pieces if foreign else []
    return {role: payload_id for role, _, payload_id in pieces} | applied


def _accepted(fits: dict[str, Any]) -> set[str]:
    """Return the roles whose new constants are taken."""
    return {role for fit in fits.values() if fit["decision"] == "accept" for role in fit["tags"]}


def _unconverged(fits: dict[str, Any], rounds: int, tolerance: float) -> dict[str, Any]:
    """Return fits as rejected that still move their constants in the last round."""
    reason = f"not converged: constants still move by more than {tolerance:g} in round {rounds}"
    return {
        name: fit | {"decision": "reject", "reason": reason} if fit["decision"] == "accept" else fit
        for name, fit in fits.items()
    }


def _outcomes(fits: dict[str, Any], payloads: dict[str, Payload], link: Link) -> dict[str, Outcome]:
    """Return, by role, what an accepted calibration brings, or what was there before.

    A calibration that carries in a further round keeps what the rounds before it found.
    """
    found = {}
    for fit in fits.values():
        for role in fit["tags"]:
            kept = link.applied if fit["decision"] == "carry" else link.start
            payload_id = payloads[role].id if fit["decision"] == "accept" else kept[role]
            is_new = fit["decision"] == "accept" or payload_id != link.start[role]
            found[role] = Outcome(payload_id, "fitted" if is_new else "carried", fit["reason"])
    return found
