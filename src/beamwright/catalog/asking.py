"""Asking the catalogue: one way for commands, the server and Python, bounded in time, explained on demand."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from beamwright.catalog import metadata, query
from beamwright.catalog.query import Condition
from beamwright.catalog.vocabulary import Vocabulary, there, vocabulary
from beamwright.core.clock import seconds_of
from beamwright.core.errors import TooSlowError, UsageError

SECONDS = 30.0
_STEPS = 20_000
_PAGE = 2000
_CANCELLED = "57014"
_WORK_MEM = "64MB"

Row = dict[str, Any]

_ORDER: dict[str, tuple[str, ...]] = {
    "run": ("series", "number", "tier"),
    "file": ("scope", "name"),
    "collection": ("scope", "name"),
}


@dataclass(frozen=True)
class Question:
    """What is asked: an expression over a subject, as of a time, at most so many, for so many seconds."""

    subject: str
    where: str | None = None
    as_of: float | None = None
    limit: int | None = None
    seconds: float = SECONDS

    @classmethod
    def of(
        cls, subject: str, where: str | None = None, as_of: str | float | None = None, **options: Any
    ) -> Question:
        """Return a question; ``as_of`` may be written as a date."""
        moment = None if as_of is None else seconds_of(as_of, "the time that is asked for")
        return cls(subject, where, moment, **options)


def words(conn: sa.Connection, subject: str, as_of: float | None = None) -> Vocabulary:
    """Return what can be said of a subject, declared metadata among it."""
    return vocabulary(subject, metadata.kinds(conn).values(), as_of)


def condition(conn: sa.Connection, question: Question) -> list[Condition]:
    """Return the conditions on the subject's table that a question states.

    Raises: UsageError, which points at the column.
    """
    known = words(conn, question.subject, question.as_of)
    found = there(known.table, question.as_of)
    if question.where is not None:
        found.append(query.compile(question.where, known.fields, known.functions))
    return found


def ask(
    conn: sa.Connection,
    question: Question,
    *further: Condition,
    columns: tuple[sa.ColumnElement[Any], ...] = (),
    join: sa.Table | None = None,
) -> Iterator[Row]:
    """Yield the rows of the subject that meet the question, by name; without the lineage of files.

    What was otherwise at the time asked for is as it was; ``further`` are conditions of the caller;
    ``columns`` stand beside those of the table, from other tables with ``join``.

    Raises: UsageError for a wrong expression, TooSlowError when the database takes too long.
    """
    statement = _statement(conn, question, further, columns, join)
    with bounded(conn, question), conn.execute(statement.execution_options(yield_per=_PAGE)) as found:
        names = list(found.keys())
        for row in found:
            yield dict(zip(names, row, strict=True))


def explain(conn: sa.Connection, question: Question, *further: Condition) -> Row:
    """Return how the database answers a question: its plan, how many rows there are, how long it took."""
    statement = _statement(conn, question, further)
    dialect = conn.dialect.name
    with bounded(conn, question):
        plan = [_plan_line(row) for row in conn.execute(_Plan(statement))]
        begun = time.perf_counter()
        number = sum(1 for _ in conn.execute(statement.execution_options(yield_per=_PAGE)))
        spent = time.perf_counter() - begun
    return {"database": dialect, "plan": plan, "rows": number, "seconds": round(spent, 6)}


def is_narrow(conn: sa.Connection, question: Question) -> bool:
    """Tell whether an index leads to what a question's expression finds."""
    known = words(conn, question.subject, question.as_of)
    return question.where is not None and query.is_quick(query.parse(question.where), known.fields)


@contextmanager
def bounded(conn: sa.Connection, question: Question) -> Iterator[None]:
    """Let the database work for so many seconds only.

    Raises: TooSlowError, which says what would help.
    """
    if question.seconds <= 0:
        raise UsageError("a question needs time", hint="give more than 0 seconds")
    stop = _postgresql_bound if conn.dialect.name == "postgresql" else _sqlite_bound
    advice = _advice(conn, question)  # now, as a transaction that was cancelled answers nothing more
    try:
        with stop(conn, question.seconds):
            yield
    except sa.exc.OperationalError as error:
        original = error.orig
        is_late = getattr(original, "sqlstate", None) == _CANCELLED or "interrupted" in str(original)
        if not is_late:
            raise
        raise TooSlowError(
            f"the catalogue did not answer within {question.seconds:g} s", hint=advice
        ) from error


@contextmanager
def _postgresql_bound(conn: sa.Connection, seconds: float) -> Iterator[None]:
    limit = sa.func.set_config("statement_timeout", str(max(1, int(seconds * 1000))), True)
    # Long lists of objects are then looked up in memory, and not gone through for every row.
    memory = sa.func.set_config("work_mem", _WORK_MEM, True)
    conn.execute(sa.select(limit, memory))
    yield
    conn.execute(sa.select(sa.func.set_config("statement_timeout", "0", True)))


@contextmanager
def _sqlite_bound(conn: sa.Connection, seconds: float) -> Iterator[None]:
    driver: Any = conn.connection.driver_connection
    deadline = time.monotonic() + seconds
    driver.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
    try:
        yield
    except sa.exc.OperationalError as error:
        # SQLite ends the statement, too, when Ctrl-C comes in the callback, and drops what was raised.
        if "interrupted" in str(error.orig) and time.monotonic() <= deadline:
            raise KeyboardInterrupt from error
        raise
    finally:
        driver.set_progress_handler(None, 0)


def _advice(conn: sa.Connection, question: Question) -> str:
    """Say what would make a question quick."""
    if question.where is None:
        return "narrow it with --where, or take fewer with --limit"
    known = words(conn, question.subject, question.as_of)
    tree = query.parse(question.where)
    said = [token.text for token in query.names(tree)]
    keys = [n for n in said if "." in n and n in known.fields and not known.fields[n].is_quick]
    if keys:
        return f"{keys[0]} has no index: declare it with indexed = true, or add a narrower condition"
    quick = ", ".join(sorted(name for name, field in known.fields.items() if field.is_quick))
    if not query.is_quick(tree, known.fields):
        return f"no index leads to it: add a condition on one of {quick}"
    return "narrow it, or give it more time with --seconds"


def _statement(
    conn: sa.Connection,
    question: Question,
    further: tuple[Condition, ...],
    columns: tuple[sa.ColumnElement[Any], ...] = (),
    join: sa.Table | None = None,
) -> sa.Select[Any]:
    known = words(conn, question.subject, question.as_of)
    table = known.table
    own = [known.then.get(c.name, c).label(c.name) for c in table.c if c.name != "lineage"]
    found = sa.select(*own, *columns).where(*condition(conn, question), *further)
    if join is not None:
        found = found.select_from(table.outerjoin(join))
    found = found.order_by(*(_ordered(conn, table.c[name]) for name in _ORDER[question.subject]))
    return found if question.limit is None else found.limit(question.limit)


def _ordered(conn: sa.Connection, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Return a column as it is sorted: text by its characters, on every database alike."""
    is_text = isinstance(column.type, sa.Text) and conn.dialect.name == "postgresql"
    return sa.collate(column, "C") if is_text else column


class _Plan(sa.sql.expression.Executable, sa.sql.expression.ClauseElement):
    """A statement that asks for the plan of another."""

    inherit_cache = False

    def __init__(self, statement: sa.Select[Any]) -> None:
        self.statement = statement


@compiles(_Plan, "sqlite")
def _sqlite_plan(element: _Plan, compiler: Any, **options: Any) -> str:
    return f"EXPLAIN QUERY PLAN {compiler.process(element.statement, **options)}"


@compiles(_Plan, "postgresql")
def _postgresql_plan(element: _Plan, compiler: Any, **options: Any) -> str:
    return f"EXPLAIN {compiler.process(element.statement, **options)}"


def _plan_line(row: Any) -> str:
    return str(row[-1])
