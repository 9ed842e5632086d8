"""What is told of long work: nothing where it is quick, how far it is where it is not."""

from __future__ import annotations

import pytest

from beamwright.cli import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let a simulated clock go on by its first item, a second, whenever somebody looks at it."""
    state = [1.0, 0.0]

    def look() -> float:
        state[1] += state[0]
        return state[1]

    monkeypatch.setattr(progress.time, "monotonic", look)
    return state


def test_lines_are_told_now_and_then(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.each(range(25), "files")) == list(range(25))
    told = capsys.readouterr()
    assert told.out == ""
    assert [line.split(",")[0] for line in told.err.splitlines()] == ["9 of 25 files", "19 of 25 files"]


def test_quick_work_is_not_told_of(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    clock[0] = 0.001
    assert len(list(progress.each("abc", "files"))) == 3
    assert capsys.readouterr().err == ""


def test_a_bar_that_passes_leaves_an_empty_line_behind(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "can_overwrite", lambda stream: True)
    for _ in progress.each(range(3), "files"):
        pass
    told = capsys.readouterr().err
    assert "\r\x1b[K[" in told and "1 of 3 files" in told
    assert told.endswith("\r\x1b[K")


def test_a_pass_says_at_its_end_how_long_it_took(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    progress.Progress()(5, 5)
    assert capsys.readouterr().err == "5 of 5 records, 5 records/s, took 1.0 s\n"
