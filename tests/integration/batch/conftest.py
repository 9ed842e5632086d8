"""The batch systems that tests start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.slurm import RealSlurm, missing, running


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSlurm]:
    """A real Slurm with two nodes."""
    if absent := missing():
        pytest.skip(f"Slurm is not installed: no {', '.join(absent)}")
    with running(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm
