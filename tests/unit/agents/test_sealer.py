"""The sealer works once in a while, and a little at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from beamwright.agents.sealer import EVERY_SECONDS, Sealer
from beamwright.db import history, seals
from beamwright.production.workspace import Workspace


class Hand:
    """A clock that is set by hand."""

    time = 1_000.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def test_a_turn_seals_a_part_until_all_is_sealed_and_then_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seals, "LINES", 4)
    workspace = Workspace.create(tmp_path)
    clock = workspace.clock = Hand()
    sealer = Sealer(workspace)

    def write(number: int) -> None:
        with workspace.db.begin() as conn:
            for _ in range(number):
                history.record(conn, "run", 1, "seen", actor="x", at=clock.time)

    def left() -> int:
        with workspace.db.read() as conn:
            return seals.open_lines(conn)

    write(9)
    found = []
    for _ in range(4):
        assert sealer.turn() == 0
        found.append(left())
    assert found == [5, 1, 0, 0]
    write(1)
    sealer.turn()
    assert left() == 1
    clock.time += EVERY_SECONDS
    sealer.turn()
    assert left() == 0
    write(9)
    sealer.finish()
    assert left() == 0
    workspace.db.close()
