"""Retry rules: what follows a failure, by its class and message."""

from __future__ import annotations

from typing import Any

import pytest

from beamwright.core.errors import ConfigError
from beamwright.production.rules import RetryRule, decide
from beamwright.production.spec import read_spec

FILE = """
name = "p"
experiment = "toy"
[[dataset]]
name = "data"
runs = {{ A = [1] }}
global_tag = "g"
[[step]]
name = "reco"
inputs = ["data"]
path = "reco"
{more}
"""


def rule(**members: Any) -> RetryRule:
    return RetryRule.model_validate(members)


def test_without_rules_chance_is_tried_more_often_than_what_stays_the_same() -> None:
    assert [decide([], "lost", "", {"lost": n}, 3).what for n in (1, 9, 10)] == ["again", "again", "stay"]
    assert [decide([], "input", "", {"input": n}, 3).what for n in (1, 2)] == ["again", "stay"]
    assert decide([], "memory", "", {"memory": 2, "lost": 8}, 3).what == "stay"
    assert (
        decide([], "time", "", {"time": 1}, 3).delay_s == 0 < decide([], "time", "", {"time": 2}, 3).delay_s
    )


def test_the_first_rule_that_fits_class_and_message_holds() -> None:
    rules = [
        rule(failure="application_error", message="no license|licence", action="retry", times=9, delay_s=60),
        rule(failure="application_error", action="never"),
        rule(message="segment", action="hold"),
    ]
    first = decide(rules, "application_error", "no licence left", {"application_error": 5}, 3)
    assert (first.what, first.delay_s) == ("again", 60.0)
    assert decide(rules, "application_error", "division", {"application_error": 1}, 3).what == "stay"
    assert decide(rules, "application_crash", "segment 5", {"application_crash": 1}, 3).what == "hold"
    assert decide(rules, "application_crash", "other", {"application_crash": 1}, 3).what == "again"


def test_more_multiplies_what_was_too_little() -> None:
    rules = [rule(action="more", factor=3.0, times=2)]
    memory, time = (decide(rules, name, "", {name: 1}, 3) for name in ("memory", "time"))
    assert (memory.memory, memory.wall) == (3.0, 1.0) and (time.memory, time.wall) == (1.0, 3.0)
    assert [decide(rules, "memory", "", {"memory": n}, 9).what for n in (1, 2, 3)] == [
        "again",
        "again",
        "stay",
    ]


def test_smaller_and_exclude() -> None:
    assert decide([rule(failure="time", action="smaller")], "time", "", {"time": 1}, 3).what == "split"
    assert decide([rule(action="exclude")], "node", "", {"node": 1}, 3).avoids_node


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('retry = [{ failure = "memry" }]', "did you mean memory"),
        ('retry = [{ message = "(" }]', "no regular expression"),
        ('retry = [{ acton = "hold" }]', "did you mean action"),
        ('retry = [{ action = "hodl" }]', "hold"),
        ('state = [{ name = "held" }]', "built-in"),
        ('state = [{ name = "parked", stands_for = "hold" }]', "did you mean held"),
        ("max_failed = 0.0", "max_failed"),
        (
            'state = [{ name = "parked" }]\nretry = [{ action = "hold", state = "praked" }]',
            "did you mean parked",
        ),
        ('retry = [{ action = "more", state = "parked" }]', "is for rules that hold"),
    ],
)
def test_a_wrong_rule_is_named_with_the_nearest_right_one(more: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        read_spec(FILE.format(more=more), "p.toml")
        raise AssertionError(caught)


def test_rules_stand_in_the_task_file_and_do_not_change_its_identity() -> None:
    plain = read_spec(FILE.format(more=""), "p.toml")
    more = "scouts = 2\nmax_failed = 0.5\nmemory_mb = 8000\nwall_s = 60"
    text = more + '\nretry = [{ failure = "memory", action = "more" }]'
    ruled = read_spec(FILE.format(more=text), "p.toml")
    assert ruled.step[0].retry[0].action == "more" and ruled.step[0].scouts == 2
    from beamwright.production.tasks import Facts, config_hash

    assert config_hash(plain.step[0], Facts()) == config_hash(ruled.step[0], Facts())
