"""The local scheduler under the suite that every scheduler passes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from beamwright.batch.local import LocalScheduler, make
from beamwright.batch.scheduler import JobSpec
from beamwright.core.settings import Farm
from beamwright.testing.payload import make_job
from beamwright.testing.scheduler import SchedulerConformance


class TestLocal(SchedulerConformance):
    @pytest.fixture
    def scheduler(self, tmp_path: Path) -> Iterator[LocalScheduler]:
        scheduler = LocalScheduler(2, log=tmp_path / "log", fresh=True)
        yield scheduler
        scheduler.close()

    def test_a_job_gets_the_farms_environment_and_not_ours(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SECRET_OF_THE_AGENT", "x")
        setup = tmp_path / "set up.sh"
        setup.write_text(f'env > "{tmp_path}/environment"\n')
        farm = Farm(slots=1, setup=str(setup), environment={"SITE_TOP": "it's here"})
        scheduler = make(SimpleNamespace(root=tmp_path), "near", farm)
        self.finished(scheduler, scheduler.submit([JobSpec(make_job(tmp_path, "one"))]))
        scheduler.close()
        seen = (tmp_path / "environment").read_text()
        assert "SITE_TOP=it's here\n" in seen and "SECRET_OF_THE_AGENT" not in seen
