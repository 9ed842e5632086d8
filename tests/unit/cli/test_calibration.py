"""What a person does to chains by command: hold, accept, reject, skip back, redo; with reasons."""

from __future__ import annotations

from pathlib import Path

import pytest

from beamwright.production.workspace import Workspace
from support.chains import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    workspace = Workspace.create(tmp_path / "workspace")
    monkeypatch.chdir(workspace.root)
    world = World(workspace.db)
    for run in (1, 2, 3):
        world.deliver(run)
    for run in (1, 2):
        world.conclude([world.collect(run)], 1 + run / 10)
    return world


def test_skipping_back_moves_links_and_says_which(call, world: World) -> None:
    told = call("calibration", "skip-back", "A/2", "--reason", "wrong map", "--json")
    assert told.rows == [{"step": "pass1", "interval": "A:2..2:100", "was": "accepted", "is": "invalidated"}]
    assert "1 link invalidated; 0 outputs stale" in told.err
    shown = call("calibration", "show", "--json").rows
    assert [(row["run"], row["generation"], row["state"]) for row in shown] == [
        (1, 0, "accepted"), (2, 0, "invalidated"), (2, 1, "waiting"), (3, 0, "waiting"),
    ]  # fmt: skip


def test_a_dry_run_says_the_same_and_changes_nothing(call, world: World) -> None:
    told = call("calibration", "skip-back", "A/2", "--reason", "wrong map", "--dry-run")
    assert told.code == 0 and "nothing was changed" in told.err
    assert world.chain().generation == 0 and world.link(2).state == "accepted"


def test_a_run_is_held_and_let_go(call, world: World) -> None:
    assert call("calibration", "hold", "A/3", "--reason", "beam loss").code == 0
    assert world.link(3).state == "held"
    told = call("calibration", "accept", "A/3", "--reason", "looked at", "--by", "shifter", "--json")
    assert told.rows == [{"step": "pass1", "interval": "A:3..3:100", "was": "held", "is": "waiting"}]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("hold", "A/1", "--reason", "x"), "is accepted"),
        (("hold", "A/9", "--reason", "x"), "A/9"),
        (("hold", "A/3"), "--reason"),
        (("hold", "A3", "--reason", "x"), "is no run"),
        (("reject", "A/3", "--reason", "x", "--step", "pass9"), "A/3"),
        (("show", "--values", "Gian"), "Gian"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(
    call, world: World, words: tuple, message: str
) -> None:
    told = call("calibration", *words)
    assert told.code != 0 and message in told.err


def test_constants_are_shown_by_interval_with_a_sparkline(call, world: World) -> None:
    rows = call("calibration", "show", "--values", "Gain", "--json").rows
    assert [row["values"] for row in rows] == [{"gain": 1.1}, {"gain": 1.2}]
    shown = call("calibration", "show", "--values", "gt/Gain").out
    assert shown.splitlines()[-1] == "gain  ▁█"


def test_chains_are_shown_run_by_run_with_a_sparkline_of_what_moves(call, world: World) -> None:
    table, _, moves = call("calibration", "show").out.partition("\n\n")
    first, second, third = table.splitlines()[2:]
    assert "accepted" in first and " → " in first and "waiting" in third
    assert second.split()[3] == first.split()[5]  # what the first gave is what the second started from
    assert moves.splitlines()[-1].split() == ["pass1", "A", "Gain.gain,", "mean", "1.1", "1.2", "▁█·"]
    values = [row["values"] for row in call("calibration", "show", "--json").rows]
    assert values[1] == {"Gain": {"gain": {"mean": 1.2, "rms": 1.2}}} and values[2] == {}


def test_nothing_is_stale_while_all_resolves_as_it_did(call, world: World) -> None:
    assert call("calibration", "stale", "test", "--json").rows == []
    assert call("calibration", "redo", "test", "--json").rows == []
