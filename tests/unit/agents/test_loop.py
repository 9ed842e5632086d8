"""The pause between two rounds of the agents."""

from __future__ import annotations

from beamwright.agents import loop


def test_a_round_follows_at_once_where_a_little_was_done_and_is_put_off_where_much_was() -> None:
    assert [loop.rest(done) for done in (1, loop.MUCH - 1)] == [0.0, 0.0]
    assert loop.rest(loop.MUCH) == loop.rest(1000) == loop.PACE_SECONDS > loop.rest(0) > 0
