"""A production of the telescope on local farms: two-pass calibration, reconstruction, skims, figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from beamwright.agents.analysing import prepare
from beamwright.agents.loop import Produce
from beamwright.core.histogram import HistogramSet
from beamwright.event.store import read_metadata
from beamwright.production import analyses
from beamwright.production.access import Access
from beamwright.production.experiment import Experiment, load
from beamwright.production.figures import Figures
from beamwright.production.spec import ProductionSpec, load_spec
from beamwright.production.workspace import Workspace
from support.orca_samples import sample

ANALYSIS = """
name = "energies"
scope = "user.ada"
experiment = "orca"
dataset = "demo:merged.muon"
code = "code"
path = "energies:path"
[output.histograms]
kind = "histograms"
[output.table]
kind = "parquet"
"""
CODE = """
from beamwright.core.histogram import Axis
from beamwright.event.module import Module
from beamwright.event.path import Output, Path


class Energies(Module):
    reads = ("Summary",)

    def book(self, histograms):
        self.energies = histograms.book("energy", Axis(20, 0.0, 200.0, "energy [GeV]"))

    def process(self, batch):
        batch.fill(self.energies, batch["Summary"].energy)


def path():
    return Path("energies", "event", [Energies()], [Output("table", ["Summary"])])
"""
RUNS = {"real": {"44": [6633, 6884]}, "simulation": {"133": [13340]}, "reconstructed": {"49": [9505]}}
RESAMPLED = 40


def reduced(spec: ProductionSpec) -> ProductionSpec:
    """The demonstration with fewer runs, DST runs in one unit each."""
    datasets = [d.model_copy(update={"runs": RUNS[d.name]}) for d in spec.dataset]
    steps = [s.model_copy(update={"split": 5000} if s.name == "dst-import" else {}) for s in spec.step]
    return spec.model_copy(update={"dataset": datasets, "step": steps})


@dataclass
class Produced:
    """A finished production with access to what it made."""

    access: Access
    figures: Figures
    workspace: Workspace

    def events(self, **wanted: object) -> int:
        return sum(c.events for c in self.access.collections(**wanted))


@pytest.fixture(scope="module")
def produced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Produced]:
    experiment: Experiment = load("orca")
    folder: Path = tmp_path_factory.mktemp("orca")
    runs = {(series, n) for chosen in RUNS.values() for series, numbers in chosen.items() for n in numbers}
    given = [d for d in experiment.deliveries("demo") if (d.series, d.run) in runs]
    assert experiment.enlarge is not None and experiment.figures is not None
    spec, more = experiment.enlarge(
        reduced(load_spec(experiment.productions["demo"])), RESAMPLED, folder / "more"
    )
    workspace = Workspace.create(folder / "workspace")
    Produce(workspace, spec, experiment, 1, [*given, *more]).run()
    with workspace.db.read() as conn:
        access = Access(conn, "demo")
        yield Produced(access, experiment.figures(access), workspace)


def test_every_delivered_event_is_in_the_mini_dst(produced: Produced):
    assert produced.events(step="mdst", is_mc=False) == 3 + 10
    assert produced.events(step="mdst", is_mc=True) == 10
    assert produced.events(step="dst-import") == 2499


def test_skims_of_the_dst_run_have_the_measured_counts(produced: Produced):
    found = {s: produced.events(step="merged", stream=s, series="49") for s in ("muon", "upgoing", "bright")}
    assert found == {"muon": 1477, "upgoing": 29, "bright": 530}


def test_the_chain_rolls_and_its_constants_are_judged_on_data_they_have_not_seen(produced: Produced):
    links = produced.access.links(step="pass1")
    assert [(link.run, link.sequence, link.state) for link in links] == [
        (6633, 1, "accepted"), (6884, 1, "accepted"), (6884, 2, "accepted"),
    ]  # fmt: skip
    assert all(one.result == other.start for one, other in zip(links, links[1:], strict=False))
    section = next(s for s in produced.figures.sections if s.name == "calibration")
    judged = next(t for t in section.tables if t.title.startswith("Judged on 44:6884"))
    widths = [row[1] for row in judged.rows]
    assert widths == pytest.approx([3.53, 3.25, 3.06, 2.78], abs=0.02)
    assert [value.verdict for value in section.values] == ["good", "good"]


def test_pass_2_applies_the_constants_of_its_own_run(produced: Produced):
    hashes = {}
    for collection in produced.access.collections(step="reco", series="44"):
        (file,) = collection.files
        hashes[collection.interval.first[:2]] = read_metadata(file).lineage.resolved_hash
    assert len(hashes) == len(set(hashes.values())) == 3


def test_software_triggered_events_are_a_stream_of_their_own_and_matched(produced: Produced):
    found = produced.access.collections(step="swtrigger", stream="swdst")
    assert {read_metadata(c.files[0]).record for c in found} == {"swevent"}
    section = next(s for s in produced.figures.sections if s.name == "matches")
    ((series, software, daq, matched, where),) = section.tables[0].rows
    assert (series, software, daq) == ("44", sum(c.events for c in found), 4)
    assert matched >= 2 and "6884:370" in where


def test_resampled_events_are_flagged_and_have_parents_and_count_nowhere(produced: Produced):
    access = produced.access
    made = access.collections(step="reco", is_resampled=True)
    assert sum(c.events for c in made) == RESAMPLED / 2
    (batch,) = access.batches(made, ["RunHeader", "Origin"])
    assert set(batch["RunHeader"]["run"].tolist()) == {9_006_884}
    assert (batch["Origin"].counts == 1).all() and set(batch["Origin"]["run"].tolist()) == {6884}
    assert read_metadata(made[0].files[0]).lineage.is_resampled
    assert all(c.interval.first[0] < 9_000_000 for c in access.collections())
    physics = next(s for s in produced.figures.sections if s.name == "physics")
    skims = next(t for t in physics.tables if t.title == "Events in the skims")
    assert max(row[1] for row in skims.rows) == 13340


def test_an_analyst_runs_code_over_the_skims_in_a_scope_of_their_own(produced: Produced, tmp_path: Path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "energies.py").write_text(CODE)
    (tmp_path / "energies.toml").write_text(ANALYSIS)
    analysis = prepare(produced.workspace, tmp_path / "energies.toml")
    analysis.run()
    read = produced.access.collections(step="merged", stream="muon")
    every = analyses.written(produced.workspace, "user.ada.energies")
    rows = [row for row in every if ".resampled." not in row["file"]]
    assert len(every) == len(rows) + 2  # data, simulation and resampled events do not mix
    tables = [pq.read_table(row["path"]) for row in rows if row["kind"] == "parquet"]
    sets = [HistogramSet.from_bytes(Path(r["path"]).read_bytes()) for r in rows if r["kind"] == "bundle"]
    energies = np.concatenate([[e["energy"] for e in table["Summary"].to_pylist()] for table in tables])
    assert len(energies) == sum(one.events for one in read) > 1477
    inside = np.histogram(energies[np.isfinite(energies)], 20, (0.0, 200.0))[0]
    assert sum(one["energy"].values for one in sets).tolist() == inside.tolist()
    assert inside.sum() > 100
    assert {c.production for c in produced.access.collections()} == {"demo"}


def test_figures_can_be_written_as_json(produced: Produced):
    document = produced.figures.document()
    assert [section["name"] for section in document] == ["calibration", "quality", "physics", "matches"]
    titles = [plot["title"] for plot in document[1]["plots"]]
    assert titles[:2] == ["Rates of photomultipliers", "Hits of time slices"]
    assert titles[2:] == ["⁴⁰K coincidences", "Triggered hits of DST events"]


def test_the_sample_data_are_there():
    assert sample("online/events_sample.root").is_file()
