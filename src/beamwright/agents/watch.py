"""Spares agents the work of looking where nothing has changed."""

from __future__ import annotations

from dataclasses import dataclass

from beamwright.core.clock import Clock
from beamwright.db import history
from beamwright.db.engine import Database

# Where several writers commit at once, the newest history line does not tell all: look again after this time.
LONGEST_SECONDS = 1.0


@dataclass
class Watch:
    """Is due when the history has grown since it was last due, or when some time has passed."""

    db: Database
    clock: Clock
    _mark: int = -1
    _at: float = float("-inf")

    def is_due(self) -> bool:
        """Tell whether to look again; asking takes note of what is there."""
        with self.db.read() as conn:
            mark = history.last(conn)
        now = self.clock.now()
        if mark == self._mark and now - self._at < LONGEST_SECONDS:
            return False
        self._mark, self._at = mark, now
        return True
