"""A whole production of the toy experiment on local farms: every event accounted for, the same bytes always."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.toy_production import ToyProduction

from beamwright.db import schema


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> ToyProduction:
    made = ToyProduction(tmp_path_factory.mktemp("toy"))
    made.produce()
    return made


def test_every_task_is_closed(done: ToyProduction) -> None:
    assert {row.state for row in done.rows(schema.task)} == {"closed"}
