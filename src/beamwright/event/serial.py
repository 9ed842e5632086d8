"""The pool of one: tasks run in this process."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from beamwright.event.ahead import ReadAhead
from beamwright.event.engine import SINCE, Engine, Failure, Result, Stumble
from beamwright.event.patience import Patience
from beamwright.event.plan import Task


class _TimeUp(BaseException):
    """A record took too long; not an Exception, so that no module catches it."""


class SerialPool:
    """Runs tasks in this process; here a time limit interrupts Python code only."""

    window = 1

    def __init__(self, engine: Engine, event_s: float | None) -> None:
        self._engine = engine
        if engine.reader.reads_ahead and len(engine.plan.spans) > 1:
            engine.ahead = ReadAhead(engine.reader, engine.plan, engine.read_banks)
        is_main = threading.current_thread() is threading.main_thread()
        self._patience = Patience(event_s if is_main else None)
        self._task: Task | None = None

    def can_take(self) -> bool:
        return self._task is None

    def submit(self, task: Task) -> None:
        self._task = task

    def wait(self) -> tuple[Task, Result | Failure]:
        task, self._task = self._task, None
        assert task is not None, "wait follows submit"
        begun = time.monotonic()
        try:
            with self._alarm(self._patience.limit(task)):
                result = self._engine.run(task)
        except Stumble as stumble:
            return task, Failure.of(stumble)
        except _TimeUp as late:
            failure = Failure.of(Stumble(self._engine.step, late))
            failure.error, failure.is_late = self._patience.reason(task), True
            return task, failure
        self._patience.learn(task, time.monotonic() - max(begun, self._since))
        return task, result

    @property
    def _since(self) -> float:
        """When the last hook ended: what hooks take is no record's doing."""
        return self._engine.progress[SINCE] / 1e9

    def finish(self) -> list[Result]:
        return [self._engine.finish()]

    def close(self) -> None:
        """End the thread that reads ahead."""
        if self._engine.ahead is not None:
            self._engine.ahead.close()
            self._engine.ahead = None

    @contextmanager
    def _alarm(self, seconds: float | None) -> Iterator[None]:
        if seconds is None:
            yield
            return
        limit = seconds

        def ring(_signal: int, _frame: FrameType | None) -> None:
            left = limit if self._engine.is_in_hook else self._since + limit - time.monotonic()
            if left <= 0:
                raise _TimeUp
            signal.setitimer(signal.ITIMER_REAL, left)

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, limit)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
