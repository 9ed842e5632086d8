"""A reader of records that are in memory, and what the benchmarks of the event loop share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from beamwright.core.runs import Interval
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch
from beamwright.event.keys import Index
from beamwright.event.reader import Reader
from beamwright.event.table import Table

RUN = Interval.sections("A", 1)


class MemoryReader(Reader):
    """Gives n records, with the tables that it was given, cut and never copied."""

    series = "A"

    def __init__(
        self, n: int, tables: Mapping[str, Table] | None = None, banks: BankSet | None = None
    ) -> None:
        self.tables, self.declarations = dict(tables or {}), banks or BankSet()
        event = np.arange(n, dtype=np.uint64)
        self._index = Index(np.ones(n, np.uint32), np.zeros(n, np.uint32), event, np.arange(n))

    @classmethod
    def open(cls, paths: Mapping[str, Path], *, series: str, run: int) -> Self:
        return cls(0)

    def records(self) -> tuple[str, ...]:
        return ("event",)

    def banks(self, record: str) -> tuple[str, ...]:
        return tuple(self.tables)

    def index(self, record: str) -> Index:
        return self._index

    def read(self, record: str, positions: Any, banks: Iterable[str] | None = None) -> Batch:
        a, b = int(positions[0]), int(positions[-1]) + 1
        keys = self._index.section[a:b], self._index.event[a:b]
        batch = Batch(record, self.series, 1, *keys, banks=self.declarations)
        batch.tables = {name: self.tables[name].cut(a, b) for name in (banks or ())}
        return batch


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds of this process that some work takes."""
    begun = time.process_time()
    work()
    return time.process_time() - begun
