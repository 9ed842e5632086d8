"""Banks with columns of every type - numbers, text, lists, lists of lists - and batches and files of them."""

from __future__ import annotations

import string

import numpy as np
from hypothesis import strategies as st

from beamwright.event.banks import LEAVES, BankSet, Column
from beamwright.event.batch import Batch
from beamwright.event.store import StreamWriter
from beamwright.event.table import Jagged, Table, plain_rows
from support.streams import LINEAGE

KINDS = (
    *LEAVES,
    "str",
    *(f"{kind}[]" for kind in (*LEAVES, "str")),
    "f4[][]",
    "u1[][]",
    "bool[][]",
    "str[][]",
)
NAMES = {kind: kind.replace("[]", "_list") for kind in KINDS}
BANKS = BankSet.from_document(
    {
        "Head": {"rows": "one", "columns": {"label": {"type": "str"}, "grid": {"type": "i2[][]"}}},
        "Row": {"columns": {name: {"type": kind, "doc": f"Holds {kind}."} for kind, name in NAMES.items()}},
    }
)
TEXTS = st.text(max_size=6) | st.sampled_from(["", "μ⁺μ⁻", "a\0b", "𝛾" * 3])


def leaves(kind: str) -> st.SearchStrategy:
    if kind == "str":
        return TEXTS
    if kind == "bool":
        return st.booleans()
    if kind.startswith("f"):
        return st.floats(width=32, allow_nan=False)
    limits = np.iinfo(LEAVES[kind])
    return st.integers(int(limits.min), int(limits.max))


def rows_of(column: Column) -> st.SearchStrategy:
    found = leaves(column.type)
    for _ in range(column.depth):
        found = st.lists(found, max_size=3)
    return found


@st.composite
def batches(draw: st.DrawFn, most: int = 4) -> Batch:
    n = draw(st.integers(0, most))
    made = Batch("event", "44", 3, [0] * n, range(n), banks=BANKS)
    counts = [draw(st.integers(0, 2)) for _ in range(n)]
    for bank, rows in ((BANKS["Head"], n), (BANKS["Row"], sum(counts))):
        columns = {}
        for column in bank.columns:
            values = draw(st.lists(rows_of(column), min_size=rows, max_size=rows))
            columns[column.name] = values_of(column, values)
        made[bank.name] = Table(bank, np.arange(n + 1) if bank.name == "Head" else offsets(counts), columns)
    return made


def offsets(counts: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def values_of(column: Column, rows: list):
    return Jagged.of(rows, column) if column.levels else np.array(rows, column.dtype)


def plain(batch: Batch) -> dict:
    return {
        bank.name: {column.name: plain_rows(batch[bank.name], column.name) for column in bank.columns}
        for bank in BANKS.values()
    }


def write(path, *parts: Batch, banks: BankSet = BANKS, **options):
    path.unlink(missing_ok=True)
    with StreamWriter(path, "dst", banks, LINEAGE, **options) as writer:
        for part in parts:
            writer.write(part)
        return writer.close()


def sample(n: int = 40) -> Batch:
    """Return events whose values follow from their numbers."""
    rng = np.random.default_rng(1)
    counts = (np.arange(n) % 3).tolist()
    made = Batch("event", "44", 3, [0] * n, range(n), banks=BANKS)
    for bank, rows in ((BANKS["Head"], n), (BANKS["Row"], sum(counts))):
        columns = {
            column.name: values_of(column, [nested(rng, column) for _ in range(rows)])
            for column in bank.columns
        }
        made[bank.name] = Table(bank, np.arange(n + 1) if bank.name == "Head" else offsets(counts), columns)
    return made


def nested(rng: np.random.Generator, column: Column, depth: int | None = None):
    left = column.depth if depth is None else depth
    if left:
        return [nested(rng, column, left - 1) for _ in range(rng.integers(0, 3))]
    if column.is_text:
        return "".join(rng.choice([*string.ascii_letters, "μ", "→"], rng.integers(0, 5)))
    return bool(rng.integers(2)) if column.type == "bool" else int(rng.integers(0, 100))
