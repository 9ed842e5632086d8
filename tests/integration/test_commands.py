"""The commands that need no workspace, on real files of the toy experiment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from beamwright.cli.main import run
from beamwright.event.collection import CollectionReader
from beamwright.production.access import batches
from beamwright.production.experiment import Experiment
from support import toy

STEERING = """
from support.toy import BANKS as banks, ToyReader as reader, events_path

def path():
    return events_path()
"""
AGAIN = """
from beamwright.event.module import Module, Parameter
from beamwright.event.path import Output, Path

class Loud(Module):
    "Keeps what is loud."
    reads = ("Sum",)
    def process(self, batch):
        batch.select(batch["Sum"].energy > 20, "louder")

path = Path("again", "event", [Loud()], [Output("louder", ["Sum"], select="louder", tier="skim")])
"""
EXPERIMENT = Experiment(
    name="toy",
    distributions=("support",),
    banks=toy.BANKS,
    readers={"toy": toy.ToyReader},
    paths={"plain": toy.events_path, "reco": toy.calibrated_path},
)


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)

    def caller(*arguments: object) -> Result:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return caller


@pytest.fixture
def dst(call, tmp_path: Path) -> list[Path]:
    """Two files of one stream, from two runs."""
    (tmp_path / "steering.py").write_text(STEERING)
    made = []
    for number in (1, 2):
        raw = toy.write_raw(tmp_path / f"raw{number}.json", "T", number, {"event": toy.grid(range(4), 10)})
        path = tmp_path / f"dst{number}.root"
        result = call(
            *(
                "process",
                "steering.py",
                "-i",
                raw,
                "-o",
                f"dst={path}",
                "-o",
                f"loud={tmp_path / f'loud{number}.root'}",
            ),
            *("--series", "T", "--run", number, "--json"),
        )
        assert result.code == 0, result.err
        assert {line["read"] for line in result.document["ledger"]} == {40}
        made.append(path)
    return made


def test_process_runs_a_steering_file_and_accounts_for_every_record(dst: list[Path]) -> None:
    with CollectionReader(dst) as reader:
        assert [batch.n for batch in batches(reader, ["Sum"], 25)] == [25, 15, 25, 15]
        assert reader.metadata[0].lineage.path == "plain"


def test_process_reads_its_own_outputs_and_stops_after_some_events(
    call, dst: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "again.py").write_text(AGAIN)
    result = call(
        "process", "again.py", "-i", dst[0], "-i", dst[1], "-o", "out.root", "--events", 45, "--json"
    )
    (line,) = result.document["ledger"]
    assert line["read"] == 45
    assert line["read"] == line["written"] + line["filtered"]
    (written,) = result.document["written"]
    assert written["events"] == line["written"]


def test_output_is_the_same_for_any_number_of_workers(dst: list[Path], tmp_path: Path) -> None:
    arguments = ("process", "steering.py", "-i", "raw1.json", "--series", "T", "--run", "1", "--workers", "2")
    command = [sys.executable, "-m", "beamwright.cli.main", *arguments, "-o", "dst=two.root"]
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environment["PYTHONPATH"] = str(Path(toy.__file__).parents[1])
    subprocess.run(command, check=True, cwd=tmp_path, env=environment)
    assert (tmp_path / "two.root").read_bytes() == dst[0].read_bytes()


def test_file_show_needs_no_workspace(call, dst: list[Path]) -> None:
    document = call("file", "show", dst[0], "--json").document
    assert document["events"] == 40
    assert [bank["name"] for bank in document["banks"]] == ["Header", "Hit", "CalHit", "Sum", "Shower"]
    assert "CalHit" in call("file", "show", dst[0]).out


def test_validate_gives_a_verdict_per_file_and_fails_on_a_damaged_one(call, dst: list[Path]) -> None:
    good = call("validate", *dst, "--json")
    assert good.code == 0
    assert [json.loads(line)["events"] for line in good.out.splitlines()] == [40, 40]
    data = bytearray(dst[1].read_bytes())
    data[len(data) // 2] ^= 1
    dst[1].write_bytes(data)
    bad = call("validate", *dst)
    assert bad.code == 4
    assert "not valid" in bad.out
    assert call("validate", dst[0], "--expect", '{"events": 41}').code == 4
    assert "write an object" in call("validate", dst[0], "--expect", "[]").err


def test_merge_joins_files_of_a_group_and_refuses_others(call, dst: list[Path], tmp_path: Path) -> None:
    assert call("merge", *dst, "-o", "merged.root", "--dry-run").err.startswith("would merge 80 records")
    assert not (tmp_path / "merged.root").exists()
    assert call("merge", *dst, "-o", "merged.root", "--json").document["events"] == 80
    assert call("validate", "merged.root").code == 0
    refused = call("merge", dst[0], tmp_path / "loud1.root", "-o", "wrong.root")
    assert refused.code == 4
    assert "stream" in refused.err


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        ("paht = 1", (), "did you mean paht"),
        (STEERING, ("-i", "nowhere.root"), "there is no input file nowhere.root"),
        (STEERING, (), "name files with --input FILE"),
        (STEERING, ("-i", "raw1.json", "-o", "x.root"), "write --output STREAM=FILE"),
        (STEERING, ("-i", "raw1.json", "-o", "dts=x.root"), "did you mean dst"),
    ],
)
def test_faulty_steering_is_refused_with_the_next_step(
    call, dst: list[Path], tmp_path: Path, text: str, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "faulty.py").write_text(text)
    result = call("process", "faulty.py", *arguments, "--series", "T", "--run", 1)
    assert result.code == 2
    assert said in result.err


def test_process_takes_exactly_one_kind_of_work(call, tmp_path: Path) -> None:
    result = call("process", "--serve", "--job", tmp_path / "job.json")
    assert result.code == 2
    assert "exactly one" in result.err


def test_experiments_banks_and_modules_are_shown(call) -> None:
    where = ("--experiment", f"{__name__}:EXPERIMENT")
    sys.modules.setdefault(__name__, sys.modules[test_experiments_banks_and_modules_are_shown.__module__])
    shown = call("experiment", "show", f"{__name__}:EXPERIMENT", "--json").document
    assert shown["paths"] == ["plain", "reco"]
    banks = [json.loads(line)["name"] for line in call("bank", "ls", *where, "--json").out.splitlines()]
    assert "CalHit" in banks
    assert "The raw hit." in call("bank", "show", "CalHit", *where).out
    modules = call("module", "show", "Sum", *where, "--json").document
    doc = "selects events with more energy"
    assert modules["parameters"] == [
        {"name": "threshold", "default": 5.0, "value": 5.0, "unit": "GeV", "doc": doc}
    ]
    assert modules["paths"] == ["plain", "reco"]
    assert "did you mean Sum" in call("module", "show", "Smu", *where).err


def test_bank_declarations_are_checked(call, tmp_path: Path) -> None:
    toml = Path(toy.__file__).with_name("toy.toml")
    assert call("bank", "check", toml, "--json").document["banks"][0] == "Burst"
    (tmp_path / "bad.toml").write_text('[bank.A]\nrwos = "one"\n[bank.A.columns]\nx = { type = "f4" }\n')
    refused = call("bank", "check", "bad.toml")
    assert refused.code == 2
    assert "rows" in refused.err


def test_release_is_that_of_what_is_installed(call) -> None:
    document = call("release", "show", "--json").document
    assert document["release"].startswith(("sha256:", "dev+"))


def test_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "beamwright.cli.main", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("beamwright ")
