"""Which jobs come next: by priority, then by age, whatever else waits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from beamwright.db import schema
from beamwright.production import jobs
from beamwright.production.workspace import Workspace
from kill import production

PRIORITIES = [0, 5, 0, -3, 5, 0]


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    made = production.make(tmp_path / "workspace")
    with made.db.begin() as conn:
        conn.execute(sa.update(schema.job).values(state="cancelled"))
        rows = [
            production.unit_row("pass", "process", ((2, n, 0), (2, n, 9)), [], (), farms=["near"] * (n % 2))
            for n in range(len(PRIORITIES))
        ]
        for job_id, priority in zip(production.add_units(conn, "pass", rows), PRIORITIES, strict=True):
            conn.execute(sa.update(schema.job).where(schema.job.c.id == job_id).values(priority=priority))
    yield made
    made.db.close()


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6, 50])
def test_the_most_urgent_come_first_then_the_oldest(workspace: Workspace, limit: int) -> None:
    with workspace.db.read() as conn:
        found = jobs.prepared(conn, 1.0, limit)
        first = min(
            conn.execute(sa.select(schema.job.c.id).where(schema.job.c.state == "prepared")).scalars()
        )
    assert [job_id - first for job_id, _, _ in found] == [1, 4, 0, 2, 5, 3][:limit]
    assert found[0] == (first + 1, ("near",), production.RELEASE)


def test_what_may_not_start_yet_or_belongs_to_others_is_passed_over(workspace: Workspace) -> None:
    with workspace.db.begin() as conn:
        conn.execute(sa.update(schema.job).where(schema.job.c.priority == 5).values(not_before=2.0))
        assert len(jobs.prepared(conn, 1.0, 50)) == 4
        assert len(jobs.prepared(conn, 2.0, 50)) == 6
        assert jobs.prepared(conn, 2.0, 50, releases={"sha256:another"}) == []
        assert jobs.prepared(conn, 2.0, 50, productions=[99]) == []
        assert len(jobs.prepared(conn, 2.0, 50, {production.RELEASE}, [1])) == 6
        conn.execute(sa.update(schema.task).values(state="held"))
        assert jobs.prepared(conn, 2.0, 50) == []
