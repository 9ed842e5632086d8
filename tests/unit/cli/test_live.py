"""The grid that grows on a terminal: it fits the terminal, and shows what is at work."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from beamwright.cli.live import Drawn

STEPS = ("pass1", "reco", "swtrigger", "monitor", "mdst", "dst-import", "skim", "merged")


def _cell(state: str) -> dict[str, Any]:
    return {"state": state, "done": 1, "total": 3, "counts": {}}


def _row(run: int, state: str) -> dict[str, Any]:
    return {"series": "44", "run": run, "sequence": 1, "cells": {step: _cell(state) for step in STEPS}}


def _grid(*states: str) -> dict[str, Any]:
    return {
        "columns": [{"step": step} for step in STEPS],
        "rows": [_row(n, state) for n, state in enumerate(states)],
    }


def _lines(grid: dict[str, Any], width: int, height: int = 40) -> list[str]:
    console = Console(file=StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    console.print(Drawn(grid, "demo"))
    assert isinstance(console.file, StringIO)
    return [line.strip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_it_is_no_wider_than_the_terminal_and_cuts_no_state(width: int) -> None:
    lines = _lines(_grid("ok", "submitted", "waiting"), width)
    assert max(map(len, lines)) <= width
    assert not [line for line in lines if "…" in line]
    assert len([line for line in lines if line.startswith("44/")]) == 3


def test_states_are_whole_words_where_there_is_room() -> None:
    assert "submitted 1/3" in "\n".join(_lines(_grid("submitted"), 200))
    assert "submitted" not in "\n".join(_lines(_grid("submitted"), 80))


def test_what_is_at_work_is_shown_where_not_all_rows_fit() -> None:
    states = ["ok"] * 50 + ["running"] * 5 + ["waiting"] * 50
    lines = _lines(_grid(*states), 200, height=24)
    assert len(lines) < 24
    assert [line.split()[0] for line in lines if line.startswith("44/")][:5] == [
        f"44/{n}" for n in range(50, 55)
    ]
    assert lines[-1] == "and 87 more; 50 of 105 are done"
