"""The event store above the file format: streams of banks against Parquet, skims and their deep copies."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import Figure, arguments, report, seconds, side_by_side

from beamwright.core.lineage import Lineage
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch
from beamwright.event.columnar import to_awkward
from beamwright.event.pointer import PointerWriter, promote
from beamwright.event.sources import SourceFiles
from beamwright.event.store import CollectionReader, StreamWriter
from beamwright.event.table import Table, offsets_of

BENCH = "event/store"
COLUMNS = {"t": "f4", "charge": "f4", "x": "f4", "y": "f4", "z": "f4", "dom": "i4", "tot": "u1"}
BANKS = BankSet.from_document(
    {
        "Header": {"rows": "one", "columns": {"time": {"type": "f8"}, "flags": {"type": "u4"}}},
        "Hit": {"columns": {name: {"type": kind} for name, kind in COLUMNS.items()}},
        "Class": {"rows": "one", "columns": {"score": {"type": "f4"}}},
    }
)
STORED = BANKS.subset(["Header", "Hit"])
LINEAGE = Lineage("bench", "b", "s", "p", "dst", "dst", "B", "r", "c")
CHUNK = 4096


def sample(n: int) -> list[Batch]:
    """Return n events with 60 hits on average, in batches; values as coarse as a detector gives them."""
    rng = np.random.default_rng(1)
    batches = []
    for start in range(0, n, CHUNK):
        events = np.arange(start, min(start + CHUNK, n), dtype=np.uint64)
        counts = rng.poisson(60, len(events))
        rows = int(counts.sum())
        hits = {
            name: rng.normal(0, 50, rows).round(1).astype(kind)
            if kind == "f4"
            else rng.integers(0, 2000 if name == "dom" else 60, rows).astype(kind)
            for name, kind in COLUMNS.items()
        }
        batch = Batch("event", "B", 1, (events // 100).astype("u4"), events, banks=BANKS)
        batch["Header"] = Table.one(
            "Header", {"time": events * 1.1, "flags": rng.integers(0, 4, len(events))}
        )
        batch["Hit"] = Table("Hit", offsets_of(counts), hits)
        batch["Class"] = Table.one("Class", {"score": rng.normal(size=len(events)).astype("f4")})
        batches.append(batch)
    return batches


def write(path: Path, batches: list[Batch]) -> None:
    """Write the stream."""
    path.unlink(missing_ok=True)
    with StreamWriter(path, "dst", STORED, LINEAGE) as writer:
        for batch in batches:
            writer.write(batch)
        writer.close()


def write_parquet(path: Path, tables: list[object]) -> None:
    """Write the same with pyarrow; its input is Arrow already."""
    with pq.ParquetWriter(path, tables[0].schema, compression="zstd", compression_level=1) as writer:
        for table in tables:
            writer.write_table(table)


def read(path: Path) -> float:
    """Read all banks in batches; return the sum of the charges."""
    with CollectionReader([path]) as reader:
        return sum(float(b["Hit"].charge.sum(dtype="f8")) for b in reader.batches(size=32_768))


def read_parquet(path: Path) -> float:
    """Read all columns; return the sum of the charges."""
    hits = pq.read_table(path, use_threads=False)["Hit"].combine_chunks()
    charges = hits.flatten().field("charge").to_numpy(zero_copy_only=False)
    return float(charges.sum(dtype="f8"))


def skim(path: Path, parent: Path, batches: list[Batch], borrow: tuple[str, ...]) -> None:
    """Select one event in ten, as a pointer skim or, borrowing nothing, as a deep copy."""
    path.unlink(missing_ok=True)
    with CollectionReader([parent]) as reader:
        made = (
            PointerWriter(path, "dst", BANKS, LINEAGE, parents=reader, borrow=borrow)
            if borrow
            else StreamWriter(path, "dst", BANKS, LINEAGE)
        )
        with made as writer:
            for batch in batches:
                writer.write(batch.take(batch.event % 10 == 3))
            writer.close()


def deep_copy(path: Path, parent: Path, batches: list[Batch]) -> None:
    """Select the same events, read from the file as a path reads them, and write the deep copy."""
    path.unlink(missing_ok=True)
    with CollectionReader([parent]) as reader, StreamWriter(path, "dst", BANKS, LINEAGE) as writer:
        for made, batch in zip(batches, reader.batches(size=CHUNK), strict=True):
            batch.banks = BANKS
            batch["Class"] = made["Class"]
            writer.write(batch.take(batch.event % 10 == 3))
        writer.close()


def streams(folder: Path, batches: list[Batch], n: int, repeat: int) -> list[Figure]:
    """Compare writing and reading with Parquet."""
    import awkward as ak

    size = sum(b.only(["Header", "Hit"]).nbytes for b in batches) / 1e6
    arrow = [ak.to_arrow_table(to_awkward(b.only(["Header", "Hit"])), extensionarray=False) for b in batches]
    ours, theirs = folder / "dst.root", folder / "dst.parquet"
    writing = side_by_side(
        [seconds(lambda: write(ours, batches)), seconds(lambda: write_parquet(theirs, arrow))], repeat
    )
    reading = side_by_side([seconds(lambda: read(ours)), seconds(lambda: read_parquet(theirs))], repeat)
    equal = bool(np.isclose(read(ours), read_parquet(theirs), rtol=1e-9))
    return [
        Figure(BENCH, work, n, size / own, size / peer, "pyarrow, Parquet", "MB/s", peer / own, equal)
        for work, (own, peer) in (("write banks, zstd 1", writing), ("read all banks", reading))
    ]


def skims(folder: Path, batches: list[Batch], n: int, repeat: int) -> list[Figure]:
    """Compare a pointer skim with a deep one, and tell what promoting and looking up take."""
    parent, pointer, deep, copy = (folder / f"{name}.root" for name in ("dst", "pointer", "deep", "copy"))
    sides = [
        seconds(lambda: skim(pointer, parent, batches, ("Header", "Hit"))),
        seconds(lambda: skim(deep, parent, batches, ())),
    ]
    pointing, copying = side_by_side(sides, repeat)
    sources = SourceFiles.of([parent])

    def promoted() -> None:
        copy.unlink(missing_ok=True)
        promote(pointer, copy, sources)

    again = folder / "again.root"
    promoting, reading = side_by_side(
        [seconds(promoted), seconds(lambda: deep_copy(again, parent, batches))], repeat
    )
    equal = copy.read_bytes() == deep.read_bytes()
    sizes = pointer.stat().st_size / 1e6, deep.stat().st_size / 1e6
    return [
        Figure(BENCH, "write a 10 % skim", n, pointing, copying, "deep copy", "s", copying / pointing, equal),
        Figure(BENCH, "size of a 10 % skim", n, *sizes, "deep copy", "MB", sizes[1] / sizes[0], equal),
        Figure(BENCH, "promote it", n, promoting, reading, "deep copy out of the file", "s",
               reading / promoting, equal and again.read_bytes() == deep.read_bytes()),
    ]  # fmt: skip


def main() -> None:
    """Measure at N and 10 N."""
    options = arguments(__doc__, 20_000)
    figures = []
    for n in (options.events, 10 * options.events):
        with tempfile.TemporaryDirectory() as name:
            batches, folder = sample(n), Path(name)
            figures += streams(folder, batches, n, options.repeat)
            figures += skims(folder, batches, n, options.repeat)
    report(figures, options.json)


if __name__ == "__main__":
    main()
