"""The sealer: chains the history behind the writers, so that nobody can change it unnoticed."""

from __future__ import annotations

from dataclasses import dataclass

from beamwright.db import seals
from beamwright.production.workspace import Workspace

EVERY_SECONDS = 60.0
PATIENCE_SECONDS = 0.2


@dataclass
class Sealer:
    """Seals what is settled once in a while; what long transactions keep open waits for a later turn."""

    workspace: Workspace
    name: str = "sealer"
    _due: float = 0.0

    def turn(self) -> int:
        """Seal when it is due, a little at a time; a seal gives nobody work, so it does not count."""
        now = self.workspace.clock.now()
        if now >= self._due:
            done = seals.seal(self.workspace.db, now, PATIENCE_SECONDS, most=1)
            self._due = now if done == seals.LINES else now + EVERY_SECONDS
        return 0

    def finish(self) -> None:
        """Seal all that is settled: a production ends with a history that nobody can change unnoticed."""
        seals.seal(self.workspace.db, self.workspace.clock.now(), PATIENCE_SECONDS)
