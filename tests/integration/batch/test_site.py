"""``beamwright site check`` on farms that answer, that fail, and that no plug-in serves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from beamwright.batch.scheduler import JobSpec
from beamwright.batch.slurm import make
from beamwright.cli.main import cli
from beamwright.production.workspace import Workspace
from beamwright.testing.payload import make_job
from support.slurm import RealSlurm

SETTINGS = '[farm.here]\nslots = 2\n\n[farm.there]\nscheduler = "{scheduler}"\ntimeout_s = 20\n'


def check(root: Path, scheduler: str, *options: str) -> Result:
    Workspace.create(root, SETTINGS.format(scheduler=scheduler)).db.close()
    return CliRunner().invoke(cli, ["site", "check", "-w", str(root), *options], standalone_mode=False)


def test_farms_that_answer_are_listed_with_what_shows_each_verb(slurm: RealSlurm, tmp_path: Path) -> None:
    done = check(tmp_path / "workspace", "slurm")
    assert done.return_value == 0
    assert "farm here (local, 2 slots) answers, no jobs" in done.output
    assert "farm there (slurm, 1 slots) answers, no jobs" in done.output
    assert "submit   real server: this machine\n" in done.output
    assert "history  real server (jobcomp/filetxt)" in done.output and "squeue)" in done.output


def test_what_the_batch_system_says_of_jobs_that_wait_is_told(slurm: RealSlurm, tmp_path: Path) -> None:
    text = SETTINGS.format(scheduler="slurm") + 'options = ["--hold"]\n'
    workspace = Workspace.create(tmp_path / "workspace", text)
    workspace.db.close()
    scheduler = make(workspace, "there", workspace.settings.farm["there"])
    ids = scheduler.submit([JobSpec(make_job(tmp_path, f"job{n}")) for n in range(2)])
    where = ["-w", str(workspace.root)]
    done = CliRunner().invoke(cli, ["site", "check", *where], standalone_mode=False)
    scheduler.cancel(ids)
    assert "answers, 2 queued\n  2 of the queued: PENDING: JobHeldUser\n" in done.output


@pytest.mark.parametrize(
    ("scheduler", "program", "evidence"),
    [
        ("pbs", "qstat", "recording"),
        ("lsf", "bjobs", "documentation"),
        ("htcondor", "condor_q", "documentation"),
    ],
)
def test_a_farm_that_does_not_answer_is_named_with_a_next_step(
    scheduler: str, program: str, evidence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = check(tmp_path / "workspace", scheduler, "--json")
    assert done.return_value == 10
    here, there = json.loads(done.output)["farms"]
    assert here["answers"] and not there["answers"]
    assert f"no program {program}" in there["message"] and there["hint"]
    assert there["verbs"]["poll"]["shown by"].startswith(evidence)


def test_an_unknown_scheduler_gets_the_nearest_name(tmp_path: Path) -> None:
    done = check(tmp_path / "workspace", "slrum")
    assert done.return_value == 10
    assert "'slrum'" in done.output and "slurm" in done.output
