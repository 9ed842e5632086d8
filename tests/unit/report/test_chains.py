"""Chains as text: which numbers are drawn, and how."""

from __future__ import annotations

from typing import Any

from beamwright.report.chains import chain_lines, figure_lines


def link(run: int, state: str = "accepted", **more: Any) -> dict[str, Any]:
    places = {"step": "pass1", "series": "A", "run": run, "sequence": 1, "generation": 0}
    return places | {"state": state, "start": {}, "result": {}, "figures": None, "reason": ""} | more


def summary(mean: float, rms: float) -> dict[str, Any]:
    return {"T0": {"offset": {"mean": mean, "rms": rms}, "channel": {"mean": 2.5, "rms": 3.0}}}


def test_what_does_not_move_is_not_drawn() -> None:
    drawn = chain_lines([link(1, values=summary(1.0, 1.1)), link(2, values=summary(2.0, 2.1))])
    assert drawn[-1].split() == ["pass1", "A", "T0.offset,", "mean", "1", "2", "▁█"]
    assert not any("channel" in line for line in drawn)


def test_of_constants_whose_mean_is_zero_by_construction_the_rms_is_drawn() -> None:
    drawn = chain_lines([link(1, values=summary(1e-17, 3.0)), link(2, values=summary(-1e-17, 2.0))])
    assert drawn[-1].split() == ["pass1", "A", "T0.offset,", "rms", "3", "2", "█▁"]


def test_links_that_a_skip_back_withdrew_are_listed_and_not_drawn() -> None:
    withdrawn = link(2, "invalidated", values=summary(9.0, 9.0))
    again = link(2, generation=1, values=summary(2.0, 2.0))
    drawn = chain_lines([link(1, values=summary(1.0, 1.0)), withdrawn, again])
    assert "generation" in drawn[0] and sum("invalidated" in line for line in drawn) == 1
    assert drawn[-1].endswith("▁█")


def test_figures_have_a_table_for_each_calibration_and_chain() -> None:
    told = [
        {"gains": {"statistics": n, "decision": "accept", "figures": {"width": w}}}
        for n, w in ((10, 2.0), (20, 1.0))
    ]
    drawn = figure_lines([link(1, figures=told[0]), link(2, figures=told[1]), link(3, "carried")])
    assert drawn[0] == "gains (pass1, series A)"
    assert [line.split() for line in drawn[3:5]] == [
        ["A/1", "10", "accept", "2"],
        ["A/2", "20", "accept", "1"],
    ]
    assert drawn[-1].split() == ["width", "2", "1", "█▁"]


def test_a_link_without_a_result_yet_keeps_nothing() -> None:
    held = link(2, "held", start={"T0": "a" * 64}, result=None)
    done = link(1, start={"T0": "b" * 64}, result={"T0": "a" * 64})
    carried = link(3, "carried", start={"T0": "a" * 64}, result={"T0": "a" * 64})
    rows = chain_lines([done, held, carried])[2:5]
    assert "bbbbbbbb → aaaaaaaa" in rows[0] and "aaaaaaaa → …" in rows[1] and "aaaaaaaa kept" in rows[2]
