"""Keys that count up are kept as stretches, and are the same keys whoever asks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from beamwright.core.errors import FormatError
from beamwright.event.keys import Ascending, Index
from beamwright.event.pointer import positions_of
from beamwright.event.regular import Regular, Stretches, rise
from beamwright.event.store import CollectionReader
from support.streams import batch, write_stream

HIGHEST = 2**64 - 1
STARTS = st.sampled_from([0, 1, 7, 2**32, HIGHEST - 3]) | st.integers(0, 40)


@st.composite
def columns(draw):
    """A column with its step: stretches that may also go on where the one before ended."""
    step = draw(st.sampled_from([0, 1]))
    parts = draw(st.lists(st.tuples(STARTS, st.integers(1, 6)), max_size=6))
    values = [(first + step * n) % 2**64 for first, length in parts for n in range(length)]
    return step, np.array(values, np.uint64)


def found(step, values, cuts=()):
    stretches = Stretches(step, values.dtype)
    assert all(stretches.add(part) for part in np.split(values, sorted(cuts)))
    return stretches.column()


@given(given_=columns(), data=st.data())
def test_stretches_give_every_part_of_a_column(given_, data):
    step, values = given_
    n = len(values)
    cuts = data.draw(st.lists(st.integers(0, n), max_size=3))
    column = found(step, values, cuts)
    assume(column.is_ordered)  # no other becomes an index
    assert len(column) == n and [column[at] for at in range(n)] == values.tolist()
    start, stop = sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))
    for part in (column.part(start, stop), column.part(start, stop)):
        assert part.dtype == values.dtype and part.tolist() == values[start:stop].tolist()
    places = np.array(data.draw(st.lists(st.integers(0, max(n - 1, 0)), max_size=5)) if n else [], np.int64)
    assert column.at(places).tolist() == values[places].tolist()
    again = Regular.joined([column, found(step, values[:0]), column])
    twice = np.concatenate([values, values])
    assert again.part(0, 2 * n).tolist() == twice.tolist()
    assert again.starts.tolist() == found(step, twice).starts.tolist()
    for outside in (-1, n):
        with pytest.raises(IndexError):
            column[outside]


@given(keys=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), STARTS), max_size=9))
def test_regular_keys_rise_where_arrays_do_and_are_found_alike(keys):
    run, section, event = (
        np.array([key[n] for key in keys], kind) for n, kind in ((0, "u4"), (1, "u4"), (2, "u8"))
    )
    made = [found(step, values) for step, values in ((0, run), (0, section), (1, event))]
    assert rise(made) == all(one < other for one, other in zip(keys, keys[1:], strict=False))
    regular = Index.regular(*made)
    if regular is None:
        return
    plain = Index.build(run, section, event, name="f")
    assert plain.is_in_order and len(regular) == len(plain) == len(keys)
    for name in ("run", "section", "event"):
        assert getattr(regular, name).tolist() == getattr(plain, name).tolist()
    every = Ascending(0, len(keys))
    assert regular.run_cuts(every) == plain.run_cuts(every) == plain.run_cuts(every[:])
    for key in (*keys, (1, 1, 5), (0, 0, HIGHEST), (9, 0, 0)):
        for side in ("left", "right"):
            assert regular.position(key, side) == plain.position(key, side)
    for at, key in enumerate(keys):
        assert regular.key("X", at).position == key and regular.run_of(at) == key[0]
        (at_found,) = positions_of(regular, key[0], section[at : at + 1], event[at : at + 1], "s")
        assert at_found == at
    chosen = np.arange(0, len(keys), 2)
    assert [a.tolist() for a in regular.keys_at(chosen)] == [section[::2].tolist(), event[::2].tolist()]


def test_a_column_with_too_many_stretches_is_left_to_arrays():
    stretches, values = Stretches(1, "u8"), np.arange(0, 200_000, 2, dtype=np.uint64)
    assert stretches.add(values[:100]) and not stretches.add(values)


def test_the_highest_number_is_not_followed_by_the_lowest():
    event = np.array([HIGHEST, 0], np.uint64)
    flat = np.zeros(2, np.uint32)
    assert not rise([found(0, flat), found(0, flat), found(1, event)])


def test_files_are_indexed_by_stretches_or_arrays_alike(tmp_path, monkeypatch):
    write_stream(tmp_path / "a.root", batch(3, 0, 700), target=20_000)
    write_stream(tmp_path / "b.root", batch(3, 700, 900), batch(4, 0, 300), target=20_000)
    for names in (["a", "b"], ["b", "a"], ["a"]):
        with CollectionReader([tmp_path / f"{name}.root" for name in names]) as reader:
            index = reader.index("event")
            read = list(reader.batches())
            monkeypatch.setattr(reader, "_index", reader._make_index(index.size))
            arrays = reader.index("event")
            for name in ("run", "section", "event"):
                assert getattr(index, name).tolist() == getattr(arrays, name).tolist()
            assert index.entry[:].tolist() == arrays.entry[:].tolist()
            assert [b.event.tolist() for b in read] == [b.event.tolist() for b in reader.batches()]
    write_stream(tmp_path / "twice.root", batch(3, 650, 900))
    with CollectionReader([tmp_path / "a.root", tmp_path / "twice.root"]) as reader:
        with pytest.raises(FormatError, match="the record 3:6:650 more than once"):
            reader.index("event")
