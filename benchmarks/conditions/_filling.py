"""Global tags of any size for benchmarks: one tag, an interval for each run, a sweep for every tenth."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import sqlalchemy as sa

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "tests")]

from beamwright.conditions import tags  # noqa: E402
from beamwright.conditions.payload import Payload  # noqa: E402
from beamwright.core.runs import EVENT_MAX, SECTION_MAX  # noqa: E402
from beamwright.db import bulk, schema  # noqa: E402
from beamwright.db.engine import Database  # noqa: E402
from support.databases import private_cluster  # noqa: E402

NAMES = ("SQLite", "PostgreSQL")
PAYLOADS = 1000
PER_SWEEP = 10


@contextmanager
def databases() -> Iterator[list[sa.URL]]:
    """Give the addresses of an empty database of each kind."""
    with tempfile.TemporaryDirectory() as folder, private_cluster("fsync=on") as server:
        yield [sa.URL.create("sqlite", database=f"{folder}/conditions.db"), sa.make_url(server.url)]


def payload(number: int) -> Payload:
    """Return constants of 100 channels."""
    return Payload.arrays({"gain": np.full(100, float(number))})


def filled(url: sa.URL, runs: int) -> Database:
    """Return a database whose global tag ``g`` has an interval of the role Gain for so many runs."""
    database = Database(url)
    database.migrate()
    sweeps = runs // PER_SWEEP
    with database.begin() as conn:
        ids = [tags.put_payload(conn, payload(number), 0.0) for number in range(PAYLOADS)]
        global_tag, tag = (
            tags.create_global_tag(conn, "g", 0.0),
            tags.create_tag(conn, "g/Gain", "arrays", 0.0),
        )
        ends = {"first_section": 0, "first_event": 0, "last_section": SECTION_MAX, "last_event": EVENT_MAX}
        facts = {"tag_id": tag, "series": "A", "removed": None, "origin": "fitted", "reason": ""}
        columns = {
            "first_run": range(runs),
            "last_run": range(runs),
            "payload_id": [ids[run % PAYLOADS] for run in range(runs)],
            "added": [run // PER_SWEEP + 1 for run in range(runs)],
        }
        bulk.load(conn, schema.iov, columns | ends | facts | {"generation": 0, "created": 0.0})
        versions = list(range(1, sweeps + 1))
        members = {"version": versions, "tag_version": versions, "created": [float(v) for v in versions]}
        bulk.load(conn, schema.global_tag_member, members | {"global_tag_id": global_tag, "tag_id": tag})
        for table in (schema.tag, schema.global_tag):
            conn.execute(sa.update(table).values(version=sweeps))
        # What a server does by itself after a while: statistics of what was there before mislead it.
        conn.exec_driver_sql("ANALYZE")
    return database


def emptied(database: Database) -> None:
    """Take away what was filled in, so that the next size finds an empty database."""
    database.close()
    if not database.is_postgresql:
        Path(str(database.url.database)).unlink()
        return
    engine = sa.create_engine(database.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as conn:
        names = ", ".join(f'"{table.name}"' for table in schema.metadata.sorted_tables)
        conn.exec_driver_sql(f"TRUNCATE {names} RESTART IDENTITY CASCADE")
    engine.dispose()
