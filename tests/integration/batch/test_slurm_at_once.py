"""As many jobs at once as a real Slurm has CPUs: all are followed, and all are taken in."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from support.sleepers import sleepers
from support.slurm import missing


def run_at_once(folder: Path, count: int, seconds: float) -> None:
    with sleepers(folder, count) as jobs:
        jobs.start(count, seconds)
        wrappers = jobs.wrappers()
        assert len(set(wrappers)) == count and os.getpid() not in wrappers
        assert jobs.turn() == 0  # nothing is new, nobody is given up
        jobs.let_go()
        jobs.until(lambda: jobs.states() == {"accepted": count}, seconds)
        assert jobs.results() == Counter({"ok": count})


@pytest.mark.skipif(bool(missing()), reason="Slurm is not installed")
def test_jobs_run_at_once(tmp_path: Path) -> None:
    run_at_once(tmp_path, 24, 240.0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(bool(missing()), reason="Slurm is not installed")
def test_twelve_hundred_jobs_run_at_once(tmp_path: Path) -> None:
    run_at_once(tmp_path, 1200, 1200.0)
