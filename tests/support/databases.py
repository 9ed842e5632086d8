"""Databases for tests: each test gets its own, copied from one that was migrated once per session.

``database`` runs a test on SQLite and on PostgreSQL (a private cluster, where the server's
binaries are installed); ``sqlite_database`` on SQLite alone.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa

from beamwright.db import schema
from beamwright.db.engine import Database
from support.waiting import is_dead, wait_for

_numbers = count(1)


class Server:
    """Hands out migrated databases: the same one, emptied, unless a test changed its schema."""

    def __init__(self, url: sa.URL) -> None:
        self.url = url
        driver = url.set(drivername="postgresql+psycopg")
        self.engine = sa.create_engine(driver, isolation_level="AUTOCOMMIT")
        self.template = ""
        self.free: list[sa.URL] = []

    def create(self, template: str) -> sa.URL:
        name = f"test{next(_numbers)}"
        with self.engine.connect() as conn:
            conn.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url.set(database=name)

    def drop(self, url: sa.URL) -> None:
        with self.engine.connect() as conn:
            conn.exec_driver_sql(f"DROP DATABASE {url.database} WITH (FORCE)")

    def take(self) -> sa.URL:
        if not self.template:
            migrated = Database(self.create("template1"))
            migrated.migrate()
            migrated.close()
            self.template = str(migrated.url.database)
        return self.free.pop() if self.free else self.create(self.template)

    def give_back(self, url: sa.URL) -> None:
        """Empty the database for the next test; drop it when its schema is no longer the template's."""
        if self._schema(url) != self._schema(self.url.set(database=self.template)):
            self.drop(url)
            return
        names = ", ".join(f'"{table.name}"' for table in schema.metadata.sorted_tables)
        with self._connected(url) as conn:
            conn.exec_driver_sql(f"TRUNCATE {names} RESTART IDENTITY CASCADE")
            conn.exec_driver_sql("COMMENT ON TABLE alembic_version IS NULL")  # it may have been left
        self.free.append(url)

    def _schema(self, url: sa.URL) -> tuple[str | None, int]:
        with self._connected(url) as conn:
            guards = conn.exec_driver_sql(
                "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal"
            ).scalar_one()
            return conn.exec_driver_sql("SELECT version_num FROM alembic_version").scalar(), guards

    @contextmanager
    def _connected(self, url: sa.URL) -> Iterator[sa.Connection]:
        engine = sa.create_engine(url.set(drivername="postgresql+psycopg"), poolclass=sa.NullPool)
        with engine.begin() as conn:
            yield conn
        engine.dispose()

    def close(self) -> None:
        self.engine.dispose()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "beamwright.db"
    migrated = Database(path)
    migrated.migrate()
    migrated.close()
    return path


@pytest.fixture
def sqlite_database(sqlite_template: Path, tmp_path: Path) -> Iterator[Database]:
    path = tmp_path / "beamwright.db"
    shutil.copyfile(sqlite_template, path)
    made = Database(path, busy_seconds=60.0)
    yield made
    made.close()


@pytest.fixture(scope="session")
def postgresql_cluster() -> Iterator[str]:
    """Give the URL of the first database of a private cluster that the session shares."""
    with cluster() as url:
        yield url


@contextmanager
def cluster(*options: str) -> Iterator[str]:
    """Start a cluster that listens on a socket of its own; give the URL of its first database."""
    with private_cluster(*options) as made:
        yield made.url


@contextmanager
def private_cluster(*options: str, within: str | None = None) -> Iterator[Cluster]:
    """Start a cluster that a test may kill and start again; it is removed at the end.

    It lies in memory where there is room, or ``within`` a folder.
    """
    binaries = _binaries()
    if binaries is None:
        pytest.skip("the binaries of a PostgreSQL server are not installed")
    if os.geteuid() == 0 and _unprivileged() is None:
        pytest.skip("PostgreSQL does not run as root, and there is no account 'postgres' or 'nobody'")
    folder = Path(tempfile.mkdtemp(prefix="bw-pg-", dir=within or memory()))
    made = Cluster(folder, binaries, _unprivileged(), options)
    try:
        made.run("initdb", "-A", "trust", "-U", "test", "-E", "UTF8", "--locale=C", "--no-sync")
        made.start()
        try:
            yield made
        finally:
            made.run("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Cluster:
    """A private PostgreSQL server below a folder."""

    def __init__(self, folder: Path, binaries: Path, user: str | None, options: tuple[str, ...]) -> None:
        self.folder, self.binaries, self.user, self.options = folder, binaries, user, options
        self.url = f"postgresql://test@/postgres?host={folder}"
        if user is not None:
            shutil.chown(folder, user)

    def run(self, program: str, *arguments: str) -> None:
        command = [str(self.binaries / program), "-D", str(self.folder / "data"), *arguments]
        # pg_ctl leaves a server behind that must not hold our pipes open.
        with (self.folder / "pg.out").open("a") as out:
            outcome = {"stdout": out, "stderr": out, "timeout": 240}
            subprocess.run(command, check=True, user=self.user, cwd=self.folder, **outcome)

    def start(self) -> None:
        settings = (
            "listen_addresses=",
            "fsync=off",
            "max_connections=60",
            "deadlock_timeout=100ms",
            *self.options,
        )
        flags = f"-k {self.folder} " + " ".join(f"-c {setting}" for setting in settings)
        self.run("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", flags, "start")

    def kill(self) -> None:
        """Kill the server and all that serve its sessions, at once and without any notice."""
        server = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        for number in [server, *map(int, children)]:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        wait_for(lambda: all(map(is_dead, [server, *children])))
        # Where nobody collects the dead, its number looks taken for ever.
        for path in (self.folder / "data" / "postmaster.pid", self.folder / ".s.PGSQL.5432.lock"):
            path.unlink()


@pytest.fixture(scope="session")
def postgresql_server(postgresql_cluster: str) -> Iterator[Server]:
    server = Server(sa.make_url(postgresql_cluster))
    yield server
    server.close()


@pytest.fixture
def postgresql_new(postgresql_server: Server) -> Iterator[sa.URL]:
    """Give an empty database."""
    url = postgresql_server.create("template1")
    yield url
    postgresql_server.drop(url)


@pytest.fixture
def postgresql_database(postgresql_server: Server) -> Iterator[Database]:
    url = postgresql_server.take()
    made = Database(url, busy_seconds=60.0)
    yield made
    made.close()
    postgresql_server.give_back(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Database:
    found: Database = request.getfixturevalue(f"{request.param}_database")
    return found


def _binaries() -> Path | None:
    on_path = shutil.which("initdb")
    found = [Path(on_path).parent] if on_path else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in found if (folder / "pg_ctl").exists()), None)


def memory() -> str | None:
    """Return a folder in memory, where there is one with enough room."""
    path = Path("/dev/shm")
    has_room = path.is_dir() and os.access(path, os.W_OK) and shutil.disk_usage(path).free > 1 << 30
    return str(path) if has_room else None


def _unprivileged() -> str | None:
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in known), None)
