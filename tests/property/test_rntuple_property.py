"""Whatever the batches and the cuts: the same events give the same bytes, and come back."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from beamwright.event.rntuple import (
    ClusterCutter,
    FileWriter,
    NTupleFile,
    Schema,
    collection,
    leaf,
    merge_files,
    record,
    seal_cluster,
    string,
    vector,
    verify,
)
from beamwright.event.rntuple.columns import cut_columns, join_columns
from support.tuples import SAMPLE, same_columns, sample_arrays

EVENTS = 120
WHOLE = sample_arrays(EVENTS, 3)
ORDERED = [WHOLE[column.key] for column in SAMPLE.columns]


def part(start, stop):
    return dict(zip(SAMPLE.index, cut_columns(SAMPLE, ORDERED, start, stop), strict=True))


def write(path, cuts, target):
    with path.open("wb") as out:
        writer, cutter = FileWriter(out, SAMPLE), ClusterCutter(SAMPLE, target)
        clusters = [cluster for start, stop in pairwise(cuts) for cluster in cutter.add(part(start, stop))]
        last = cutter.finish()
        for cluster in clusters if last is None else [*clusters, last]:
            writer.append(seal_cluster(SAMPLE, cluster))
        writer.close({}, lineage="property")
    return path


partitions = st.lists(st.integers(0, EVENTS), max_size=8).map(lambda cuts: sorted([0, EVENTS, *cuts]))


@settings(max_examples=25)
@given(cuts=partitions, target=st.integers(400, 30_000))
def test_any_partition_into_batches_gives_the_same_bytes(cuts, target):
    with tempfile.TemporaryDirectory() as directory:
        one = write(Path(directory, "one.root"), [0, EVENTS], target)
        other = write(Path(directory, "other.root"), cuts, target)
        assert one.read_bytes() == other.read_bytes()


@settings(max_examples=30)
@given(
    cuts=partitions,
    target=st.integers(400, 30_000),
    start=st.integers(0, EVENTS),
    stop=st.integers(0, EVENTS),
)
def test_any_range_of_any_file_is_the_slice(cuts, target, start, stop):
    with (
        tempfile.TemporaryDirectory() as directory,
        NTupleFile(write(Path(directory, "x.root"), cuts, target)) as file,
    ):
        stop = max(start, stop)
        assert same_columns(file.read(None, start, stop), part(start, stop))


@settings(max_examples=15)
@given(cuts=partitions, target=st.integers(400, 30_000), again=st.integers(1, 60_000))
@example(cuts=[0, EVENTS], target=400, again=513)
def test_merging_the_parts_gives_the_events_of_the_whole(cuts, target, again):
    with tempfile.TemporaryDirectory() as directory:
        paths = [
            write(Path(directory, f"{number}.root"), [start, stop], target)
            for number, (start, stop) in enumerate(pairwise(cuts))
        ]
        merged = Path(directory, "merged.root")
        with merged.open("wb") as out:
            merge_files(paths, out, {}, target=again)
        assert verify(merged).problems == []
        with NTupleFile(merged) as file:
            assert same_columns(file.read(), WHOLE)


names = st.text(
    st.characters(codec="utf-8", exclude_characters="./\\@ ", exclude_categories=("Cc", "Cs")), min_size=1
)
leaves = st.builds(
    leaf, names, st.sampled_from(["u1", "i2", "u4", "i8", "f4", "f8", "bool"]), st.text(max_size=20)
)
simple = leaves | st.builds(string, names) | st.builds(vector, names, leaves)


def unique(fields):
    return list({field.name: field for field in fields}.values())


groups = st.lists(simple, min_size=1, max_size=4).map(unique)
fields = simple | st.builds(record, names, groups) | st.builds(collection, names, groups)
schemas = st.lists(fields, min_size=1, max_size=6).map(unique).map(Schema)


@settings(max_examples=40)
@given(schema=schemas, n=st.integers(1, 30), seed=st.integers(0, 1000), level=st.sampled_from([0, 1, 5]))
def test_any_schema_comes_back_with_its_values(schema, n, seed, level):
    arrays = sample_arrays(n, seed, schema)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "x.root")
        with path.open("wb") as out:
            writer = FileWriter(out, schema)
            writer.append(seal_cluster(schema, arrays, level, page_bytes=100))
            writer.close({})
        with NTupleFile(path) as file:
            assert file.schema == schema
            assert file.schema.hash == schema.hash
            assert same_columns(file.read(), arrays)
        assert verify(path).problems == []


@settings(max_examples=40)
@given(st.data())
def test_joined_cuts_are_the_whole(data):
    cuts = data.draw(partitions)
    parts = [cut_columns(SAMPLE, ORDERED, start, stop) for start, stop in pairwise(cuts)]
    joined = join_columns(SAMPLE, parts)
    assert all(
        np.array_equal(a.view(np.uint8), b.view(np.uint8)) for a, b in zip(joined, ORDERED, strict=True)
    )
