"""Reading ahead: while one batch is worked on, a thread of the same process unpacks the next."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from beamwright.event.batch import Batch
from beamwright.event.plan import Task, Workload
from beamwright.event.reader import Reader


class ReadAhead:
    """Gives the records of tasks; those of the batch that will come next are read beforehand.

    The reader is used by one thread at a time. What it raises for a batch is raised when that is asked for.
    """

    def __init__(self, reader: Reader, plan: Workload, banks: Sequence[str]) -> None:
        self._reader, self._plan, self._banks = reader, plan, tuple(banks)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._next: tuple[int, int, Future[Batch]] | None = None

    def read(self, task: Task, positions: NDArray[np.int64]) -> Batch:
        """Return the records of a task, and begin with those of the batch after it."""
        held, self._next = self._next, None
        if held is not None and held[:2] == (task.start, task.stop):
            batch = held[2].result()
        else:
            batch = self._pool.submit(self._read, positions).result()
        spans = self._plan.spans
        if task.number + 1 < len(spans):
            span = spans[task.number + 1]
            ahead = self._pool.submit(self._read, self._plan.positions(span.start, span.stop))
            self._next = (span.start, span.stop, ahead)
        return batch

    def _read(self, positions: NDArray[np.int64]) -> Batch:
        return self._reader.read(self._plan.record, positions, self._banks)

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(cancel_futures=True)
