"""The telescope's calibrations in the framework: collected by workers, fitted run by run, judged."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from beamwright.conditions.payload import Payload
from beamwright.conditions.snapshot import Snapshot
from beamwright.core.errors import UnknownNameError
from beamwright.core.runs import Interval
from beamwright.event.calibration import Collected, Fitted, collect_path, fit_calibration
from beamwright.event.module import Constants
from beamwright.production.experiment import load
from beamwright.production.facts import production_facts
from beamwright.production.spec import load_spec
from orca import constants, toffsets
from orca.constants import CHANNEL_MAP, GEOMETRY, TIME_OFFSETS, TOT_SCALE
from orca.readers import BANKS, OnlineReader
from orca.samples import detector, geometry, initial
from support.orca_samples import sample

pytestmark = pytest.mark.forks

SIX = ("online/km3net_online.root", 6633)
EIGHT = ("online/events_sample.root", 6884)
NAMES = ("tot-scale", "time-offsets", "channel-map")


@pytest.fixture(scope="module")
def experiment():
    return load("orca")


def start() -> dict[str, Payload]:
    return {**initial("44"), GEOMETRY: geometry("44")}


def collect(experiment, source, first: int, last: int, **options) -> Collected:
    payloads, (file, run) = start(), source
    whole = Interval.sections("44", run)
    pieces = [(role, whole, payload.id) for role, payload in payloads.items()]
    snapshot = Snapshot("test", pieces, {payload.id: payload for payload in payloads.values()})
    reader = OnlineReader.open({"daq": sample(file)}, series="44", run=run)
    made = [experiment.make_calibration(name) for name in NAMES]
    interval = Interval.sections("44", run, first, last)
    return collect_path(made, reader, interval, banks=BANKS, snapshot=snapshot, **options)


def fit(experiment, found: Collected, previous: dict[str, Payload]) -> dict[str, Fitted]:
    known = {}
    for role, payload in previous.items():
        arrays, document = payload.unpack()
        known[role] = Constants(arrays, document, payload.id)
    made = {name: experiment.make_calibration(name) for name in NAMES}
    return {n: fit_calibration(c, found.accumulators[n], known) for n, c in made.items()}


def carried_on(previous: dict[str, Payload], fitted: dict[str, Fitted]) -> dict[str, Payload]:
    return {**previous, **{role: p for one in fitted.values() for role, p in one.payloads.items()}}


@pytest.fixture(scope="module")
def first_half(experiment) -> Collected:
    return collect(experiment, EIGHT, 0, 368)


@pytest.fixture(scope="module")
def second_half(experiment) -> Collected:
    return collect(experiment, EIGHT, 369, 999)


@pytest.fixture(scope="module")
def after_6633(experiment) -> dict[str, Fitted]:
    return fit(experiment, collect(experiment, SIX, 0, 999), start())


def test_accumulators_are_the_same_for_any_number_of_workers(experiment, first_half):
    other = collect(experiment, EIGHT, 0, 368, workers=2, batch_events=1)
    for name, arrays in first_half.accumulators.items():
        assert all(np.array_equal(arrays[key], other.accumulators[name][key]) for key in arrays)
    assert other.statistics == first_half.statistics
    assert first_half.statistics["time-offsets"] == pytest.approx(54_000, rel=0.05)


def test_the_chain_narrows_the_width_of_data_it_has_not_seen(experiment, after_6633, first_half, second_half):
    assert {f.decision.verdict for f in after_6633.values()} == {"accept"}
    before = carried_on(start(), after_6633)
    rolled = fit(experiment, first_half, before)
    assert (
        rolled["time-offsets"].figures["width_previous"]
        < rolled["time-offsets"].figures["width_uncalibrated"]
    )
    last = fit(experiment, second_half, carried_on(before, rolled))["time-offsets"]
    pairs = second_half.accumulators["time-offsets"]
    widths = [
        last.figures["width_uncalibrated"],
        toffsets.width(pairs, constants.time_offsets(before[TIME_OFFSETS].unpack()[0])).sigma,
        last.figures["width_previous"],
        toffsets.width(pairs, constants.intra_dom_offsets(detector("44"))).sigma,
    ]
    assert widths == pytest.approx([3.53, 3.25, 3.06, 2.78], abs=0.02)


def test_the_tot_scale_narrows_the_spread_of_the_next_run(experiment, after_6633, first_half):
    figures = fit(experiment, first_half, carried_on(start(), after_6633))["tot-scale"].figures
    assert figures["spread_uncalibrated"] == pytest.approx(0.36, abs=0.02)
    assert figures["spread_previous"] == pytest.approx(0.205, abs=0.02)


def test_the_channel_map_counts_hot_and_dead_and_is_carried_without_data(experiment, after_6633, first_half):
    figures = after_6633["channel-map"].figures
    assert (figures["hot"], figures["dead"], figures["vetoed"]) == (16, 3, 262)
    assert figures["median_rate"] == pytest.approx(9374, abs=1)
    before = carried_on(start(), after_6633)
    later = fit(experiment, first_half, before)["channel-map"]
    assert later.decision.verdict == "carry" and "too little statistics: 2 of 10" in later.decision.reason
    assert later.payloads[CHANNEL_MAP].id == before[CHANNEL_MAP].id


def test_wild_constants_are_rejected_and_kept_for_a_person_to_judge(experiment, first_half, monkeypatch):
    monkeypatch.setattr(toffsets, "MAX_CHANGE_NS", 0.1)
    fitted = fit(experiment, first_half, start())["time-offsets"]
    assert fitted.decision.verdict == "reject" and "the offsets moved by" in fitted.decision.reason
    assert fitted.payloads[TIME_OFFSETS].id != start()[TIME_OFFSETS].id


def test_constants_survive_their_payloads(after_6633):
    offsets = constants.time_offsets(after_6633["time-offsets"].payloads[TIME_OFFSETS].unpack()[0])
    assert offsets.offset.shape == (len(offsets.dom_id), 31) and not offsets.initial
    scales = constants.tot_scales(after_6633["tot-scale"].payloads[TOT_SCALE].unpack()[0])
    assert 0.9 < scales.scale.min() < 1.0 < scales.scale.max() < 1.1


def test_the_demonstration_is_what_the_experiment_can_do(experiment):
    spec = load_spec(experiment.productions["demo"])
    facts = production_facts(experiment, spec)
    assert facts["pass1"].tags == (CHANNEL_MAP, TIME_OFFSETS, TOT_SCALE)
    assert set(facts["reco"].reads) == {CHANNEL_MAP, GEOMETRY, TIME_OFFSETS, TOT_SCALE}
    assert set(facts["skim"].streams) == {"muon", "upgoing", "bright"}
    for constants_set in spec.constants:
        assert experiment.load_constants(constants_set.name)
    for name in spec.steps()["pass1"].initial.values():
        assert {row.tag for row in experiment.load_constants(name)} == set(facts["pass1"].tags)


def test_deliveries_are_what_the_files_hold(experiment):
    deliveries = experiment.deliveries("demo")
    runs = {(d.series, d.run) for d in deliveries}
    wanted = {
        (series, number)
        for dataset in load_spec(experiment.productions["demo"]).dataset
        for series, numbers in dataset.runs.items()
        for number in numbers
    }
    assert runs == wanted
    for delivery in deliveries:
        for file in delivery.files:
            data = Path(file.path).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (file.size, file.sha256)
        files = [(file.role, Path(file.path)) for file in delivery.files]
        reader = experiment.open_reader(delivery.reader, files, delivery.series, delivery.run)
        counts = {kind: len(reader.index(kind).within(delivery.interval)) for kind in delivery.records}
        assert counts == dict(delivery.records)
        reader.close()


def test_unknown_names_are_refused_with_those_there_are(experiment):
    with pytest.raises(UnknownNameError, match="did you mean geometry"):
        experiment.load_constants("geometri")
    with pytest.raises(UnknownNameError, match="list of deliveries"):
        experiment.deliveries("demonstration")
