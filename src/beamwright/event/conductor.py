"""Conducting: tasks to whoever is free, failures to the record they come from, batches to their commit in
order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from beamwright.core.runs import EventKey
from beamwright.event.commit import Commit, Poison
from beamwright.event.engine import READER, Failure, Result
from beamwright.event.path import Path
from beamwright.event.plan import Stage, Task, Workload


@dataclass(frozen=True)
class Limits:
    """Seconds that one record may take (None: any), megabytes that a worker may take for its records beyond
    what it starts with (None: any; not kept in this very process), and how many records may be quarantined
    before the pass fails. ``hook_s``: seconds until a hook without records counts as stuck, where records
    have a limit.
    """

    event_s: float | None = None
    quarantined: int = 100
    memory_mb: int | None = None
    hook_s: float = 600.0

    @property
    def is_any(self) -> bool:
        """Whether time or memory is limited."""
        return self.event_s is not None or self.memory_mb is not None


class Pool(Protocol):
    """Where tasks are run."""

    @property
    def window(self) -> int: ...

    def can_take(self) -> bool: ...

    def submit(self, task: Task) -> None: ...

    def wait(self) -> tuple[Task, Result | Failure]: ...

    def finish(self) -> list[Result]: ...

    def close(self) -> None: ...


@dataclass
class _Group:
    """All that belongs to one batch: what its tasks left, by their place, and how many are still out."""

    open: int = 1
    pieces: list[tuple[tuple[int, int], Result | Poison]] = field(default_factory=list)
    created: dict[int, Result] = field(default_factory=dict)


class Conductor:
    """Hands out tasks, judges failures, and commits batches in order."""

    def __init__(
        self, pool: Pool, plan: Workload, path: Path, commit: Commit, limits: Limits,
        progress: Callable[[int, int | None], None] | None,
    ) -> None:  # fmt: skip
        self._pool, self._plan, self._path, self._commit = pool, plan, path, commit
        self._limits, self._progress = limits, progress
        self._waiting: deque[Task] = deque()
        self._planned = 0
        self._groups: dict[int, _Group] = {}
        self._next = 0

    def run(self) -> None:
        """Work until the last batch that is planned is committed."""
        self._waiting.extend(self._plan.tasks(self._planned))
        self._planned = len(self._plan.spans)
        while self._next < self._planned:
            self._hand_out()
            self._judge(*self._pool.wait())
            self._commit_ready()

    def _hand_out(self) -> None:
        while self._waiting and self._pool.can_take():
            if self._waiting[0].number >= self._next + self._pool.window:
                return
            task = self._waiting.popleft()
            self._groups.setdefault(task.number, _Group())
            self._pool.submit(task)

    def _judge(self, task: Task, outcome: Result | Failure) -> None:
        group = self._groups[task.number]
        if isinstance(outcome, Result):
            self._keep(group, task, outcome)
        elif outcome.is_of_hook:
            self._waiting.appendleft(task)
        elif task.tries == 0 and not (outcome.is_late and task.records > 1):
            self._waiting.appendleft(task._replace(tries=1))
        elif task.records > 1:
            self._replace(group, task.halves())
        elif task.stage is Stage.ALL and self._is_after_builder(outcome):
            self._replace(group, [task._replace(stage=Stage.BUILD).fresh()])
        else:
            self._quarantine(group, task, outcome)

    def _keep(self, group: _Group, task: Task, result: Result) -> None:
        group.open -= 1
        group.pieces.append(((task.start, task.first), result))
        created = len(result.created_event)
        if task.stage is Stage.BUILD:
            group.created[task.start] = result
            if created:
                group.open += 1
                self._waiting.appendleft(task._replace(stage=Stage.AFTER, first=0, last=created).fresh())

    def _replace(self, group: _Group, tasks: list[Task]) -> None:
        group.open += len(tasks) - 1
        self._waiting.extendleft(reversed(tasks))

    def _is_after_builder(self, failure: Failure) -> bool:
        return failure.step >= 0 and self._path.steps[failure.step].stage == 1

    def _quarantine(self, group: _Group, task: Task, failure: Failure) -> None:
        module = READER if failure.step < 0 else self._path.steps[failure.step].name
        if task.stage is Stage.AFTER:
            made = group.created[task.start]
            run = self._plan.run_of(task)
            section, event = int(made.created_section[task.first]), int(made.created_event[task.first])
            key, record = str(EventKey(self._plan.series, run, section, event)), self._path.records[-1]
            poison = Poison(key, record, module, failure, parent=self._plan.key(task.start))
        else:
            poison = Poison(self._plan.key(task.start), self._plan.record, module, failure, task.start)
        group.open -= 1
        group.pieces.append(((task.start, task.first), poison))
        self._commit.check_quarantine(self._limits.quarantined, module, failure)

    def _commit_ready(self) -> None:
        while self._next in self._groups and not self._groups[self._next].open:
            group = self._groups.pop(self._next)
            group.pieces.sort(key=lambda piece: piece[0])
            self._commit.batch(self._next, [piece for _, piece in group.pieces])
            self._next += 1
            if self._progress is not None:
                self._progress(self._plan.spans[self._next - 1].stop, self._plan.records)
