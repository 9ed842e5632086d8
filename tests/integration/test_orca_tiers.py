"""Every form in which events are kept, from one path over the telescope's data: raw to pointer skim."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from beamwright.cli.main import cli
from beamwright.conditions.snapshot import Snapshot
from beamwright.core.lineage import Lineage
from beamwright.core.runs import Interval
from beamwright.event.loop import run_path
from beamwright.event.path import Output
from beamwright.event.path import Path as EventPath
from beamwright.event.pointer import promote
from beamwright.event.reader import Reader
from beamwright.event.sources import SourceFiles
from beamwright.event.store import CollectionReader, Written
from beamwright.event.validate import validate_file
from orca.constants import GEOMETRY
from orca.modules import Calibrate, FitLine, FitTrack, MaskHits, Select, Summarise
from orca.paths import HEADERS, RECO, TRUE
from orca.readers import BANKS, EVENT, OnlineReader
from orca.samples import complete, geometry, initial
from support.orca_samples import sample
from support.streams import same_batches

RAW = (*HEADERS, "TrigHit", "SnapHit", *TRUE)
SMALL = (*HEADERS, "Summary", "McTruth", "Origin")
RUNS = {
    ("133", 13339): {"daq": "online/muon_cc_daqevents.root", "truth": "offline/muon_cc_events.root"},
    ("267", 25291): {"daq": "online/KM3NeT_00000267_00025291_JDAQEvent_JDAQSummaryslice.root"},
}
CLASSES = {"133": ((25e3, 40e3), (55e3, 70e3)), "267": ((8e3, 14e3), (10e3, 16e3))}
"""Bytes in memory of a raw and of a DST event, by series."""


def conditions(series: str) -> Snapshot:
    payloads = complete(series) if series == "133" else {**initial(series), GEOMETRY: geometry(series)}
    whole = Interval.runs(series, 0, 99_999)
    pieces = [(role, whole, payload.id) for role, payload in payloads.items()]
    return Snapshot("test", pieces, {payload.id: payload for payload in payloads.values()})


def written(folder: Path, reader: Reader, run: int, outputs: list[Output], modules) -> dict[str, Written]:
    path = EventPath("tiers", EVENT, modules, outputs)
    files = {output.stream: folder / f"{output.stream}.root" for output in outputs}
    result = run_path(
        path, reader, Interval.sections(reader.series, run), banks=BANKS, snapshot=conditions(reader.series),
        outputs=files,
        lineage=lambda stream: Lineage("orca", "t", "s", "p", stream, "dst", reader.series, "r", "c"),
    )  # fmt: skip
    return result.written


@pytest.fixture(scope="module", params=RUNS, ids=lambda key: key[0])
def tiers(request, tmp_path_factory) -> tuple[Path, dict[str, Written]]:
    (series, run), files = request.param, RUNS[request.param]
    folder = tmp_path_factory.mktemp("tiers") / series
    folder.mkdir()
    online = OnlineReader.open({role: sample(name) for role, name in files.items()}, series=series, run=run)
    raw = written(folder, online, run, [Output("raw", RAW, tier="raw")], [])
    outputs = [
        Output("dst", (*RAW, *RECO)),
        Output("mdst", SMALL, tier="mdst"),
        Output("bright", (*RAW, *RECO), select="bright", tier="skim"),
        Output("points", (*RAW, *RECO), select="bright", tier="skim", pointer=True),
    ]
    modules = [MaskHits(), Calibrate(), FitLine(), FitTrack(), Summarise(), Select()]
    with CollectionReader([raw["raw"].file]) as reader:
        return folder, raw | written(folder, reader, run, outputs, modules)


def test_one_path_writes_dst_mini_dst_and_skims_and_all_are_proved(tiers):
    folder, found = tiers
    sources = SourceFiles(folders=[folder])
    for part in found.values():
        assert validate_file(part.file, sources=sources)["problems"] == []
    n = found["raw"].events
    assert found["dst"].events == found["mdst"].events == n
    assert 0 < found["bright"].events == found["points"].events < n


def shown(path: Path) -> dict[str, int]:
    """Return bytes per record of a file, stored and in memory, as ``file show`` tells them."""
    done = CliRunner().invoke(cli, ["file", "show", str(path), "--json"])
    told = json.loads(done.stdout)
    assert sum(bank["memory"] for bank in told["banks"]) <= told["memory"]
    return {name: told[name] // told["events"] for name in ("size", "memory")}


def test_the_mini_dst_is_at_most_a_fifth_of_the_dst_and_pointers_are_smaller_than_copies(tiers):
    _, found = tiers
    assert found["raw"].size < found["dst"].size
    assert found["mdst"].size <= 0.2 * found["dst"].size
    assert found["points"].size < found["bright"].size
    assert shown(found["mdst"].file)["memory"] <= 0.2 * shown(found["dst"].file)["memory"]


def test_raw_and_dst_events_have_the_sizes_of_their_class(tiers):
    """Simulated muons light up the telescope: some 30 and 60 kB; noise and dim events stay below."""
    folder, found = tiers
    raw, dst, mdst = (shown(found[name].file)["memory"] for name in ("raw", "dst", "mdst"))
    low, high = CLASSES[folder.name]
    assert low[0] < raw < low[1] and high[0] < dst < high[1] and mdst < 12_000


def test_deep_and_pointer_skim_hold_the_same_events(tiers, tmp_path):
    folder, found = tiers
    sources = SourceFiles(folders=[folder])
    names = [found["bright"].file], [found["points"].file]
    with CollectionReader(names[0]) as deep, CollectionReader(names[1], sources) as pointers:
        positions = np.arange(found["bright"].events)
        one, other = deep.read(EVENT, positions), pointers.read(EVENT, positions)
        assert same_batches(one, other) and (one["CalHit"].rows, one["SnapHit"].rows) > (0, 0)
    copy = promote(found["points"].file, tmp_path / "copy.root", sources)
    with CollectionReader([copy.file]) as reader:
        assert same_batches(reader.read(EVENT, positions), one)
