"""Spares agents the work of looking where nothing has changed."""

from __future__ import annotations

from dataclasses import dataclass

from beamwright.core.clock import Clock
from beamwright.db import news
from beamwright.db.engine import Database

# Time gives work, too: a limit of waiting passes, another program changes a file.
LONGEST_SECONDS = 1.0

# What gives nobody new work: a job on its way, and what comes with its end.
PASSING = frozenset({"attempt", "file", "replica", "collection"})
PASSING_MOVES = frozenset({("job", "prepared"), ("job", "submitted"), ("job", "running")})


@dataclass
class Watch:
    """Is due when something has happened that may give work, or when some time has passed."""

    db: Database
    clock: Clock
    _reader: news.Reader | None = None
    _at: float = float("-inf")

    def is_due(self) -> bool:
        """Tell whether to look again; asking takes note of what is there."""
        self._reader = self._reader or news.Reader(self.db)
        now, told = self.clock.now(), self._reader.take()
        is_quiet = all(kind in PASSING or (kind, target) in PASSING_MOVES for kind, target in told)
        if is_quiet and now - self._at < LONGEST_SECONDS:
            return False
        self._at = now
        return True
