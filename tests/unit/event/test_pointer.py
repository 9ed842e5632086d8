"""Pointer skims: new banks in a file that leads into others for the rest, and their deep copies."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamwright.core.errors import ConfigError, FormatError, SchemaMismatchError, StorageError
from beamwright.core.runs import Interval
from beamwright.event.banks import BankSet
from beamwright.event.loop import run_path
from beamwright.event.metadata import metadata_of
from beamwright.event.module import Module
from beamwright.event.path import Output, Path
from beamwright.event.pointer import PointerWriter, promote
from beamwright.event.rntuple import FileWriter, NTupleFile, seal_cluster
from beamwright.event.sources import SourceFiles
from beamwright.event.store import CollectionReader, StreamWriter, merge_collections
from beamwright.event.table import Jagged, Table
from beamwright.event.validate import validate_file
from support.streams import BANKS, LINEAGE, batch, same_batches, write_stream

FOUND = {
    "Found": {
        "doc": "The hit that was chosen.",
        "columns": {
            "hit": {"type": "link", "to": "Hit"},
            "weight": {"type": "f4"},
            "before": {"type": "link[]", "to": "Hit"},
        },
    }
}
ALL = BankSet.from_document(BANKS.document() | FOUND)
ORDER = ("Head", "Found", "Hit", "Track")


class Choose(Module):
    """Chooses the last hit of an event with hits, and every third event."""

    reads = ("Hit",)
    writes = ("Found",)

    def process(self, part):
        counts = part["Hit"].counts
        has = (counts > 0).astype(np.int64)
        hits = counts[counts > 0] - 1
        before = Jagged.from_counts(hits, np.concatenate([np.arange(0), *(np.arange(n) for n in hits)]))
        columns = {"hit": hits, "weight": hits * 0.5, "before": before}
        part["Found"] = Table.from_counts("Found", has, columns)
        part.select(part.event % 3 == 0, "third")


def skim_path():
    outputs = [
        Output("skim", ORDER, "third", "skim"),
        Output("points", ORDER, "third", "skim", pointer=True),
    ]
    return Path("skims", "event", [Choose()], outputs)


def skim(folder, parents, *, workers=1, **options):
    folder.mkdir(exist_ok=True)
    outputs = {"skim": folder / "skim.root", "points": folder / "points.root"}
    lineage = dataclasses.replace(LINEAGE, stream="skim", tier="skim")
    with CollectionReader(parents) as reader:
        run_path(
            skim_path(), reader, Interval.runs("44", 0, 99), banks=ALL, outputs=outputs,
            lineage=lambda _: lineage, workers=workers, **options,
        )  # fmt: skip
    return outputs


@pytest.fixture
def parents(tmp_path):
    paths = [tmp_path / "a.root", tmp_path / "b.root"]
    write_stream(paths[0], batch(3, 0, 700), target=20_000)
    write_stream(paths[1], batch(3, 700, 900), batch(4, 0, 300), target=20_000)
    return paths


@pytest.fixture
def outputs(tmp_path, parents):
    return skim(tmp_path / "out", parents)


@pytest.fixture
def sources(parents):
    return SourceFiles.of(parents)


def everything(path, sources=None):
    with CollectionReader([path], sources) as reader:
        return list(reader.batches())


def test_a_pointer_skim_reads_like_the_deep_one_and_holds_its_new_banks_alone(outputs, sources):
    pairs = list(zip(everything(outputs["points"], sources), everything(outputs["skim"]), strict=True))
    assert [batch.n for batch, _ in pairs] == [300, 100]
    assert all(same_batches(one, other) and list(one.tables) == list(ORDER) for one, other in pairs)
    with NTupleFile(outputs["points"]) as file:
        assert [field.name for field in file.schema.fields if field.name in ALL] == ["Found"]


def test_promoting_gives_the_bytes_of_the_deep_skim(tmp_path, parents, outputs, sources):
    promoted = tmp_path / "promoted.root"
    # The stream's name is in the lineage, and so is the only thing that differs between the two outputs.
    deep = skim_deep(tmp_path, parents, "points")
    written = promote(outputs["points"], promoted, sources)
    assert (written.events, validate_file(promoted)["problems"]) == (400, [])
    assert promoted.read_bytes() == deep.read_bytes()
    with pytest.raises(ConfigError, match="no pointer skim"):
        promote(promoted, tmp_path / "again.root")


def test_a_skim_of_several_files_is_promoted_into_one(tmp_path, parents, outputs, sources):
    parts = [skim(tmp_path / path.stem, [path])["points"] for path in parents]
    written = promote(parts[::-1], tmp_path / "all.root", sources)
    assert (written.events, validate_file(written.file)["problems"]) == (400, [])
    pairs = zip(everything(written.file), everything(outputs["skim"]), strict=True)
    assert all(same_batches(one, other) for one, other in pairs)
    with pytest.raises(FormatError, match="overlap"):
        promote([parts[0], parts[0]], tmp_path / "no.root", sources)
    assert not (tmp_path / "no.root").exists()


def skim_deep(folder, parents, stream):
    path = Path("skims", "event", [Choose()], [Output(stream, ORDER, "third", "skim")])
    lineage = dataclasses.replace(LINEAGE, stream="skim", tier="skim")
    target = folder / "deep.root"
    with CollectionReader(parents) as reader:
        run_path(
            path, reader, Interval.runs("44", 0, 99), banks=ALL, outputs={stream: target},
            lineage=lambda _: lineage,
        )  # fmt: skip
    return target


@pytest.mark.forks
@pytest.mark.parametrize(
    "options", [pytest.param({"workers": 2}, marks=pytest.mark.forks), {"batch_events": 17}]
)
def test_the_bytes_do_not_depend_on_workers_or_batches(tmp_path, parents, outputs, options):
    other = skim(tmp_path / "other", parents, **options)
    assert other["points"].read_bytes() == outputs["points"].read_bytes()


def test_links_lead_from_new_banks_across_the_files_also_when_merged_and_promoted(
    tmp_path, parents, outputs, sources
):
    parts = [skim(tmp_path / path.stem, [path])["points"] for path in parents]
    lineage = dataclasses.replace(LINEAGE, stream="skim", tier="skim")
    merged = merge_collections(parts, tmp_path / "merged.root", lineage).file
    deep = promote(merged, tmp_path / "deep.root", sources).file
    read = [part for path in (outputs["points"], merged, deep) for part in everything(path, sources)]
    assert sum(part.n for part in read) == 1200
    for part in read:
        hits, found = part["Hit"], part["Found"]
        rows = found.follow("hit", hits)
        assert (hits.record_index[rows] == found.record_index).all()
        before = found.follow("before", hits)
        assert before.tolist() == [row for last, n in zip(rows, found.hit, strict=True)
                                   for row in range(last - n, last)]  # fmt: skip
        assert (hits.dom[rows] == (part.event[found.record_index] * 10 + found.hit) % 100).all()


def test_records_with_gaps_and_single_banks_are_read(outputs, sources):
    deep = everything(outputs["skim"])[0]
    wanted = np.zeros(deep.n, np.bool_)
    wanted[[0, 7, 8, 299]] = True
    with CollectionReader([outputs["points"]], sources) as reader:
        assert reader.banks("event") == ORDER
        found = reader.read("event", np.flatnonzero(wanted))
        assert same_batches(found, deep.take(wanted))
        assert list(reader.read("event", np.arange(3), ["Track", "Found"]).tables) == ["Track", "Found"]
        assert reader.read("event", np.zeros(0, np.int64)).n == 0


def test_new_banks_are_read_where_the_other_files_are_gone(outputs, parents):
    for path in parents:
        path.unlink()
    with CollectionReader([outputs["points"]]) as reader:
        assert reader.read("event", np.arange(10), ["Found"])["Found"].rows > 0
        with pytest.raises(StorageError, match=r"leads into, is not.*name the folder"):
            reader.read("event", np.arange(10), ["Hit"])


def test_files_beside_the_skim_are_found(outputs, parents, tmp_path):
    for path in parents:
        shutil.move(path, outputs["points"].with_name(f"moved-{path.name}"))
    (outputs["points"].parent / "text.root").write_text("no tuple at all")
    assert same_batches(everything(outputs["points"])[0], everything(outputs["skim"])[0])
    assert validate_file(outputs["points"], sources=SourceFiles(folders=[tmp_path / "out"]))["valid"]


def test_a_pointer_skim_can_be_skimmed_again(tmp_path, outputs, sources):
    again = tmp_path / "again.root"
    with CollectionReader([outputs["points"]], sources) as reader:
        with PointerWriter(again, "twice", ALL, LINEAGE, parents=reader, borrow=ORDER) as writer:
            writer.write(reader.read("event", np.arange(0, 300, 5)))
            writer.close()
    wanted = np.zeros(300, np.bool_)
    wanted[::5] = True
    found = SourceFiles.of([outputs["points"], *sources.paths.values()])
    assert same_batches(everything(again, found)[0], everything(outputs["skim"])[0].take(wanted).only(ALL))


def test_pointer_skims_are_merged_by_their_pages(tmp_path, parents, sources):
    parts = [skim(tmp_path / path.stem, [path]) for path in parents]
    names = [part["points"] for part in parts]
    lineage = dataclasses.replace(LINEAGE, stream="skim", tier="skim")
    merged = merge_collections(names, tmp_path / "merged.root", lineage)
    assert (merged.events, validate_file(merged.file, sources=sources)["problems"]) == (400, [])
    found = everything(merged.file, sources)
    both = everything(parts[0]["skim"])[0], everything(parts[1]["skim"])[0]
    assert same_batches(found[0], type(found[0]).concatenate(both))


def test_pointers_are_not_merged_with_deep_copies(tmp_path, outputs):
    with pytest.raises(SchemaMismatchError):
        merge_collections([outputs["points"], outputs["skim"]], tmp_path / "no.root", LINEAGE)


def test_validation_follows_pointers(outputs, sources):
    assert validate_file(outputs["points"], sources=sources)["problems"] == []
    assert validate_file(outputs["points"])["problems"] == []


def test_validation_tells_of_files_that_are_missing_or_others(tmp_path, outputs, parents):
    verdict = validate_file(outputs["points"], sources=SourceFiles())
    assert not verdict["valid"] and "is not in any folder" in verdict["problems"][0]
    uuids = list(SourceFiles.of(parents).paths)
    swapped = SourceFiles(dict(zip(uuids, reversed(parents), strict=True)))
    assert "a pointer skim leads to one exact file" in str(validate_and_raise(outputs["points"], swapped))


def validate_and_raise(path, sources):
    with pytest.raises(FormatError) as raised:
        everything(path, sources)
    assert not validate_file(path, sources=sources)["valid"]
    return raised.value


def forged(path, change, sources=None):
    """Write a pointer skim anew, its columns changed behind the back of the writer."""
    target = path.with_name("forged.root")
    with NTupleFile(path) as file:
        columns, document = file.read(), dict(file.metadata)
        change(columns, document)
        lineage = metadata_of(file).lineage.hash
        with target.open("wb") as out:
            writer = FileWriter(out, file.schema)
            writer.append(seal_cluster(file.schema, columns))
            writer.close(document, lineage=lineage)
    return validate_file(target, sources=sources)["problems"]


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("source_entry", 5, "leads to another record"),
        ("source_entry", 10**6, "leads to entry 1000000"),
        ("source_low", 5, "disagree on the files"),
        ("Found.hit", 99, "link Found.hit of 44:3:0:0 leads out of bank Hit"),
    ],
)
def test_validation_finds_pointers_and_links_that_lead_astray(outputs, sources, column, value, problem):
    def change(columns, document):
        columns[column][1 if column != "Found.hit" else 0] = value

    assert forged(outputs["points"], lambda *_: None, sources) == []
    assert problem in forged(outputs["points"], change, sources)[0]


def test_validation_finds_files_that_are_named_in_vain(outputs):
    def change(columns, document):
        document["sources"] = [*document["sources"], "00000000-0000-8000-8000-000000000000"]

    assert "disagree on the files" in forged(outputs["points"], change)[0]


def test_only_records_that_were_read_can_be_pointed_to(tmp_path, parents):
    with CollectionReader(parents[:1]) as reader:
        with PointerWriter(tmp_path / "p.root", "p", BANKS, LINEAGE, parents=reader, borrow=BANKS) as writer:
            with pytest.raises(FormatError, match="record 3:7:700 is in none of the files"):
                writer.write(batch(3, 699, 702))
    assert not (tmp_path / "p.root").exists()


def test_a_skim_borrows_something_and_nothing_that_links_into_new_banks(tmp_path, parents):
    with CollectionReader(parents) as reader:
        with pytest.raises(ConfigError, match="borrows no bank"):
            PointerWriter(tmp_path / "p.root", "p", BANKS, LINEAGE, parents=reader, borrow=())
        with pytest.raises(ConfigError, match=r"Track stays and links into Hit.*write Track anew too"):
            PointerWriter(tmp_path / "p.root", "p", BANKS, LINEAGE, parents=reader, borrow=("Head", "Track"))


def test_an_empty_skim_still_says_what_it_would_borrow(tmp_path, parents, sources):
    with CollectionReader(parents) as reader:
        with PointerWriter(tmp_path / "p.root", "p", BANKS, LINEAGE, parents=reader, borrow=BANKS) as writer:
            writer.close()
    assert validate_file(tmp_path / "p.root", sources=sources)["problems"] == []
    with CollectionReader([tmp_path / "p.root"], sources) as reader:
        assert reader.points and reader.read("event", np.zeros(0, np.int64), ["Hit"]).n == 0
    assert promote(tmp_path / "p.root", tmp_path / "deep.root", sources).events == 0


@settings(max_examples=15)
@given(data=st.data())
def test_any_selection_promotes_to_its_deep_copy(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("any")
    cuts = sorted(data.draw(st.sets(st.integers(1, 119), max_size=3)))
    names = []
    for first, last in zip([0, *cuts], [*cuts, 120], strict=True):
        names.append(folder / f"{first}.root")
        write_stream(names[-1], batch(3, first, last), target=1500)
    chosen = np.zeros(120, np.bool_)
    chosen[sorted(data.draw(st.sets(st.integers(0, 119))))] = True
    whole = batch(3, 0, 120)
    with CollectionReader(data.draw(st.permutations(names))) as reader:
        with PointerWriter(folder / "p.root", "s", BANKS, LINEAGE, parents=reader, borrow=BANKS) as writer:
            writer.write(whole.take(chosen))
            writer.close()
    with StreamWriter(folder / "deep.root", "s", BANKS, LINEAGE) as writer:
        writer.write(whole.take(chosen))
        writer.close()
    promote(folder / "p.root", folder / "copy.root", SourceFiles.of(names))
    assert (folder / "copy.root").read_bytes() == (folder / "deep.root").read_bytes()
