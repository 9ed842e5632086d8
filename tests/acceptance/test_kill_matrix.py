"""Every process of the job protocol killed at every step of it: nothing is lost, nothing is done twice.

A production runs in real processes; one of them dies by SIGKILL just before one system call or database
statement; the production is started again. The outputs must be those of an undisturbed run, byte by byte, and
every invariant must hold. Most points are taken with a trivial payload; a whole production in small (two
passes, event framework, merge) takes its share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kill.harness import Harness, Point

# One point in so many is in the sample; the slow tests take them all, or many more.
STRIDES = {"warm": 47, "fresh": 11, "whole": 400}


def harness_of(kind: str, folder: Path) -> Harness:
    return Harness(folder, fresh=kind == "fresh", is_whole=kind == "whole")


@pytest.fixture(scope="module", params=STRIDES)
def harness(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with harness_of(request.param, tmp_path_factory.mktemp(f"kill-{request.param}")) as made:
        made.stride = STRIDES[request.param]
        yield made


def survive(harness: Harness, points: list[Point], expected: dict[str, str]) -> None:
    """Kill at each of the points; all must be well afterwards."""
    failures, missed = {}, []
    for point in points:
        for place in nearer(point):
            problems, has_fired = harness.kill(place, expected)
            if problems:
                failures[f"{place} ({place.what})"] = problems
            if has_fired:
                break
        else:
            missed.append(str(point))
    assert not failures
    assert not missed


def nearer(point: Point) -> Iterator[Point]:
    """Give the point, then those to take where it is not reached: how far a process comes depends on time."""
    yield point
    for part in (2, 4):
        yield replace(point, operation=1 + point.operation // part, what="nearer")
    yield Point(point.role, 1, 1, "the first")


def test_a_sample_of_the_kill_matrix(harness: Harness) -> None:
    points, expected = harness.points()
    children = {"payload", "runner", "child"} if harness.fresh else {"runner", "child"}
    assert {point.role for point in points} == {"agents", "wrapper"} | children
    if harness.fresh:
        points = [point for point in points if point.role in children]
    survive(harness, points[harness.stride // 2 :: harness.stride], expected)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_whole_kill_matrix(harness: Harness) -> None:
    points, expected = harness.points()
    if harness.fresh:
        points = [point for point in points if point.role != "agents"]
    survive(harness, points[:: 10 if harness.is_whole else 1], expected)


@pytest.mark.parametrize(
    ("bug", "role", "what"), [("early", "agents", "commit"), ("optimist", "wrapper", "link")]
)
def test_the_harness_finds_a_planted_bug(tmp_path: Path, bug: str, role: str, what: str) -> None:
    with Harness(tmp_path, bug=bug) as harness:
        points, expected = harness.points()
        wanted = [point for point in points if point.role == role and point.what.startswith(what)]
        assert any(harness.kill(point, expected)[0] for point in reversed(wanted))
