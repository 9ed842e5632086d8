"""Write, read, verify and merge DST-like tuples: ours against uproot's writer and reader and ROOT's hadd."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from pathlib import Path

import awkward as ak
import numpy as np
import uproot

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import Figure, arguments, child_cpu, report, seconds, side_by_side

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
FILES = 20
START = "import beamwright.event.rntuple"
MERGE = (
    "import sys\n"
    "from beamwright.event.rntuple import merge_files\n"
    "with open(sys.argv[1], 'wb') as out:\n"
    "    merge_files(sys.argv[2:], out, {})\n"
)


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


def input_output(directory: Path, n: int, repeat: int) -> list[Figure]:
    """Compare writing and reading with uproot."""
    arrays = sample(n)
    events = lists(arrays)
    size = sum(array.nbytes for array in arrays.values()) / 1e6
    ours, theirs = directory / "ours.root", directory / "uproot.root"
    writing = side_by_side(
        [seconds(lambda: write(ours, arrays)), seconds(lambda: write_uproot(theirs, events))], repeat
    )
    reading = side_by_side(
        [
            seconds(lambda: read(ours)),
            seconds(lambda: read_uproot(theirs)),
            seconds(lambda: read_uproot(ours)),
        ],
        repeat,
    )
    proving = side_by_side([seconds(lambda: verify(ours))], repeat)
    equal = same(arrays, read_uproot(ours)) and same(read(ours), read_uproot(theirs))
    return [
        rate("write, zstd 1, with page checksums", n, size, writing[0], writing[1], "uproot", equal),
        rate(
            "read all columns, checksums checked",
            n,
            size,
            reading[0],
            reading[1],
            "uproot, its own file",
            equal,
        ),
        rate("read all columns, the same file", n, size, reading[0], reading[2], "uproot, our file", equal),
        rate("verify", n, size, proving[0], None, "", verify(ours).ok),
    ]


def merging(directory: Path, n: int, repeat: int) -> list[Figure]:
    """Compare merging of 20 files with hadd, in CPU seconds of whole processes, start-up included."""
    inputs = [directory / f"part{number}.root" for number in range(FILES)]
    for number, path in enumerate(inputs):
        write(path, sample(n // FILES, number))
    names = [str(path) for path in inputs]
    ours, theirs = directory / "merged.root", directory / "hadd.root"
    sides = [
        child_cpu([sys.executable, "-c", script, str(ours), *names], dict(os.environ))
        for script in (MERGE, START)
    ]
    peers = []
    root = importlib.util.find_spec("ROOT")
    if root is not None and root.origin is not None:
        home = Path(root.origin).parent
        environment = os.environ | {"ROOTSYS": str(home), "LD_LIBRARY_PATH": str(home / "lib")}
        peers = [("hadd -ff", ["-ff"]), ("hadd", [])]
        command = [str(home / "bin" / "hadd"), "-f"]
        sides += [child_cpu([*command, *mode, str(theirs), *names], environment) for _, mode in peers]
    (spent, start), others = (medians := side_by_side(sides, repeat))[:2], medians[2:]
    work = f"merge {FILES} files, CPU with start-up"
    figures = [Figure(BENCH, "start-up of ours alone, CPU", n, start, None, "", "s", None, None)]
    for (name, _), peer in zip(peers, others, strict=True):
        equal = all(
            np.array_equal(a, b) for a, b in zip(read(ours).values(), read(theirs).values(), strict=True)
        )
        figures.append(Figure(BENCH, work, n, spent, peer, name, "s", peer / spent, equal))
    if not peers:
        figures.append(Figure(BENCH, work, n, spent, None, "hadd absent", "s", None, verify(ours).ok))
    return figures


def main() -> None:
    """Write and read at N and 10 N; merge 20 files of 25,000 events each by default, and of a tenth of it."""
    options = arguments(__doc__, 20_000)
    figures = []
    for n in (options.events, 10 * options.events):
        with tempfile.TemporaryDirectory() as name:
            figures += input_output(Path(name), n, options.repeat)
    for n in (5 * options.events // 2, 25 * options.events):
        with tempfile.TemporaryDirectory() as name:
            figures += merging(Path(name), n, options.repeat)
    report(figures, options.json)


if __name__ == "__main__":
    main()
