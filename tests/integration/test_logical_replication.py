"""PostgreSQL's own logical replication of conditions, as the guide tells it: the alternative to a mirror."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from beamwright.conditions import tags
from beamwright.conditions.payload import Payload
from beamwright.core.runs import Interval
from beamwright.db import schema
from beamwright.db.engine import Database
from support.databases import cluster
from support.waiting import wait_for

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "mirror-conditions.md"
WHOLE = Interval.runs("A", 1, 9)


def statements(title: str) -> list[str]:
    """Return the SQL statements of a block in the guide, which begins with its title as a comment."""
    blocks = [block.partition("\n")[2] for block in GUIDE.read_text().split("```")]
    (text,) = [block.partition("\n")[2] for block in blocks if block.startswith(f"-- {title}")]
    return [one.strip() for one in text.split(";\n") if one.strip()]


def execute(url: str, some: list[str]) -> None:
    driver = sa.make_url(url).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(driver, isolation_level="AUTOCOMMIT")
    with engine.connect() as conn:
        for one in some:
            conn.exec_driver_sql(one.replace("%", "%%"))
    engine.dispose()


@pytest.fixture
def places() -> Iterator[tuple[str, str]]:
    """Two clusters with a migrated database in each."""
    with cluster("wal_level=logical") as central, cluster() as institute:
        urls = tuple(url.replace("@/postgres", "@/template1") for url in (central, institute))
        for url in urls:
            database = Database(url)
            database.migrate()
            database.close()
        yield urls[0], urls[1]


def publish(database: Database, run: int, value: float, replace: bool = False) -> str:
    with database.begin() as conn:
        tags.create_global_tag(conn, "central", 1.0)
        tags.create_tag(conn, "central/Gain", "arrays", 1.0)
        payload = Payload.arrays({"gain": np.array([value])})
        row = (Interval.runs("A", run, run), tags.put_payload(conn, payload, 1.0), "fitted", "")
        version = tags.append(conn, "central/Gain", [row], 1.0, replace=replace)
        tags.sweep(conn, "central", {"central/Gain": version}, 1.0)
        return tags.resolve(conn, "central", ["Gain"], WHOLE).hash


def test_the_subscriber_resolves_the_same_hash(places: tuple[str, str]) -> None:
    central, institute = (Database(url) for url in places)
    publish(central, 1, 1.0)
    execute(places[0], statements("At the source"))
    connection = sa.make_url(places[0])
    address = f"host={connection.query['host']} dbname=template1 user=test"
    told = "host=central.example dbname=beamwright user=mirror"
    execute(places[1], [one.replace(told, address) for one in statements("At the mirror")])
    publish(central, 2, 2.0)
    expected = publish(central, 1, 3.0, replace=True)

    def same() -> bool:
        with institute.read() as conn:
            found = conn.execute(sa.select(schema.global_tag.c.version)).scalar()
            return found == 3 and tags.resolve(conn, "central", ["Gain"], WHOLE).hash == expected

    wait_for(same)
    with central.begin() as conn:
        root = tags.freeze(conn, "central", 5.0)

    def frozen() -> bool:
        with institute.read() as conn:
            return conn.execute(sa.select(schema.global_tag.c.merkle)).scalar() == root

    wait_for(frozen)
    with institute.read() as conn:
        assert tags.merkle(conn, "central") == root
        earlier = tags.resolve(conn, "central", ["Gain"], Interval.runs("A", 1, 1), 1)
        assert tags.get_payload(conn, earlier.pieces[0][2]).unpack()[0]["gain"].tolist() == [1.0]
    refused = pytest.raises(sa.exc.DBAPIError, match="replicated from the source")
    with refused, institute.begin() as conn:
        tags.create_tag(conn, "mine/Gain", "arrays", 1.0)
    execute(places[1], ["DROP SUBSCRIPTION conditions"])
    for database in (central, institute):
        database.close()
