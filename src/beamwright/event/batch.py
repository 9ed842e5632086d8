"""Batches: consecutive records of one kind and one run, held as tables of columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from beamwright.core.errors import ModuleError, UnknownNameError, nearest
from beamwright.core.histogram import Histogram
from beamwright.core.runs import EventKey
from beamwright.event.banks import Bank, BankSet
from beamwright.event.keys import key_hash
from beamwright.event.table import Array, Jagged, Mask, Table, offsets_of

__all__ = ["Batch", "Deposits", "Jagged", "Scope", "Table", "offsets_of"]

HISTOGRAM_PREFIX = "histogram/"
Deposits = dict[str, dict[str, Array]]
"""What a batch adds to sums of the whole pass: arrays by histogram or calibration."""


class Scope(NamedTuple):
    """What the module at work may read and write."""

    module: str
    readable: frozenset[str]
    writable: frozenset[str]


class Batch:
    """``n`` records of one kind in key order; ``batch["Hit"]`` is a table.

    ``section`` u4[n] and ``event`` u8[n] are their keys in ``run`` of ``series``; created records have those
    of their parents in
    ``parent_section`` and ``parent_event``. ``banks`` are the declarations that tables are checked against.
    """

    __slots__ = (
        "banks", "deposits", "event", "frame", "n", "parent_event", "parent_section", "record", "run",
        "scope", "section", "seed", "selections", "series", "skipped", "tables",
    )  # fmt: skip

    def __init__(
        self,
        record: str,
        series: str,
        run: int,
        section: ArrayLike,
        event: ArrayLike,
        tables: Mapping[str, Table] | None = None,
        *,
        banks: BankSet,
        parent_section: ArrayLike | None = None,
        parent_event: ArrayLike | None = None,
        seed: int = 0,
    ) -> None:
        self.record, self.series, self.run, self.banks, self.seed = record, series, int(run), banks, seed
        self.section: NDArray[np.uint32] = np.asarray(section, np.uint32)
        self.event: NDArray[np.uint64] = np.asarray(event, np.uint64)
        self.n = len(self.event)
        if self.section.shape != (self.n,):
            raise ModuleError(f"{self.n} events but {self.section.shape} sections in a batch of {record}")
        self.parent_section = None if parent_section is None else np.asarray(parent_section, np.uint32)
        self.parent_event = None if parent_event is None else np.asarray(parent_event, np.uint64)
        self.selections: dict[str, Mask] = {}
        self.deposits: Deposits = {}
        self.scope: Scope | None = None
        self.skipped = False  # whether a conditional module had no record to work on, and made no selection
        self.frame: Any = None  # what modules that work on single events share
        self.tables: dict[str, Table] = {}
        for name, table in (tables or {}).items():
            self[name] = table

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        return f"Batch({self.n} {self.record} of {self.series}:{self.run}; {', '.join(self.tables)})"

    def __contains__(self, name: str) -> bool:
        return name in self.tables

    def __getitem__(self, name: str) -> Table:
        scope = self.scope
        if scope is not None and name not in scope.readable:
            raise ModuleError(
                f"module {scope.module} reads bank {name!r}, which it does not declare",
                hint=f"add it to reads{_or_nearest(name, scope.readable)}",
            )
        try:
            return self.tables[name]
        except KeyError:
            raise UnknownNameError("bank in this batch", name, self.tables) from None

    def __setitem__(self, name: str, table: Table | Mapping[str, ArrayLike | Jagged]) -> None:
        scope = self.scope
        if scope is not None and name not in scope.writable:
            raise ModuleError(
                f"module {scope.module} writes bank {name!r}, which it does not declare",
                hint=f"add it to writes{_or_nearest(name, scope.writable)}",
            )
        bank = self.banks[name]
        made = table.declared(bank) if isinstance(table, Table) else Table.one(bank, table)
        if made.records != self.n:
            who = f"module {scope.module}" if scope else "the reader"
            raise ModuleError(
                f"{who} gives bank {name} for {made.records} records, the batch has {self.n}",
                hint="a module keeps the number of records; select() marks some, a Builder makes new ones",
            )
        self.tables[name] = made

    def bank(self, name: str) -> Bank:
        """Return a bank's declaration."""
        return self.banks[name]

    def select(self, mask: ArrayLike, name: str) -> None:
        """Mark the records where ``mask`` is true under a name, for outputs and conditional modules."""
        found = np.asarray(mask)
        if found.dtype != np.bool_ or found.shape != (self.n,):
            who = f"module {self.scope.module} makes " if self.scope else ""
            raise ModuleError(
                f"{who}selection {name!r} as {found.dtype} of shape {found.shape}, "
                f"the batch has {self.n} records",
                hint="give one boolean per record",
            )
        if name in self.selections:
            raise ModuleError(f"selection {name!r} is made twice", hint="give each selection its own name")
        self.selections[name] = found

    def selected(self, name: str) -> Mask:
        """Return the mask of a selection."""
        try:
            return self.selections[name]
        except KeyError:
            if self.skipped:
                return np.zeros(self.n, np.bool_)
            raise UnknownNameError("selection", name, self.selections) from None

    def fill(self, histogram: Histogram, *values: ArrayLike) -> None:
        """Fill a histogram; the counts belong to this batch and are committed with it."""
        part = Histogram(histogram.name, histogram.axes)
        part.fill(*(np.asarray(v) for v in values))
        self.deposit(HISTOGRAM_PREFIX + histogram.name, {"counts": part.counts})

    def deposit(self, name: str, arrays: Mapping[str, Array]) -> None:
        """Add arrays to what this batch gives to a sum of the whole pass."""
        held = self.deposits.setdefault(name, {})
        for key, array in arrays.items():
            held[key] = held[key] + array if key in held else array

    def key(self, i: int) -> EventKey:
        """Return the key of record i."""
        return EventKey(self.series, self.run, int(self.section[i]), int(self.event[i]))

    def seeds(self) -> NDArray[np.uint64]:
        """Return a random seed per record, made of the job's seed and the record's key alone."""
        return key_hash(self.run, self.section, self.event, self.seed)

    def replace_rows(self, old: Table, new: Table, kept: Mask) -> Table:
        """Put ``new``, the kept rows of ``old``, in its place and remap every link to it; links to dropped
        rows become -1.
        """
        name = old.name
        if self.tables.get(name) is not old:
            raise ModuleError(
                f"the table of {name} that is filtered is not the one in the batch", hint="filter batch[name]"
            )
        self[name] = new
        number = np.cumsum(kept) - 1
        for table in list(self.tables.values()):
            bank = self.banks[table.name]
            for column in bank.links:
                if column.link == name:
                    self._remap(table, column.name, old, new, kept, number)
        return self.tables[name]

    def _remap(self, table: Table, link: str, old: Table, new: Table, kept: Mask, number: Array) -> None:
        """Rewrite one link column; a bank that links to itself is read as it was before filtering."""
        own = table.name == new.name
        source = old if own else table
        flat = source.follow(link, old)
        alive = flat >= 0
        alive[alive] = kept[flat[alive]]
        local = np.full(len(flat), -1, np.int32)
        local[alive] = number[flat[alive]] - new.offsets[source.link_records(link)[alive]]
        values: Any = source.columns[link]
        changed = Jagged(values.offsets, local) if isinstance(values, Jagged) else local
        if own:
            changed = changed.take(kept) if isinstance(changed, Jagged) else changed[kept]
        held = self.tables[table.name]
        self.tables[table.name] = Table._made(held.bank, held.offsets, {**held.columns, link: changed})

    def take(self, mask: ArrayLike) -> Batch:
        """Return the records where ``mask`` is true, with selections and without deposits."""
        chosen = np.asarray(mask, np.bool_)
        part = self._like(self.section[chosen], self.event[chosen])
        if self.parent_section is not None and self.parent_event is not None:
            part.parent_section, part.parent_event = self.parent_section[chosen], self.parent_event[chosen]
        part.tables = {name: table.take(chosen) for name, table in self.tables.items()}
        part.selections = {name: found[chosen] for name, found in self.selections.items()}
        part.skipped = self.skipped
        return part

    def cut(self, start: int, stop: int) -> Batch:
        """Return records ``start`` to ``stop``, with selections and without deposits; nothing is copied."""
        part = self._like(self.section[start:stop], self.event[start:stop])
        if self.parent_section is not None and self.parent_event is not None:
            part.parent_section, part.parent_event = (
                self.parent_section[start:stop],
                self.parent_event[start:stop],
            )
        part.tables = {name: table.cut(start, stop) for name, table in self.tables.items()}
        part.selections = {name: found[start:stop] for name, found in self.selections.items()}
        part.skipped = self.skipped
        return part

    def only(self, banks: Iterable[str]) -> Batch:
        """Return the batch with these banks alone."""
        part = self._like(self.section, self.event)
        part.parent_section, part.parent_event = self.parent_section, self.parent_event
        for name in banks:
            if name not in self.tables:
                raise UnknownNameError("bank in this batch", name, self.tables)
            part.tables[name] = self.tables[name]
        return part

    def _like(self, section: NDArray[np.uint32], event: NDArray[np.uint64]) -> Batch:
        return Batch(self.record, self.series, self.run, section, event, banks=self.banks, seed=self.seed)

    @property
    def nbytes(self) -> int:
        return self.section.nbytes + self.event.nbytes + sum(table.nbytes for table in self.tables.values())

    @staticmethod
    def concatenate(batches: Sequence[Batch]) -> Batch:
        """Return consecutive batches of one run and the same banks as one; selections and deposits are left
        behind.
        """
        if len(batches) == 1:
            return batches[0]
        first = batches[0]
        whole = first._like(
            np.concatenate([b.section for b in batches]), np.concatenate([b.event for b in batches])
        )
        if first.parent_section is not None:
            whole.parent_section = np.concatenate(
                [b.parent_section for b in batches if b.parent_section is not None]
            )
            whole.parent_event = np.concatenate(
                [b.parent_event for b in batches if b.parent_event is not None]
            )
        whole.tables = {name: Table.concatenate([b.tables[name] for b in batches]) for name in first.tables}
        return whole


def _or_nearest(name: str, declared: frozenset[str]) -> str:
    return f", or: {nearest(name, declared)}" if declared else ""
