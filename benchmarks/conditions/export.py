"""A snapshot of 10,000 runs out of many intervals: of runs in a row, and of runs all over.

Beside it: the same run by run, which is what a site without `conditions export` would do (a tenth of the
runs, scaled). The goal: below 10 s among a million intervals.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from _filling import NAMES, databases, emptied, filled  # noqa: E402
from harness import Figure, arguments, report  # noqa: E402

from beamwright.conditions import tags  # noqa: E402
from beamwright.conditions.snapshot import Snapshot  # noqa: E402
from beamwright.core.runs import Interval  # noqa: E402
from beamwright.db.engine import Database  # noqa: E402

BENCH = "conditions/export"
RUNS = 10_000


def exported(database: Database, runs: list[int]) -> tuple[float, Snapshot]:
    """Return the seconds of an export and what it holds."""
    start = time.perf_counter()
    with database.read() as conn:
        data = tags.export(conn, "g", [Interval.runs("A", run, run) for run in runs], ["Gain"])
    return time.perf_counter() - start, Snapshot.from_bytes(data)


def run_by_run(database: Database, runs: list[int]) -> tuple[float, Snapshot]:
    """Return the seconds of resolving run by run and fetching each payload, and what that gives."""
    start = time.perf_counter()
    pieces, payloads = [], {}
    with database.read() as conn:
        for run in runs:
            pieces += tags.resolve(conn, "g", ["Gain"], Interval.runs("A", run, run)).pieces
            payloads[pieces[-1][2]] = tags.get_payload(conn, pieces[-1][2])
    snapshot = Snapshot("g", pieces, payloads)
    snapshot.to_bytes()
    return time.perf_counter() - start, snapshot


def figures(database: Database, name: str, n: int) -> list[Figure]:
    """Export both ways, out of n intervals."""
    wanted, found = min(RUNS, n), []
    places = {"in a row": range(n // 3, n // 3 + wanted), "all over": range(0, n, n // wanted)}
    for what, runs in places.items():
        ours, snapshot = exported(database, list(runs))
        some = list(runs[:: 1 if what == "in a row" else 10])[: wanted // 10]
        seconds, theirs = run_by_run(database, some)
        peer = seconds * len(runs) / len(some)
        asked = [("A", (run, 0, 0)) for run in some]
        same = all(snapshot.resolve("Gain", at)[1] == theirs.resolve("Gain", at)[1] for at in asked)
        work = f"{name}: export {wanted} runs {what}"
        found.append(Figure(BENCH, work, n, ours, peer, "run by run (a tenth)", "s", peer / ours, same))
    return found


def main() -> None:
    """Fill databases of two sizes and export."""
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
