"""What the history has got since it was last asked for, whatever the order in which transactions end.

Its reader remembers a line below which nothing can be added any more (see ``db.seals``), and the lines after
it that it has seen: one with a lower number than theirs that appears later is news all the same.
"""

from __future__ import annotations

import sqlalchemy as sa

from beamwright.db import history, schema, seals
from beamwright.db.engine import Database

PATIENCE_SECONDS = 0.2
News = set[tuple[str, str]]


class Reader:
    """Reads each line of the history once; the lines that are there when it is made are not news."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._settled = seals.watermark(database, PATIENCE_SECONDS) or self._sealed()
        self._seen: set[int] = set()
        self._open: tuple[int, set[str]] | None = None
        self.take()

    def take(self) -> News:
        """Return what has happened since the last time, as (kind, target)."""
        with self._database.read() as conn:
            newest = history.last(conn)
        if newest == self._settled:
            return set()
        # Settled first, then the lines: all those up to the settled one can be seen by now.
        settled = self._settle(newest)
        lines = self._after(self._settled)
        news = {(line.kind, line.target) for line in lines if line.id not in self._seen}
        self._settled = settled
        self._seen = {line.id for line in lines if line.id > settled}
        return news

    def _settle(self, newest: int) -> int:
        """Return the newest line that is known to be final, now that ``newest`` can be seen."""
        if not self._database.is_postgresql:
            return newest
        noted, older = self._open or (newest, seals.writers(self._database))
        older &= seals.writers(self._database) if older else set()
        self._open = (noted, older) if older else None
        return self._settled if older else noted

    def _after(self, line: int) -> list[sa.Row[tuple[int, str, str]]]:
        table = schema.history
        query = sa.select(table.c.id, table.c.kind, table.c.target).where(table.c.id > line)
        with self._database.read() as conn:
            return list(conn.execute(query))

    def _sealed(self) -> int:
        """Return the last line that is sealed: where writers are never all at rest, it is final at least."""
        with self._database.read() as conn:
            head = seals.head(conn)
        return int(head["last"]) if head else 0
