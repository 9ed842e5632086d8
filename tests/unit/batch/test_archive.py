"""The wrapper as an archive, on a Python that has nothing installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from beamwright.batch import archive
from support.jobs import make_job, report_of


def test_the_archive_runs_a_job_where_nothing_is_installed(tmp_path: Path) -> None:
    wrapper = tmp_path / "wrapper.pyz"
    archive.install(wrapper)
    archive.install(wrapper)
    directory = make_job(tmp_path)
    command = [sys.executable, "-I", "-S", str(wrapper), str(directory)]
    assert subprocess.run(command, cwd=tmp_path, timeout=240).returncode == 0
    assert report_of(directory)["status"] == "ok"
    assert archive.build() == archive.build() == wrapper.read_bytes()
