"""Modules that work on one event at a time, in plain Python.

Nothing is converted per module: rows of a bank become Python objects once per batch, when the first module
asks for them, and all modules that follow share them. The views of events are made once per process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Any, ClassVar

import numpy as np

from beamwright.core.errors import ModuleError, UnknownNameError
from beamwright.core.histogram import Histogram
from beamwright.core.runs import EventKey
from beamwright.event.banks import ONE, Bank, Column
from beamwright.event.batch import Batch
from beamwright.event.module import Module
from beamwright.event.table import Jagged, Table, Values

Rows = Sequence[Any]


class Row(tuple[Any, ...]):
    """One row of a bank: ``row.t`` is a plain number, a column of lists gives an array."""

    __slots__ = ()
    bank: ClassVar[Bank]

    def __getattr__(self, column: str) -> Any:
        if column.startswith("_"):
            raise AttributeError(column)
        raise UnknownNameError(f"column of bank {self.bank.name}", column, self.bank.by_name)

    def __repr__(self) -> str:
        values = ", ".join(f"{c.name}={v!r}" for c, v in zip(self.bank.columns, self, strict=True))
        return f"{self.bank.name}({values})"


class EventModule(Module):
    """A module that works on single events: override ``event``.

    ``selects`` are the selections that it makes, by ``event.select(name)``.
    """

    selects: Sequence[str] = ()

    def event(self, event: Event) -> None:
        """Work on one event; the object is a view that is valid during this call only."""

    def process(self, batch: Batch) -> None:
        """Call ``event`` for each event of the batch, then write what the calls left."""
        frame: _Frame = batch.frame or _Frame(batch)
        batch.frame = frame
        frame.begin(self)
        shared = _shared()
        outer, shared.frame = shared.frame, frame
        try:
            deque(map(self.event, shared.views(batch.n)), maxlen=0)
        finally:
            shared.frame = outer
        frame.finish(self)


class Event:
    """One event: ``event.Hit`` gives the rows of a bank, or the row of a bank that has one per event.

    ``event["Hit"]`` is the same. Valid only while a module works on it.
    """

    __slots__ = ("_number", "_shared")

    def __init__(self, shared: _Shared, number: int) -> None:
        self._shared, self._number = shared, number

    def __getattr__(self, bank: str) -> Any:
        rows = self._shared.frame.rows.get(bank)
        if rows is None:
            if bank.startswith("_"):
                raise AttributeError(bank)
            rows = self._shared.frame.grant(bank)
        return rows[self._number]

    def __getitem__(self, bank: str) -> Any:
        return self.__getattr__(bank)

    def add(self, bank: str, /, **columns: Any) -> int:
        """Add a row to a bank that the module writes, and return its number in this event, for links."""
        writer: _Writer = self._shared.frame.writer(bank)
        return writer.add(self._number, columns)

    def select(self, name: str) -> None:
        """Put the event into a selection, one of the module's ``selects``."""
        self._shared.frame.mask(name)[self._number] = True

    def selected(self, name: str) -> bool:
        """Tell whether a module before this one put the event into a selection."""
        return bool(self._shared.frame.batch.selected(name)[self._number])

    def fill(self, histogram: Histogram, *values: float) -> None:
        """Fill a histogram; the counts are committed with the batch."""
        self._shared.frame.fills.setdefault(histogram.name, (histogram, []))[1].append(values)

    @property
    def key(self) -> EventKey:
        """The key of the event."""
        batch: Batch = self._shared.frame.batch
        return batch.key(self._number)

    @property
    def seed(self) -> int:
        """A random seed made of the job's seed and the key alone."""
        return int(self._shared.frame.seeds[self._number])

    def __repr__(self) -> str:
        return f"Event({self.key})"


class _Shared:
    """The views of a process, and the batch that they look at."""

    def __init__(self) -> None:
        self.frame: Any = None
        self._views: list[Event] = []

    def views(self, n: int) -> list[Event]:
        if len(self._views) < n:
            self._views += [Event(self, number) for number in range(len(self._views), n)]
        return self._views if len(self._views) == n else self._views[:n]


_SHARED = _Shared()


def _shared() -> _Shared:
    return _SHARED


class _Writer:
    """The rows that a module adds to one bank."""

    def __init__(self, bank: Bank, batch: Batch) -> None:
        self.bank, self.batch = bank, batch
        self.counts = [0] * batch.n
        self.values: list[Mapping[str, Any]] = []
        self._last = 0

    def add(self, number: int, columns: Mapping[str, Any]) -> int:
        if number < self._last:
            raise ModuleError(
                f"a row of bank {self.bank.name} is added to event {self.batch.key(number)} after it is done",
                hint="an event is valid only while event() works on it: keep none of them",
            )
        if columns.keys() != self.bank.by_name.keys():
            self._complain(number, columns)
        self._last = number
        self.values.append(columns)
        self.counts[number] += 1
        return self.counts[number] - 1

    def _complain(self, number: int, columns: Mapping[str, Any]) -> None:
        for name in columns:
            self.bank[name]
        missing = next(name for name in self.bank.by_name if name not in columns)
        raise ModuleError(
            f"the row added to bank {self.bank.name} of event {self.batch.key(number)} lacks "
            f"its column {missing!r}",
            hint="hand over every declared column",
        )

    def table(self) -> Table:
        """Return what was added, one row per event where it is declared so."""
        if self.bank.rows == ONE:
            wrong = next((i for i, count in enumerate(self.counts) if count != 1), None)
            if wrong is not None:
                raise ModuleError(
                    f"event {self.batch.key(wrong)} has {self.counts[wrong]} rows of bank {self.bank.name}, "
                    "which has one per event",
                    hint="add exactly one row in each call of event()",
                )
        columns = {column.name: self._column(column) for column in self.bank.columns}
        return Table.from_counts(self.bank, self.counts, columns)

    def _column(self, column: Column) -> Values:
        values = [row[column.name] for row in self.values]
        if column.jagged:
            return Jagged.of(values, column)
        made = np.asarray(values)
        return made if made.size else np.zeros(0, column.dtype)


class _Frame:
    """A batch as events see it: rows of its banks, and what the module at work adds."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.rows: dict[str, Rows] = {}
        self.fills: dict[str, tuple[Histogram, list[tuple[float, ...]]]] = {}
        self._made: dict[str, tuple[Table, Rows]] = {}
        self._writers: dict[str, _Writer] = {}
        self._masks: dict[str, Any] = {}
        self._seeds: Any = None

    def begin(self, module: EventModule) -> None:
        """Start anew for a module: what it may see is looked up when it first asks."""
        self.rows, self.fills = {}, {}
        self._writers = {name: _Writer(self.batch.bank(name), self.batch) for name in module.writes}
        self._masks = {name: np.zeros(self.batch.n, np.bool_) for name in module.selects}

    def grant(self, name: str) -> Rows:
        """Return the rows of a bank for all events, made where no module asked before."""
        table = self.batch[name]
        held = self._made.get(name)
        if held is None or held[0] is not table:
            held = self._made[name] = (table, _rows_of(table, self.batch.bank(name)))
        self.rows[name] = held[1]
        return held[1]

    def writer(self, name: str) -> _Writer:
        """Return what takes rows of a bank."""
        found = self._writers.get(name)
        if found is None:
            raise ModuleError(
                f"module {self._who()} writes bank {name!r}, which it does not declare",
                hint=f"add it to writes, which has: {', '.join(self._writers) or 'none'}",
            )
        return found

    def mask(self, name: str) -> Any:
        """Return the mask of a selection that is being made."""
        found = self._masks.get(name)
        if found is None:
            raise UnknownNameError(f"selection made by module {self._who()}", name, self._masks)
        return found

    def _who(self) -> str:
        return self.batch.scope.module if self.batch.scope else ""

    @property
    def seeds(self) -> Any:
        if self._seeds is None:
            self._seeds = self.batch.seeds()
        return self._seeds

    def finish(self, module: EventModule) -> None:
        """Hand what the module added over to the batch."""
        for name, writer in self._writers.items():
            self.batch[name] = writer.table()
        for name in module.selects:
            self.batch.select(self._masks[name], name)
        for histogram, entries in self.fills.values():
            self.batch.fill(histogram, *np.asarray(entries, np.float64).T)


def _rows_of(table: Table, bank: Bank) -> Rows:
    """Return for each event its row, or the tuple of its rows."""
    kind = _row_class(bank)
    columns = [_plain(table.columns[column.name], column) for column in bank.columns]
    rows = tuple(map(kind, zip(*columns, strict=True)))
    if bank.rows == ONE:
        return rows
    return [rows[first:last] for first, last in pairwise(table.offsets.tolist())]


def _plain(values: Values, column: Column) -> Sequence[Any]:
    """Return one object per row: a number, a text, an array, or a list of these."""
    if isinstance(values, Jagged):
        return values.text() if column.is_text else list(values)
    plain: list[Any] = values.tolist()
    return plain


_CLASSES: dict[int, tuple[Bank, type[Row]]] = {}


def _row_class(bank: Bank) -> type[Row]:
    """Return the class of the rows of a bank: a tuple whose columns are attributes."""
    held = _CLASSES.get(id(bank))
    if held is None or held[0] is not bank:
        names = {column.name: property(itemgetter(n)) for n, column in enumerate(bank.columns)}
        made = type(bank.name, (Row,), {"__slots__": (), "bank": bank, **names})
        held = _CLASSES[id(bank)] = (bank, made)
    return held[1]
