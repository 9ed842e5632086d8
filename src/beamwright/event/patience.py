"""How long a task may take before it is given up.

Only a single record is judged by the limit. A batch that takes unusually long is cut in halves, which costs
time and changes
nothing else: so it may be found by what batches took so far.
"""

from __future__ import annotations

from beamwright.event.plan import Task

SLACK = 10.0
SHORTEST = 0.05  # s


class Patience:
    """The time limit of a task, learnt from the tasks before it; ``event_s`` None: no limit."""

    def __init__(self, event_s: float | None) -> None:
        self.event_s = event_s
        self._slowest = 0.0

    def limit(self, task: Task) -> float | None:
        """Return the seconds that a task may take."""
        if self.event_s is None:
            return None
        if task.records <= 1:
            return max(self.event_s, SHORTEST)
        usual = self._slowest * task.records if self._slowest else self.event_s
        return max(self.event_s + SLACK * usual, SHORTEST)

    def learn(self, task: Task, seconds: float) -> None:
        """Note how long a task took that was done."""
        self._slowest = max(self._slowest, seconds / max(task.records, 1))

    def reason(self, task: Task) -> str:
        """Say what a task that was given up exceeded."""
        return f"more than {self.event_s:g} s" + (
            "" if task.records <= 1 else f" with {task.records} records"
        )
