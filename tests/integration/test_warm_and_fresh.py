"""Warm runners leave no trace: what they wrote is what a fresh process writes, byte by byte."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from beamwright.batch import wrapper
from beamwright.batch.children import Fresh
from kill import whole


def test_a_fresh_process_writes_the_bytes_that_a_warm_runner_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = str(Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")]))
    root = tmp_path / "workspace"
    whole.make(root, tmp_path / "raw").db.close()
    whole.produce(root, tmp_path / "raw")
    kinds = set()
    for directory in sorted(path.parent for path in root.glob("farms/*/jobs/*/*/job.json")):
        job = json.loads((directory / "job.json").read_bytes())
        if job["kind"] in kinds:
            continue
        before = hashes(Path(job["output_directory"]))
        again = tmp_path / directory.name
        again.mkdir()
        job |= {"output_directory": str(again / "store"), "scratch": str(again / "scratch")}
        (again / "job.json").write_text(json.dumps(job))
        (again / "ticket").write_text("00" * 32)
        assert wrapper.run_job(again, lambda job: Fresh(), wrapper.Stop()) == wrapper.REPORTED_OK
        assert hashes(again / "store") == before
        kinds.add(job["kind"])
    assert kinds == {"process", "collect", "fit", "merge"}


def hashes(directory: Path) -> dict[str, str]:
    report = json.loads((directory / "report.json").read_bytes())
    return {output["stream"]: output["sha256"] for output in report["outputs"]}
