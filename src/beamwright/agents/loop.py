"""The loop that runs all agents in one process until a production is done: what ``beamwright produce``
does.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NoReturn, Protocol

from beamwright.agents.calibrator import Calibrator
from beamwright.agents.importer import Importer
from beamwright.agents.inspector import Inspector
from beamwright.agents.intake import Intake
from beamwright.agents.monitor import Monitor
from beamwright.agents.planner import Planner
from beamwright.agents.sealer import Sealer
from beamwright.agents.submitter import Submitter
from beamwright.agents.tracker import Tracker
from beamwright.batch.scheduler import Scheduler
from beamwright.core import garbage, plugins
from beamwright.core.errors import ConflictError, ProductionFailedError
from beamwright.production import (
    closing,
    inspection,
    installing,
    jobs,
    live,
    publishing,
    release,
    tasks,
    timeouts,
)
from beamwright.production.experiment import Experiment
from beamwright.production.facts import production_facts
from beamwright.production.source import Source
from beamwright.production.spec import ProductionSpec
from beamwright.production.splitting import Run
from beamwright.production.workspace import Workspace

IDLE_SECONDS = 0.01
# After a round in which so much was done, jobs are short: the next one is put off, to do more at once. Farms
# have jobs waiting meanwhile.
MUCH, PACE_SECONDS = 12, 0.05
REASONS_SHOWN = 5
# So many turns of an agent in a row may come to nothing because others write first.
OVERTAKEN_TURNS = 100


class Agent(Protocol):
    """One of the loops: ``turn`` does what is due and returns how much that was."""

    name: str

    def turn(self) -> int: ...


@dataclass
class Produce:
    """Runs one production in one workspace to its end; takes up what an earlier process left.

    ``on_turn`` is called after each round of turns, with the number of things that were done in it. Jobs run
    under the installed ``release``, or under the one that runs here. ``beside`` are other productions of the
    same workspace and experiment that are worked on at the same time, such as a reprocessing. ``tell`` is
    given what a person should know at the start.
    """

    workspace: Workspace
    spec: ProductionSpec
    experiment: Experiment
    workers: int = 1
    deliveries: list[Any] = field(default_factory=list)
    on_turn: Callable[[int], None] = lambda done: None
    production_id: int = 0
    release: str = ""
    beside: Sequence[Produce] = ()
    tell: Callable[[str], None] = lambda text: None
    _overtaken: dict[int, int] = field(default_factory=dict, init=False)

    def run(self) -> int:
        """Work until every task is closed; return the production's id.

        Raises: WorkspaceBusyError, ProductionFailedError (naming what failed and what waits),
        KeyboardInterrupt (at rest: all jobs stopped).
        """
        with self.workspace.lock(), _terminated():
            for one in self._all:
                one._begin()
            schedulers = self._schedulers()
            garbage.seldom()
            try:
                self._loop(self._agents(schedulers))
            finally:
                for scheduler in schedulers.values():
                    scheduler.close()
                for one in self._all:
                    live.hide(self.workspace, one.spec.name)
            for one in self._all:
                one._freeze()
            Sealer(self.workspace).finish()
        return self.production_id

    @property
    def _all(self) -> list[Produce]:
        return [self, *self.beside]

    def _begin(self) -> None:
        here = release.current(self.experiment.distributions)
        current = self.release or here
        installing.check_farms(self.workspace, self.spec, current, here)
        if current == here:
            facts = production_facts(self.experiment, self.spec)
        else:
            facts = installing.facts(self.workspace, self.spec, current)
            parts = self.experiment.distributions
            if said := installing.check_agents(self.workspace, self.spec, parts, current, here):
                self.tell(f"{self.spec.name}: {said}")
        with self.workspace.db.begin() as conn:
            now = self.workspace.clock.now()
            self.production_id = tasks.start(conn, self.spec, facts, current, now)
            tasks.note_agents(conn, self.production_id, current, here, now)
            publishing.load_constants(conn, self.spec, self.experiment, now)
            current_plan = tasks.plan(conn, self.production_id)
            publishing.check_chains(conn, current_plan, self.experiment, now)
            for line in inspection.check_gates(conn, self.spec, self.experiment):
                self.tell(f"{self.spec.name}: {line}")
            closing.declare_datasets(conn, current_plan, now)
            jobs.prepare_again(conn, self.production_id, "the production was started again", now)

    def _schedulers(self) -> dict[str, Scheduler]:
        made = {}
        for name, farm in self.workspace.settings.farm.items():
            make = plugins.load(plugins.SCHEDULERS, farm.scheduler)
            made[name] = make(self.workspace, name, farm)
        return made

    def _agents(self, schedulers: Mapping[str, Scheduler]) -> list[Agent]:
        """Return the agents in the order of their turns: a run is judged before its pass 2 is planned."""
        return [
            Intake(self.workspace, self.experiment),
            *(agent for one in self._all for agent in one._own_agents()),
            Submitter(self.workspace, schedulers, here=release.current(self.experiment.distributions)),
            Tracker(self.workspace, schedulers),
            Importer(self.workspace),
            Sealer(self.workspace),
            *(Monitor(self.workspace, one.production_id, one.spec.name) for one in self._all),
        ]

    def _own_agents(self) -> list[Agent]:
        """Return the agents that work on this production alone."""
        run = Run(self.workers, self.workspace.settings.limits)
        return [
            Calibrator(self.workspace, self.experiment, self.production_id, run),
            Inspector(self.workspace, self.experiment, self.production_id),
            Planner(self.workspace, self.production_id, run),
        ]

    def _loop(self, agents: list[Agent]) -> None:
        inbox = self.workspace.root / "inbox"
        sources = [(one, Source(inbox, one.deliveries)) for one in self._all]
        while left := [one for one in self._all if not one._is_finished()]:
            done = sum(one._deliver(source) for one, source in sources)
            done += sum(self._turn(agent) for agent in agents)
            self.on_turn(done)
            if not done and not any(one._may_go_on() for one in left):
                left[0]._fail()
            self.workspace.clock.sleep(rest(done))

    def _turn(self, agent: Agent) -> int:
        """Let an agent take its turn; where somebody else wrote first, it decides anew in its next one.

        An agent keeps nothing that the database does not say: it may be stopped anywhere.
        """
        try:
            done = agent.turn()
        except ConflictError as error:
            self._overtaken[id(agent)] = tries = self._overtaken.get(id(agent), 0) + 1
            if tries == OVERTAKEN_TURNS or not (error.data.get("again") or error.data.get("overtaken")):
                raise
            self.workspace.clock.sleep(IDLE_SECONDS)
            return 1
        self._overtaken.pop(id(agent), None)
        return done

    def _is_finished(self) -> bool:
        with self.workspace.db.read() as conn:
            return closing.is_finished(conn, self.production_id)

    def _deliver(self, source: Source) -> int:
        with self.workspace.db.read() as conn:
            return source.turn(conn, tasks.plan(conn, self.production_id))

    def _may_go_on(self) -> bool:
        """Tell whether anything is under way, is to be taken in, or is waited for with a limit."""
        with self.workspace.db.read() as conn:
            is_under_way = closing.in_flight(conn, self.production_id)
            if is_under_way or any((self.workspace.root / "inbox").glob("*.json")):
                return True
            return bool(timeouts.deadlines(conn, tasks.plan(conn, self.production_id)))

    def _fail(self) -> NoReturn:
        """Nothing is under way and nothing can start: say what failed and what waits."""
        with self.workspace.db.read() as conn:
            reasons = closing.obstacles(conn, tasks.plan(conn, self.production_id))
        left = len(reasons) - REASONS_SHOWN
        shown = [*reasons[:REASONS_SHOWN], *([f"and {left} more"] if left > 0 else [])]
        message = f"production {self.spec.name} cannot go on: {'; '.join(shown) or 'its datasets lack runs'}"
        hint = "`beamwright explain` on what is named says why; mend it and run the same command again"
        raise ProductionFailedError(message, hint=hint, reasons=reasons)

    def _freeze(self) -> None:
        if not self.spec.freeze:
            return
        with self.workspace.db.begin() as conn:
            closing.freeze(conn, tasks.plan(conn, self.production_id), self.workspace.clock.now())


def rest(done: int) -> float:
    """Return the seconds between a round in which so many things were done and the next one."""
    if not done:
        return IDLE_SECONDS
    return PACE_SECONDS if done >= MUCH else 0.0


@contextmanager
def _terminated() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C, so that both stop the farms cleanly."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
