"""What follows a failure: the retry rules of a task file, by failure class and message. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator

from beamwright.core import states
from beamwright.core.errors import nearest
from beamwright.core.messages import FAILURES
from beamwright.core.settings import Declaration

Action = Literal["retry", "more", "smaller", "exclude", "hold", "never"]
What = Literal["again", "stay", "hold", "split"]

# How often a unit is tried when its attempts end in this class; classes not named here follow the settings.
# What strikes the unit by chance is tried more often, what will be the same next time less.
TRIES = {"lost": 10, "node": 10, "submit": 10, "input": 2, "policy": 2}
MOST = max(TRIES.values())


class RetryRule(Declaration):
    """What follows a failure of this class, or of any, whose message matches; the first rule that fits holds.

    ``more`` multiplies the memory by ``factor``, after a time-out the wall time; ``smaller`` cuts the unit in
    two; ``exclude`` avoids the node where it failed; ``hold`` leaves it to a person, in a ``state`` of the
    task's own where that is said. After ``times`` further tries the job stays failed.
    """

    failure: str = ""
    message: str = ""
    action: Action = "retry"
    times: int = Field(default=3, ge=1, le=MOST)
    delay_s: float | None = Field(default=None, ge=0)
    factor: float = Field(default=2.0, gt=1.0, le=100.0)
    state: str = ""

    @field_validator("failure")
    @classmethod
    def _known(cls, value: str) -> str:
        if value and value not in FAILURES:
            raise ValueError(f"there is no failure class {value!r}; {nearest(value, FAILURES)}")
        return value

    @field_validator("message")
    @classmethod
    def _pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"it is no regular expression: {error}") from None
        return value

    def fits(self, failure_class: str, message: str) -> bool:
        """Tell whether the rule speaks of such a failure."""
        return self.failure in ("", failure_class) and bool(re.search(self.message, message))


class StateSpec(Declaration):
    """A state of the user's own for jobs; it stands for a built-in one, in which the job really is."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,30}$")
    stands_for: str = "held"

    @field_validator("stands_for")
    @classmethod
    def _known(cls, value: str) -> str:
        known = states.states("job")
        if value not in known:
            raise ValueError(f"there is no state {value!r} of jobs; {nearest(value, known)}")
        return value

    @field_validator("name")
    @classmethod
    def _own(cls, value: str) -> str:
        if value in states.states("job"):
            raise ValueError(f"{value!r} is a built-in state; give it a name of its own")
        return value


@dataclass(frozen=True)
class Verdict:
    """What becomes of a failed job, after how many seconds, with how many times the memory or wall time,
    whether the node is to be avoided, and the state of its task's own that it is held in.
    """

    what: What
    delay_s: float = 0.0
    memory: float = 1.0
    wall: float = 1.0
    avoids_node: bool = False
    label: str = ""


def check_states(rules: Sequence[RetryRule], declared: Sequence[StateSpec]) -> None:
    """Refuse rules that hold jobs in a state that is not there for it.

    Raises: ValueError.
    """
    held = [one.name for one in declared if one.stands_for == "held"]
    for rule in rules:
        if rule.state and rule.action != "hold":
            raise ValueError(
                f"state {rule.state!r} is for rules that hold, and this one says {rule.action!r}"
            )
        if rule.state and rule.state not in held:
            why = f"there is no state {rule.state!r} of its own that stands for 'held'"
            raise ValueError(f"{why}; {nearest(rule.state, held)}")


def own_limits(step: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a step itself says that an attempt may use."""
    return {name: step[name] for name in ("memory_mb", "wall_s") if step.get(name)}


def decide(
    rules: Sequence[RetryRule], failure_class: str, message: str, earlier: Mapping[str, int], tries: int
) -> Verdict:
    """Decide what follows a failure; ``earlier`` counts the failed attempts by class, with this one."""
    count = earlier.get(failure_class, 0)
    rule = next((rule for rule in rules if rule.fits(failure_class, message)), None)
    if rule is None:
        again = count < TRIES.get(failure_class, tries) and sum(earlier.values()) < MOST
        return Verdict("again", _backoff(count)) if again else Verdict("stay")
    if rule.action == "hold":
        return Verdict("hold", label=rule.state)
    if rule.action == "smaller":
        return Verdict("split")
    if rule.action == "never" or count > rule.times or sum(earlier.values()) > MOST:
        return Verdict("stay")
    delay = _backoff(count) if rule.delay_s is None else rule.delay_s
    if rule.action == "more":
        is_time = failure_class == "time"
        return Verdict("again", delay, 1.0 if is_time else rule.factor, rule.factor if is_time else 1.0)
    return Verdict("again", delay, avoids_node=rule.action == "exclude")


def _backoff(count: int) -> float:
    return min(300.0, 0.25 * 4.0 ** (count - 1)) if count > 1 else 0.0
