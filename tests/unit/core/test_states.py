"""The transition tables."""

from __future__ import annotations

import pytest

from beamwright.core import states
from beamwright.core.errors import StateError, UnknownNameError


@pytest.mark.parametrize("kind", states.TABLES)
def test_every_state_can_be_reached_from_the_initial_one(kind: str) -> None:
    reached, new = set(), {states.INITIAL[kind]}
    while new:
        reached |= new
        new = {target for state in new for target in states.TABLES[kind][state]} - reached
    assert reached == states.states(kind)


def test_a_late_report_of_a_lost_attempt_is_taken() -> None:
    assert states.allowed("attempt", "lost", "reported") and states.allowed("attempt", "killed", "reported")


def test_an_accepted_attempt_never_changes() -> None:
    assert not states.TABLES["attempt"]["accepted"]


def test_a_forbidden_move_names_object_states_and_way_out() -> None:
    with pytest.raises(StateError, match="job 7 is ok and cannot become running.*superseded"):
        states.check("job", "ok", "running", "7")


def test_a_misspelt_state_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean running"):
        states.check("job", "submitted", "runing")


def test_sources_are_the_states_one_step_before() -> None:
    assert set(states.sources("attempt", "accepted")) == {"reported"}
