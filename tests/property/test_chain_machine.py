"""The calibrator on a chain, with everything that can happen to it, against a simple model.

Runs come in any order, with and without data; collectors and fits end in every way; people hold, accept,
reject, skip back and load constants by hand at any time. After each step the chain is compared with what a
few plain rules allow.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from beamwright.conditions import tags
from beamwright.core.errors import BeamwrightError
from beamwright.core.runs import Interval
from beamwright.db import schema
from beamwright.production import chain, interventions, loading
from beamwright.production.chain import FINAL, Link
from beamwright.production.interventions import Why
from beamwright.production.workspace import Workspace
from support import toy
from support.chain_bench import REPEATED, RUNS, SPEC, ChainBench, number
from support.toy_production import experiment

run_numbers = st.sampled_from(RUNS)
# With 20 needed and two runs at most: one is enough, two are, or two are not.
hit_numbers = st.sampled_from((5, 5, 15, 30))
decisions = st.sampled_from(("accept", "accept", "accept", "reject", "carry"))


class ChainMachine(RuleBasedStateMachine):
    """One chain of four runs; fits need 20 hits and may wait for a second run."""

    template: Path
    text = SPEC

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp()) / "workspace"
        shutil.copytree(self.template, self.root)
        self.bench = ChainBench(self.root, self.text)
        self.proposed: dict[int, str] = {}  # fit unit -> payload that it proposed
        self.past: dict[int, dict[int, str]] = {0: {}}  # version of the tag -> payload by run
        self.gains = 1.0
        self.seen: tuple[Link, ...] = ()
        self.records: dict[int, int] = {}  # by run, as it was first delivered
        self.by_hand: dict[int, str] = {}  # run -> payload that a person loaded

    def bring(self, run: int, records: int = 5) -> None:
        self.records.setdefault(run, records)
        self.bench.bring(run, records)

    def teardown(self) -> None:
        try:
            self.come_to_an_end()
        finally:
            self.bench.workspace.db.close()
            shutil.rmtree(self.root.parent)

    def come_to_an_end(self) -> None:
        """Whatever happened, a chain ends when all is there, jobs succeed and nobody holds it."""
        for run in RUNS:
            self.bring(run)
        for _ in range(80):
            self.tick()
            for unit_id in self.bench.jobs("collect"):
                self.bench.collect(unit_id, 30)
            for unit_id in self.bench.jobs("fit"):
                self.fit(unit_id, "accept", settles=True)
            for run in RUNS:
                if self.may_reject(run):
                    self.act(interventions.reject, run, experiment, is_allowed=True)
            if [number(link) for link in self.bench.links() if link.state in FINAL] == list(RUNS):
                break
        assert [number(link) for link in self.bench.links() if link.state in FINAL] == list(RUNS)
        self.bench.check_constants(self.by_hand)
        self.bench.check_accumulator()

    # --- what happens

    @initialize(runs=st.sampled_from(((1, 2, 3, 4), (1, 2, 3), (1, 2), (2, 1), (3,))))
    def begin(self, runs: tuple[int, ...]) -> None:
        for run in runs:
            self.bring(run)

    @rule(run=run_numbers, records=st.sampled_from((0, 5, 5)))
    def deliver(self, run: int, records: int) -> None:
        self.bring(run, records)

    @rule()
    def turn(self) -> None:
        self.tick()
        self.compare()

    @rule(hits=st.sampled_from(((30,), (15, 15), (5, 30), (5, 5))))
    def roll_on(self, hits: tuple[int, ...]) -> None:
        """Let the chain take up runs, collect them, and ask for what follows."""
        for number_of_hits in hits:
            self.turn()
            for unit_id in self.bench.jobs("collect")[:1]:
                self.bench.collect(unit_id, number_of_hits)
            self.turn()
        self.turn()

    @precondition(lambda self: self.bench.jobs("collect"))
    @rule(hits=hit_numbers)
    def collected(self, hits: int) -> None:
        self.bench.collect(self.bench.jobs("collect")[0], hits)

    @precondition(lambda self: self.bench.jobs("fit"))
    @rule(decision=decisions, settles=st.booleans())
    def fitted(self, decision: str, settles: bool) -> None:
        self.fit(self.bench.jobs("fit")[0], decision, settles)

    def fit(self, unit_id: int, decision: str, settles: bool) -> None:
        """End a fit; in a second round one that settles gives what the first one gave."""
        self.gains += 0.125
        link = next(link for link in self.bench.links() if link.fit_unit_id == unit_id)
        is_same = decision == "carry" or (settles and link.round > 1)
        self.proposed[unit_id] = self.bench.propose(unit_id, decision, None if is_same else self.gains)

    @precondition(lambda self: self.bench.jobs("collect") + self.bench.jobs("fit"))
    @rule()
    def failed(self) -> None:
        unit_id = (self.bench.jobs("collect") + self.bench.jobs("fit"))[0]
        with self.bench.workspace.db.begin() as conn:
            failed = sa.update(schema.job).where(schema.job.c.unit_id == unit_id)
            conn.execute(failed.values(state="failed", failures=99))

    @rule(run=st.one_of(run_numbers, st.none()))
    def skip_back(self, run: int | None) -> None:
        """Skip back to a run; to none means: to the last one that waits for a fit."""
        links = self.bench.links()
        wanted = run or max([1, *self.fitting()])
        begun = any(link.has_begun for link in links if number(link) >= wanted)
        held = [number(link) for link in links if link.state == "held" and not link.has_begun]
        is_there = wanted in map(number, links)
        self.act(interventions.skip_back, wanted, is_allowed=begun and is_there)
        self.seen = self.bench.links() if begun and is_there else self.seen
        left = [number(link) for link in self.bench.links() if link.state == "held"]
        assert not set(held) - set(left), "what a person holds stays held"

    @rule(run=run_numbers, force=st.booleans())
    def load(self, run: int, force: bool) -> None:
        """Load constants by hand: from the next run on, or by force anywhere."""
        links, interval = self.bench.links(), Interval.runs("A", run, run)
        left = [link.interval.first for link in links if link.state not in FINAL]
        ends = [link.interval.last for link in links]
        is_in_order = interval.first >= left[0] if left else not ends or interval.first > ends[-1]
        self.gains += 0.125
        payload, why = toy.gain_payload(self.gains), Why("expert", "by hand", self.bench.clock.now())
        try:
            with self.bench.workspace.db.begin() as conn:
                loading.load(conn, "gt/Gain", interval, payload, why, force)
        except BeamwrightError:
            assert not force and not (is_in_order and run not in self.by_hand)
        else:
            assert force or is_in_order
            self.by_hand[run] = payload.id
            self.seen = self.bench.links()

    @rule(run=run_numbers, what=st.sampled_from(("hold", "accept", "reject")))
    def judge(self, run: int, what: str) -> None:
        getattr(self, what)(run)
        self.compare()

    @precondition(lambda self: any(link.state == "held" for link in self.bench.links()))
    @rule(what=st.sampled_from(("accept", "reject")))
    def decide(self, what: str) -> None:
        held = next(number(link) for link in self.bench.links() if link.state == "held")
        self.judge(held, what)

    def hold(self, run: int) -> None:
        self.act(interventions.hold, run, is_allowed=self.bench.state(run) == "waiting")

    def accept(self, run: int) -> None:
        link = next((link for link in self.bench.links() if number(link) == run), None)
        is_allowed = link is not None and link.state == "held"
        if link is not None and link.fit_unit_id in self.proposed:
            is_allowed = is_allowed and self.proposed[link.fit_unit_id] != link.start["Gain"]
        self.act(interventions.accept, run, is_allowed=is_allowed)

    def reject(self, run: int) -> None:
        self.act(interventions.reject, run, experiment, is_allowed=self.may_reject(run))

    def may_reject(self, run: int) -> bool:
        """A held run can be carried once all before it, but those of its own fit, are concluded.

        Those do not count that wait for more data, which the held run keeps from coming.
        """
        links = self.bench.links()
        held = next((link for link in links if number(link) == run and link.state == "held"), None)
        return held is not None and all(
            link.state in FINAL
            or (link.state == "accumulating" and link.fit_unit_id is None)
            or (held.fit_unit_id is not None and link.fit_unit_id == held.fit_unit_id)
            for link in links[: links.index(held)]
        )

    # --- what must be so

    def tick(self) -> None:
        self.bench.clock.sleep(2)
        self.bench.calibrator.turn()

    def compare(self) -> None:
        """Each change of a link must follow the rules, and concluded links stay as they are."""
        before = {number(link): link for link in self.seen}
        links = self.bench.links()
        for position, link in enumerate(links):
            old = before.get(number(link))
            if old is not None and old.state in FINAL:
                assert (link.state, link.result) == (old.state, old.result), "what is concluded stays"
            elif old is None or old.state != link.state:
                self.check_change(old, link, links[:position], links[position + 1 :])
        self.seen = links

    def check_change(
        self, old: Link | None, link: Link, earlier: tuple[Link, ...], later: tuple[Link, ...]
    ) -> None:
        rolled = [one.result["Gain"] for one in earlier if one.state in FINAL]
        if link.state == "collecting":
            assert [number(one) for one in earlier] == list(RUNS[: len(earlier)]), "no run is passed over"
            assert all(one.state in (*FINAL, "accumulating", "collecting") for one in earlier), "in run order"
            assert all(
                not one.has_begun or (link.round > 1 and (one.round == link.round or one.state in FINAL))
                for one in later
            ), "only those of the same round, or carried between them"
            shared = [one.start for one in earlier if one.state in ("accumulating", "collecting")]
            again = [old.start] if old is not None and link.round > 1 else []
            expected = {"Gain": rolled[-1] if rolled else self.bench.initial}
            assert link.start == (again + shared + [expected])[0]
        loaded = self.by_hand.get(number(link))
        if link.state == "accepted":
            assert link.fit_unit_id is not None
            assert link.result == {"Gain": loaded or self.proposed[link.fit_unit_id]}
        if link.state == "carried":
            kept = {"Gain": loaded} if loaded else link.start
            assert link.result == kept, "carried is what was there"
            if link.collect_unit_id is None and self.records[number(link)]:
                by_hand = old is not None and old.state == "held"
                assert by_hand or any(one.has_begun for one in later), "it came late, or a person carried it"
                is_turn = all(one.state in (*FINAL, "accumulating") for one in earlier)
                assert not by_hand or is_turn, "by hand in run order, too"

    @invariant()
    def constants_are_stored_once_for_what_is_concluded(self) -> None:
        expected = self.bench.check_constants(self.by_hand)
        with self.bench.workspace.db.read() as conn:
            names = set(conn.execute(sa.select(schema.tag.c.name)).scalars())
            version = tags.version_of(conn, "gt/Gain") if names else 0
        assert self.past.setdefault(version, expected) == expected

    @invariant()
    def old_versions_answer_as_they_did(self) -> None:
        with self.bench.workspace.db.read() as conn:
            for version, expected in self.past.items():
                if version:
                    held = tags.intervals(conn, "gt/Gain", version)
                    assert {v.interval.first[0]: v.payload_id for v in held} == expected

    @invariant()
    def the_accumulator_holds_what_accumulates(self) -> None:
        self.bench.check_accumulator()

    @invariant()
    def work_is_asked_for_once_and_waited_for_only_while_it_comes(self) -> None:
        self.bench.check_work()

    # --- helpers

    def fitting(self) -> list[int]:
        """Return the runs that wait for a fit."""
        links = self.bench.links()
        return [number(li) for li in links if li.state == "accumulating" and li.fit_unit_id is not None]

    def act(self, action: Any, run: int, *more: Any, is_allowed: bool) -> None:
        why = Why("shifter", "why not", self.bench.clock.now())
        try:
            with self.bench.workspace.db.begin() as conn:
                action(conn, interventions.locate(conn, "A", run), *more, why)
        except BeamwrightError:
            assert not is_allowed
        else:
            assert is_allowed


class RepeatedMachine(ChainMachine):
    """The same with a second round where a fit moves its constants."""

    text = REPEATED


@pytest.fixture(scope="module", autouse=True)
def template(tmp_path_factory: pytest.TempPathFactory) -> None:
    ChainMachine.template = tmp_path_factory.mktemp("machine") / "template"
    Workspace.create(ChainMachine.template).db.close()


def play(kind: type[ChainMachine], examples: int, **more: Any) -> None:
    chosen = settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), **more)
    run_state_machine_as_test(kind, settings=chosen)


@pytest.mark.parametrize("kind", [ChainMachine, RepeatedMachine])
@pytest.mark.parametrize(
    "examples", [4, pytest.param(400, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_a_chain_does_what_the_rules_allow_and_nothing_else(kind: type[ChainMachine], examples: int) -> None:
    play(kind, examples, stateful_step_count=40)


def test_runs_before_one_that_is_held_are_no_late_ones() -> None:
    one = ChainMachine()
    try:
        one.begin((1, 2, 3, 4))
        one.turn()
        one.judge(3, "hold")
        assert [link.state for link in one.bench.links()] == ["collecting", "waiting", "held", "waiting"]
        one.judge(3, "reject")  # refused: it is not its turn
        one.collected(30)
        one.turn()
        one.turn()
        one.fitted("accept", True)
        one.turn()
        one.turn()
        assert [link.state for link in one.bench.links()] == ["accepted", "collecting", "held", "waiting"]
    finally:
        one.teardown()


def test_a_short_run_does_not_keep_the_held_one_after_it_from_being_rejected() -> None:
    """Found by the machine: run 1 waits for data that the held run 2 keeps from coming."""
    one = ChainMachine()
    try:
        one.begin((1, 2, 3))
        one.turn()
        one.judge(2, "hold")
        one.collected(5)
        one.turn()
        one.turn()
        assert [link.state for link in one.bench.links()] == ["accumulating", "held", "waiting"]
        one.judge(2, "reject")
        one.turn()
        assert [link.state for link in one.bench.links()] == ["accumulating", "carried", "collecting"]
    finally:
        one.teardown()


def test_a_skip_back_leaves_what_people_decided() -> None:
    one = ChainMachine()
    try:
        one.begin((1, 2, 3, 4))
        one.turn()
        one.load(3, False)
        one.judge(4, "hold")
        one.collected(30)
        one.turn()
        one.turn()
        one.fitted("accept", True)
        one.turn()
        one.skip_back(1)
        assert [link.state for link in one.bench.links()] == ["waiting", "waiting", "waiting", "held"]
        assert set(one.bench.check_constants(one.by_hand)) == {3}
    finally:
        one.teardown()


def test_a_run_takes_up_what_was_loaded_over_the_one_before_it() -> None:
    one = ChainMachine()
    try:
        one.begin((1, 2))
        one.turn()
        one.collected(30)
        one.turn()
        one.turn()
        one.fitted("accept", True)
        one.turn()
        one.load(1, False)  # refused: it is calibrated
        one.load(1, True)
        assert one.bench.links()[0].result == {"Gain": one.by_hand[1]}
        one.turn()
        assert one.bench.links()[1].start == {"Gain": one.by_hand[1]}
    finally:
        one.teardown()


def test_runs_that_share_a_fit_start_from_the_same_whatever_is_loaded_meanwhile() -> None:
    """Found by the machine: by force over run 1, while run 2 waits for run 3."""
    one = ChainMachine()
    try:
        one.begin((1, 2, 3))
        one.roll_on((30,))
        one.fitted("accept", True)
        one.turn()
        one.turn()
        one.collected(15)
        one.load(1, True)
        one.turn()
        one.turn()
        first, second, third = one.bench.links()
        assert (first.result, third.state) == ({"Gain": one.by_hand[1]}, "collecting")
        assert second.start == third.start != first.result
    finally:
        one.teardown()


def test_a_run_that_was_carried_between_two_stays_so_in_their_further_round() -> None:
    """Found by the machine: runs 2 and 4 are fitted together, and the collector of run 3 failed."""
    one = RepeatedMachine()
    try:
        one.begin((1, 2, 3, 4))
        one.turn()
        one.failed()
        one.turn()
        one.roll_on((15, 15))
        one.failed()
        one.skip_back(None)
        one.turn()
        one.turn()
        one.failed()
        one.roll_on((15, 15))
        one.fitted("accept", True)
        one.turn()
        assert [(number(link), link.state, link.round) for link in one.bench.links()] == [
            (1, "carried", 1), (2, "collecting", 2), (3, "carried", 1), (4, "collecting", 2),
        ]  # fmt: skip
    finally:
        one.teardown()


# --- what the machine must find


def _keep_the_fit_of_what_was_skipped_back(patch: pytest.MonkeyPatch) -> None:
    drop = interventions._drop_work

    def half(conn: Any, one: chain.Chain, again: Any, why: Why) -> None:
        fits = {link.id: link.fit_unit_id for link in one.links if link not in again}
        drop(conn, one, again, why)
        for link_id, unit_id in fits.items():
            table = schema.chain_link
            conn.execute(sa.update(table).where(table.c.id == link_id).values(fit_unit_id=unit_id))

    patch.setattr(interventions, "_drop_work", half)


def _keep_the_accumulator_when_carrying(patch: pytest.MonkeyPatch) -> None:
    carry, put = chain.carry, chain.set_accumulated

    def half(*arguments: Any, **options: Any) -> None:
        chain.set_accumulated = lambda *_: None
        try:
            carry(*arguments, **options)
        finally:
            chain.set_accumulated = put

    patch.setattr(chain, "carry", half)


def _start_from_the_initial_constants(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(chain, "start_constants", lambda one, link, initial: dict(initial))


def _wait_for_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(chain, "waits_for", lambda *_: "")


def _leave_constants_behind(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(interventions, "_withdraw", lambda *_: None)


def _publish_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tags, "sweep", lambda *_: 0)


SABOTAGES = [
    _keep_the_accumulator_when_carrying,
    _leave_constants_behind,
    _publish_nothing,
    _keep_the_fit_of_what_was_skipped_back,
    _start_from_the_initial_constants,
]


def tell() -> None:
    """A story in which these mistakes show, looked at after each step as the machine does."""
    one = ChainMachine()

    def then(step: Callable[..., None], *arguments: Any) -> None:
        step(*arguments)
        one.constants_are_stored_once_for_what_is_concluded()
        one.old_versions_answer_as_they_did()
        one.the_accumulator_holds_what_accumulates()
        one.work_is_asked_for_once_and_waited_for_only_while_it_comes()

    try:
        then(one.begin, (1, 2, 3, 4))
        then(one.roll_on, (30,))
        then(one.fitted, "accept", True)
        then(one.turn)
        then(one.roll_on, (15, 15))
        then(one.skip_back, None)
        then(one.turn)
        then(one.turn)
        then(one.skip_back, 1)
        then(one.turn)
        then(one.roll_on, (5, 5))
        then(one.turn)
        then(one.turn)
    finally:
        one.teardown()


def test_the_story_holds_where_nothing_is_planted() -> None:
    tell()


@pytest.mark.parametrize("sabotage", SABOTAGES)
def test_the_story_shows_what_is_planted(
    sabotage: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage(monkeypatch)
    with pytest.raises(BaseException):  # noqa: B017 - an assertion, or what the damage leads to
        tell()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("sabotage", [*SABOTAGES, _wait_for_nothing])
def test_the_machine_finds_what_is_planted(
    sabotage: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage(monkeypatch)
    with pytest.raises(BaseException):  # noqa: B017 - an assertion, or what the damage leads to
        play(ChainMachine, 400, stateful_step_count=25, phases=[Phase.generate])
