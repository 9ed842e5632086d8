"""Memory for columns is handed out again only when nobody looks at it any more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from beamwright.event.rntuple import FileWriter, NTupleFile, Schema, leaf, seal_cluster
from beamwright.event.rntuple.memory import Arena

BYTE, FLOAT = np.dtype("u1"), np.dtype("f8")


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_a_block_is_used_again_once_its_array_is_gone() -> None:
    arena = Arena(keep=1 << 20, least=1024)
    first = arena.empty(10_000, FLOAT)
    place = address(first)
    del first
    second = arena.empty(10_000, FLOAT)
    assert address(second) == place and arena.held == 2 * 65_536


@pytest.mark.parametrize("view", [lambda a: a, lambda a: a[7:9], lambda a: memoryview(a[3:]), lambda a: a.T])
def test_any_view_keeps_its_block(view) -> None:
    arena = Arena(keep=1 << 20, least=1024)
    first = arena.empty(10_000, FLOAT)
    place, held = address(first), view(first)
    del first
    second = arena.empty(10_000, FLOAT)
    assert address(second) != place
    second[:] = 1.0
    del held
    assert address(arena.empty(10_000, FLOAT)) == place


def test_no_more_is_held_than_was_said() -> None:
    arena = Arena(keep=1 << 18, least=1024)
    arrays = [arena.empty(100_000, BYTE) for _ in range(8)]
    assert arena.held <= 1 << 18 and len({address(a) for a in arrays}) == 8
    arrays.clear()
    assert arena.empty(200_000, BYTE).nbytes == 200_000
    assert arena.held <= 1 << 18


def test_small_and_very_large_arrays_are_not_held() -> None:
    arena = Arena(keep=1 << 18, least=1024)
    assert len(arena.empty(10, BYTE)) == 10 and len(arena.empty(1 << 19, BYTE)) == 1 << 19
    assert arena.held == 0


def test_columns_read_before_stay_as_they_were(tmp_path: Path) -> None:
    schema = Schema([leaf("x", "f8")])
    for name, value in (("a", 1.0), ("b", 2.0)):
        with (tmp_path / name).open("wb") as out:
            writer = FileWriter(out, schema)
            writer.append(seal_cluster(schema, {"x": np.full(200_000, value)}))
            writer.close({})
    with NTupleFile(tmp_path / "a") as a, NTupleFile(tmp_path / "b") as b:
        first = a.read()["x"]
        tail = first[-10:]
        del first
        second = b.read()["x"]
        third = a.read()["x"]
        assert (tail == 1).all() and (second == 2).all() and (third == 1).all()
