"""A production that is moved to another database half-way ends with the same results."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from beamwright import fsck
from beamwright.cli.main import run
from beamwright.db import schema
from beamwright.production.workspace import Workspace
from support.toy_production import ToyProduction


class Halfway:
    """Stops a production once some of its jobs are done and others are not."""

    def __init__(self, made: ToyProduction) -> None:
        self.made = made
        self.counts: dict[str, int] = {}

    def __call__(self, _done: int) -> None:
        state = schema.job.c.state
        with self.made.workspace.db.read() as conn:
            rows = conn.execute(sa.select(state, sa.func.count()).group_by(state))
            self.counts = {row[0]: row[1] for row in rows}
        if self.counts.get("ok", 0) >= 8 and len(self.counts) > 1:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_production_moved_half_way_and_back_has_the_same_results(
    tmp_path: Path, postgresql_new: sa.URL
) -> None:
    undisturbed = ToyProduction(tmp_path / "undisturbed")
    undisturbed.produce()
    moved = ToyProduction(tmp_path / "moved")
    halfway = Halfway(moved)
    with pytest.raises(KeyboardInterrupt):
        moved.produce(on_turn=halfway)
    moved.workspace.db.close()
    root = moved.workspace.root
    target = postgresql_new.set(drivername="postgresql").render_as_string()
    assert run(["db", "move", target, "-w", str(root)]) == 0
    moved.workspace = Workspace.open(root)
    assert moved.workspace.db.is_postgresql
    moved.produce()
    moved.workspace.db.close()
    assert moved.collections() == undisturbed.collections()
    assert fsck.run(moved.workspace.db, root, deep=True) == []
    moved.workspace.db.close()
    assert run(["db", "move", "again.db", "-w", str(root)]) == 0
    moved.workspace = Workspace.open(root)
    assert not moved.workspace.db.is_postgresql
    assert moved.collections() == undisturbed.collections()
    assert moved.produce() and moved.collections() == undisturbed.collections()
    assert run(["db", "verify", "-w", str(root)]) == 0
    with moved.workspace.db.read() as conn:
        assert conn.scalar(sa.select(sa.func.count()).select_from(schema.seal)) > 2
    moved.workspace.db.close()
