"""Write, read and verify DST-like tuples: ours against uproot's RNTuple and TTree and pyarrow's Parquet."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import uproot

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import Figure, arguments, report, seconds, side_by_side

from beamwright.event.rntuple import (
    ClusterCutter,
    ColumnData,
    FileWriter,
    NTupleFile,
    Schema,
    collection,
    leaf,
    record,
    seal_cluster,
    verify,
)

HIT = {"t": "f4", "charge": "f4", "x": "f4", "y": "f4", "z": "f4", "dom": "i4", "tot": "u1"}
TRACK = dict.fromkeys(("x", "y", "z", "dx", "dy", "dz", "t", "likelihood"), "f4")
SCHEMA = Schema(
    [
        leaf("run", "u4"),
        leaf("section", "u4"),
        leaf("event", "u8"),
        record("Header", [leaf("time", "f8"), leaf("flags", "u4")]),
        collection("Hit", [leaf(name, kind) for name, kind in HIT.items()]),
        collection("Track", [leaf(name, kind) for name, kind in TRACK.items()]),
    ]
)
BENCH = "event/rntuple_io"


def sample(n: int, seed: int = 1) -> ColumnData:
    """Return n events with 60 hits and 2 tracks on average; values as coarse as a detector gives them."""
    rng = np.random.default_rng(seed)
    arrays: ColumnData = {"run": np.full(n, 5, "u4"), "section": np.arange(n, dtype="u4") // 100}
    arrays |= {"event": np.arange(n, dtype="u8"), "Header.time": np.arange(n) * 1.1}
    arrays["Header.flags"] = rng.integers(0, 4, n).astype("u4")
    for bank, mean, columns in (("Hit", 60, HIT), ("Track", 2, TRACK)):
        offsets = np.concatenate([[0], np.cumsum(rng.poisson(mean, n))]).astype("i8")
        arrays[f"{bank}@0"] = offsets
        for name, kind in columns.items():
            if kind == "f4":
                values = rng.normal(0, 50, offsets[-1]).round(1 if name in ("t", "charge", "x") else 6)
            else:
                values = rng.integers(0, 2000 if name == "dom" else 60, offsets[-1])
            arrays[f"{bank}.{name}"] = values.astype(kind)
    return arrays


def lists(arrays: ColumnData) -> ak.Array:
    """Return the events in the form in which uproot writes them."""
    banks = {
        bank: ak.zip(
            {name: ak.unflatten(arrays[f"{bank}.{name}"], np.diff(arrays[f"{bank}@0"])) for name in columns}
        )
        for bank, columns in (("Hit", HIT), ("Track", TRACK))
    }
    header = ak.zip({"time": arrays["Header.time"], "flags": arrays["Header.flags"]})
    keys = {name: arrays[name] for name in ("run", "section", "event")}
    return ak.zip({**keys, "Header": header, **banks}, depth_limit=1)


def write(path: Path, arrays: ColumnData) -> None:
    """Write the events as the event store does, on one thread."""
    with path.open("wb") as out:
        writer, cutter = FileWriter(out, SCHEMA), ClusterCutter(SCHEMA)
        for cluster in cutter.add(arrays):
            writer.append(seal_cluster(SCHEMA, cluster))
        last = cutter.finish()
        if last is not None:
            writer.append(seal_cluster(SCHEMA, last))
        writer.close({})


def write_uproot(path: Path, events: ak.Array) -> None:
    """Write the events with uproot, same compression."""
    with uproot.recreate(path, compression=uproot.ZSTD(1)) as file:
        file.mkrntuple("events", events)


def read(path: Path) -> ColumnData:
    """Read all columns."""
    with NTupleFile(path) as file:
        return file.read()


def read_uproot(path: Path) -> ak.Array:
    """Read all columns with uproot."""
    with uproot.open(path, object_cache=None, array_cache=None) as file:
        return file["events"].arrays()


def same(arrays: ColumnData, events: ak.Array) -> bool:
    """Tell whether uproot's events have the values of ours."""
    flat = all(
        np.array_equal(ak.to_numpy(events[name]), arrays[name]) for name in ("run", "section", "event")
    )
    return flat and all(
        np.array_equal(ak.to_numpy(ak.flatten(events[bank, name])), arrays[f"{bank}.{name}"])
        for bank, columns in (("Hit", HIT), ("Track", TRACK))
        for name in columns
    )


def rate(
    work: str, n: int, size: float, ours: float, peer: float | None, name: str, equal: bool | None
) -> Figure:
    """Turn seconds into MB/s of unpacked values."""
    ratio = peer / ours if peer else None
    speed = size / peer if peer else None
    return Figure("event/rntuple_io", work, n, size / ours, speed, name, "MB/s", ratio, equal)


def write_tree(path: Path, events: ak.Array) -> None:
    """Write the events into a TTree with uproot, same compression."""
    fields = {name: events[name] for name in ("run", "section", "event", "Hit", "Track")}
    fields |= {f"Header_{name}": events["Header", name] for name in ("time", "flags")}
    with uproot.recreate(path, compression=uproot.ZSTD(1)) as file:
        file["events"] = fields


def read_tree(path: Path) -> ak.Array:
    """Read all branches with uproot."""
    with uproot.open(path, object_cache=None, array_cache=None) as file:
        return file["events"].arrays()


def same_tree(arrays: ColumnData, events: ak.Array) -> bool:
    """Tell whether a TTree has the values of ours."""
    return all(
        np.array_equal(ak.to_numpy(ak.flatten(events[bank, name])), arrays[f"{bank}.{name}"])
        for bank, columns in (("Hit", HIT), ("Track", TRACK))
        for name in columns
    )


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write the events with pyarrow, same compression; they are Arrow already."""
    pq.write_table(table, path, compression="zstd", compression_level=1)


def read_parquet(path: Path) -> pa.Table:
    """Read all columns on one thread."""
    return pq.read_table(path, use_threads=False)


def input_output(directory: Path, n: int, repeat: int) -> list[Figure]:
    """Compare writing and reading with the peers."""
    arrays = sample(n)
    events = lists(arrays)
    table = ak.to_arrow_table(events, extensionarray=False)
    size = sum(array.nbytes for array in arrays.values()) / 1e6
    ours, theirs, tree, parquet = (directory / name for name in ("o.root", "u.root", "t.root", "p.parquet"))
    writing = side_by_side(
        [
            seconds(lambda: write(ours, arrays)),
            seconds(lambda: write_uproot(theirs, events)),
            seconds(lambda: write_tree(tree, events)),
            seconds(lambda: write_parquet(parquet, table)),
        ],
        repeat,
    )
    reading = side_by_side(
        [
            seconds(lambda: read(ours)),
            seconds(lambda: read_uproot(theirs)),
            seconds(lambda: read_uproot(ours)),
            seconds(lambda: read_tree(tree)),
            seconds(lambda: read_parquet(parquet)),
        ],
        repeat,
    )
    proving = side_by_side([seconds(lambda: verify(ours))], repeat)
    found = read(ours)
    equal = same(arrays, read_uproot(ours)) and same(found, read_uproot(theirs))
    as_tree = same_tree(found, read_tree(tree))
    as_parquet = same(found, ak.from_arrow(read_parquet(parquet)))
    work, back = "write, zstd 1, with page checksums", "read all columns, checksums checked"
    return [
        rate(work, n, size, writing[0], writing[1], "uproot, RNTuple", equal),
        rate(work, n, size, writing[0], writing[2], "uproot, TTree", as_tree),
        rate(work, n, size, writing[0], writing[3], "pyarrow, Parquet", as_parquet),
        rate(back, n, size, reading[0], reading[1], "uproot, its own RNTuple", equal),
        rate(back, n, size, reading[0], reading[2], "uproot, our file", equal),
        rate(back, n, size, reading[0], reading[3], "uproot, TTree", as_tree),
        rate(back, n, size, reading[0], reading[4], "pyarrow, Parquet", as_parquet),
        rate("verify", n, size, proving[0], None, "", verify(ours).ok),
    ]


def main() -> None:
    """Write and read at N and 10 N."""
    options = arguments(__doc__, 20_000)
    figures = []
    for n in (options.events, 10 * options.events):
        with tempfile.TemporaryDirectory() as name:
            figures += input_output(Path(name), n, options.repeat)
    report(figures, options.json)


if __name__ == "__main__":
    main()
