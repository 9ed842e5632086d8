"""The local scheduler under the suite that every scheduler passes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from beamwright.batch.local import LocalScheduler
from beamwright.testing.scheduler import SchedulerConformance


class TestLocal(SchedulerConformance):
    @pytest.fixture
    def scheduler(self, tmp_path: Path) -> Iterator[LocalScheduler]:
        scheduler = LocalScheduler(2, log=tmp_path / "log", fresh=True)
        yield scheduler
        scheduler.close()
