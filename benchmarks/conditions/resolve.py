"""What a run resolves to, among many intervals and sweeps: now, and at an old version of the global tag.

Beside it: the same question as one range condition over both ends of the intervals, in SQL, of the newest
version alone. The goal: below 5 ms among a million intervals.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import sqlalchemy as sa  # noqa: E402
from _filling import NAMES, PER_SWEEP, databases, emptied, filled  # noqa: E402
from harness import Figure, arguments, report  # noqa: E402

from beamwright.conditions import tags  # noqa: E402
from beamwright.core.runs import Interval  # noqa: E402
from beamwright.db import schema  # noqa: E402
from beamwright.db.engine import Database  # noqa: E402

BENCH = "conditions/resolve"
ASKED = 40

Ask = Callable[[sa.Connection, int], str]


def timed(database: Database, runs: list[int], ask: Ask) -> tuple[float, list[str]]:
    """Return the median milliseconds of one answer, each in a transaction of its own, and the answers."""
    times, found = [], []
    for run in runs:
        start = time.perf_counter()
        with database.read() as conn:
            found.append(ask(conn, run))
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times), found


def resolver(version: int | None) -> Ask:
    """Return the question of a version."""

    def ask(conn: sa.Connection, run: int) -> str:
        found = tags.resolve(conn, "g", ["Gain"], Interval.runs("A", run, run), version)
        return found.pieces[0][2]

    return ask


def plain(conn: sa.Connection, run: int) -> str:
    """Ask for the interval around a run in one condition."""
    table = schema.iov
    held = (
        table.c.series == "A",
        table.c.first_run <= run,
        table.c.last_run >= run,
        table.c.removed.is_(None),
    )
    return str(conn.execute(sa.select(table.c.payload_id).where(table.c.tag_id == 1, *held)).scalar_one())


def figures(database: Database, name: str, n: int) -> list[Figure]:
    """Ask both ways, among n intervals."""
    found = []
    for what, version, limit in (("now", None, n), ("at half of the versions", n // PER_SWEEP // 2, n // 2)):
        runs = [limit * k // ASKED for k in range(ASKED)]
        ours, our_answers = timed(database, runs, resolver(version))
        peer, their_answers = timed(database, runs, plain)
        work = f"{name}: resolve a run, {what}"
        same = our_answers == their_answers
        found.append(
            Figure(BENCH, work, n, ours, peer, "a condition over both ends", "ms", peer / ours, same)
        )
    return found


def main() -> None:
    """Fill databases of two sizes and ask."""
    options = arguments(__doc__, events=1_000_000)
    found = []
    with databases() as urls:
        for name, url in zip(NAMES, urls, strict=True):
            for n in (options.events // 10, options.events):
                database = filled(url, n)
                found += figures(database, name, n)
                emptied(database)
    report(found, options.json)


if __name__ == "__main__":
    main()
