"""Spares agents the work of looking where nothing has changed."""

from __future__ import annotations

from dataclasses import dataclass

from beamwright.core.clock import Clock
from beamwright.db import history
from beamwright.db.engine import Database

# Where several writers commit at once, the newest history line does not tell all: look again after this time.
LONGEST_SECONDS = 1.0

# What gives nobody new work: a job on its way, and what comes with its end.
PASSING = frozenset({"attempt", "file", "replica", "collection"})
PASSING_MOVES = frozenset({("job", "prepared"), ("job", "submitted"), ("job", "running")})


@dataclass
class Watch:
    """Is due when something has happened that may give work, or when some time has passed."""

    db: Database
    clock: Clock
    _mark: int = -1
    _at: float = float("-inf")

    def is_due(self) -> bool:
        """Tell whether to look again; asking takes note of what is there."""
        with self.db.read() as conn:
            mark = history.last(conn)
            news = history.moves_since(conn, self._mark) if mark != self._mark else set()
        now = self.clock.now()
        is_quiet = all(kind in PASSING or (kind, target) in PASSING_MOVES for kind, target in news)
        self._mark = mark
        if is_quiet and now - self._at < LONGEST_SECONDS:
            return False
        self._at = now
        return True
