"""Find one event by its key and read its banks: ours against Parquet, uproot, and a TTree with an index."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import uproot

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from harness import Figure, arguments, report, side_by_side
from store import BANKS, LINEAGE, STORED, sample

from beamwright.core.runs import EventKey
from beamwright.event.batch import Batch
from beamwright.event.collection import CollectionReader
from beamwright.event.columnar import to_awkward
from beamwright.event.lookup import read_record
from beamwright.event.store import StreamWriter

BENCH = "event/lookup"
CHUNK = 20_000
ROWS = 4096
LOOKUPS = 20

Lookup = Callable[[int], float]


def batches(n: int):
    """Yield n events as batches; the hits of a chunk are those of the one before, the keys go on."""
    chunk = sample(min(n, CHUNK))
    for start in range(0, n, CHUNK):
        for part in chunk:
            events = part.event + np.uint64(start)
            yield Batch("event", "B", 1, (events // 100).astype("u4"), events, part.tables, banks=BANKS)


def write(folder: Path, n: int) -> None:
    """Write the events as our file, as Parquet with row groups of some thousand, and as a TTree."""
    parquet: pq.ParquetWriter | None = None
    with (
        StreamWriter(folder / "ours.root", "dst", STORED, LINEAGE) as writer,
        uproot.recreate(folder / "tree.root", compression=uproot.ZSTD(1)) as tree,
    ):
        for batch in batches(n):
            writer.write(batch)
            events = to_awkward(batch.only(["Header", "Hit"]))
            table = ak.to_arrow_table(events, extensionarray=False)
            if parquet is None:
                parquet = pq.ParquetWriter(
                    folder / "p.parquet", table.schema, compression="zstd", compression_level=1
                )
            parquet.write_table(table, row_group_size=ROWS)
            branches = {"event": batch.event, "time": batch["Header"].time, "Hit": events["Hit"]}
            if "events" in tree:
                tree["events"].extend(branches)
            else:
                tree["events"] = branches
        writer.close()
        assert parquet is not None
        parquet.close()


def ours(folder: Path) -> Lookup:
    """Open the file, find the key, read all banks."""

    def look_up(event: int) -> float:
        with CollectionReader([folder / "ours.root"]) as reader:
            batch = read_record(reader, EventKey("B", 1, event // 100, event))
            return float(batch["Hit"].charge.sum(dtype="f8"))

    return look_up


def parquet(folder: Path) -> Lookup:
    """Open the file, choose row groups by their statistics, read the row."""

    def look_up(event: int) -> float:
        table = pq.read_table(folder / "p.parquet", filters=[("event", "=", event)], use_threads=False)
        hits = table["Hit"].combine_chunks().flatten().field("charge")
        return float(pc.sum(hits.cast(pa.float64())).as_py() or 0.0)

    return look_up


def uproot_keys(name: str) -> Callable[[Path], Lookup]:
    """Open the file, read the column of keys, then the entry."""

    def opened(folder: Path) -> Lookup:
        def look_up(event: int) -> float:
            with uproot.open(folder / name, object_cache=None, array_cache=None) as file:
                events = file["events"]["event"].array(library="np")
                at = int(np.searchsorted(events, event))
                found = file["events"].arrays(entry_start=at, entry_stop=at + 1)
                return float(np.sum(ak.to_numpy(ak.flatten(found["Hit", "charge"])), dtype="f8"))

        return look_up

    return opened


def milliseconds(look_up: Lookup, chosen: list[int], found: list[float]) -> Callable[[], float]:
    """Return a side that looks all up, leaves what it found, and tells the milliseconds for one."""

    def side() -> float:
        start = time.perf_counter()
        found[:] = [look_up(event) for event in chosen]
        return 1e3 * (time.perf_counter() - start) / len(chosen)

    return side


def measure(folder: Path, n: int, repeat: int) -> list[Figure]:
    """Compare all sides; each opens its file anew for every event."""
    write(folder, n)
    chosen = np.random.default_rng(2).integers(0, n, LOOKUPS).tolist()
    sides = {
        "": ours,
        "pyarrow, Parquet, statistics": parquet,
        "uproot, our file, keys read": uproot_keys("ours.root"),
        "uproot, TTree, keys read": uproot_keys("tree.root"),
    }
    found: list[list[float]] = [[] for _ in sides]
    timed = [milliseconds(make(folder), chosen, f) for make, f in zip(sides.values(), found, strict=True)]
    spent, *others = side_by_side(timed, repeat)
    figures = []
    for (name, peer), sums in zip(zip(list(sides)[1:], others, strict=True), found[1:], strict=True):
        equal = bool(np.allclose(found[0], sums, rtol=1e-6))
        work = "find and read one event, file opened anew"
        figures.append(Figure(BENCH, work, n, spent, peer, name, "ms", peer / spent, equal))
    return figures


def main() -> None:
    """Look up in N and 10 N events; by default in 100,000 and in a million."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    options = arguments(__doc__, 100_000)
    figures = []
    for n in (options.events, 10 * options.events):
        with tempfile.TemporaryDirectory() as name:
            figures += measure(Path(name), n, min(options.repeat, 3))
    report(figures, options.json)


if __name__ == "__main__":
    main()
