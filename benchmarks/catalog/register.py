"""Registering files with five keys of metadata each, two of them indexed: on SQLite and PostgreSQL.

Ours is `file register --from LIST.jsonl` without the start of the interpreter: every record is read, checked
and written in durable batches. Beside it: a bare COPY of the same rows, prepared beforehand, into the tables
of MetaCat (written down here from its public structure), and daf_butler on SQLite with fewer files.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import sqlalchemy as sa  # noqa: E402
from _filling import NAMES, databases  # noqa: E402
from harness import Figure, arguments, report  # noqa: E402

from beamwright.catalog import metadata  # noqa: E402
from beamwright.catalog.registering import register  # noqa: E402
from beamwright.catalog.streams import read_records  # noqa: E402
from beamwright.catalog.writers import Source  # noqa: E402
from beamwright.db import schema  # noqa: E402
from beamwright.db.engine import Database  # noqa: E402

BUTLER_FILES = 20_000
PER_RUN, PER_ENERGY = 200, 10_000
KIND = {
    "name": "dq",
    "subject": "file",
    "key": {
        "energy": {"type": "float", "unit": "GeV", "indexed": True},
        "run": {"type": "int", "indexed": True},
        "site": {"type": "text"},
        "events": {"type": "int"},
        "good": {"type": "bool"},
    },
}
METACAT = (
    "CREATE TABLE namespaces (name text PRIMARY KEY, owner text, description text)",
    "CREATE TABLE files (id text PRIMARY KEY, namespace text REFERENCES namespaces(name), name text, "
    "metadata jsonb, creator text, created_timestamp timestamptz, size bigint, checksums jsonb, "
    "retired boolean DEFAULT false)",
    "CREATE UNIQUE INDEX files_names ON files (namespace, name)",
    "CREATE INDEX files_metadata ON files USING gin (metadata jsonb_path_ops)",
    "CREATE INDEX files_created ON files (created_timestamp)",
    "CREATE TABLE files_datasets (file_id text REFERENCES files(id), dataset_namespace text, "
    "dataset_name text, PRIMARY KEY (dataset_namespace, dataset_name, file_id))",
    "INSERT INTO namespaces VALUES ('dst', 'bench', '')",
)


def said(number: int) -> dict[str, Any]:
    """Return what is said of a file."""
    run = number // PER_RUN
    return {
        "energy": number // PER_ENERGY * 0.25,
        "run": run,
        "site": f"site{number % 7}",
        "events": number % 5000,
        "good": True,
    }


def record(number: int) -> dict[str, Any]:
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    name = f"dst:run{number // PER_RUN:06d}/dst.{number:08d}.root"
    known = {"name": name, "size": 1_000_000 + number, "sha256": digest, "adler32": digest[:8], "tier": "dst"}
    return known | {"metadata": {"dq": said(number)}}


def write_list(path: Path, files: int) -> Path:
    with path.open("w") as stream:
        stream.writelines(json.dumps(record(number)) + "\n" for number in range(files))
    return path


def ours(url: sa.URL, place: Path) -> tuple[float, Database]:
    """Register a list; return the seconds, until all stands in the files, and the database."""
    database = Database(url)
    database.migrate()
    with database.begin() as conn:
        metadata.declare(conn, KIND, 1.0)
    start = time.perf_counter()
    register(database, "file", read_records(place), Source(place.name, 2.0))
    database.close()
    return time.perf_counter() - start, Database(url)


def metacat(url: sa.URL, files: int) -> tuple[float, int]:
    """Copy the rows into MetaCat's tables, prepared; return the seconds and how many are there."""
    engine = sa.create_engine(url.set(drivername="postgresql+psycopg"))
    with engine.begin() as conn:
        for statement in ("CREATE SCHEMA metacat", "SET search_path TO metacat", *METACAT):
            conn.exec_driver_sql(statement)
    tables = {
        name: list(lines(files)) for name, lines in (("files", _file_lines), ("files_datasets", _links))
    }
    columns = {
        "files": "id, namespace, name, metadata, creator, created_timestamp, size, checksums",
        "files_datasets": "file_id, dataset_namespace, dataset_name",
    }
    start = time.perf_counter()
    with engine.begin() as conn:
        conn.exec_driver_sql("SET search_path TO metacat")
        with conn.connection.driver_connection.cursor() as cursor:  # type: ignore[union-attr]
            for name, blocks in tables.items():
                with cursor.copy(f"COPY {name} ({columns[name]}) FROM STDIN") as copy:
                    for block in blocks:
                        copy.write(block)
    spent = time.perf_counter() - start
    with engine.begin() as conn:
        number = conn.exec_driver_sql("SELECT count(*) FROM metacat.files").scalar_one()
    engine.dispose()
    return spent, int(number)


def _blocks(files: int, line: Callable[[int], str]) -> Iterator[str]:
    for start in range(0, files, 5000):
        yield "".join(line(number) for number in range(start, min(start + 5000, files)))


def _file_lines(files: int) -> Iterator[str]:
    def line(number: int) -> str:
        digest = hashlib.sha256(str(number).encode()).hexdigest()
        content = json.dumps({f"dq.{key}": value for key, value in said(number).items()})
        sums = json.dumps({"sha256": digest, "adler32": digest[:8]})
        name = f"run{number // PER_RUN:06d}/dst.{number:08d}.root"
        values = (digest[:32], "dst", name, content, "bench", "2026-01-01", str(1_000_000 + number), sums)
        return "\t".join(values) + "\n"

    return _blocks(files, line)


def _links(files: int) -> Iterator[str]:
    def line(number: int) -> str:
        digest = hashlib.sha256(str(number).encode()).hexdigest()
        return f"{digest[:32]}\tdst\tall\n"

    return _blocks(files, line)


BUTLER = """
import sys, time, json, tempfile
from lsst.daf.butler import Butler, DatasetType, DimensionConfig
n = int(sys.argv[1])
root = tempfile.mkdtemp()
Butler.makeRepo(root)
butler = Butler.from_config(root, writeable=True)
registry = butler.registry
butler.collections.register("run")
known = {"name": "cam", "class_name": "x.Y", "visit_max": n, "exposure_max": n, "detector_max": n}
registry.insertDimensionData("instrument", known)
kind = DatasetType("dst", {"instrument", "detector"}, "StructuredDataDict", universe=butler.dimensions)
registry.registerDatasetType(kind)
start = time.perf_counter()
for first in range(0, n, 5000):
    some = range(first, min(first + 5000, n))
    registry.insertDimensionData("detector", *({"instrument": "cam", "id": i, "full_name": f"dst.{i:08d}",
        "name_in_raft": f"site{i % 7}", "raft": f"run{i // 200}", "purpose": "SCIENCE"} for i in some))
    registry.insertDatasets("dst", [{"instrument": "cam", "detector": i} for i in some], run="run")
spent = time.perf_counter() - start
print(json.dumps({"seconds": spent, "number": len(set(registry.queryDatasets("dst", collections="run")))}))
"""


def butler(files: int) -> tuple[float, int] | None:
    """Register with daf_butler in a virtual environment of its own; None where it cannot be installed."""
    place = Path.home() / ".cache" / "beamwright-bench" / "butler"
    python = place / "bin" / "python"
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        known = subprocess.run([python, "-c", "import lsst.daf.butler"], capture_output=True, check=False)
        if known.returncode:
            subprocess.run([python, "-m", "pip", "install", "-q", "lsst-daf-butler"], check=True)
        done = subprocess.run(
            [python, "-c", BUTLER, str(files)], check=True, capture_output=True, text=True, timeout=600
        )
    except (subprocess.SubprocessError, OSError) as error:
        print(f"daf_butler was left out: {error}", file=sys.stderr)
        return None
    told = json.loads(done.stdout.splitlines()[-1])
    return float(told["seconds"]), int(told["number"])


def _count(database: Database) -> int:
    tables = (schema.file, schema.metadata_document, schema.metadata_integer, schema.metadata_number)
    with database.read() as conn:
        counts = {conn.execute(sa.select(sa.func.count()).select_from(t)).scalar_one() for t in tables}
    return counts.pop() if len(counts) == 1 else -1


def one_round(place: Path, files: int) -> dict[str, tuple[float, bool]]:
    """Return the files per second of each side on new databases, and whether all that was given is there."""
    with databases() as urls:
        spent, number = metacat(urls[1], files)
        found = {"peer": (files / spent, number == files)}
        for name, url in zip(NAMES, urls, strict=True):
            taken, database = ours(url, place)
            found[name] = files / taken, _count(database) == files
            database.close()
    return found


def main() -> None:
    options = arguments(__doc__, 200_000)
    files, figures = options.events, []
    with TemporaryDirectory() as folder:
        place = write_list(Path(folder) / "list.jsonl", files)
        rounds = [one_round(place, files) for _ in range(options.repeat)]
    rates = {name: statistics.median(one[name][0] for one in rounds) for name in rounds[0]}
    equal = all(is_equal for one in rounds for _, is_equal in one.values())
    for name in NAMES:
        # The rounds are pairs, taken side by side: the median of their ratios is the steadier one.
        ratio = statistics.median(one[name][0] / one["peer"][0] for one in rounds)
        what, peer = f"register {files} files, {name}", "COPY into MetaCat's schema"
        figures.append(
            Figure("catalog/register", what, files, rates[name], rates["peer"], peer, "files/s", ratio, equal)
        )
    theirs = butler(min(BUTLER_FILES, files))
    if theirs is not None:
        rate, what = theirs[1] / theirs[0], f"register files, SQLite; butler {theirs[1]}"
        same = theirs[1] == min(BUTLER_FILES, files)
        ratio = rates["SQLite"] / rate
        figures.append(
            Figure(
                "catalog/register", what, files, rates["SQLite"], rate, "daf_butler", "files/s", ratio, same
            )
        )
    report(figures, options.json)


if __name__ == "__main__":
    main()
