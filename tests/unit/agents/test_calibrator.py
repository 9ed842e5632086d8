"""What the calibrator does with short runs, rounds and decisions, on a chain whose jobs end as said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from beamwright.production.workspace import Workspace
from support.chain_bench import REPEATED, SPEC, ChainBench, number
from support.toy import gain_payload


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Workspace.create(tmp_path / "w").db.close()
    return tmp_path / "w"


class Chain(ChainBench):
    def turns(self, times: int = 4) -> None:
        for _ in range(times):
            self.clock.sleep(2)
            self.calibrator.turn()

    def collected(self, *hits: int) -> None:
        for one in hits:
            self.turns()
            (unit_id,) = self.jobs("collect")
            self.collect(unit_id, one)
        self.turns()

    def states(self) -> dict[int, str]:
        return {number(link): link.state for link in self.links()}


@pytest.fixture
def chain(root: Path) -> Iterator[Chain]:
    made = Chain(root)
    yield made
    made.workspace.db.close()


@pytest.fixture
def repeated(root: Path) -> Iterator[Chain]:
    made = Chain(root, REPEATED)
    yield made
    made.workspace.db.close()


def test_a_short_run_waits_for_the_next_that_is_there_already(chain: Chain) -> None:
    for run in (1, 2, 3, 4):
        chain.bring(run)
    chain.collected(5, 30)
    (unit_id,) = chain.jobs("fit")
    chain.propose(unit_id, "accept", 1.5)
    chain.turns(2)
    fits = {number(link): link.fit_unit_id for link in chain.links()}
    assert fits[1] == fits[2] == unit_id
    assert chain.states() | {3: "", 4: ""} == {1: "accepted", 2: "accepted", 3: "", 4: ""}


def test_two_short_runs_are_carried_when_no_more_may_share_a_fit(chain: Chain) -> None:
    for run in (1, 2, 3, 4):
        chain.bring(run)
    chain.collected(5, 5)
    found = chain.links()
    assert [link.state for link in found[:2]] == ["carried", "carried"]
    assert {tuple(link.result.values()) for link in found[:2]} == {(chain.initial,)}
    assert chain.jobs("fit") == []


def test_the_last_short_run_is_carried_when_nothing_more_is_expected(chain: Chain) -> None:
    for run in (1, 2, 3, 4):
        chain.bring(run, 0 if run < 4 else 5)
    chain.collected(5)
    assert set(chain.states().values()) == {"carried"}


def test_a_fit_that_carries_is_no_fault_and_holds_no_chain(chain: Chain) -> None:
    chain.bring(1)
    chain.collected(30)
    chain.propose(chain.jobs("fit")[0], "carry", None)
    chain.turns(2)
    assert chain.states() == {1: "carried"}


def test_a_rejected_fit_holds_the_chain_where_the_step_says_so(chain: Chain) -> None:
    chain.bring(1)
    chain.collected(30)
    chain.propose(chain.jobs("fit")[0], "reject", 9.0)
    chain.turns(2)
    assert chain.states() == {1: "held"}


def test_a_second_round_starts_from_what_the_first_one_found(repeated: Chain) -> None:
    repeated.bring(1)
    repeated.collected(30)
    repeated.propose(repeated.jobs("fit")[0], "accept", 1.5)
    repeated.turns(2)
    (link,) = repeated.links()
    assert (link.state, link.round, link.start) == ("collecting", 2, {"Gain": repeated.initial})
    assert link.applied == {"Gain": gain_payload(1.5).id}
    repeated.collected(30)
    repeated.propose(repeated.jobs("fit")[0], "accept", 1.52)
    repeated.turns(2)
    (link,) = repeated.links()
    assert (link.state, link.result) == ("accepted", {"Gain": gain_payload(1.52).id})


def test_a_second_round_that_carries_keeps_what_the_first_one_found(repeated: Chain) -> None:
    repeated.bring(1)
    repeated.collected(30)
    repeated.propose(repeated.jobs("fit")[0], "accept", 1.5)
    repeated.turns(2)
    repeated.collected(30)
    repeated.propose(repeated.jobs("fit")[0], "carry", None)
    repeated.turns(2)
    (link,) = repeated.links()
    assert (link.state, link.result) == ("accepted", {"Gain": gain_payload(1.5).id})


def test_what_still_moves_in_the_last_round_is_rejected_with_its_reason(repeated: Chain) -> None:
    repeated.bring(1)
    for gain in (1.5, 2.5):
        repeated.collected(30)
        repeated.propose(repeated.jobs("fit")[0], "accept", gain)
        repeated.turns(2)
    (link,) = repeated.links()
    assert (link.state, link.result) == ("held", {"Gain": repeated.initial})
    assert SPEC != REPEATED and repeated.check_constants() == {}


def test_too_little_data_in_a_second_round_carries_the_constants_before(repeated: Chain) -> None:
    for run in (1, 2):
        repeated.bring(run)
    repeated.collected(30)
    repeated.propose(repeated.jobs("fit")[0], "accept", 1.5)
    repeated.turns(2)
    repeated.collected(5)
    assert repeated.links()[0].state == "carried"
    assert repeated.links()[0].result == {"Gain": repeated.initial}
