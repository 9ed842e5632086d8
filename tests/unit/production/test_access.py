"""What a production made is read back: collections as batches, histograms summed, constants by interval."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import sqlalchemy as sa

import beamwright
from beamwright.conditions import tags
from beamwright.conditions.payload import Payload
from beamwright.core.errors import StorageError, UnknownNameError
from beamwright.core.histogram import Axis, HistogramSet
from beamwright.core.runs import Interval
from beamwright.db import schema
from beamwright.event.banks import BankSet
from beamwright.production.access import Access, open_collection
from beamwright.production.workspace import Workspace
from support.sample_production import Sample, digest
from support.streams import batch, write_stream


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    workspace = Workspace.create(tmp_path / "workspace")
    with workspace.db.begin() as conn:
        Sample(conn, folder=workspace.root / "farms").build()
    yield workspace
    workspace.db.close()


@pytest.fixture
def access(workspace: Workspace) -> Iterator[Access]:
    with workspace.db.read() as conn:
        yield Access(conn, "sample")


def place(workspace: Workspace) -> Path:
    """Put a real file where the catalogue has that of the merged collection."""
    path = workspace.root / "farms" / "merged" / "good.A.root-0.0"
    path.parent.mkdir(parents=True)
    write_stream(path, batch(1, 0, 7), batch(2, 0, 5))
    return path


def test_collections_are_chosen_by_what_they_are(access: Access) -> None:
    assert [c.name for c in access.collections(step="merged")] == ["sample:merged/good.A"]
    assert [c.is_mc for c in access.collections(stream="dst", series="S")] == [True]
    assert len(access.collections(stream="dst", is_mc=False)) == 3
    assert [c.interval.first[1] for c in access.collections(stream="dst", run=2)] == [0, 50]
    (merged,) = access.collections(step="merged")
    assert merged.parents[0] == "sample:skim/good.10.root"


def test_collection_is_read_in_batches_that_do_not_cross_a_run(workspace: Workspace, access: Access) -> None:
    place(workspace)
    found = list(access.batches(access.collections(step="merged"), size=4))
    assert [(b.run, b.n) for b in found] == [(1, 4), (1, 3), (2, 4), (2, 1)]
    with access.open("sample:merged/good.A") as reader:
        assert len(reader.index(reader.record).run) == 12


def test_collection_opens_by_name_out_of_a_workspace(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(workspace)
    with open_collection("sample:merged/good.A", workspace.root) as reader:
        assert reader.metadata[0].events == 12
    monkeypatch.chdir(workspace.root / "farms")
    with beamwright.open("sample:merged/good.A") as reader:
        assert reader.metadata[0].events == 12
    with pytest.raises(UnknownNameError, match=r"sample:merged/good\.B"):
        open_collection("sample:merged/good.B", workspace.root)


def test_a_file_opens_by_its_path_without_a_workspace(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place(workspace)
    with open_collection("sample:merged/good.A", workspace.root) as reader:
        file = reader.files[0].path
    monkeypatch.chdir(tmp_path)
    with beamwright.open(str(file)) as reader:
        assert reader.metadata[0].events == 12
    with pytest.raises(StorageError, match="there is no file dst.root"):
        beamwright.open("dst.root")


def test_files_open_as_banks_are_declared_now(workspace: Workspace, tmp_path: Path) -> None:
    place(workspace)
    name = "sample:merged/good.A"
    with open_collection(name, workspace.root) as reader:
        bank = next(iter(reader.declarations.values()))
        first = bank.columns[0].name
        old = reader[f"{bank.name}.{first}"].to_list()
    declared = (
        f'[bank.{bank.name}]\nversion = {bank.version + 1}\nrows = "{bank.rows}"\n'
        f"[bank.{bank.name}.columns]\n"
        f'now = {{type = "{bank[first].document()["type"]}", unit = "{bank[first].unit}", '
        f'renamed = ["{first}"]}}\nmore = {{type = "i2", default = -1}}\n'
    )
    (tmp_path / "banks.toml").write_text(declared)
    for given in (tmp_path / "banks.toml", BankSet.load(tmp_path / "banks.toml")):
        with beamwright.open(name, workspace.root, given) as reader:
            assert reader.keys() == ["run", "section", "event", bank.name]
            assert reader[f"{bank.name}.now"].to_list() == old
            assert set(ak.ravel(reader[f"{bank.name}.more"]).to_list()) == {-1}


def test_missing_file_is_named(access: Access) -> None:
    with pytest.raises(StorageError, match=r"good\.A\.root.*of collection sample:merged/good\.A is missing"):
        access.open("sample:merged/good.A")


def test_histograms_of_a_step_are_summed_over_its_units(workspace: Workspace) -> None:
    with workspace.db.begin() as conn:
        sample = Sample(conn, folder=workspace.root)
        for number, run in enumerate((1, 2, 2)):
            key = digest(f"unit reco {number}")
            unit = conn.execute(sa.select(schema.unit.c.id).where(schema.unit.c.key == key)).scalar_one()
            attempt = conn.execute(
                sa.select(schema.attempt.c.id).join(schema.job).where(schema.job.c.unit_id == unit)
            )
            identity = attempt.scalar_one()
            file = sample.file("sample", f"histograms{number}.bwb", "bundle", 1, identity)
            sample.add(
                schema.output, unit_id=unit, stream="histograms", attempt_id=identity, file_id=file, events=0
            )
            filled = HistogramSet()
            filled.book("x", Axis(4, 0, 4)).fill(np.full(run, 0.5))
            (workspace.root / f"histograms{number}.bwb-0.0").write_bytes(filled.to_bytes())
    with workspace.db.read() as conn:
        access = Access(conn)
        assert access.histograms("reco")["x"].entries == 5
        assert access.histograms("reco", series="A", run=2)["x"].entries == 4
        assert access.histograms("skim") == {}


def test_constants_come_with_interval_and_origin(workspace: Workspace) -> None:
    with workspace.db.begin() as conn:
        payload = Payload.arrays({"scale": np.array([1.5])})
        tags.put_payload(conn, payload, 0.0)
        tags.create_tag(conn, "open-A/Offset", "arrays", 0.0)
        interval = Interval.runs("A", 1, 2)
        tags.append(conn, "open-A/Offset", [(interval, payload.id, "fitted", "enough")], 0.0)
    with workspace.db.read() as conn:
        (found,) = Access(conn).constants("open-A/Offset")
        assert (found.interval, found.origin, found.reason) == (interval, "fitted", "enough")
        assert found.constants["scale"][0] == 1.5
        with pytest.raises(UnknownNameError, match="open-A/Ofset"):
            Access(conn).constants("open-A/Ofset")


def test_links_and_deliveries_are_in_order(access: Access) -> None:
    assert [(link.run, link.sequence, link.state) for link in access.links("pass1", "A")] == [
        (1, 1, "accepted"),
        (2, 1, "accepted"),
        (2, 2, "carried"),
    ]
    delivered = access.deliveries("A")
    assert [(d.run, d.sequence, d.first_section) for d in delivered] == [(1, 1, 0), (2, 1, 0), (2, 2, 50)]
    assert set(delivered[0].files) == {"events"}
