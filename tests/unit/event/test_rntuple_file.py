"""Files: written, read in part and in whole, identical for identical content."""

from __future__ import annotations

import json
import os
import sys
import threading

import numpy as np
import pytest

from beamwright.core.errors import ChecksumError, FormatError, UnknownNameError
from beamwright.event.rntuple import (
    ClusterCutter,
    FileWriter,
    NTupleFile,
    Schema,
    SealedCluster,
    collection,
    derive_uuid,
    leaf,
    seal_cluster,
    verify,
)
from beamwright.event.rntuple.columns import cut_columns, join_columns
from support.tuples import SAMPLE, same_columns, sample_arrays, write_file


def ordered(arrays, schema=SAMPLE):
    return [arrays[column.key] for column in schema.columns]


def joined(batches, schema=SAMPLE):
    arrays = join_columns(schema, [ordered(batch, schema) for batch in batches])
    return dict(zip(schema.index, arrays, strict=True))


def cut(arrays, start, stop, schema=SAMPLE):
    return dict(zip(schema.index, cut_columns(schema, ordered(arrays, schema), start, stop), strict=True))


@pytest.fixture
def batches():
    return [sample_arrays(n, seed) for seed, n in enumerate((300, 1, 170))]


@pytest.fixture
def path(tmp_path, batches):
    return write_file(tmp_path / "sample.root", batches, page_bytes=512)


@pytest.mark.parametrize("level", [0, 1, 5])
@pytest.mark.parametrize("page_bytes", [64, 1 << 18])
def test_what_is_written_is_read(tmp_path, batches, level, page_bytes):
    path = write_file(tmp_path / "sample.root", batches, level=level, page_bytes=page_bytes)
    with NTupleFile(path) as file:
        assert file.schema == SAMPLE
        assert file.n_entries == 471
        assert [(c.first_entry, c.n_entries) for c in file.clusters] == [(0, 300), (300, 1), (301, 170)]
        assert same_columns(file.read(), joined(batches))
    assert verify(path).problems == []


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 0), (0, 1), (17, 18), (299, 302), (300, 301), (250, 471), (470, 999)]
)
def test_a_range_of_events_is_the_slice_of_the_whole(path, batches, start, stop):
    with NTupleFile(path) as file:
        assert same_columns(file.read(None, start, stop), cut(joined(batches), start, min(stop, 471)))


def test_consecutive_small_ranges_give_the_whole(path, batches):
    with NTupleFile(path) as file:
        parts = [file.read(None, start, start + 13) for start in range(0, 471, 13)]
    assert same_columns(joined(parts), joined(batches))


def test_columns_are_chosen_with_the_offsets_that_count_them(path, batches):
    with NTupleFile(path) as file:
        assert list(file.read(["Hit.t"])) == ["Hit@0", "Hit.t"]
        assert list(file.read(["Hit.samples", "run"])) == ["run", "Hit@0", "Hit.samples@0", "Hit.samples"]
        assert list(file.read(["Header"])) == ["Header.time", "Header.good"]
        assert list(file.read([])) == []
        assert np.array_equal(file.read(["words"])["words"], joined(batches)["words"])


def test_an_unknown_column_or_tuple_suggests_the_nearest(path):
    with NTupleFile(path) as file, pytest.raises(UnknownNameError, match=r"Hit\.dom"):
        file.read(["Hit.dmo"])
    with pytest.raises(UnknownNameError, match="events"):
        NTupleFile(path, "event")


@pytest.fixture
def restless():
    """Have threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_threads_may_share_a_file(path, batches, restless):
    expected = joined(batches)
    failures = []

    def work(file, start):
        for stop in range(start, 471, 7):
            if not same_columns(file.read(["Hit", "tag"], start, stop), only(cut(expected, start, stop))):
                failures.append((start, stop))

    def only(arrays):
        return {key: value for key, value in arrays.items() if key.startswith(("Hit", "tag"))}

    with NTupleFile(path) as file:
        threads = [threading.Thread(target=work, args=(file, start)) for start in (0, 100, 250, 300)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_a_tuple_without_events_has_no_cluster(tmp_path):
    path = write_file(tmp_path / "empty.root", [])
    with NTupleFile(path) as file:
        assert (file.n_entries, file.clusters, file.groups) == (0, [], [])
        assert all(len(array) == SAMPLE.column(key).is_index for key, array in file.read().items())
    assert verify(path).ok


def test_the_bytes_do_not_depend_on_name_or_time(tmp_path, batches):
    one = write_file(tmp_path / "one.root", batches)
    (tmp_path / "elsewhere").mkdir()
    other = write_file(tmp_path / "elsewhere" / "another name.root", batches)
    assert one.read_bytes() == other.read_bytes()


def test_the_uuid_follows_from_lineage_and_pages(tmp_path, batches):
    path = write_file(tmp_path / "one.root", batches)
    with NTupleFile(path) as file:
        assert file.uuid.version == 8
        assert file.uuid == derive_uuid("sample", verify(path).checksums)
        other = write_file(tmp_path / "two.root", batches[::-1])
        with NTupleFile(other) as second:
            assert second.uuid != file.uuid
    assert derive_uuid("a", b"") != derive_uuid("b", b"")


def test_metadata_comes_back_as_it_was_given(tmp_path):
    path = tmp_path / "meta.root"
    entries = {"text": "µ → e γ", "nested": {"runs": [1, 2], "first": None}, "long": "x" * 1000}
    with path.open("wb") as out:
        FileWriter(out, SAMPLE).close(entries)
    with NTupleFile(path) as file:
        assert file.metadata == entries
        assert json.loads(json.dumps(file.metadata)) == entries


def test_a_sealed_cluster_travels_as_bytes(tmp_path, batches):
    sealed = seal_cluster(SAMPLE, batches[0])
    copy = SealedCluster.unpack(b"".join(sealed.pack()))
    paths = []
    for number, cluster in enumerate((sealed, copy)):
        paths.append(tmp_path / f"{number}.root")
        with paths[-1].open("wb") as out:
            writer = FileWriter(out, SAMPLE)
            writer.append(cluster)
            writer.close({})
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_clusters_above_the_size_of_a_record_are_split_between_pages(tmp_path, batches):
    path = tmp_path / "split.root"
    with path.open("wb") as out:
        writer = FileWriter(out, SAMPLE)
        writer.max_payload = 8192
        for batch in batches:
            writer.append(seal_cluster(SAMPLE, batch, page_bytes=512))
        writer.close({})
    with NTupleFile(path) as file:
        assert same_columns(file.read(), joined(batches))
    assert verify(path).problems == []


def test_more_clusters_than_one_page_list_holds(tmp_path):
    schema = Schema([leaf("x", "i4")])
    cells = [{"x": np.array([n], "i4")} for n in range(1100)]
    path = write_file(tmp_path / "many.root", cells, schema)
    with NTupleFile(path) as file:
        assert len(file.groups) == 2
        assert file.read(["x"], 1000, 1050)["x"].tolist() == list(range(1000, 1050))
    assert verify(path).ok


def test_offsets_beyond_four_gigabytes(tmp_path, batches):
    path = tmp_path / "large.root"
    with path.open("wb") as out:
        writer = FileWriter(out, SAMPLE)
        writer.append(seal_cluster(SAMPLE, batches[0]))
        writer._position = 5 << 30
        writer.append(seal_cluster(SAMPLE, batches[2]))
        writer.close({})
    assert path.stat().st_size > 5 << 30
    assert os.stat(path).st_blocks * 512 < 1 << 24
    with NTupleFile(path) as file:
        assert same_columns(file.read(), joined([batches[0], batches[2]]))
    import uproot

    with uproot.open(path) as foreign:
        assert foreign["events"]["l_u8"].array().to_numpy()[-170:].tolist() == batches[2]["l_u8"].tolist()


def test_a_damaged_page_raises_with_its_place_and_leaves_other_columns_readable(path):
    with NTupleFile(path) as file:
        _, column = file.stored(SAMPLE.index["Hit.t"], 2)
        offset = int(column.pages["offset"][1])
    data = bytearray(path.read_bytes())
    data[offset + 3] ^= 4
    path.write_bytes(data)
    with NTupleFile(path) as file:
        assert len(file.read(["Hit.dom"])["Hit.dom"])
        assert len(file.read(["Hit.t"], 0, 300)["Hit.t"])
        with pytest.raises(ChecksumError) as caught:
            file.read(["Hit.t"])
    assert caught.value.data == {"column": "Hit.t", "cluster": 2, "page": 1, "offset": offset}
    assert str(path) in caught.value.message


@pytest.mark.parametrize("keep", [0, 3, 50, 99, 101, 500, 5000, -1, -80])
def test_a_truncated_file_is_refused_when_opened(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FormatError, match=str(path)):
        NTupleFile(path)


def test_other_files_are_refused_in_words(tmp_path):
    path = tmp_path / "text.root"
    path.write_text("no root file" * 20)
    with pytest.raises(FormatError, match="not a ROOT file"):
        NTupleFile(path)
    import uproot

    other = tmp_path / "tree.root"
    with uproot.recreate(other) as file:
        file.mktree("tree", {"x": np.arange(3)})
    with pytest.raises(FormatError, match="holds no RNTuple"):
        NTupleFile(other)
    with pytest.raises(FileNotFoundError):
        NTupleFile(tmp_path / "missing.root")


def test_a_closed_writer_takes_nothing_more(tmp_path, batches):
    with (tmp_path / "x.root").open("wb") as out:
        writer = FileWriter(out, SAMPLE)
        writer.close({})
        with pytest.raises(FormatError, match="does not belong"):
            writer.append(seal_cluster(SAMPLE, batches[0]))
        with pytest.raises(FormatError, match="already closed"):
            writer.close({})


def test_clusters_are_cut_when_the_target_is_reached():
    schema = Schema([leaf("x", "i4"), collection("Hit", [leaf("t", "f4")])])
    counts = np.array([0, 10, 0, 3, 100, 1, 1], np.int64)
    arrays = {"x": np.arange(7, dtype="i4"), "Hit@0": np.concatenate([[0], np.cumsum(counts)])}
    arrays["Hit.t"] = np.arange(counts.sum()).astype("f4")
    # an event weighs 4 (x) + 8 (offset) + 4 per hit: 12, 52, 12, 24, 412, 16, 16
    cutter = ClusterCutter(schema, target=64)
    done = cutter.add(arrays)
    assert [cluster["x"].tolist() for cluster in done] == [[0, 1], [2, 3, 4]]
    last = cutter.finish()
    assert last is not None
    assert last["x"].tolist() == [5, 6]
    assert last["Hit@0"].tolist() == [0, 1, 2]
    assert cutter.finish() is None
