"""Registering runs, files and collections by the million: in batches, each there as a whole or not at all.

What is known already and equal is passed over, so that a stream which was cut is simply given again; what is
known with other content is refused by name and line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from beamwright.catalog import metadata
from beamwright.catalog.records import CHECKS, Checker
from beamwright.catalog.writers import WRITERS, Source, Writer
from beamwright.core.errors import BeamwrightError, ConflictError
from beamwright.db.engine import Database

BATCH = 5000
TRIES = 5
MOST_PROBLEMS = 100

Said = Mapping[str, Any]
Progress = Callable[[int], object]


@dataclass
class Outcome:
    """How many objects are new, and how many were registered alike before."""

    new: int = 0
    equal: int = 0


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
    for batch in _batches(records, subject, checker):
        if batch:
            made = _write(db, WRITERS[subject], batch, source)
            found = Outcome(found.new + made.new, found.equal + made.equal)
            progress(found.new + found.equal)
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
            found = Outcome(found.new + part.new, found.equal + part.equal)
        progress(found.new + found.equal)
        if len(problems) >= MOST_PROBLEMS:
            break
    return found, problems


def _batches(
    records: Iterable[tuple[int, Said]], subject: str, checker: Checker, problems: list[str] | None = None
) -> Iterator[list[Any]]:
    """Yield checked records in batches; what came before a bad one is a batch of its own."""
    check, stream = CHECKS[subject], iter(records)
    batch: list[Any] = []
    while True:
        try:
            found = next(stream, None)
            if found is None:
                break
            batch.append(check(checker, *found))
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


def _write(db: Database, writer: type[Writer[Any]], batch: Sequence[Any], source: Source) -> Outcome:
    """Write a batch; when others wrote some of it, look again at what is left to do."""
    tries = 0
    while True:
        tries += 1
        try:
            with db.begin() as conn:
                new, equal = writer(conn, source).write(batch, expect_known=tries > 1)
            return Outcome(new, equal)
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
        yield Outcome(len(fresh), known)
    except BeamwrightError as error:
        if len(batch) == 1:
            problems.append(str(error))
            return
        middle = len(batch) // 2
        yield from _halves(batch[:middle], writer, problems)
        yield from _halves(batch[middle:], writer, problems)
