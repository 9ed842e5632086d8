"""Asking the catalogue: by name, 10,000 files by an indexed key, and by two keys of which one is a range.

Beside it: the same questions to the tables of MetaCat on PostgreSQL (see `register.py`), by its unique index
on names and its GIN index on metadata; a range it finds by reading all.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import sqlalchemy as sa  # noqa: E402
from _filling import NAMES, databases  # noqa: E402
from harness import Figure, arguments, report  # noqa: E402
from register import PER_ENERGY, PER_RUN, metacat, ours, record, write_list  # noqa: E402

from beamwright.catalog import files as catalogue  # noqa: E402
from beamwright.catalog.asking import Question, ask  # noqa: E402
from beamwright.db.engine import Database  # noqa: E402

Answer = Callable[[], set[str]]
PEER = "MetaCat's schema"


def our_answers(database: Database, files: int) -> dict[str, Answer]:
    """Return our questions, each giving the names that it finds."""
    middle, run = record(files // 2)["name"], files // 2 // PER_RUN

    def find(where: str) -> Answer:
        def answer() -> set[str]:
            with database.read() as conn:
                return {row["name"] for row in ask(conn, Question("file", where, seconds=600))}

        return answer

    def look_up() -> set[str]:
        with database.read() as conn:
            return {catalogue.show(conn, middle).did.name}

    energy = files // 2 // PER_ENERGY * 0.25
    return {
        "look-up by name": look_up,
        f"metadata, {min(PER_ENERGY, files)} rows": find(f"dq.energy == {energy}"),
        "metadata, two keys, range": find(f"dq.energy == {energy} and dq.run in {run}..{run + 4}"),
    }


def their_answers(engine: sa.Engine, files: int) -> dict[str, Answer]:
    """Return the same questions put to MetaCat's tables."""
    middle, run = record(files // 2)["name"].partition(":")[2], files // 2 // PER_RUN
    energy = files // 2 // PER_ENERGY * 0.25
    columns = "SELECT name, size, checksums, metadata FROM metacat.files WHERE"

    def find(condition: str, *values: object) -> Answer:
        def answer() -> set[str]:
            with engine.connect() as conn:
                rows = conn.exec_driver_sql(f"{columns} {condition}", tuple(values))  # noqa: S608 - fixed text
                return {row[0] for row in rows}

        return answer

    same = json.dumps({"dq.energy": energy})
    within = f'$."dq.run" ? (@ >= {run} && @ <= {run + 4})'
    return {
        "look-up by name": find("namespace = 'dst' AND name = %s", middle),
        f"metadata, {min(PER_ENERGY, files)} rows": find("metadata @> %s::jsonb", same),
        "metadata, two keys, range": find("metadata @> %s::jsonb AND metadata @? %s::jsonpath", same, within),
    }


def timed(answer: Answer, repeat: int) -> tuple[float, set[str]]:
    """Return the median time of an answer in ms, and the answer."""
    found, times = answer(), []
    for _ in range(repeat):
        start = time.perf_counter()
        found = answer()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times), found


def main() -> None:
    options = arguments(__doc__, 200_000)
    files, figures = options.events, []
    with TemporaryDirectory() as folder, databases() as urls:
        place = write_list(Path(folder) / "list.jsonl", files)
        copied, _ = metacat(urls[1], files)
        engine = sa.create_engine(urls[1].set(drivername="postgresql+psycopg"))
        theirs = their_answers(engine, files)
        for name, url in zip(NAMES, urls, strict=True):
            taken, database = ours(url, place)
            what, mine, peer = f"filled on the way, {name}", files / taken, files / copied
            figures.append(
                Figure(
                    "catalog/query", what, files, mine, peer, f"COPY, {PEER}", "files/s", mine / peer, None
                )
            )
            with engine.connect() as conn:
                conn.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("ANALYZE")
            for work, answer in our_answers(database, files).items():
                mine, found = timed(answer, 4 * options.repeat)
                peer, wanted = timed(theirs[work], 4 * options.repeat)
                figures.append(
                    Figure("catalog/query", f"{work}, {name}", files, mine, peer, PEER, "ms", peer / mine,
                           found == wanted)
                )  # fmt: skip
            database.close()
        engine.dispose()
    report(figures, options.json)


if __name__ == "__main__":
    main()
