"""The loop of analyses: what ``beamwright task analyse`` does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import sqlalchemy as sa

from beamwright.agents.loop import Agent, Produce
from beamwright.agents.preview import Row, rows, set_aside
from beamwright.agents.watch import Watch
from beamwright.catalog import ledger
from beamwright.production import analyses, closing, installing, jobs, release, sandboxes, tasks
from beamwright.production import experiment as experiments
from beamwright.production.interventions import Why, reopen
from beamwright.production.splitting import Run
from beamwright.production.tasks import ACTOR, Facts, Task
from beamwright.production.units import add_units
from beamwright.production.workspace import Workspace


@dataclass
class AnalysisPlanner:
    """Plans one analysis: units over its dataset, then what gathers their outputs, then its end."""

    workspace: Workspace
    production_id: int
    dataset: str
    sandbox: dict[str, str]
    run: Run
    name: str = ACTOR

    def __post_init__(self) -> None:
        self._watch = Watch(self.workspace.db, self.workspace.clock)

    def turn(self) -> int:
        """Make the units that can be made, or close the task that is done; return how much that was."""
        if not self._watch.is_due():
            return 0
        now = self.workspace.clock.now()
        with self.workspace.db.begin() as conn:
            (task,) = tasks.plan(conn, self.production_id).tasks.values()
            if task.state not in ("active", "draining"):
                return 0
            if analyses.hold_over_quota(conn, self.workspace, task, now):
                return 1
            units = analyses.new_units(self.workspace, conn, task, self.dataset, self.sandbox, self.run)
            gathered = None if units else analyses.gatherings(conn, task, self.run)
            if units:
                analyses.drop_gathered(conn, task, now)
            made = add_units(conn, task, [*units, *(gathered or ())], now)
            if made or gathered is None or not analyses.settled(conn, task):
                return len(made)
            return closing.close(conn, task, not ledger.imbalances(conn, task.id), now)


def prepare(workspace: Workspace, file: Path, release: str = "", kept: Path | None = None) -> Analyse:
    """Keep the code of an analysis file, in the workspace or elsewhere, and make ready to run it.

    Raises: ConfigError, UsageError, UnknownNameError.
    """
    spec = analyses.load_spec(file)
    experiment = experiments.load(spec.experiment)
    sandboxes.banks_with(file.parent / spec.code, spec.banks, experiment.banks)
    sandbox = sandboxes.keep(kept or workspace.root, sandboxes.pack(file.parent / spec.code))
    sandbox |= {"banks": spec.banks} if spec.banks else {}
    with workspace.db.read() as conn:
        whole = analyses.production_spec(conn, spec, sandbox["sha256"])
    return Analyse(workspace, whole, experiment, release=release, dataset=spec.dataset, sandbox=sandbox)


@dataclass
class Analyse(Produce):
    """Runs an analysis to its end; others of the same experiment go on ``beside`` it."""

    dataset: str = ""
    sandbox: dict[str, str] = field(default_factory=dict)

    def preview(self) -> list[Row]:
        """Return the jobs that would be made now; what gathers their outputs comes when they are done.

        Everything is written and taken back: nothing changes.
        """
        current, facts = self._facts()
        run = Run(self.workers, self.workspace.settings.limits)
        with TemporaryDirectory() as folder, self.workspace.db.begin() as conn:
            aside = set_aside(self.workspace, Path(folder))
            task, _ = self._start(conn, current, facts, self.workspace.clock.now())
            units = analyses.new_units(aside, conn, task, self.dataset, self.sandbox, run)
            conn.rollback()
        return rows(task.step.name, units)

    def _begin(self) -> None:
        current, facts = self._facts()
        with self.workspace.db.begin() as conn:
            now = self.workspace.clock.now()
            task, is_behind = self._start(conn, current, facts, now)
            if is_behind:
                reopen(conn, task, Why(ACTOR, "its code or its dataset changed", now))
            jobs.prepare_again(conn, self.production_id, "the analysis was started again", now)

    def _facts(self) -> tuple[str, dict[str, Facts]]:
        """Return the release of the jobs, and what the code says of its path under it."""
        here = release.current(self.experiment.distributions)
        current = self.release or here
        installing.check_farms(self.workspace, self.spec, current, here)
        (step,) = self.spec.step
        return current, {step.name: analyses.facts(self.workspace, step, self.sandbox, current, here)}

    def _start(
        self, conn: sa.Connection, current: str, facts: Mapping[str, Facts], now: float
    ) -> tuple[Task, bool]:
        """Start or go on with the production that the analysis is; tell whether there is more to be done."""
        self.production_id = tasks.start(conn, self.spec, facts, current, now)
        plan = tasks.plan(conn, self.production_id)
        closing.declare_datasets(conn, plan, now)
        (task,) = plan.tasks.values()
        dropped = analyses.drop_outdated(conn, task, self.dataset, now)
        return task, bool(dropped or analyses.untaken(conn, task, self.dataset))

    def _own_agents(self) -> list[Agent]:
        run = Run(self.workers, self.workspace.settings.limits)
        more = (self.dataset, self.sandbox, run)
        return [AnalysisPlanner(self.workspace, self.production_id, *more)]

    def _freeze(self) -> None:
        """What an analysis wrote stays open."""
