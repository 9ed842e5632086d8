"""What a site lacks: the catalogue's anti-join against a scan of the site's directories."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from _filling import NAMES, databases, filled, is_there, path_of  # noqa: E402
from harness import Figure, arguments, report, side_by_side  # noqa: E402

from beamwright.catalog import replicas  # noqa: E402
from beamwright.catalog.asking import Question, ask  # noqa: E402
from beamwright.db.engine import Database  # noqa: E402

MOST_TO_SCAN = 500_000  # more files than that are not laid out for the peer


def ours(database: Database, found: list[set[str]]) -> Callable[[], float]:
    """Return what asks the catalogue, in seconds."""

    def run() -> float:
        start = time.perf_counter()
        with database.read() as conn:
            lacking = ask(conn, Question("file", seconds=600), replicas.lacking(["lyon"]))
            found.append({row["name"] for row in lacking})
        return time.perf_counter() - start

    return run


def scan(root: Path, files: int, found: list[set[str]]) -> Callable[[], float]:
    """Return what walks the site's directories and takes them off the list of all names, in seconds."""

    def run() -> float:
        start = time.perf_counter()
        seen = {name for _, _, names in os.walk(root) for name in names}
        lacking = (n for n in range(1, files + 1) if Path(path_of(n)).name not in seen)
        found.append({f"run{n // 100}/{Path(path_of(n)).name}" for n in lacking})
        return time.perf_counter() - start

    return run


def lay_out(root: Path, files: int) -> None:
    for number in range(1, files + 1):
        path = root / path_of(number).lstrip("/")
        if number % 1000 == 1 or not path.parent.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
        if is_there(number):
            path.touch()


def main() -> None:
    options = arguments(__doc__, 200_000)
    files, figures = options.events, []
    root = Path(tempfile.mkdtemp())
    try:
        has_peer = files <= MOST_TO_SCAN
        if has_peer:
            lay_out(root, files)
        with databases() as urls:
            for name, url in zip(NAMES, urls, strict=True):
                mine: list[set[str]] = []
                theirs: list[set[str]] = []
                database = filled(url, files)
                sides = [ours(database, mine), scan(root, files, theirs)]
                times = side_by_side(sides[: 1 + has_peer], options.repeat)
                database.close()
                peer = times[1] if has_peer else None
                equal = mine[-1] == theirs[-1] if has_peer else len(mine[-1]) == files // 1000
                label, ratio = f"{files} files, {name}", peer / times[0] if peer else None
                figures.append(
                    Figure(
                        "catalog/missing", label, files, times[0], peer, "directory scan", "s", ratio, equal
                    )
                )
    finally:
        shutil.rmtree(root)
    report(figures, options.json)


if __name__ == "__main__":
    main()
