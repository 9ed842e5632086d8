"""Catalogues of any size for benchmarks: files at two endpoints, on SQLite and PostgreSQL."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "tests")]

from beamwright.db import rows  # noqa: E402
from beamwright.db.engine import Database  # noqa: E402
from support.databases import private_cluster  # noqa: E402

NAMES = ("SQLite", "PostgreSQL")
ONE_IN = 1000  # so many files have no replica at the second endpoint
_AT_ONCE = 5000


@contextmanager
def databases() -> Iterator[list[sa.URL]]:
    """Give the addresses of an empty database of each kind; both are on one disk and sync every commit."""
    with (
        tempfile.TemporaryDirectory() as folder,
        private_cluster("fsync=on", "shared_buffers=512MB", within=tempfile.gettempdir()) as server,
    ):
        yield [sa.URL.create("sqlite", database=f"{folder}/catalogue.db"), sa.make_url(server.url)]


def filled(url: sa.URL, files: int) -> Database:
    """Return a database with so many files, each registered in the history, and their replicas."""
    database = Database(url)
    database.migrate()
    with database.begin() as conn:
        shapes = {shape.name: shape for shape in rows.shapes(conn)}
        for name, make in _LINES.items():
            rows.write(conn, shapes[name], _blocks(files, make))
        rows.set_sequences(conn, list(shapes.values()))
    if database.is_postgresql:  # what the server does by itself soon after rows have come
        server = sa.create_engine(database.url, isolation_level="AUTOCOMMIT")
        with server.connect() as conn:
            conn.exec_driver_sql("VACUUM")
        server.dispose()
    return database


def path_of(number: int) -> str:
    """Return where a file lies at the second endpoint."""
    return f"/store/dst/{number // 1000:06d}/dst.{number:08d}.root"


def is_there(number: int) -> bool:
    """Tell whether the second endpoint holds a file."""
    return number % ONE_IN != 0


def _blocks(files: int, make: object) -> Iterator[bytes]:
    for start in range(1, files + 1, _AT_ONCE):
        text = "".join(make(number) for number in range(start, min(start + _AT_ONCE, files + 1)))  # type: ignore[operator]
        if text:
            yield text.encode()


def _file(number: int) -> str:
    digest = f"{number * 2654435761 % 2**64:016x}" * 4
    lineage = json.dumps({"release": "24.1", "resolved_hash": digest})
    known = {
        "id": number, "scope": "dst", "name": f"run{number // 100}/dst.{number:08d}.root", "kind": "external",
        "size": 1_000_000 + number, "sha256": digest, "adler32": digest[:8], "uuid": digest[:32],
        "tier": "dst", "attempt_id": r"\N", "lineage": lineage, "created": float(number),
    }  # fmt: skip
    return _line("file", known)


def _replica(number: int) -> str:
    here = {"id": 2 * number - 1, "endpoint": "home", "path": f"/home{path_of(number)}"}
    there = {"id": 2 * number, "endpoint": "lyon", "path": path_of(number)}
    facts = {"file_id": number, "state": "verified", "verified_by": "mover", "verified_at": 1.0}
    facts |= {"inode": r"\N", "mtime_ns": r"\N"}
    return "".join(_line("replica", place | facts) for place in (here, there)[: 1 + is_there(number)])


def _history(number: int) -> str:
    known = {"id": number, "at": float(number), "kind": "file", "object": str(number), "source": r"\N"}
    said = {"target": "registered", "actor": "intake", "reason": "", "data": "{}"}
    return _line("history", known | said)


def _line(table: str, values: dict[str, object]) -> str:
    return "\t".join(str(values[name]) for name in _COLUMNS[table]) + "\n"


_LINES = {"history": _history, "file": _file, "replica": _replica}


def _columns() -> dict[str, list[str]]:
    from beamwright.db.schema import metadata

    return {name: [column.name for column in metadata.tables[name].columns] for name in _LINES}


_COLUMNS = _columns()
