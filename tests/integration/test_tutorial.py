"""The tutorial is followed as it stands: its files are written, its commands are run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TUTORIAL = Path(__file__).resolve().parents[2] / "docs/tutorials/your-first-experiment.md"
FILE = re.compile(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^\$ (.*)$", flags=re.MULTILINE)
INSTALL = "python -m pip install"


class Follower:
    """Somebody who does what the tutorial says, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.site = folder, folder / "site"
        self.text = TUTORIAL.read_text(encoding="utf-8")
        self.said: dict[str, str] = {}

    def write_files(self) -> None:
        for name, content in FILE.findall(self.text):
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")

    def run_commands(self) -> None:
        for line in COMMAND.findall(self.text):
            self.said[line] = self.run(line.split())

    def run(self, words: list[str]) -> str:
        if " ".join(words).startswith(INSTALL):  # as told, but beside the installation and without an index
            options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", f"--target={self.site}"]
            words = [*words[:4], *options, *words[4:]]
        if words[0] == "python":
            words = [sys.executable, *words[1:]]
        if words[0] == "beamwright":
            words = [sys.executable, "-c", "from beamwright.cli.main import main; main()", *words[1:]]
        environment = {**os.environ, "PYTHONPATH": str(self.site)}
        done = subprocess.run(
            words, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def rows(self, *words: str) -> list[dict[str, Any]]:
        lines = self.run(["beamwright", *words, "--workspace", "lab", "--json"]).splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def follower(tmp_path_factory: pytest.TempPathFactory) -> Follower:
    reader = Follower(tmp_path_factory.mktemp("tutorial"))
    reader.write_files()
    reader.run_commands()
    return reader


def test_every_event_of_both_runs_comes_out_merged(follower: Follower) -> None:
    events = {
        (run, spill, event)
        for run in (7, 8)
        for spill, event, *_ in (
            line.split(",") for line in (follower.folder / f"data/run{run}.csv").read_text().splitlines()[1:]
        )
    }
    merged = [row for row in follower.rows("collection", "ls") if "merge" in json.dumps(row)]
    assert sum(row["events"] for row in merged if row["stream"] == "dst") == len(events)


def test_the_gains_follow_the_drift_and_the_energies_do_not(follower: Follower) -> None:
    lines = follower.said["python look.py"].splitlines()
    gains = [float(line.split()[-1]) for line in lines if "fitted" in line]
    energies = [float(line.split()[-2]) for line in lines if line.startswith("run")]
    assert len(gains) == len(energies) == 2
    assert gains[1] / gains[0] == pytest.approx(1.05, abs=0.01)
    assert energies[1] / energies[0] == pytest.approx(1.0, abs=0.03)


def test_the_report_is_written(follower: Follower) -> None:
    assert "The first two runs of the bench" in (follower.folder / "lab/reports/first.html").read_text()
