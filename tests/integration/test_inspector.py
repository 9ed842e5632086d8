"""Verdicts on the runs of a real small production."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from beamwright import fsck
from beamwright.agents.inspector import Inspector
from beamwright.quality import verdicts
from support import toy_production
from support.toy_production import SMALL, ToyProduction, whole_runs

REFERENCES = """
version = 1

[[figure]]
name = "gain"
subject = "gain"
step = "pass1"
range = [1.2, 1.3]

[[figure]]
name = "before"
subject = "start"
step = "pass1"
range = [1.2, 1.3]

[[figure]]
name = "gain"
subject = "other"
step = "pass2"
range = [0, 1]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ToyProduction:
    root = tmp_path_factory.mktemp("small")
    given = whole_runs(root, 1, 2)
    production = ToyProduction(root, SMALL, given=given)
    production.produce()
    return production


@pytest.fixture
def inspector(made: ToyProduction, tmp_path: Path) -> Inspector:
    (tmp_path / "references.toml").write_text(REFERENCES)
    experiment = replace(toy_production.experiment, references=(tmp_path / "references.toml",))
    return Inspector(made.workspace, experiment, 1)


def test_finished_runs_are_judged_once(made: ToyProduction, inspector: Inspector) -> None:
    assert inspector.turn() == 4
    assert inspector.turn() == 0
    again = Inspector(made.workspace, inspector.experiment, 1)
    assert again.turn() == 0
    with made.workspace.db.read() as conn:
        assert verdicts.good_runs(conn, "gain", "raw") == [("A", 1), ("A", 2)]
        assert verdicts.good_runs(conn, "start", "raw") == [("A", 2)]
        found = verdicts.current(conn, "A", 1, "raw", "start")
        assert verdicts.current(conn, "A", 1, "raw", "other") is None
    assert found is not None
    assert (found.value, found.reason) == ("bad", "value of before is 1, below 1.2")


def test_without_references_nothing_is_judged(made: ToyProduction) -> None:
    assert Inspector(made.workspace, toy_production.experiment, 1).turn() == 0


def test_a_real_production_keeps_every_invariant(made: ToyProduction) -> None:
    assert fsck.run(made.workspace.db, made.workspace.root, deep=True) == []
