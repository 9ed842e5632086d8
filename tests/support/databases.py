"""Databases for tests: each test gets its own, copied from one that was migrated once per session.

``database`` runs a test on SQLite and on PostgreSQL (a private cluster, where the server's
binaries are installed); ``sqlite_database`` on SQLite alone.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa

from beamwright.db.engine import Database

_numbers = count(1)


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
    made = Database(path, busy_seconds=1.0)
    yield made
    made.close()


@pytest.fixture(scope="session")
def postgresql_cluster() -> Iterator[str]:
    """Start a cluster that listens on a socket of its own; give the URL of its first database."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("the binaries of a PostgreSQL server are not installed")
    if os.geteuid() == 0 and _unprivileged() is None:
        pytest.skip("PostgreSQL does not run as root, and there is no account 'postgres' or 'nobody'")
    folder = Path(tempfile.mkdtemp(prefix="bw-pg-"))
    user = _unprivileged()
    if user is not None:
        shutil.chown(folder, user)

    def run(*command: str) -> None:
        # pg_ctl leaves a server behind that must not hold our pipes open.
        with (folder / "pg.out").open("a") as out:
            subprocess.run(command, check=True, user=user, cwd=folder, stdout=out, stderr=out, timeout=120)

    try:
        run(str(binaries / "initdb"), "-D", str(folder / "data"), "-A", "trust", "-U", "test", "--no-sync")
        options = f"-k {folder} -c listen_addresses= -c fsync=off -c max_connections=60"
        run(
            str(binaries / "pg_ctl"),
            "-D",
            str(folder / "data"),
            "-w",
            "-l",
            str(folder / "log"),
            "-o",
            options,
            "start",
        )
        try:
            yield f"postgresql://test@/postgres?host={folder}"
        finally:
            run(str(binaries / "pg_ctl"), "-D", str(folder / "data"), "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgresql_new(postgresql_cluster: str) -> Iterator[Callable[[str], sa.URL]]:
    """Give a function that makes an empty database, or a copy of another."""
    engine = sa.create_engine(
        sa.make_url(postgresql_cluster).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
    )

    def make(template: str = "template1") -> sa.URL:
        name = f"test{next(_numbers)}"
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return sa.make_url(postgresql_cluster).set(database=name)

    yield make
    engine.dispose()


@pytest.fixture(scope="session")
def postgresql_template(postgresql_new: Callable[[str], sa.URL]) -> str:
    migrated = Database(postgresql_new("template1"))
    migrated.migrate()
    migrated.close()
    return str(migrated.url.database)


@pytest.fixture
def postgresql_database(
    postgresql_new: Callable[[str], sa.URL], postgresql_template: str
) -> Iterator[Database]:
    made = Database(postgresql_new(postgresql_template), busy_seconds=1.0)
    yield made
    made.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Database:
    found: Database = request.getfixturevalue(f"{request.param}_database")
    return found


def _binaries() -> Path | None:
    on_path = shutil.which("initdb")
    found = [Path(on_path).parent] if on_path else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in found if (folder / "pg_ctl").exists()), None)


def _unprivileged() -> str | None:
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in known), None)
