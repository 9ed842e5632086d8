"""Moving a whole catalogue between SQLite and PostgreSQL, verified row by row, against a bare COPY."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from _filling import databases, filled  # noqa: E402
from harness import Figure, arguments, report  # noqa: E402

from beamwright.db import migrations, moving, rows  # noqa: E402
from beamwright.db.engine import Database  # noqa: E402


def moved(source: Database, target: sa.URL) -> tuple[float, dict[str, dict[str, object]]]:
    """Return the seconds that a move takes, and rows and hashes by table."""
    start = time.perf_counter()
    verified = moving.move(source, target, now=1e10)
    return time.perf_counter() - start, verified


def copied(source: Database, target: sa.URL) -> float:
    """Return the seconds that the same rows take as lines that are there already, without verification."""
    with source.read() as conn:
        lines = [(shape, list(rows.read(conn, shape))) for shape in rows.shapes(conn)]
    start = time.perf_counter()
    with moving.filling(target, migrations.HEAD) as there:
        for shape, blocks in lines:
            rows.write(there, shape, blocks)
    return time.perf_counter() - start


def fresh(server: sa.URL, name: str) -> sa.URL:
    engine = sa.create_engine(server.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as conn:
        conn.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return server.set(database=name)


def main() -> None:
    options = arguments(__doc__, 200_000)
    files, figures = options.events, []
    with databases() as (first, server), tempfile.TemporaryDirectory() as folder:
        source = filled(first, files)
        there, verified = moved(source, fresh(server, "moved"))
        bare = copied(source, fresh(server, "bare"))
        source.close()
        middle = Database(server.set(database="moved"))
        back, again = moved(middle, sa.URL.create("sqlite", database=f"{folder}/back.db"))
        bare_back = copied(middle, sa.URL.create("sqlite", database=f"{folder}/bare.db"))
        middle.close()
        _, number = moving.totals(verified)
        for way, ours, peer in (("to PostgreSQL", there, bare), ("back to SQLite", back, bare_back)):
            label = f"{files} files, {way}"
            rates = (number / ours, number / peer)
            peer_name, equal = "lines in memory, not verified", verified == again
            ratio = rates[0] / rates[1]
            figures.append(
                Figure("catalog/move", label, number, rates[0], rates[1], peer_name, "rows/s", ratio, equal)
            )
    report(figures, options.json)


if __name__ == "__main__":
    main()
