"""The database: one place where connections are opened, transactions begin and driver errors get names.

A workspace keeps a SQLite file; production uses PostgreSQL. Both give the same promises: a write
transaction is serialised where it touches the same rows, is durable when ``begin`` returns, and never waits
without a bound.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from beamwright.core.errors import (
    BeamwrightError,
    ConfigError,
    ConflictError,
    FormatError,
    StorageError,
    UsageError,
)
from beamwright.core.settings import read_settings
from beamwright.db import holders, left, writing

T = TypeVar("T")

BUSY_SECONDS = 20.0
AT_ONCE = 500
_JOURNAL_TRIES, _JOURNAL_WAIT_S = 100, 0.05
_ADDRESS = "give a path for SQLite or postgresql://user@host/name"
_BUSY_STATES = {"55P03": "a lock", "40P01": "a deadlock", "40001": "a serialisation conflict"}

# The server has ended the transaction so that others can go on: the same again has a chance at once. Where
# many write the same rows, those who try again would only end each other: they hold this lock meanwhile.
_ENDED = frozenset({"40P01", "40001"})
_ANEW, _ANEW_WAIT_S = 0x616E6577, 0.02
# Whoever found that somebody else had moved a row first decides anew on what is there now.
_OVERTAKEN_TRIES = 5


class Database:
    """A SQLite file (a path) or a PostgreSQL database (a URL)."""

    def __init__(self, url_or_path: str | Path | sa.URL, *, busy_seconds: float = BUSY_SECONDS) -> None:
        self.url = _url(url_or_path)
        self.name = (
            self.url.render_as_string(hide_password=True) if self.is_postgresql else str(self.url.database)
        )
        self._busy_seconds = busy_seconds
        self._local = threading.local()
        self._writer, self._reader = self._postgresql() if self.is_postgresql else self._sqlite()
        for engine in (self._writer, self._reader):
            sa.event.listen(engine, "handle_error", self._explain, retval=True)

    @classmethod
    def open(cls, root: str | Path) -> Database:
        """Open the database of the workspace at ``root``; its schema must be the current one."""
        database = cls(workspace_url(Path(root)))
        database.check()
        return database

    @property
    def is_postgresql(self) -> bool:
        return self.url.get_backend_name() == "postgresql"

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """Give a connection in a write transaction: committed at the end, rolled back when an error passes.

        Raises: ConflictError when another process holds the write lock too long, or when the database was
        moved meanwhile, StorageError.
        """
        if getattr(self._local, "writing", False):
            raise UsageError(
                "this thread has a write transaction open already", hint="pass its connection on"
            )
        self._local.writing, self._local.leaving = True, False
        try:
            with self._writer.begin() as connection:
                yield connection
                # Who had to wait for the move to end is past its beginning: so this is asked at the end.
                is_kept = connection.in_transaction()  # and not taken back, as by a dry run
                if is_kept and not self._local.leaving and left.is_marked(connection):
                    raise ConflictError(
                        f"database {self.name} was moved: nothing is written into it any more",
                        hint="give the same again: it goes to the database that the settings name now",
                    )
        finally:
            self._local.writing = False

    def leave(self, connection: sa.Connection) -> None:
        """Let nobody write here any more, once this write transaction is committed."""
        left.mark(connection)
        self._local.leaving = True

    def transact(self, work: Callable[[sa.Connection], T]) -> T:
        """Do work in a write transaction; do it anew when the server ended it, or somebody moved a row first.

        It is tried for as long as anybody waits for a lock; ``work`` reads what it decides on by itself, and
        does nothing outside the database. Those who do theirs anew go one after another.

        Raises: ConflictError, StateError.
        """
        tries, end = 0, time.monotonic() + self._busy_seconds
        while True:
            tries += 1
            try:
                with self.begin() as connection:
                    if tries > 1 and self.is_postgresql:
                        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ANEW)))
                    return work(connection)
            except ConflictError as error:
                is_overtaken = error.data.get("overtaken") and tries < _OVERTAKEN_TRIES
                if time.monotonic() > end or not (is_overtaken or error.data.get("again")):
                    raise
                time.sleep(_ANEW_WAIT_S * random.random())

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Give a connection in a transaction that cannot write and sees one state of the database."""
        with self._reader.connect() as connection:
            yield connection

    def migrate(self) -> None:
        """Bring the schema to the current revision; does nothing when it is there.

        Raises: FormatError when a newer beamwright wrote it.
        """
        from beamwright.db import migrations

        if self.revision() == migrations.HEAD:
            return
        with self.begin() as connection:
            if self.is_postgresql:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(0x6265616D)))
            self._known(migrations.current(connection))
            migrations.upgrade(connection)

    def check(self) -> None:
        """Refuse a database whose schema is not the current one.

        Raises: FormatError.
        """
        from beamwright.db.migrations import HEAD

        found = self.revision()
        self._known(found)
        if found != HEAD:
            message = f"database {self.name} has schema {found or 'none'}, not {HEAD}"
            raise FormatError(message, hint="run `beamwright db upgrade`")

    def revision(self) -> str | None:
        """Return the schema revision, or None for an empty database."""
        from beamwright.db import migrations

        if not self.is_postgresql and not Path(str(self.url.database)).exists():
            return None
        with self.read() as connection:
            return migrations.current(connection)

    def close(self) -> None:
        """Close all connections."""
        self._writer.dispose()
        self._reader.dispose()

    def _known(self, revision: str | None) -> None:
        from beamwright.db.migrations import HEAD, known

        if revision is not None and revision not in known():
            raise FormatError(
                f"database {self.name} has schema {revision}; this beamwright knows schemas up to {HEAD}",
                hint="a newer beamwright wrote it: use that one",
            )

    def _sqlite(self) -> tuple[sa.Engine, sa.Engine]:
        module = _sqlite_module()
        engines = []
        for is_writer in (True, False):
            engine = sa.create_engine(self.url, module=module, connect_args={"timeout": self._busy_seconds})
            sa.event.listen(engine, "connect", _connected(_has_safe_wal(module), is_writer))
            sa.event.listen(engine, "begin", _begin_immediate if is_writer else _begin_deferred)
            engines.append(engine)
        return engines[0], engines[1]

    def _postgresql(self) -> tuple[sa.Engine, sa.Engine]:
        options = f"-c lock_timeout={int(self._busy_seconds * 1000)} -c timezone=UTC"
        # A server without an encoding (one made where no language is set) would give text as bytes.
        connect = {"options": options, "application_name": holders.own_name(), "client_encoding": "utf8"}
        writer = sa.create_engine(self.url, connect_args=connect, pool_pre_ping=True)
        # One state of the database for the whole reading transaction, as on SQLite.
        reader = writer.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        return writer, reader

    def _explain(self, context: sa.ExceptionContext) -> BeamwrightError | None:
        """Give a driver's error about the outside world the name of one of ours."""
        return self._explained(context.original_exception)

    def _explained(self, error: BaseException) -> BeamwrightError | None:
        code = getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None) or ""
        if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or code in _BUSY_STATES:
            return self._busy(code)
        if code == "SQLITE_FULL" or code.startswith("53"):
            return StorageError(f"database {self.name}: {error}", hint="make room on its file system")
        if code.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            return FormatError(f"{self.name} is no sound database: {error}", hint="restore it from a backup")
        if self.is_postgresql and not code and type(error).__name__ == "OperationalError":
            message = f"database {self.name} cannot be reached: {str(error).strip()}"
            return StorageError(message, hint="check its address, and that the server runs")
        if code.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_IOERR", "08", "57P")):
            return StorageError(
                f"database {self.name}: {error}", hint="make room where it lies, see that it can be written"
            )
        return None

    def _busy(self, code: str) -> ConflictError:
        by = holders.of_server(self._writer) if self.is_postgresql else holders.of_file(Path(self.name))
        what = _BUSY_STATES.get(code, "a lock")
        waited = f"{what} held for more than {self._busy_seconds:g} s" if what == "a lock" else what
        return ConflictError(
            f"another process writes to database {self.name} ({waited}{f', by {by}' if by else ''})",
            hint="try again, or stop the other process",
            again=code in _ENDED,
            busy=True,
        )


def insert_new(connection: sa.Connection, table: sa.Table, values: Any) -> int:
    """Insert the rows that break no unique constraint, leave the others; return how many are new."""
    rows = values if isinstance(values, list) else [values]
    if not rows:
        return 0
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = make(table).on_conflict_do_nothing().returning(sa.literal(1))
    return len(connection.execute(statement, rows).all())


def insert_id(connection: sa.Connection, table: sa.Table, **values: Any) -> int:
    """Insert one row and return its id."""
    key = connection.execute(sa.insert(table).values(values)).inserted_primary_key
    if key is None:
        raise StorageError(f"table {table.name} gave no id for a new row")
    return int(key[0])


def insert_ids(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Insert many rows, all of the same columns, and return their ids in order."""
    if not rows:
        return []
    if connection.dialect.name == "sqlite":  # nobody else writes now, and its RETURNING goes row by row
        first = int(connection.execute(sa.select(sa.func.max(table.c.id))).scalar() or 0) + 1
        keys = list(range(first, first + len(rows)))
        writing.insert(connection, table, rows, keys)
        return keys
    statement = sa.insert(table).returning(table.c.id, sort_by_parameter_order=True)
    return [int(key) for key in connection.execute(statement, list(rows)).scalars()]


def batched(values: Sequence[T], size: int = AT_ONCE) -> Iterator[Sequence[T]]:
    """Cut a list into parts that one statement can take as values of a condition."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _url(url_or_path: str | Path | sa.URL) -> sa.URL:
    if not isinstance(url_or_path, sa.URL) and "://" not in str(url_or_path):
        return sa.URL.create("sqlite", database=str(Path(url_or_path).absolute()))
    url = sa.make_url(url_or_path if isinstance(url_or_path, sa.URL) else str(url_or_path))
    if url.get_backend_name() == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite" and url.database:
        return url
    raise ConfigError(
        f"{url.render_as_string(hide_password=True)} is no database that can be used",
        hint=_ADDRESS,
    )


def workspace_url(root: Path) -> sa.URL:
    """Return where the settings of the workspace at ``root`` say that its database is."""
    settings = root / "beamwright.toml"
    if not settings.is_file():
        raise ConfigError(f"{root} is no workspace: it has no {settings.name}", hint="run beamwright init")
    return located(read_settings(settings.read_text(), str(settings)).database.url, root)


def located(url_or_path: str, root: Path) -> sa.URL:
    """Return the address of a database; relative paths are relative to ``root``.

    Raises: ConfigError for what is no address of a database.
    """
    try:
        url = sa.make_url(url_or_path) if "://" in url_or_path else None
    except sa.exc.ArgumentError as error:
        raise ConfigError(f"{url_or_path} is no address of a database", hint=_ADDRESS) from error
    if url is None:
        url = sa.URL.create("sqlite", database=url_or_path)
    if url.get_backend_name() == "sqlite" and url.database:
        url = url.set(database=str(root.absolute() / url.database))
    return _url(url)


def _sqlite_module() -> ModuleType:
    try:
        from pysqlite3 import dbapi2
    except ImportError:
        import sqlite3 as dbapi2
    module: ModuleType = dbapi2
    return module


def _has_safe_wal(module: ModuleType) -> bool:
    """Tell whether the library is newer than those whose log can lose commits (3.7.0 to 3.51.2)."""
    version: tuple[int, ...] = module.sqlite_version_info
    return version >= (3, 51, 3)


def _connected(has_safe_wal: bool, is_writer: bool) -> Any:
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin and end where SQLAlchemy says, nowhere else
        cursor = connection.cursor()
        if is_writer:
            _set_journal(cursor, "wal" if has_safe_wal else "delete")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA query_only={'OFF' if is_writer else 'ON'}")
        cursor.close()

    return prepare


def _set_journal(cursor: Any, mode: str) -> None:
    """Set the journal mode where it is another; that needs the file alone, and no busy wait covers it."""
    for tries in range(1, _JOURNAL_TRIES + 1):
        if cursor.execute("PRAGMA journal_mode").fetchone()[0] == mode:
            return
        try:
            cursor.execute(f"PRAGMA journal_mode={mode}")
        except Exception as error:
            is_busy = getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY")
            if tries == _JOURNAL_TRIES or not is_busy:
                raise
            time.sleep(_JOURNAL_WAIT_S)


def _begin_immediate(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_deferred(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")
