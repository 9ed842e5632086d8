"""What a check is given and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from beamwright.core.runs import Interval


class Source(Protocol):
    """A database that can be read in one consistent state."""

    def read(self) -> AbstractContextManager[sa.Connection]: ...


@dataclass(frozen=True)
class Context:
    """What checks look at: one state of the database, the workspace's folder, the time, and how deep."""

    conn: sa.Connection
    root: Path
    now: float
    deep: bool
    on_storage: bool = True
    each: Callable[[Sequence[Any]], Iterable[Any]] = iter
    """Goes through files that are read in full; who started the check may tell how far it is."""


@dataclass(frozen=True)
class Violation:
    """A broken invariant: its number, the object, and what is wrong with it."""

    invariant: int
    object: str
    message: str

    def document(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        return {"invariant": self.invariant, "object": self.object, "message": self.message}


Finding = tuple[str, str]  # object, what is wrong


@dataclass(frozen=True)
class Check:
    """An invariant: ``find`` yields (object, what is wrong) for each violation."""

    number: int
    title: str
    find: Callable[[Context], Iterator[Finding]]
    on_storage: bool = False

    def run(self, context: Context) -> list[Violation]:
        """Return the violations, in order of their objects."""
        return [Violation(self.number, *finding) for finding in sorted(self.find(context))]


def interval_of(row: Any) -> Interval:
    """Read an interval out of the columns that keep it."""
    first = (row.first_run, row.first_section, row.first_event)
    return Interval(row.series, first, (row.last_run, row.last_section, row.last_event))
