"""Merging copies pages, joins small clusters and refuses what does not belong together."""

from __future__ import annotations

import os
import resource

import numpy as np
import pytest

from beamwright.core.errors import ChecksumError, ConflictError, FormatError, SchemaMismatchError
from beamwright.event.rntuple import NTupleFile, Schema, collection, leaf, merge_files, verify
from beamwright.event.rntuple.columns import join_columns
from beamwright.event.store import merge_collections
from beamwright.event.validate import validate_file
from support import streams
from support.tuples import SAMPLE, same_columns, sample_arrays, write_file

SIZES = ((200, 180), (5,), (), (7, 3, 190), (6,))


@pytest.fixture
def inputs(tmp_path):
    return [
        write_file(
            tmp_path / f"in{number}.root", [sample_arrays(n, 10 * number + n) for n in sizes], page_bytes=512
        )
        for number, sizes in enumerate(SIZES)
    ]


@pytest.fixture
def whole():
    parts = [sample_arrays(n, 10 * number + n) for number, sizes in enumerate(SIZES) for n in sizes]
    ordered = [[part[column.key] for column in SAMPLE.columns] for part in parts]
    return dict(zip(SAMPLE.index, join_columns(SAMPLE, ordered), strict=True))


def merge(inputs, path, **options):
    with path.open("wb") as out:
        return merge_files(inputs, out, {"merged": True}, lineage="merge", **options)


def test_pages_of_large_clusters_are_copied_as_they_are(inputs, tmp_path, whole):
    path = tmp_path / "merged.root"
    result = merge(inputs, path, target=1000)
    assert (result.n_entries, result.copied, result.resealed) == (591, 7, 0)
    with NTupleFile(path) as file:
        assert same_columns(file.read(), whole)
        assert file.metadata == {"merged": True}
        assert file.uuid == result.uuid
    found = verify(path)
    assert found.problems == []
    assert found.checksums == b"".join(verify(name).checksums for name in inputs)


def test_runs_of_small_clusters_become_one(inputs, tmp_path, whole):
    with NTupleFile(inputs[0]) as file:
        target = file.cluster_bytes(1) * 3
    path = tmp_path / "merged.root"
    result = merge(inputs, path, target=target)
    assert (result.copied, result.resealed) == (4, 3)
    with NTupleFile(path) as file:
        assert [cluster.n_entries for cluster in file.clusters] == [200, 180, 15, 190, 6]
        assert same_columns(file.read(), whole)
    assert verify(path).ok


def test_all_small_inputs_become_one_cluster(inputs, tmp_path, whole):
    path = tmp_path / "merged.root"
    result = merge(inputs, path)
    assert (result.copied, result.resealed) == (0, 7)
    with NTupleFile(path) as file:
        assert len(file.clusters) == 1
        assert same_columns(file.read(), whole)


def test_pages_of_a_good_size_are_copied_into_a_joined_cluster(tmp_path):
    schema = Schema([leaf("run", "u4"), leaf("weight", "f8"), collection("Hit", [leaf("t", "f4")])])
    batches = [sample_arrays(n, n, schema) for n in (9000, 8500, 300, 8800, 200, 100)]
    names = [write_file(tmp_path / f"{n}.root", [b], schema) for n, b in enumerate(batches)]
    result = merge(names, tmp_path / "merged.root")
    assert (result.copied, result.resealed) == (0, 6)
    assert verify(tmp_path / "merged.root").problems == []
    with NTupleFile(tmp_path / "merged.root") as file:
        ordered = [[part[column.key] for column in schema.columns] for part in batches]
        whole = dict(zip(schema.index, join_columns(schema, ordered), strict=True))
        assert same_columns(file.read(), whole)
        pages = {c.key: file.clusters[0].columns[n].pages for n, c in enumerate(schema.columns)}
    # 72, 68, 70 kB are copied, what lies between is sealed anew; runs of small pages become one
    assert np.abs(pages["weight"]["elements"]).tolist() == [9000, 8500, 300, 8800, 300]
    assert np.abs(pages["run"]["elements"]).tolist() == [26_900]
    found = {}
    for number, name in enumerate(names):
        with NTupleFile(name) as file:
            found[number] = file.pread(*map(int, file.clusters[0].columns[1].pages[0][["offset", "size"]]))
    with NTupleFile(tmp_path / "merged.root") as file:
        stored = [file.pread(int(page["offset"]), int(page["size"])) for page in pages["weight"]]
    assert [stored[0], stored[1], stored[3]] == [found[0], found[1], found[3]]


def test_a_merge_of_one_file_keeps_its_pages(inputs, tmp_path):
    path = tmp_path / "merged.root"
    merge(inputs[1:2], path)
    assert verify(path).checksums == verify(inputs[1]).checksums


def test_a_merge_of_merges_is_the_merge_of_all(inputs, tmp_path):
    for name, members in (("a", inputs[:2]), ("b", inputs[2:])):
        merge(members, tmp_path / f"{name}.root", target=1000)
    merge([tmp_path / "a.root", tmp_path / "b.root"], tmp_path / "two.root", target=1000)
    merge(inputs, tmp_path / "one.root", target=1000)
    assert (tmp_path / "one.root").read_bytes() == (tmp_path / "two.root").read_bytes()


def test_a_cluster_split_over_records_is_copied_whole(tmp_path, whole):
    from beamwright.event.rntuple import FileWriter, seal_cluster

    path, merged = tmp_path / "split.root", tmp_path / "merged.root"
    batch = sample_arrays(200, 1)
    with path.open("wb") as out:
        writer = FileWriter(out, SAMPLE)
        writer.max_payload = 4096
        writer.append(seal_cluster(SAMPLE, batch, page_bytes=512))
        writer.close({})
    merge([path, path], merged, target=1000)
    assert verify(merged).problems == []
    with NTupleFile(merged) as file:
        assert same_columns(file.read(None, 200, 400), batch)


def test_another_schema_is_refused_with_the_difference(inputs, tmp_path):
    fields = [*SAMPLE.fields, leaf("extra", "f4")]
    wider = write_file(tmp_path / "wider.root", [], Schema(fields))
    with pytest.raises(SchemaMismatchError, match=r"wider\.root and .*in0\.root differ: it adds extra"):
        merge([inputs[0], wider], tmp_path / "merged.root")
    one = write_file(tmp_path / "one.root", [], Schema([collection("Hit", [leaf("t", "f4")])]))
    two = write_file(tmp_path / "two.root", [], Schema([collection("Hit", [leaf("t", "f8")])]))
    with pytest.raises(SchemaMismatchError, match=r"column Hit\.t is float64, was float32"):
        merge([one, two], tmp_path / "merged.root")


def test_a_damaged_input_is_not_merged(inputs, tmp_path):
    with NTupleFile(inputs[3]) as file:
        offset = int(file.clusters[2].columns[0].pages["offset"][0])
    data = bytearray(inputs[3].read_bytes())
    data[offset] ^= 1
    inputs[3].write_bytes(data)
    for target in (1000, 1 << 25):
        with pytest.raises(ChecksumError, match=r"in3\.root.*cluster 2"):
            merge(inputs, tmp_path / "merged.root", target=target)


def test_nothing_and_files_of_others_are_refused(tmp_path):
    import uproot

    with pytest.raises(FormatError, match="nothing to merge"):
        merge([], tmp_path / "merged.root")
    with uproot.recreate(tmp_path / "foreign.root") as file:
        file.mkrntuple("events", {"x": np.arange(3)})
    with pytest.raises(FormatError, match=r"foreign\.root was written by"):
        merge([tmp_path / "foreign.root"], tmp_path / "merged.root")


def test_a_file_whose_columns_lie_otherwise_is_refused(tmp_path, monkeypatch):
    from beamwright.event.rntuple import wire

    schema = Schema([leaf("x", "i4")])
    with monkeypatch.context() as patch:
        patch.setitem(wire.DEFAULT_CODES, "i4", 0x07)  # as another version might have it: not split
        path = write_file(tmp_path / "plain.root", [{"x": np.arange(20, dtype="i4")}], schema)
        assert verify(path).ok
    with pytest.raises(FormatError, match=r"plain\.root has columns in forms that are not written here"):
        merge([path, path], tmp_path / "merged.root")


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_more_inputs_are_merged_than_a_process_may_open(tmp_path, count):
    names = [tmp_path / f"{n}.root" for n in range(count)]
    for n, name in enumerate(names):
        streams.write_stream(name, streams.batch(3, 10 * n, 10 * n + 10))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, limit[1]))
    try:
        merged = merge_collections(names, tmp_path / "all.root", streams.LINEAGE, target=20_000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert (merged.events, validate_file(merged.file)["problems"]) == (10 * count, [])
    with NTupleFile(merged.file) as file:
        assert 1 < len(file.clusters) < count // 4


def test_a_merge_that_fails_leaves_nothing_and_one_that_is_there_stays(tmp_path):
    names = [tmp_path / "a.root", tmp_path / "b.root"]
    for n, name in enumerate(names):
        streams.write_stream(name, streams.batch(3, 10 * n, 10 * n + 10))
    data = bytearray(names[1].read_bytes())
    with NTupleFile(names[1]) as file:
        data[int(file.clusters[0].columns[3].pages["offset"][0])] ^= 1
    names[1].write_bytes(data)
    with pytest.raises(ChecksumError):
        merge_collections(names, tmp_path / "all.root", streams.LINEAGE)
    assert not (tmp_path / "all.root").exists()
    (tmp_path / "all.root").write_text("kept")
    with pytest.raises(ConflictError, match="all.root exists already"):
        merge_collections(names[:1], tmp_path / "all.root", streams.LINEAGE)
    assert (tmp_path / "all.root").read_text() == "kept"
