"""The demo as a user runs it: the same document for any workers, farms and interruptions, and a report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from beamwright.report import schema
from support import toy_demo

EXPERIMENT = "support.toy_demo:experiment"
FARMS = "[farm.near]\nslots = 2\npower = 0.1\n\n[farm.far]\nslots = 1\npower = 9.0\n"


@dataclass
class Demo:
    """Runs commands in a folder of their own."""

    folder: Path
    raw: Path
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        support = str(Path(toy_demo.__file__).parents[1])
        self.environment = dict(os.environ) | {"PYTHONPATH": support, toy_demo.RAW: str(self.raw)}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "beamwright.cli.main", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=pipe, stderr=pipe, text=True
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def document(self, *arguments: str) -> dict[str, Any]:
        done = self.run("demo", "--experiment", EXPERIMENT, "--workspace", "ws", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("raw")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, raw: Path) -> Iterator[tuple[Demo, dict[str, Any]]]:
    demo = Demo(tmp_path_factory.mktemp("first"), raw)
    yield demo, demo.document()


def test_document_follows_its_schema_and_tells_the_whole(done: tuple[Demo, dict[str, Any]]) -> None:
    _, document = done
    schema.check(document)
    assert document["summary"]["delivered"] == {"event": 152, "slice": 19}
    assert document["summary"]["unbalanced"] == 0
    assert [step["state"] for step in document["steps"]] == ["closed"] * 3
    assert [t["state"] for t in document["production"]["global_tags"]] == ["frozen"]
    assert {cell["state"] for row in document["grid"]["rows"] for cell in row["cells"].values()} == {
        "accepted",
        "ok",
    }
    (merged,) = (c for c in document["collections"] if c["step"] == "merge")
    assert merged["events"] == 152
    assert len(merged["parents"]) == sum(
        (c["step"], c["stream"]) == ("reco", "dst") for c in document["collections"]
    )
    assert document["figures"][0]["values"][0]["verdict"] == "good"


def test_report_is_where_the_document_says(done: tuple[Demo, dict[str, Any]]) -> None:
    _, document = done
    page = Path(document["report"]).read_text()
    assert "Toy demo" in page
    assert "every event accounted for" in page


def test_demo_again_changes_nothing_and_prints_the_account(done: tuple[Demo, dict[str, Any]]) -> None:
    demo, document = done
    again = demo.run("demo", "--experiment", EXPERIMENT, "--workspace", "ws")
    assert again.returncode == 0
    for wanted in ("Runs and steps", "Collections", "Ledger", "Calibration", "last gain", document["report"]):
        assert wanted in again.stdout, wanted
    assert "\x1b" not in again.stdout + again.stderr
    assert demo.document()["units"] == document["units"]


def test_other_workers_and_farms_give_the_same_document(
    done: tuple[Demo, dict[str, Any]], tmp_path: Path, raw: Path
) -> None:
    demo = Demo(tmp_path / "second", raw)
    assert demo.run("init", "ws").returncode == 0
    settings = demo.folder / "ws" / "beamwright.toml"
    settings.write_text(settings.read_text().partition("[farm.near]")[0] + FARMS)
    other = demo.document("--workers", "2")
    assert schema.strip_volatile(other) == schema.strip_volatile(done[1])


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_and_run_again_gives_the_same_document(
    done: tuple[Demo, dict[str, Any]], tmp_path: Path, raw: Path, how: signal.Signals
) -> None:
    demo = Demo(tmp_path / "stopped", raw)
    process = demo.start("demo", "--experiment", EXPERIMENT, "--workspace", "ws", "--json")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("pass1 A/1: accepted"):
            break
    busy = demo.run("produce", str(Path(toy_demo.__file__).with_name("toy_demo.toml")), "-w", "ws")
    process.send_signal(how)
    _, err = process.communicate(timeout=240)
    if process.returncode != 0:
        assert busy.returncode == 3
        assert "in use by" in busy.stderr
    if how is signal.SIGINT and process.returncode != 0:
        assert process.returncode == 130
        assert "run the same command again" in err
    assert schema.strip_volatile(demo.document()) == schema.strip_volatile(done[1])


def test_faulty_production_file_names_key_and_nearest(
    done: tuple[Demo, dict[str, Any]], tmp_path: Path
) -> None:
    demo, _ = done
    text = Path(toy_demo.__file__).with_name("toy_demo.toml").read_text()
    (tmp_path / "faulty.toml").write_text(text.replace("split =", "spilt ="))
    refused = demo.run("produce", str(tmp_path / "faulty.toml"), "-w", "ws", "--json")
    assert refused.returncode == 2
    error = json.loads(refused.stderr)
    assert "spilt" in error["message"]
    assert "split" in error["hint"]


def test_workspace_holds_after_the_demo(done: tuple[Demo, dict[str, Any]]) -> None:
    demo, document = done
    checked = demo.run("fsck", "-w", "ws", "--deep")
    assert checked.returncode == 0, checked.stdout
    merged = next(c["name"] for c in document["collections"] if c["step"] == "merge")
    explained = demo.run("explain", merged, "-w", "ws", "--json")
    assert json.loads(explained.stdout)["holds"] == []
    key = next(u["key"] for u in document["units"] if u["step"] == "reco")
    assert demo.run("job", "log", key[:12], "-w", "ws").returncode == 0
