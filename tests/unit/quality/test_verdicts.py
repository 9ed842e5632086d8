from __future__ import annotations

import pytest

from beamwright.core.errors import UnknownNameError, UsageError
from beamwright.db import history
from beamwright.db.engine import Database
from beamwright.quality import verdicts
from beamwright.quality.checks import Judgement, check_figure, summarise
from beamwright.quality.references import FigureLimits

ALGORITHM = "algorithm v1 abc"


def judgement(value: float) -> Judgement:
    return summarise(
        "timing", [check_figure(value, FigureLimits(name="width", subject="timing", range=(0, 1)))]
    )


def test_each_change_is_a_version_and_no_change_is_none(database: Database) -> None:
    with database.begin() as conn:
        assert verdicts.publish(conn, "A", 7, "raw", [judgement(0.5)], ALGORITHM, 1.0) == 1
        assert verdicts.publish(conn, "A", 7, "raw", [judgement(0.5)], ALGORITHM, 2.0) == 0
        assert verdicts.publish(conn, "A", 7, "raw", [judgement(2.0)], ALGORITHM, 3.0) == 1
        found = verdicts.history_of(conn, "A", 7, "raw", "timing")
        assert [(v.version, v.value, v.created) for v in found] == [(1, "good", 1.0), (2, "bad", 3.0)]
        assert found[1].checks[0]["value"] == 2.0
        assert [e.target for e in history.of(conn, "verdict", "A:7/raw/timing")] == ["good", "bad"]


def test_a_person_overrides_with_a_reason_and_the_algorithm_does_not_undo_it(database: Database) -> None:
    with database.begin() as conn:
        verdicts.publish(conn, "A", 7, "raw", [judgement(2.0)], ALGORITHM, 1.0)
        made = verdicts.override(
            conn, "A", 7, "raw", "timing", "good", author="mara", reason="known test pulse", now=2.0
        )
        assert made.version == 2 and made.is_by_person
        assert verdicts.publish(conn, "A", 7, "raw", [judgement(3.0)], ALGORITHM, 3.0) == 0
        present = verdicts.current(conn, "A", 7, "raw", "timing")
        assert present == made


def test_good_runs_as_of_a_time(database: Database) -> None:
    with database.begin() as conn:
        for run, value in ((7, 0.5), (8, 0.5), (9, 2.0)):
            verdicts.publish(conn, "A", run, "raw", [judgement(value)], ALGORITHM, 1.0)
        verdicts.publish(conn, "A", 8, "raw", [judgement(2.0)], ALGORITHM, 5.0)
        assert verdicts.good_runs(conn, "timing", "raw") == [("A", 7)]
        assert verdicts.good_runs(conn, "timing", "raw", as_of=2.0) == [("A", 7), ("A", 8)]
        assert verdicts.good_runs(conn, "timing", "raw", as_of=0.5) == []
        assert verdicts.good_runs(conn, "timing", "dst") == []
        with pytest.raises(UnknownNameError, match="timign") as caught:
            verdicts.good_runs(conn, "timign", "raw")
        assert "did you mean timing" in caught.value.hint
        before = verdicts.current(conn, "A", 8, "raw", "timing", as_of=2.0)
        assert before is not None and before.value == "good"


def test_a_run_is_judged_when_a_subject_is_good_or_bad_now(database: Database) -> None:
    runs = [("A", 7), ("A", 8)]
    with database.begin() as conn:
        verdicts.publish(conn, "A", 7, "raw", [judgement(float("nan"))], ALGORITHM, 1.0)
        assert verdicts.unjudged(conn, runs) == runs
        verdicts.publish(conn, "A", 7, "raw", [judgement(2.0)], ALGORITHM, 2.0)
        assert verdicts.unjudged(conn, runs) == [("A", 8)]
        verdicts.publish(conn, "A", 7, "raw", [judgement(float("nan"))], ALGORITHM, 3.0)
        assert verdicts.unjudged(conn, runs) == runs


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"value": "goood"}, "did you mean good"),
        ({"reason": " "}, "needs a reason"),
        ({"author": "algorithm x"}, "is no person"),
        ({"author": ""}, "is no person"),
    ],
)
def test_an_override_without_what_it_needs_is_refused(
    database: Database, change: dict[str, str], words: str
) -> None:
    values = {"value": "good", "author": "mara", "reason": "seen"} | change
    value = values.pop("value")
    with database.begin() as conn, pytest.raises(UsageError, match=words):
        verdicts.override(conn, "A", 7, "raw", "timing", value, now=1.0, **values)
