"""The inspector: judges each run by what its steps report, as soon as they do."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from beamwright.agents.watch import Watch
from beamwright.production import inspection
from beamwright.production.experiment import Experiment
from beamwright.production.progress import Progress, RunKey
from beamwright.production.tasks import Plan, plan
from beamwright.production.workspace import Workspace
from beamwright.quality import verdicts
from beamwright.quality.checks import Judgement, judge
from beamwright.quality.references import References, load_references

Place = tuple[RunKey, str]  # run, tier


@dataclass
class Inspector:
    """Publishes verdicts on the runs of one production; a person's verdict is never touched."""

    workspace: Workspace
    experiment: Experiment
    production_id: int
    name: str = "inspector"
    _seen: dict[Place, dict[str, int]] = field(default_factory=dict)
    _references: References | None = None

    def __post_init__(self) -> None:
        self._watch = Watch(self.workspace.db, self.workspace.clock)
        self._brought = load_references(self.experiment.references) if self.experiment.references else None

    def turn(self) -> int:
        """Judge what has something new to show; return how many new verdicts that gave."""
        if not self._watch.is_due():
            return 0
        made = 0
        with self.workspace.db.read() as conn:
            references = verdicts.references_of(conn, self.experiment.name) or self._brought
            if references is None:
                return 0
            if references != self._references:
                self._references, self._seen = references, {}
            current = plan(conn, self.production_id)
            places = _places(Progress(conn, current), inspection.accepted_units(conn, current))
            news = {place: s for place, s in places.items() if self._seen.get(place) != s}
        for place, steps in sorted(news.items()):
            made += self._judge(references, current, place, steps)
            self._seen[place] = steps
        return made

    def _judge(self, references: References, current: Plan, place: Place, steps: dict[str, int]) -> int:
        """Judge one run at one tier; its trend rests on the verdicts on the runs before it."""
        run, tier = place
        with self.workspace.db.read() as conn:
            found = {step: inspection.reported(conn, current.tasks[step], run) for step in sorted(steps)}
            past = verdicts.past_values(conn, *run, tier, references.trend)
        return self._publish(references, {place: judge(references, found, past)})

    def _publish(self, references: References, judged: dict[Place, list[Judgement]]) -> int:
        now, made = self.workspace.clock.now(), 0
        with self.workspace.db.begin() as conn:
            for ((series, number), tier), found in judged.items():
                made += verdicts.publish(conn, series, number, tier, found, references.author, now)
        return made


def _places(progress: Progress, accepted: dict[tuple[str, RunKey], int]) -> dict[Place, dict[str, int]]:
    """Return, by run and tier, the steps that can be judged, with their numbers of accepted units.

    A chain is judged after each fit, and where it came through a run without one, for which there was nothing
    to fit; another step when it has done all of a run.
    """
    places: dict[Place, dict[str, int]] = defaultdict(dict)
    for (step, run), number in accepted.items():
        task = progress.plan.tasks[step]
        is_fit = task.step.kind == "calibrate"
        if is_fit or (task.step.kind == "process" and progress.is_complete(step, run)):
            places[run, inspection.tier_of(task)][step] = number
    for step, task in progress.plan.tasks.items():
        for run in progress.concluded(task) if task.step.kind == "calibrate" else ():
            places[run, inspection.tier_of(task)].setdefault(step, 0)
    return places
