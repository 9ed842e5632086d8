"""The payload of jobs: from a job document to outputs and the report of the application."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beamwright.conditions.payload import Payload
from beamwright.conditions.snapshot import Snapshot
from beamwright.core import bundle
from beamwright.core.histogram import HistogramSet
from beamwright.core.runs import Interval
from beamwright.event.collection import CollectionReader
from beamwright.event.metadata import read_metadata
from beamwright.production import release, work
from support import toy

pytestmark = pytest.mark.forks

NAME = "support.toy:experiment"
RUN = Interval.sections("A", 7)


class Bench:
    """Writes job documents over raw files of the toy experiment and runs them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        records = {
            "event": toy.grid(range(1, 11), 20),
            "slice": toy.grid(range(1, 11), 4),
            "monitor": toy.grid(range(3), 1),
        }
        self.raw = toy.write_raw(folder / "raw.json", "A", 7, records)
        self.count = 0

    def raw_input(
        self, path: Path | None = None, role: str = "raw", interval: Interval = RUN
    ) -> dict[str, Any]:
        return self.input(path or self.raw, "raw", role) | {"reader": "toy", "interval": interval.document()}

    def input(self, path: Path, kind: str, role: str = "") -> dict[str, Any]:
        data = path.read_bytes()
        return {
            "path": str(path),
            "name": f"toy:{path.name}",
            "sha256": hashlib.sha256(data).hexdigest(),
            "size": len(data),
            "kind": kind,
            "reader": "",
            "role": role,
            "interval": None,
        }

    def conditions(
        self, reads: list[str], pieces: list[tuple[str, Interval, Payload]], interval: Interval = RUN
    ) -> dict[str, Any]:
        snapshot = Snapshot("open", [(r, i, p.id) for r, i, p in pieces], {p.id: p for _, _, p in pieces})
        path = self.folder / f"{self.count}.bwc"
        path.write_bytes(snapshot.to_bytes())
        return {
            "snapshot": str(path),
            "sha256": hashlib.sha256(snapshot.to_bytes()).hexdigest(),
            "global_tag": "open",
            "resolved_hash": snapshot.resolved_hash(reads, interval),
            "reads": reads,
        }

    def run(self, kind: str, streams: dict[str, str], **members: Any) -> tuple[int, dict[str, Any], Path]:
        """Return exit code, payload document and scratch directory."""
        self.count += 1
        scratch = self.folder / f"scratch{self.count}"
        scratch.mkdir()
        job: dict[str, Any] = {
            "format": 1,
            "kind": kind,
            "production": "test",
            "step": kind,
            "experiment": NAME,
            "path": "",
            "calibrations": [],
            "attempt": {"unit": "u", "number": 1, "nonce": "0", "farm": "f"},
            "release": release.current(toy.experiment.distributions),
            "config": {},
            "config_hash": "c",
            "record": "event",
            "interval": RUN.document(),
            "inputs": [self.raw_input()],
            "conditions": None,
            "seeds": {"job": 5},
            "is_mc": False,
            "is_resampled": False,
            "tier": "dst",
            "streams": {
                name: {"tier": "dst", "name": f"test:{name}", "file": file} for name, file in streams.items()
            },
            "output_directory": str(self.folder),
            "scratch": str(scratch),
            "workers": 1,
            "prescale": {},
            "limits": {},
            "commands": {},
        }
        path = scratch / "job.json"
        path.write_text(json.dumps(job | members))
        code = work.run(path)
        return code, json.loads((scratch / "payload.json").read_bytes()), scratch


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_process_job_writes_the_declared_streams_with_lineage_ledger_and_histograms(bench: Bench) -> None:
    streams = {"dst": "dst.root", "loud": "loud.root", "histograms": "h.bwb"}
    code, payload, scratch = bench.run("process", streams, path="plain")
    assert (code, payload["status"], payload["failure_class"]) == (0, "ok", None)
    assert {(o["stream"], o["kind"]) for o in payload["outputs"]} == {
        ("dst", "rntuple"),
        ("loud", "rntuple"),
        ("histograms", "bundle"),
    }
    lines = {line["stream"]: line for line in payload["ledger"]}
    assert lines["dst"]["read"] == lines["dst"]["written"] == 200
    assert lines["loud"]["written"] + lines["loud"]["filtered"] == 200 and lines["loud"]["filtered"] > 0
    metadata = read_metadata(scratch / "dst.root")
    assert (metadata.events, metadata.lineage.production, metadata.lineage.seeds) == (200, "test", {"job": 5})
    assert metadata.lineage.parents == (hashlib.sha256(bench.raw.read_bytes()).hexdigest(),)
    charges = HistogramSet.from_bytes((scratch / "h.bwb").read_bytes())["charge"]
    with CollectionReader([scratch / "dst.root"]) as reader:
        index = reader.index("event")
        batch = reader.read("event", np.arange(len(index)))
    assert charges.entries == batch["CalHit"].rows
    verdicts = work.validate([scratch / o["file"] for o in payload["outputs"]])
    assert [v["valid"] for v in verdicts] == [True] * 3
    assert {v["file"]: v["events"] for v in verdicts} == {o["file"]: o["events"] for o in payload["outputs"]}


def test_a_process_job_over_part_of_a_run_reads_exactly_its_records(bench: Bench) -> None:
    part = Interval("A", (7, 3, 5), (7, 4, 9))
    _, payload, scratch = bench.run("process", {"dst": "dst.root"}, path="plain", interval=part.document())
    assert payload["ledger"][0]["read"] == 15 + 10
    metadata = read_metadata(scratch / "dst.root")
    assert (metadata.first, metadata.last) == ((7, 3, 5), (7, 4, 9))


def test_conditions_reach_modules_and_change_where_they_change(bench: Bench) -> None:
    pieces = [
        ("Gain", Interval.sections("A", 7, 0, 5), toy.gain_payload(1.0)),
        ("Gain", Interval.sections("A", 7, 6), toy.gain_payload(2.0)),
    ]
    conditions = bench.conditions(["Gain"], pieces)
    code, payload, scratch = bench.run("process", {"dst": "d.root"}, path="reco", conditions=conditions)
    assert code == 0, payload["message"]
    assert (
        payload["resolved_hash"]
        == conditions["resolved_hash"]
        == read_metadata(scratch / "d.root").lineage.resolved_hash
    )
    with CollectionReader([scratch / "d.root"]) as reader:
        batch = reader.read("event", np.arange(200))
    raw = toy.ToyReader(bench.raw, "A", 7).read("event", np.arange(200))
    gain = np.where(raw.section[raw["Hit"].record_index] <= 5, 1.0, 2.0)
    assert np.allclose(batch["CalHit"].energy, raw["Hit"].charge / gain)


def test_a_job_whose_snapshot_resolves_otherwise_is_refused(bench: Bench) -> None:
    conditions = bench.conditions(["Gain"], [("Gain", RUN, toy.gain_payload(1.0))])
    code, payload, scratch = bench.run(
        "process", {"dst": "d.root"}, path="reco", conditions=conditions | {"resolved_hash": "0" * 64}
    )
    assert code != 0
    assert payload["failure_class"] == "policy"
    assert "resolves to" in payload["message"]
    assert not (scratch / "d.root").exists()


def test_a_job_that_may_not_read_what_its_path_reads_is_refused(bench: Bench) -> None:
    _, payload, _ = bench.run("process", {"dst": "d.root"}, path="reco")
    assert payload["status"] == "failed"
    assert "Gain" in payload["message"]


def test_another_release_than_the_one_asked_for_is_refused(bench: Bench) -> None:
    code, payload, _ = bench.run("process", {"dst": "d.root"}, path="plain", release="sha256:" + "0" * 64)
    assert (code, payload["failure_class"]) == (7, "policy")
    assert "release" in payload["message"]


def test_a_damaged_raw_file_is_a_failure_of_the_input_that_names_the_file(bench: Bench) -> None:
    bench.raw.write_bytes(bench.raw.read_bytes()[:-20])
    _, payload, _ = bench.run("process", {"dst": "d.root"}, path="plain")
    assert payload["failure_class"] == "input"
    assert str(bench.raw) in payload["message"]


def test_a_misspelt_parameter_names_the_nearest_one(bench: Bench) -> None:
    _, payload, _ = bench.run("process", {"dst": "d.root"}, path="plain", config={"Sum": {"treshold": 3.0}})
    assert "threshold" in payload["message"]
    _, right, _ = bench.run("process", {"loud": "l.root"}, path="plain", config={"Sum": {"threshold": 1e9}})
    assert right["ledger"][0]["filtered"] == 200


def test_a_poisoned_event_is_quarantined_and_the_rest_is_written(bench: Bench) -> None:
    code, payload, scratch = bench.run("process", {"dst": "d.root"}, path="trouble")
    assert code == 0
    (bad,) = payload["quarantined"]
    assert (bad["key"], bad["module"]) == ("A:7:3:4", "Trouble")
    assert "poisoned" in bad["traceback"]
    assert (payload["ledger"][0]["written"], payload["ledger"][0]["quarantined"]) == (199, 1)
    assert read_metadata(scratch / "d.root").lineage.quarantined == ("A:7:3:4",)


def test_the_second_attempt_after_a_crash_loses_one_event_only(bench: Bench) -> None:
    config = {"Trouble": {"how": "segfault"}}
    again = {"unit": "u", "number": 2, "nonce": "1", "farm": "f"}
    code, payload, _ = bench.run("process", {"dst": "d.root"}, path="trouble", config=config, attempt=again)
    assert code == 0
    assert [(q["key"], q["error"]) for q in payload["quarantined"]] == [("A:7:3:4", "killed by SIGSEGV")]
    assert "Segmentation fault" in payload["quarantined"][0]["traceback"]


def collected(bench: Bench, raw: Path | None = None, **members: Any) -> tuple[dict[str, Any], Path]:
    interval = Interval.from_document(members.get("interval", RUN.document()))
    conditions = bench.conditions(["Gain"], [("Gain", RUN, toy.gain_payload(1.2))], interval)
    members = {"calibrations": ["GainFit", "MonitorCount"], "conditions": conditions} | members
    code, payload, scratch = bench.run(
        "collect", {"accumulator": "a.bwb"}, inputs=[bench.raw_input(raw)], **members
    )
    assert code == 0, payload["message"]
    return payload, scratch / "a.bwb"


def fitted(bench: Bench, files: list[Path], gain: float = 1.2, **members: Any) -> tuple[dict[str, Any], Path]:
    pieces = [("Gain", RUN, toy.gain_payload(gain)), ("Clock", RUN, Payload.arrays({"start": np.zeros(1)}))]
    conditions = bench.conditions(["Clock", "Gain"], pieces)
    streams = {"payload:Gain": "g.bwb", "payload:Clock": "c.bwb"}
    code, payload, scratch = bench.run(
        "fit",
        streams,
        calibrations=["GainFit", "MonitorCount"],
        conditions=conditions,
        inputs=[bench.input(file, "bundle", "accumulator") for file in files],
        **members,
    )
    assert code == 0, payload["message"]
    return payload, scratch


def test_collect_and_fit_find_the_true_gain(bench: Bench) -> None:
    payload, file = collected(bench)
    assert payload["statistics"]["GainFit"] > 20
    assert {
        (line["record"], line["stream"], line["read"], line["written"]) for line in payload["ledger"]
    } == {
        ("event", "accumulator", 200, 200),
        ("monitor", "accumulator", 3, 3),
    }
    result, scratch = fitted(bench, [file])
    fits = result["figures"]["fits"]
    assert fits["GainFit"]["decision"] == "accept"
    gain = Payload.received("arrays", (scratch / "g.bwb").read_bytes()).unpack()[0]["gain"][0]
    assert gain == pytest.approx(toy.GAIN, abs=0.02)
    assert (
        fits["GainFit"]["payloads"]["Gain"] == Payload.received("arrays", (scratch / "g.bwb").read_bytes()).id
    )


def test_accumulators_do_not_depend_on_workers_and_add_up_over_parts(bench: Bench) -> None:
    whole = collected(bench)[1].read_bytes()
    assert collected(bench, workers=3)[1].read_bytes() == whole
    halves = [
        collected(bench, interval=Interval.sections("A", 7, *part).document())[1]
        for part in ((0, 4), (5, 20))
    ]
    one, _ = fitted(bench, [bench.folder / "scratch1" / "a.bwb"])
    two, _ = fitted(bench, halves)
    assert one["figures"] == two["figures"]
    assert bundle.unpack(whole)[1]["statistics"] == two["statistics"]


def test_a_fit_that_is_not_believed_keeps_its_payload_for_a_person_to_judge(bench: Bench) -> None:
    _, file = collected(bench)
    result, scratch = fitted(bench, [file], gain=9.0)
    entry = result["figures"]["fits"]["GainFit"]
    proposed = Payload.received("arrays", (scratch / "g.bwb").read_bytes())
    assert (entry["decision"], entry["payloads"]["Gain"]) == ("reject", proposed.id)
    assert proposed.id != toy.gain_payload(9.0).id


def test_too_little_statistics_carries_the_previous_payload(bench: Bench) -> None:
    _, file = collected(bench, prescale={"event": 50})
    result, _ = fitted(bench, [file])
    entry = result["figures"]["fits"]["GainFit"]
    assert entry["decision"] == "carry"
    assert "statistics" in entry["reason"]


def test_a_run_without_a_kind_of_record_gives_an_empty_accumulator(bench: Bench) -> None:
    raw = toy.write_raw(bench.folder / "few.json", "A", 7, {"event": toy.grid([1], 3)})
    payload, _ = collected(bench, raw)
    assert payload["statistics"]["MonitorCount"] == 0
    assert [line["record"] for line in payload["ledger"]] == ["event"]


def test_a_merge_job_joins_files_in_key_order_with_their_ledger(bench: Bench) -> None:
    files = []
    for part in ((5, 20), (0, 4)):
        interval = Interval.sections("A", 7, *part).document()
        _, _, scratch = bench.run("process", {"dst": f"d{part[0]}.root"}, path="plain", interval=interval)
        files.append(scratch / f"d{part[0]}.root")
    inputs = [bench.input(file, "rntuple", "dst") for file in files]
    code, payload, scratch = bench.run("merge", {"dst": "m.root"}, inputs=inputs)
    assert code == 0, payload["message"]
    assert (payload["ledger"][0]["read"], payload["ledger"][0]["written"]) == (200, 200)
    metadata = read_metadata(scratch / "m.root")
    assert set(metadata.lineage.parents) == {item["sha256"] for item in inputs}
    assert work.validate([scratch / "m.root"])[0]["valid"]
    with CollectionReader([scratch / "m.root"]) as reader:
        assert reader.index("event").entry[:].tolist() == list(range(200))


def test_the_stored_files_of_a_job_are_inputs_of_the_next(bench: Bench) -> None:
    _, _, scratch = bench.run("process", {"dst": "d.root"}, path="plain")
    inputs = [bench.input(scratch / "d.root", "rntuple", "dst")]
    code, payload, scratch = bench.run("process", {"skim": "s.root"}, path="again", inputs=inputs)
    assert code == 0, payload["message"]
    assert list(read_metadata(scratch / "s.root").banks) == ["Sum"]


def test_two_chunks_of_a_run_are_read_as_one(bench: Bench) -> None:
    records = {"event": toy.grid(range(11, 14), 20)}
    second = toy.write_raw(bench.folder / "second.json", "A", 7, records)
    inputs = [
        bench.raw_input(second, interval=Interval.sections("A", 7, 11)),
        bench.raw_input(interval=Interval.sections("A", 7, 0, 10)),
    ]
    _, payload, _ = bench.run("process", {"dst": "d.root"}, path="plain", inputs=inputs)
    assert payload["ledger"][0]["written"] == 260


def test_validate_finds_a_flipped_bit_in_a_bundle(bench: Bench) -> None:
    _, file = collected(bench)
    good = file.read_bytes()
    (verdict,) = work.validate([file])
    assert verdict["valid"] and verdict["sha256"] == hashlib.sha256(good).hexdigest()
    file.write_bytes(good[:-40])
    assert not work.validate([file])[0]["valid"]


def test_a_full_disk_is_a_failure_of_the_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert work.failure_class(OSError(28, "No space left on device")) == "disk"


def test_the_payload_imports_no_database(tmp_path: Path) -> None:
    code = (
        "import sys; import beamwright.production.work; "
        "print([m for m in ('sqlalchemy', 'pysqlite3', 'uproot', 'beamwright.db') if m in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "[]"
