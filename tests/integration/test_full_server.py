"""A PostgreSQL server whose disk is full, in earnest: what was acknowledged stays, the rest can be repeated.

The disk is a file system in memory of a few megabytes; mounting one takes a privilege that not everybody has.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from beamwright import fsck
from beamwright.catalog import registering
from beamwright.catalog.registering import Outcome
from beamwright.catalog.writers import Source
from beamwright.core.canonical import sha256_hex
from beamwright.core.errors import BeamwrightError, StorageError
from beamwright.db import operations, schema
from beamwright.db.engine import Database
from support.databases import Cluster, private_cluster

SOURCE = Source("list", 1_000.0, "x")


@dataclass
class Disk:
    """A small file system."""

    path: Path

    def leave(self, kilobytes: int) -> None:
        """Leave so much room on it, beside what it holds."""
        size = shutil.disk_usage(self.path).used // 1024 + kilobytes
        subprocess.run(["mount", "-o", f"remount,size={size}k", str(self.path)], check=True)


@pytest.fixture
def disk() -> Iterator[Disk]:
    path = Path(tempfile.mkdtemp(prefix="bw-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(path)], capture_output=True, text=True
    )
    if mounted.returncode:
        path.rmdir()
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip() or 'not allowed'}")
    yield Disk(path)
    subprocess.run(["umount", "-l", str(path)], check=True)
    path.rmdir()


def record(n: int) -> dict[str, Any]:
    digest = sha256_hex(str(n).encode())
    place = {"endpoint": "lyon", "path": f"/store/{n}"}
    made = {"size": 5, "sha256": digest, "adler32": digest[:8], "tier": "dst", "replicas": [place]}
    return {"name": f"mc:f{n:07}"} | made


def register(database: Database, number: int, told: list[int]) -> Outcome:
    records = ((n + 1, record(n)) for n in range(number))
    return registering.register(database, "file", records, SOURCE, told.append)


def registered(database: Database) -> list[str]:
    """Return the files; each has its replica, and the replica its line of history."""
    file, replica, line = schema.file, schema.replica, schema.history
    with database.read() as conn:
        names = list(conn.execute(sa.select(file.c.name).order_by(file.c.name)).scalars())
        assert conn.scalar(sa.select(sa.func.count()).select_from(replica)) == len(names)
        created = sa.select(sa.func.count()).where(line.c.kind == "replica")
        assert conn.scalar(created) == len(names)
    return names


def wanted(number: int) -> list[str]:
    return [f"f{n:07}" for n in range(number)]


def as_owner(cluster: Cluster, path: Path) -> Path:
    if cluster.user is not None:
        shutil.chown(path, cluster.user)
    path.chmod(0o700)
    return path


def fill(database: Database, most: int) -> tuple[int, BeamwrightError]:
    """Register until the disk is full; return what was acknowledged, and what the user was told."""
    told = [0]
    with pytest.raises(BeamwrightError) as caught:
        register(database, most, told)
    assert 0 < told[-1] < most
    return told[-1], caught.value


def test_a_full_disk_of_the_server_is_named_and_the_rest_follows_when_there_is_room(disk: Disk) -> None:
    number = 30_000
    with private_cluster() as cluster:
        place = as_owner(cluster, disk.path)
        url = sa.make_url(cluster.url).set(drivername="postgresql+psycopg")
        server = sa.create_engine(url, isolation_level="AUTOCOMMIT")
        with server.connect() as conn:
            conn.exec_driver_sql(f"CREATE TABLESPACE small LOCATION '{place}'")
            conn.exec_driver_sql("CREATE DATABASE small TABLESPACE small")
        server.dispose()
        database = Database(url.set(database="small"))
        database.migrate()
        disk.leave(14_000)
        done, error = fill(database, number)
        assert isinstance(error, StorageError) and "No space left on device" in str(error)
        assert "make room" in error.hint
        assert registered(database) == wanted(done), "what was told of is there, and nothing of the next"
        random_text = os.urandom(8_000_000).hex()  # nothing makes it smaller
        with pytest.raises(StorageError, match="No space left"):
            with database.begin() as conn:
                conn.execute(sa.insert(schema.workspace).values(name="x", value={"fill": random_text}))
        disk.leave(100_000)
        outcome = register(database, number, [])
        assert outcome == Outcome(new=number - done, equal=done)
        assert registered(database) == wanted(number) and operations.faults(database) == []
        assert fsck.run(database, place, on_storage=False) == []
        database.close()


def test_a_server_that_has_no_room_for_its_log_comes_back_with_all_that_was_acknowledged(disk: Disk) -> None:
    number = 60_000
    with private_cluster("fsync=on", "max_wal_size=1GB", "checkpoint_timeout=1h") as cluster:
        cluster.run("pg_ctl", "-w", "-m", "fast", "stop")
        log, data = as_owner(cluster, disk.path) / "pg_wal", cluster.folder / "data"
        shutil.copytree(data / "pg_wal", log)
        for path in (log, *log.rglob("*")):
            as_owner(cluster, path) if path.is_dir() else shutil.chown(path, cluster.user or None, None)
        shutil.rmtree(data / "pg_wal")
        (data / "pg_wal").symlink_to(log)
        cluster.start()
        database = Database(sa.make_url(cluster.url))
        database.migrate()
        disk.leave(18_000)  # a further file of its log has 16 MB
        done, error = fill(database, number)
        assert isinstance(error, StorageError) and "database" in str(error)
        database.close()
        assert "PANIC" in (cluster.folder / "log").read_text()
        disk.leave(200_000)
        come_back(cluster)
        database = Database(sa.make_url(cluster.url))
        found = registered(database)
        assert found[:done] == wanted(done), "what was told of is there"
        assert found == wanted(len(found)), "and what follows is whole batches"
        assert register(database, number, []) == Outcome(new=number - len(found), equal=len(found))
        assert registered(database) == wanted(number)
        database.close()


def come_back(cluster: Cluster) -> None:
    """Wait for the server, which starts again by itself; start it where it has given up."""
    database = Database(sa.make_url(cluster.url))
    for _turn in range(600):
        try:
            with database.read() as conn:
                conn.execute(sa.select(1))
            break
        except BeamwrightError:
            if not (cluster.folder / "data" / "postmaster.pid").exists():
                cluster.start()
            time.sleep(0.05)
    else:
        raise AssertionError("the server did not come back")
    database.close()
