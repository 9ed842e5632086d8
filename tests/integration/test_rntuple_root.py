"""Our files through the eyes of uproot and ROOT, and theirs through ours."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import awkward as ak
import numpy as np
import pytest

from beamwright.core.errors import FormatError
from beamwright.event.rntuple import (
    FileWriter,
    NTupleFile,
    seal_cluster,
    verify,
)
from beamwright.event.store import CollectionReader
from support import wide
from support.streams import batch, write_stream
from support.tuples import LEAVES, SAMPLE, same_columns, sample_arrays, write_file

uproot = pytest.importorskip("uproot")
FOUND = importlib.util.find_spec("ROOT")
ROOT_HOME = Path(FOUND.origin).parent if FOUND and FOUND.origin else Path()
needs_root = pytest.mark.skipif(FOUND is None, reason="the ROOT wheel (extra root) is not installed")


def jagged(arrays, key):
    """Return a column of the sample as awkward lists, following its offsets inwards."""
    values = arrays[key]
    if key in SAMPLE.index and f"{key}@0" in arrays:
        for level in reversed(range(2 if f"{key}@1" in arrays else 1)):
            values = ak.unflatten(values, np.diff(arrays[f"{key}@{level}"]))
    return values


def texts(values):
    return ak.to_list(ak.from_iter([bytes(row).decode() for row in ak.to_list(values)]))


@pytest.fixture(scope="module")
def batches():
    return [sample_arrays(900, 1), sample_arrays(401, 2)]


@pytest.fixture(scope="module")
def sample(tmp_path_factory, batches):
    return write_file(tmp_path_factory.mktemp("sample") / "sample.root", batches, page_bytes=1024)


@pytest.fixture(scope="module")
def whole(sample):
    with NTupleFile(sample) as file:
        return file.read()


# --- uproot


def test_uproot_reads_every_type(sample, whole):
    with uproot.open(sample) as file:
        assert file.classnames(cycle=False) == {"events": "ROOT::RNTuple", "metadata": "TObjString"}
        found = file["events"].arrays()
    assert len(found) == 1301
    for name in LEAVES:
        assert found[f"l_{name}"].to_numpy().tobytes() == whole[f"l_{name}"].tobytes(), name
    assert found["Header", "time"].to_numpy().tobytes() == whole["Header.time"].tobytes()
    assert ak.to_list(found["Header", "good"]) == whole["Header.good"].tolist()
    assert ak.num(found["Hit"]).to_list() == np.diff(whole["Hit@0"]).tolist()
    assert ak.flatten(found["Hit", "t"]).to_numpy().tobytes() == whole["Hit.t"].tobytes()
    assert ak.to_list(ak.flatten(found["Hit", "samples"])) == ak.to_list(jagged(whole, "Hit.samples"))
    assert ak.to_list(ak.flatten(found["Hit", "label"])) == texts(jagged(whole, "Hit.label"))
    assert ak.flatten(found["weights"]).to_numpy().tobytes() == whole["weights"].tobytes()
    assert ak.to_list(found["grid"]) == ak.to_list(jagged(whole, "grid"))
    assert ak.to_list(found["tag"]) == texts(jagged(whole, "tag"))
    assert ak.num(found["words"]).to_list() == np.diff(whole["words@0"]).tolist()


def test_uproot_shows_names_descriptions_and_metadata(sample):
    with uproot.open(sample) as file:
        tuple_ = file["events"]
        assert set(tuple_.keys()) >= {"run", "Header.time", "Hit.t", "Hit.samples", "tag"}
        assert tuple_["Hit.t"].description == "time [ns]"
        assert json.loads(str(file["metadata"]))["metadata"] == {"made": "for a test"}
        assert str(file.file.uuid) == str(NTupleFile(sample).uuid)


def test_uproot_reads_a_tuple_without_events(tmp_path):
    path = write_file(tmp_path / "empty.root", [])
    with uproot.open(path) as file:
        assert file["events"].num_entries == 0
        assert len(file["events"].arrays()) == 0


def test_files_of_uproot_are_read(tmp_path):
    path = tmp_path / "uproot.root"
    data = {
        "x": np.arange(100, dtype=np.float32),
        "n": np.arange(100, dtype=np.int16) - 50,
        "flag": np.arange(100) % 3 == 0,
        "lists": ak.Array([[float(k)] * (k % 4) for k in range(100)]),
        "nested": ak.Array([[[k], [], [k, k]] for k in range(100)]),
        "text": ak.Array([f"event {k}" for k in range(100)]),
        "hits": ak.Array([[{"t": k + 0.5, "q": k}] * (k % 3) for k in range(100)]),
        "pair": ak.Array([{"a": k, "b": -k} for k in range(100)]),
        "fixed": np.zeros((100, 3)),
    }
    with uproot.recreate(path) as file:
        file.mkrntuple("data", data)
        file["data"].extend(data)
    with NTupleFile(path) as file:
        assert (file.n_entries, len(file.clusters), file.is_own) == (200, 2, False)
        found = file.read()
        assert "fixed" in file.layout.unsupported
        with pytest.raises(FormatError, match="fixed cannot be read: fixed-size array"):
            file.read(["fixed"])
    assert found["x"].tolist() == [*range(100)] * 2
    assert found["n"][:100].tolist() == data["n"].tolist()
    assert found["flag"].tolist() == data["flag"].tolist() * 2
    assert np.diff(found["lists@0"])[100:].tolist() == [k % 4 for k in range(100)]
    assert found["nested"][-3:].tolist() == [99, 99, 99]
    assert found["text"].tobytes()[-8:] == b"event 99"
    assert found["hits.t"][:3].tolist() == [1.5, 2.5, 2.5]
    assert found["pair.b"][:3].tolist() == [0, -1, -2]
    checked = verify(path)
    assert checked.problems == []
    assert checked.unchecked_pages == checked.n_pages


@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_raise_format_errors_and_nothing_else(sample, tmp_path, seed):
    foreign, path = tmp_path / "foreign.root", tmp_path / "damaged.root"
    with uproot.recreate(foreign) as file:
        lists = ak.Array([[float(k)] * (k % 4) for k in range(100)])
        file.mkrntuple(
            "data", {"x": np.arange(100), "lists": lists, "text": ak.Array([f"e{k}" for k in range(100)])}
        )
    chooser = random.Random(seed)
    for source in (sample, foreign):
        whole = source.read_bytes()
        for _ in range(60):
            data = bytearray(whole)
            at = chooser.randrange(len(data) - 8)
            damage = [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", chooser.randbytes(8), b""][
                chooser.randrange(5)
            ]
            data[at : at + len(damage) if damage else len(data)] = damage
            path.write_bytes(data)
            verify(path)
            with contextlib.suppress(FormatError), NTupleFile(path) as file:
                file.read()


# --- ROOT, in a process of its own

READ = """
import json, sys
import ROOT
path, large, out = sys.argv[1:]
result = {}
reader = ROOT.RNTupleReader.Open("events", path)
result["entries"] = reader.GetNEntries()
names = {sign + str(size): f"std::{'u' if sign == 'u' else ''}int{8 * size}_t"
         for sign in "ui" for size in (1, 2, 4, 8)}
names["bool"] = "bool"
for name, kind in names.items():
    view = reader.GetView[kind]("l_" + name)
    values = [view(i) for i in range(result["entries"])]
    # bytes come as characters; those of a signed byte count from -128
    low = 128 if name == "i1" else 0
    result[name] = [(ord(v) ^ low) - low if isinstance(v, str) else int(v) for v in values]
    del view
time = reader.GetView["float"]("Hit._0.t")
hits = reader.GetCollectionView("Hit")
result["hit_rows"] = [hits(i) for i in range(result["entries"])]
result["hit_t"] = [float(time(i)).hex() for i in hits.GetCollectionRange(1)]
tag = reader.GetView["std::string"]("tag")
result["tag"] = [str(tag(i)) for i in range(20)]
described = reader.GetDescriptor()
result["doc"] = str(described.GetFieldDescriptor(described.FindFieldId("run")).GetFieldDescription())
del described, time, hits, tag, reader
frame = ROOT.RDataFrame("events", path)
result["columns"] = sorted(str(name) for name in frame.GetColumnNames())
rows = frame.Define("rows", "(int)Hit.t.size()").Define("chars", "(int)tag.size()")
rows = rows.Define("samples", "int n = 0; for (auto &s : Hit.samples) n += s.size(); return n;")
for name in ("rows", "chars", "samples", "l_u4", "Header.good"):
    result["sum " + name] = float(rows.Sum(name).GetValue())
result["large"] = int(ROOT.RDataFrame("events", large).Define("n", "(int)Hit.t.size()").Sum("n").GetValue())
file = ROOT.TFile.Open(path)
result["uuid"] = str(file.GetUUID().AsString())
result["metadata"] = json.loads(str(file.Get("metadata").GetString()))
json.dump(result, open(out, "w"))
"""

WRITE = """
import sys
import ROOT
for path, compression in zip(sys.argv[3::2], sys.argv[4::2]):
    model = ROOT.RNTupleModel.Create()
    model.MakeField["std::int32_t"]("run", "run number")
    model.MakeField["std::uint64_t"]("event")
    model.MakeField["double"]("energy")
    model.MakeField["bool"]("flag")
    model.MakeField["std::string"]("text")
    model.MakeField["std::vector<float>"]("lists")
    model.MakeField["std::vector<std::vector<std::int16_t>>"]("nested")
    model.MakeField["ROOT::RVec<double>"]("rvec")
    model.MakeField["std::array<float, 3>"]("fixed")
    options = ROOT.RNTupleWriteOptions()
    options.SetCompression(int(compression))
    options.SetMaxUnzippedPageSize(512)
    options.SetInitialUnzippedPageSize(128)
    writer = ROOT.RNTupleWriter.Recreate(ROOT.std.move(model), "data", path, options)
    entry = writer.CreateEntry()
    for k in range(500):
        entry["run"], entry["event"], entry["energy"], entry["flag"] = -k, k << 40, k / 3, k % 3 == 0
        entry["text"] = f"event {k}"
        entry["lists"].clear(), entry["nested"].clear(), entry["rvec"].clear()
        for j in range(k % 4):
            entry["lists"].push_back(k + j / 4)
            entry["rvec"].push_back(-k)
        for j in range(k % 3):
            inner = ROOT.std.vector["std::int16_t"]()
            for _ in range(j):
                inner.push_back(k)
            entry["nested"].push_back(inner)
        writer.Fill(entry)
        if k % 200 == 199:
            writer.CommitCluster()
    del entry, writer
"""

SPECIAL = r"""
ROOT.gInterpreter.Declare(r'''
#include <ROOT/RField.hxx>
#include <ROOT/RNTupleModel.hxx>
#include <ROOT/RNTupleWriter.hxx>
#include <map>
#include <optional>
#include <set>
#include <variant>
void late(const char *path) {
   auto model = ROOT::RNTupleModel::Create();
   auto a = model->MakeField<float>("a");
   auto writer = ROOT::RNTupleWriter::Recreate(std::move(model), "data", path);
   for (int i = 0; i < 10; i++) { *a = i; writer->Fill(); }
   writer->CommitCluster();
   auto updater = writer->CreateModelUpdater();
   updater->BeginUpdate();
   auto b = updater->MakeField<int>("b");
   updater->CommitUpdate();
   for (int i = 10; i < 20; i++) { *a = i; *b = i; writer->Fill(); }
}
void special(const char *path) {
   auto model = ROOT::RNTupleModel::Create();
   auto d32 = model->MakeField<Double32_t>("d32");
   auto v = model->MakeField<std::vector<float>>("v");
   auto half = std::make_unique<ROOT::RField<float>>("half");
   half->SetHalfPrecision();
   model->AddField(std::move(half));
   auto cut = std::make_unique<ROOT::RField<float>>("cut");
   cut->SetTruncated(20);
   model->AddField(std::move(cut));
   model->AddProjectedField(std::make_unique<ROOT::RField<ROOT::RNTupleCardinality<std::uint64_t>>>("nv"),
                            [](const std::string &) { return "v"; });
   auto o = model->MakeField<std::optional<float>>("o");
   auto p = model->MakeField<std::pair<float, int>>("p");
   auto names = model->MakeField<std::map<std::string, float>>("names");
   auto either = model->MakeField<std::variant<int, float>>("either");
   auto c = model->MakeField<char>("c");
   auto h = model->GetDefaultEntry().GetPtr<float>("half");
   auto writer = ROOT::RNTupleWriter::Recreate(std::move(model), "data", path);
   for (int i = 0; i < 10; i++) {
      *d32 = i / 4.; v->assign(i % 3, i); *h = i / 2.; *p = {i, -i}; *either = i; *c = -i;
      if (i % 2) *o = i; else o->reset();
      names->clear(); (*names)["k" + std::to_string(i)] = i;
      writer->Fill();
   }
}
''')
ROOT.late(sys.argv[1])
ROOT.special(sys.argv[2])
"""


def run_root(script, *arguments):
    """Run a ROOT script apart; ROOT installs signal handlers and its own views of memory."""
    command = [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Write a sparse file whose pages lie beyond 5 GiB."""
    path = tmp_path_factory.mktemp("large") / "large.root"
    with path.open("wb") as out:
        writer = FileWriter(out, SAMPLE)
        writer._position = 5 << 30
        writer.append(seal_cluster(SAMPLE, sample_arrays(100, 5)))
        writer.close({})
    return path


@pytest.fixture(scope="module")
def seen_by_root(sample, large, tmp_path_factory):
    out = tmp_path_factory.mktemp("root") / "seen.json"
    run_root(READ, sample, large, out)
    return json.loads(out.read_text())


@pytest.mark.root
@needs_root
def test_root_reads_every_column(seen_by_root, whole):
    assert seen_by_root["entries"] == 1301
    for name in LEAVES:
        if name not in ("f4", "f8"):
            assert seen_by_root[name] == [int(v) for v in whole[f"l_{name}"]], name
    assert seen_by_root["hit_rows"] == np.diff(whole["Hit@0"]).tolist()
    start, stop = whole["Hit@0"][1:3]
    expected = [float(v) for v in whole["Hit.t"][start:stop]]
    assert [float.fromhex(v) for v in seen_by_root["hit_t"]] == pytest.approx(expected, nan_ok=True)
    assert seen_by_root["tag"] == texts(jagged(whole, "tag"))[:20]
    assert seen_by_root["doc"] == "run number"


@pytest.mark.root
@needs_root
def test_data_frames_of_root_see_banks_and_columns(seen_by_root, whole):
    assert {"run", "Header.time", "Hit.t", "Hit.samples", "tag"} <= set(seen_by_root["columns"])
    assert seen_by_root["sum rows"] == whole["Hit@0"][-1]
    assert seen_by_root["sum samples"] == whole["Hit.samples@0"][-1]
    assert seen_by_root["sum chars"] == whole["tag@0"][-1]
    assert seen_by_root["sum l_u4"] == whole["l_u4"].sum(dtype=np.uint64)
    assert seen_by_root["sum Header.good"] == whole["Header.good"].sum()


@pytest.mark.root
@needs_root
def test_root_reads_uuid_and_metadata(seen_by_root, sample):
    with NTupleFile(sample) as file:
        assert seen_by_root["uuid"] == str(file.uuid)
        assert seen_by_root["metadata"]["metadata"] == file.metadata


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("compression", [0, 101, 207, 505], ids=["none", "zlib", "lzma", "zstd"])
def test_files_of_root_are_read(root_files, compression):
    with NTupleFile(root_files[compression]) as file:
        assert (file.n_entries, len(file.clusters), file.is_own) == (500, 3, False)
        assert set(file.layout.unsupported) == {"fixed"}
        assert file.schema.field_list[0][0].doc == "run number"
        found = file.read()
        part = file.read(["text", "nested"], 199, 201)
    k = np.arange(500)
    assert np.array_equal(found["run"], -k)
    assert np.array_equal(found["event"], k.astype("u8") << np.uint64(40))
    assert np.array_equal(found["energy"], k / 3)
    assert np.array_equal(found["flag"], k % 3 == 0)
    assert np.array_equal(np.diff(found["lists@0"]), k % 4)
    assert found["lists"][:3].tolist() == [1.0, 2.0, 2.25]
    assert np.array_equal(found["rvec"], np.repeat(-k, k % 4))
    assert np.array_equal(np.diff(found["nested@0"]), k % 3)
    assert np.array_equal(np.diff(found["nested@1"]), np.concatenate([np.arange(i % 3) for i in k]))
    assert part["text"].tobytes() == b"event 199event 200"
    assert part["nested"].tolist() == [200]
    assert verify(root_files[compression]).ok


@pytest.fixture(scope="module")
def written_by_root(tmp_path_factory):
    """Let one process of ROOT write all files: four compressions of common types, and the special ones."""
    directory = tmp_path_factory.mktemp("written")
    special = directory / "late.root", directory / "special.root"
    paths = {compression: directory / f"{compression}.root" for compression in (0, 101, 207, 505)}
    run_root(
        WRITE + SPECIAL,
        *special,
        *(word for compression, path in paths.items() for word in (path, compression)),
    )
    return paths, special


@pytest.fixture(scope="module")
def root_files(written_by_root):
    return written_by_root[0]


@pytest.fixture(scope="module")
def special_files(written_by_root):
    return written_by_root[1]


@pytest.mark.root
@needs_root
def test_columns_that_root_added_later_are_refused_and_the_others_read(special_files):
    with NTupleFile(special_files[0]) as file:
        assert file.read()["a"].tolist() == list(range(20))
        with pytest.raises(FormatError, match="b cannot be read: column added after the first event"):
            file.read(["b"])
        with NTupleFile(special_files[0], like=file) as other:
            assert other.description == file.description and len(other.description.fields) == 2
            assert other.read()["a"].tolist() == list(range(20))
    assert verify(special_files[0]).ok


@pytest.mark.root
@needs_root
def test_less_common_types_of_root_are_read_or_named(special_files):
    with NTupleFile(special_files[1]) as file:
        found = file.read()
        assert set(file.layout.unsupported) == {"cut", "either", "nv"}
        for name in ("cut", "either", "nv"):
            with pytest.raises(FormatError, match=f"column {name} cannot be read"):
                file.read([name])
    k = np.arange(10)
    assert np.array_equal(found["d32"], k / 4)
    assert np.array_equal(found["half"], (k / 2).astype("f4"))
    assert np.array_equal(np.diff(found["v@0"]), k % 3)
    assert found["o"].tolist() == [1, 3, 5, 7, 9]
    assert np.array_equal(found["p._1"], -k)
    assert found["names._0"].tobytes() == b"k0k1k2k3k4k5k6k7k8k9"
    assert np.array_equal(found["c"], -k)
    checked = verify(special_files[1])
    assert checked.problems == []
    assert checked.unchecked_pages == 0


@pytest.mark.root
@needs_root
def test_a_flip_in_a_column_that_is_not_read_is_found(special_files, tmp_path):
    data = bytearray(special_files[1].read_bytes())
    with NTupleFile(special_files[1]) as file:
        number = [file.description.fields[c.field_id].name for c in file.description.columns].index("cut")
        offset = int(file.clusters[0].columns[number].pages["offset"][0])
    data[offset + 2] ^= 1
    path = tmp_path / "flipped.root"
    path.write_bytes(data)
    assert "page 0 of column cut in cluster 0" in verify(path).problems[0]


@pytest.mark.root
@needs_root
def test_a_flip_in_a_page_of_root_is_found(root_files, tmp_path):
    data = bytearray(root_files[505].read_bytes())
    with NTupleFile(root_files[505]) as file:
        _, column = file.stored(file.schema.index["energy"], 1)
    data[int(column.pages["offset"][0]) + 20] ^= 1
    path = tmp_path / "flipped.root"
    path.write_bytes(data)
    assert "page 0 of column energy in cluster 1" in verify(path).problems[0]


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("mode", [["-ff"], ["-f"]], ids=["copying", "recompressing"])
def test_hadd_merges_our_files(sample, whole, tmp_path, mode):
    hadd = ROOT_HOME / "bin" / "hadd"
    if not hadd.exists():
        pytest.skip("this ROOT has no hadd")
    path = tmp_path / "hadd.root"
    environment = os.environ | {"ROOTSYS": str(ROOT_HOME), "LD_LIBRARY_PATH": str(ROOT_HOME / "lib")}
    command = [str(hadd), *mode, str(path), str(sample), str(sample)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Error" not in done.stderr
    with NTupleFile(path) as file:
        assert (file.n_entries, file.is_own, file.metadata) == (2602, False, {})
        assert same_columns(file.read(None, 0, 1301), whole)
        assert same_columns(file.read(None, 1301, 2602), whole)
    assert verify(path).ok


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("mode", [["-ff"], ["-f"]], ids=["copying", "recompressing"])
def test_hadd_merges_event_streams_with_text_lists_links_and_files_without_events(tmp_path, mode):
    hadd = ROOT_HOME / "bin" / "hadd"
    if not hadd.exists():
        pytest.skip("this ROOT has no hadd")
    names = [tmp_path / f"{name}.root" for name in ("wide", "none", "also")]
    for name, part in zip(names, (wide.sample(30), wide.sample(0), wide.sample(7)), strict=True):
        wide.write(name, part, target=4_000)
    links = [tmp_path / f"{name}.root" for name in ("three", "four")]
    for number, name in enumerate(links, 3):
        write_stream(name, batch(number, 0, 40), target=4_000)
    environment = os.environ | {"ROOTSYS": str(ROOT_HOME), "LD_LIBRARY_PATH": str(ROOT_HOME / "lib")}
    for inputs in (names, links):
        path = inputs[0].with_suffix(".hadd.root")
        command = [str(hadd), *mode, *map(str, (path, *inputs))]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=240, env=environment, check=False
        )
        assert done.returncode == 0 and "Error" not in done.stderr, done.stderr[-3000:]
        parts = []
        for name in inputs:
            with NTupleFile(name) as file:
                parts.append((file.n_entries, file.read()))
        with NTupleFile(path) as file:
            start = 0
            for n, columns in parts:
                assert same_columns(file.read(None, start, start + n), columns)
                start += n
            assert file.n_entries == start
        assert verify(path).ok
        with pytest.raises(FormatError, match="no metadata of an event stream: ROOT.* `beamwright merge`"):
            CollectionReader([path])


@pytest.mark.root
@needs_root
def test_root_reads_beyond_four_gigabytes(seen_by_root, large):
    with NTupleFile(large) as file:
        assert seen_by_root["large"] == len(file.read(["Hit.t"])["Hit.t"])


@needs_root
@pytest.mark.root
def test_of_the_cycles_that_hadd_leaves_the_last_is_read(tmp_path):
    hadd = ROOT_HOME / "bin" / "hadd"
    if not hadd.exists():
        pytest.skip("this ROOT has no hadd")
    names = [write_file(tmp_path / f"{n}.root", [sample_arrays(10, n)]) for n in range(9)]
    environment = os.environ | {"ROOTSYS": str(ROOT_HOME), "LD_LIBRARY_PATH": str(ROOT_HOME / "lib")}
    # so few files at a time that it merges in rounds, and keeps the tuple of each round
    command = [str(hadd), "-ff", "-n", "4", str(tmp_path / "all.root"), *map(str, names)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    with NTupleFile(tmp_path / "all.root") as file:
        cycles = [key.cycle for key in file.keys if key.name == "events"]
        assert len(cycles) > 1 and file.anchor_key.cycle == max(cycles)
        assert file.n_entries == 90
        expected = np.concatenate([sample_arrays(10, n)["l_u8"] for n in range(9)])
        assert np.array_equal(file.read(["l_u8"])["l_u8"], expected)
