"""The pool of one: tasks run in this process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from beamwright.event.engine import Engine, Failure, Result, Stumble
from beamwright.event.plan import Task


class _TimeUp(BaseException):
    """A record took too long; not an Exception, so that no module catches it."""


class SerialPool:
    """Runs tasks in this process; here a time limit interrupts Python code only."""

    window = 1

    def __init__(self, engine: Engine, event_s: float | None) -> None:
        self._engine = engine
        self._event_s = event_s if threading.current_thread() is threading.main_thread() else None
        self._task: Task | None = None

    def can_take(self) -> bool:
        return self._task is None

    def submit(self, task: Task) -> None:
        self._task = task

    def wait(self) -> tuple[Task, Result | Failure]:
        task, self._task = self._task, None
        assert task is not None, "wait follows submit"
        try:
            with _alarm((self._event_s or 0.0) * max(task.records, 1)):
                return task, self._engine.run(task)
        except Stumble as stumble:
            return task, Failure.of(stumble)
        except _TimeUp as late:
            failure = Failure.of(Stumble(self._engine.progress[0], late))  # type: ignore[index]
            failure.error = f"more than {self._event_s:g} s per record"
            return task, failure

    def finish(self) -> None:
        self._engine.finish()

    def close(self) -> None:
        """There is nothing to end."""


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    if not seconds:
        yield
        return

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise _TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
