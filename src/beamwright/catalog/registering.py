"""Registering runs, files and collections by the million: in batches, each there as a whole or not at all.

What is known already and equal is passed over, so that a stream which was cut is simply given again; what is
known with other content is refused by name and line.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from queue import Full, Queue
from typing import Any, TypeVar

import sqlalchemy as sa

from beamwright.catalog import metadata
from beamwright.catalog.records import Checker
from beamwright.catalog.streams import Line
from beamwright.catalog.writers import WRITERS, Ready, Source, Writer
from beamwright.core.errors import BeamwrightError, ConflictError
from beamwright.db import bulk
from beamwright.db.engine import Database

BATCH = 10_000
TRIES = 5
_TURN_S = 0.001
MOST_PROBLEMS = 100

Said = Mapping[str, Any] | Line
T = TypeVar("T")
Progress = Callable[[int], object]


@dataclass
class Outcome:
    """How many objects are new, how many were registered alike before, how many of these are corrected."""

    new: int = 0
    equal: int = 0
    corrected: int = 0

    def __add__(self, other: Outcome) -> Outcome:
        both = zip(astuple(self), astuple(other), strict=True)
        return Outcome(*(mine + its for mine, its in both))

    @property
    def done(self) -> int:
        """How many of the records of a list that is."""
        return self.new + self.equal + self.corrected


def register(
    db: Database,
    subject: str,
    records: Iterable[tuple[int, Said]],
    source: Source,
    progress: Progress = lambda done: None,
) -> Outcome:
    """Register what a stream of (line, record) says; ``subject`` is file, run or collection.

    Each batch is one transaction: whatever happens later, all that ``progress`` was told of stays.

    Raises: FormatError for a bad record, ConflictError for one that contradicts what is registered.
    """
    with db.read() as conn:
        checker = Checker(metadata.kinds(conn, subject), source.name)
    found = Outcome()
    with _undisturbed():
        writer, dialect = WRITERS[subject], db.url.get_backend_name()
        batches = (
            (batch, writer.make_ready(batch, source, dialect, checker.kinds))
            for batch in _batches(records, subject, checker)
        )
        for batch, ready in _ahead(batches):
            if batch:
                found += _write(db, writer, batch, source, ready)
                progress(found.done)
    if found.done >= BATCH:
        with db.begin() as conn:
            bulk.widen(conn, False)
            bulk.analyse(conn, WRITERS[subject].tables)
    return found


def rehearse(
    conn: sa.Connection,
    subject: str,
    records: Iterable[tuple[int, Said]],
    source: Source,
    progress: Progress = lambda done: None,
) -> tuple[Outcome, list[str]]:
    """Return what registering would do and what is wrong with the records, at most 100 problems."""
    checker, writer = Checker(metadata.kinds(conn, subject), source.name), WRITERS[subject](conn, source)
    found, problems = Outcome(), list[str]()
    for batch in _batches(records, subject, checker, problems):
        for part in _halves(batch, writer, problems):
            found += part
        progress(found.done)
        if len(problems) >= MOST_PROBLEMS:
            break
    return found, problems


def _batches(
    records: Iterable[tuple[int, Said]], subject: str, checker: Checker, problems: list[str] | None = None
) -> Iterator[list[Any]]:
    """Yield checked records in batches; what came before a bad one is a batch of its own."""
    stream = iter(records)
    batch: list[Any] = []
    while True:
        try:
            found = next(stream, None)
            if found is None:
                break
            batch.append(checker.check(subject, *found))
        except BeamwrightError as error:
            if problems is None:
                yield batch
                raise
            problems.append(str(error))
            if len(problems) >= MOST_PROBLEMS:
                break
        if len(batch) >= BATCH:
            yield batch
            batch = []
    yield batch


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep Python from looking for circles among records that have none: a third of the time went there.

    And let the thread that has to give the database its next rows have its turn soon.
    """
    was_enabled, interval = gc.isenabled(), sys.getswitchinterval()
    gc.disable()
    sys.setswitchinterval(_TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        if was_enabled:
            gc.enable()


def _ahead(batches: Iterator[T]) -> Iterator[T]:
    """Yield batches that another thread reads and checks while the database writes the one before."""
    ready: Queue[T | BaseException | None] = Queue(maxsize=2)
    is_over = threading.Event()

    def offer(thing: T | BaseException | None) -> None:
        while not is_over.is_set():
            with suppress(Full):
                ready.put(thing, timeout=0.1)
                return

    def fill() -> None:
        try:
            for batch in batches:
                offer(batch)
                if is_over.is_set():
                    return
            offer(None)
        except BaseException as error:  # noqa: BLE001 - it is raised where the batches are taken
            offer(error)

    # A daemon: a list that never ends must not hold up the end of a command that has failed.
    threading.Thread(target=fill, name="records", daemon=True).start()
    try:
        while (found := ready.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        is_over.set()


def _write(
    db: Database, writer: type[Writer[Any]], batch: Sequence[Any], source: Source, ready: Ready | None
) -> Outcome:
    """Write a batch; when others wrote some of it, look again at what is left to do."""
    tries = 0
    while True:
        tries += 1
        try:
            with db.begin() as conn:
                bulk.widen(conn, len(batch) >= BATCH)
                made = writer(conn, source, ready)
                new, known = made.write(batch, expect_known=tries > 1)
            return Outcome(new, known - made.changed, made.changed)
        except (sa.exc.IntegrityError, ConflictError) as error:
            if isinstance(error, ConflictError) and not error.data.get("again"):
                raise
            if tries == TRIES:
                told = f"{source.name or 'records'}: others write the same ({error})"
                raise ConflictError(told, hint="run the same command again") from error


def _halves(batch: Sequence[Any], writer: Writer[Any], problems: list[str]) -> Iterator[Outcome]:
    """Yield what writing would do; where a batch does not fit, look at its halves, down to the record."""
    if not batch or len(problems) >= MOST_PROBLEMS:
        return
    try:
        fresh, known, _ = writer.sort_out(batch)
        yield Outcome(len(fresh), known - writer.changed, writer.changed)
    except BeamwrightError as error:
        if len(batch) == 1:
            problems.append(str(error))
            return
        middle = len(batch) // 2
        yield from _halves(batch[:middle], writer, problems)
        yield from _halves(batch[middle:], writer, problems)
