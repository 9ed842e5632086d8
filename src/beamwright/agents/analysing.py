"""The loop of analyses: what ``beamwright task analyse`` does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from beamwright.agents.loop import Agent, Produce
from beamwright.agents.watch import Watch
from beamwright.catalog import ledger
from beamwright.production import analyses, closing, installing, jobs, release, sandboxes, tasks
from beamwright.production import experiment as experiments
from beamwright.production.interventions import Why, reopen
from beamwright.production.splitting import Run
from beamwright.production.tasks import ACTOR
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


def prepare(workspace: Workspace, file: Path, release: str = "") -> Analyse:
    """Keep the code of an analysis file and make ready to run it.

    Raises: ConfigError, UsageError, UnknownNameError.
    """
    spec = analyses.load_spec(file)
    experiment = experiments.load(spec.experiment)
    sandboxes.banks_with(file.parent / spec.code, spec.banks, experiment.banks)
    sandbox = sandboxes.keep(workspace.root, sandboxes.pack(file.parent / spec.code))
    sandbox |= {"banks": spec.banks} if spec.banks else {}
    with workspace.db.read() as conn:
        whole = analyses.production_spec(conn, spec, sandbox["sha256"])
    return Analyse(workspace, whole, experiment, release=release, dataset=spec.dataset, sandbox=sandbox)


@dataclass
class Analyse(Produce):
    """Runs an analysis to its end; others of the same experiment go on ``beside`` it."""

    dataset: str = ""
    sandbox: dict[str, str] = field(default_factory=dict)

    def _begin(self) -> None:
        here = release.current(self.experiment.distributions)
        current = self.release or here
        installing.check_farms(self.workspace, self.spec, current, here)
        (step,) = self.spec.step
        facts = {step.name: analyses.facts(self.workspace, step, self.sandbox, current, here)}
        with self.workspace.db.begin() as conn:
            now = self.workspace.clock.now()
            self.production_id = tasks.start(conn, self.spec, facts, current, now)
            plan = tasks.plan(conn, self.production_id)
            closing.declare_datasets(conn, plan, now)
            task = plan.tasks[step.name]
            is_behind = analyses.drop_outdated(conn, task, self.dataset, now) or analyses.untaken(
                conn, task, self.dataset
            )
            if is_behind:
                reopen(conn, task, Why(ACTOR, "its code or its dataset changed", now))
            jobs.prepare_again(conn, self.production_id, "the analysis was started again", now)

    def _own_agents(self) -> list[Agent]:
        run = Run(self.workers, self.workspace.settings.limits)
        more = (self.dataset, self.sandbox, run)
        return [AnalysisPlanner(self.workspace, self.production_id, *more)]

    def _freeze(self) -> None:
        """What an analysis wrote stays open."""
