"""Sample schemas, batches and files of the tuple layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from beamwright.event.rntuple import (
    ColumnData,
    FileWriter,
    Schema,
    collection,
    leaf,
    record,
    seal_cluster,
    string,
    vector,
)

LEAVES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8", "bool")

SAMPLE = Schema(
    [
        leaf("run", "u4", "run number"),
        *(leaf(f"l_{name}", name) for name in LEAVES),
        record(
            "Header", [leaf("time", "f8", "time of the event [s]"), leaf("good", "bool")], "one per event"
        ),
        collection(
            "Hit",
            [leaf("t", "f4", "time [ns]"), leaf("dom", "i4"), vector("samples", "u2"), string("label")],
            "a hit",
        ),
        vector("weights", "f8"),
        vector("grid", vector("_0", "i2")),
        string("tag"),
        vector("words", string("_0")),
    ]
)


def offsets(rng: np.random.Generator, n: int, most: int) -> np.ndarray:
    found = np.zeros(n + 1, np.int64)
    np.cumsum(rng.integers(0, most + 1, n), out=found[1:])
    return found


def random_leaf(rng: np.random.Generator, name: str, n: int) -> np.ndarray:
    """Return any bit patterns of a leaf type, infinities and NaNs among them."""
    if name == "bool":
        return rng.random(n) < 0.4
    return rng.integers(0, 256, n * np.dtype(name).itemsize, np.uint8).view(np.dtype(name).newbyteorder("<"))


def sample_arrays(n: int, seed: int = 0, schema: Schema = SAMPLE) -> ColumnData:
    """Return a random batch of ``n`` events of a schema."""
    rng = np.random.default_rng(seed)
    arrays: ColumnData = {}
    lengths = {-1: n}
    for number, column in enumerate(schema.columns):
        length = lengths[column.parent]
        if column.is_index:
            arrays[column.key] = offsets(rng, length, 4)
            lengths[number] = int(arrays[column.key][-1])
        elif column.dtype == np.uint8 and schema.field_list[column.field_id][0].kind == "string":
            arrays[column.key] = rng.integers(97, 123, length, np.uint8)
        else:
            kind = "bool" if column.dtype == np.bool_ else f"{column.dtype.kind}{column.dtype.itemsize}"
            arrays[column.key] = random_leaf(rng, kind, length)
    return arrays


def write_file(path: Path, batches: list[ColumnData], schema: Schema = SAMPLE, **options: int) -> Path:
    """Write one cluster per batch."""
    with path.open("wb") as out:
        writer = FileWriter(out, schema)
        for batch in batches:
            writer.append(seal_cluster(schema, batch, **options))
        writer.close({"made": "for a test"}, lineage="sample")
    return path


def same_columns(one: ColumnData, other: ColumnData) -> bool:
    """Tell whether two batches hold the same bits."""
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype and one[key].tobytes() == other[key].tobytes() for key in one
    )
