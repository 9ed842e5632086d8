"""Sample banks, batches and lineages of event streams."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from beamwright.core.lineage import Lineage
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch
from beamwright.event.store import StreamWriter, Written
from beamwright.event.table import Jagged, Table, Values

BANKS = BankSet.from_document(
    {
        "Head": {"rows": "one", "doc": "One per event.", "columns": {"time": {"type": "f8", "unit": "s"}}},
        "Hit": {
            "version": 2,
            "doc": "A hit.",
            "columns": {
                "t": {"type": "f4", "unit": "ns", "doc": "Time."},
                "dom": {"type": "i4"},
                "samples": {"type": "u1[]"},
                "mother": {"type": "link", "to": "Hit"},
                "head": {"type": "link", "to": "Head"},
            },
        },
        "Track": {"columns": {"hits": {"type": "link[]", "to": "Hit"}, "good": {"type": "bool"}}},
    }
)
LINEAGE = Lineage("toy", "demo", "reco", "reco", "dst", "dst", "44", "dev+0", "c0", parents=("aa",))


def batch(run: int, first: int, last: int, *, banks: BankSet = BANKS, built: bool = False) -> Batch:
    """Return events ``first`` to ``last`` of a run; every number follows from the keys alone."""
    events = np.arange(first, last, dtype=np.int64)
    counts = (events * 7 + run) % 6
    within = np.concatenate([np.arange(0), *(np.arange(count) for count in counts)])
    values = np.repeat(events, counts) * 10 + within
    samples = Jagged.from_counts(values % 3, (np.repeat(values, values % 3) % 200).astype("u1"))
    hits = {"t": values.astype("f4"), "dom": values % 100, "samples": samples}
    hits |= {"mother": np.maximum(within - 1, -1), "head": np.zeros(len(values), np.int32)}
    tracks = (counts > 2).astype(np.int64)
    tracked = counts[tracks > 0]
    linked = np.concatenate([np.arange(0), *(np.arange(count) for count in tracked)]).astype("i4")
    tables = {
        "Head": Table.one(banks["Head"], {"time": events * 1.5 + run}),
        "Hit": Table.from_counts(banks["Hit"], counts, hits),
        "Track": Table.from_counts(
            banks["Track"], tracks, {"hits": Jagged.from_counts(tracked, linked), "good": tracked % 2 == 0}
        ),
    }
    parents = {"parent_section": events // 100, "parent_event": events + 5} if built else {}
    return Batch(
        "event", "44", run, (events // 100).astype("u4"), events.astype("u8"), tables, banks=banks, **parents
    )


def write_stream(path: Path, *batches: Batch, lineage: Lineage = LINEAGE, **options: object) -> Written:
    """Write batches into a file."""
    with StreamWriter(path, "dst", BANKS, lineage, **options) as writer:
        for part in batches:
            writer.write(part)
        return writer.close()


def arrays_of(values: Values) -> list[np.ndarray]:
    """Return the arrays of a column, offsets of lists before what is in them."""
    return [values.offsets, *arrays_of(values.values)] if isinstance(values, Jagged) else [values]


def same_batches(one: Batch, other: Batch) -> bool:
    """Tell whether two batches hold the same keys and the same bits."""
    if one.run != other.run or one.tables.keys() != other.tables.keys():
        return False
    pairs = [(one.section, other.section), (one.event, other.event), (one.parent_event, other.parent_event)]
    for name, table in one.tables.items():
        pairs.append((table.offsets, other[name].offsets))
        for column, values in table.columns.items():
            pairs += zip(arrays_of(values), arrays_of(other[name].columns[column]), strict=True)
    return all((a is None and b is None) or (a.dtype == b.dtype and np.array_equal(a, b)) for a, b in pairs)
