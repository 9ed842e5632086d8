"""A database with the sample production."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from beamwright.db.engine import Database
from support.sample_production import Sample


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "beamwright.db")
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def conn(database: Database) -> Iterator[sa.Connection]:
    with database.begin() as connection:
        Sample(connection).build()
    with database.read() as connection:
        yield connection
