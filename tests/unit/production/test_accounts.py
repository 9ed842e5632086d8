"""The accounts of a report against what is known otherwise: every term wrong in turn, alone and in pairs."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest

from beamwright.core.balance import TERMS
from beamwright.core.runs import Interval
from beamwright.production import accounts

INTERVAL = Interval.sections("S", 1, 0, 9)
EXPECTED = accounts.Expected(
    INTERVAL, {"slice": 100}, {"dst": 60, "built": 45}, frozenset({"dst", "built", "h"}), frozenset({"slice"})
)
BAD = [{"record": "slice", "key": f"S:1:0:{i}"} for i in range(3)]


def line(record: str, stream: str, **terms: int) -> dict[str, Any]:
    return (
        {"record": record, "stream": stream, "interval": INTERVAL.document()}
        | dict.fromkeys(TERMS, 0)
        | terms
    )


def lines() -> list[dict[str, Any]]:
    """A path that writes 60 of 100 slices as they are, and builds 45 events out of 30 of them."""
    return [
        line("slice", "dst", read=100, written=60, filtered=27, prescaled=10, quarantined=3),
        line("slice", "built", read=100, written=30, filtered=57, prescaled=10, quarantined=3),
        line("swevent", "built", created=50, written=45, filtered=5),
    ]


def test_right_accounts_have_no_problems() -> None:
    assert accounts.problems(lines(), BAD, EXPECTED) == []


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("by", [1, -1])
def test_each_term_of_each_line_is_held(number: int, term: str, by: int) -> None:
    wrong = lines()
    wrong[number][term] += by
    assert accounts.problems(wrong, BAD, EXPECTED)


# What only the payload knows: how many events it made and dropped, and how many parents those it kept have.
BEYOND_CHECK = {(1, "filtered", "written"), (2, "created", "filtered")}
CANCELLING = [
    (number, *pair)
    for number in range(3)
    for pair in itertools.combinations(sorted(TERMS), 2)
    if (number, *pair) not in BEYOND_CHECK
]


@pytest.mark.parametrize(("number", "one", "other"), CANCELLING)
def test_two_miscounts_that_cancel_are_found_out_all_the_same(number: int, one: str, other: str) -> None:
    for by in (1, -1):
        wrong = lines()
        wrong[number][one] += by
        is_one_side = len({one, other} & {"read", "created"}) != 1
        wrong[number][other] += -by if is_one_side else by
        assert accounts.problems(wrong, BAD, EXPECTED)


def test_a_record_without_a_prescale_is_not_prescaled() -> None:
    expected = dataclasses.replace(EXPECTED, prescaled=frozenset())
    assert "it has no prescale" in accounts.problems(lines(), BAD, expected)[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stream": "other"}, "does not declare"),
        ({"record": "swevent"}, "read is 100"),
        ({"read": "100"}, "no number"),
        ({"read": True}, "no number"),
        ({"written": -60}, "no number"),
        ({"interval": Interval.sections("S", 1, 0, 10).document()}, "outside"),
        ({"interval": 7}, "agreed form"),
    ],
)
def test_lines_without_sense_are_named(change: dict[str, Any], words: str) -> None:
    wrong = lines()
    wrong[0] |= change
    assert words in "; ".join(accounts.problems(wrong, BAD, EXPECTED))


def test_missing_double_and_foreign_lines_are_named() -> None:
    assert accounts.problems(lines()[1:], BAD, EXPECTED) == ["stream dst has no line for slice"]
    assert any("2 lines" in p for p in accounts.problems([*lines(), lines()[0]], BAD, EXPECTED))
    assert accounts.problems([{"record": "slice"}], [], EXPECTED)


def test_a_merge_reads_what_it_writes() -> None:
    expected = accounts.Expected(INTERVAL, {}, {"dst": 5}, frozenset({"dst"}))
    assert accounts.problems([line("any", "dst", read=5, written=5)], [], expected) == []
    assert accounts.problems([line("any", "dst", read=4, written=4)], [], expected)
    assert accounts.problems([], [], expected)
