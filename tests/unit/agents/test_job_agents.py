"""Submitter, tracker and importer on real job directories, with a scheduler that does what it is told."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from beamwright import durable
from beamwright.agents import tracker
from beamwright.agents.importer import Importer
from beamwright.agents.submitter import Submitter
from beamwright.agents.tracker import Signs, Tracker
from beamwright.batch import wrapper
from beamwright.batch.children import Fresh
from beamwright.batch.scheduler import JobSpec, Status
from beamwright.core.clock import ManualClock
from beamwright.core.errors import ReleaseError, SchedulerDownError, SchedulerError, StorageError
from beamwright.db import history, schema
from beamwright.production import closing, counting, failing, installing, jobs, rules, scouting, tasks
from beamwright.production.explain import explain
from beamwright.production.spec import read_spec
from beamwright.production.workspace import Workspace
from kill.production import COMMANDS, make
from support.toy_production import SPEC


class Puppet:
    """A batch system whose jobs do what a test says."""

    history_after_s = 0.0

    def __init__(self) -> None:
        self.jobs: dict[str, tuple[Path, Status]] = {}
        self.past: dict[str, Status] = {}
        self.is_forgetful = False
        self.asked = 0
        self.cancelled: list[str] = []
        self.specs: list[JobSpec] = []
        self.refuses = self.is_down = False

    def submit(self, specs: Sequence[JobSpec]) -> list[str]:
        if self.refuses:
            raise SchedulerError("the queue is closed")
        ids = [f"b{len(self.jobs) + i}" for i in range(len(specs))]
        self.specs += specs
        self.jobs |= {i: (spec.directory, Status("queued")) for i, spec in zip(ids, specs, strict=True)}
        return ids

    def poll(self) -> Mapping[str, Status]:
        if self.is_down:
            raise SchedulerDownError("nobody answers")
        return {i: status for i, (_, status) in self.jobs.items()}

    def history(self, ids: Iterable[str]) -> Mapping[str, Status]:
        self.asked += 1
        if self.is_forgetful:
            raise SchedulerDownError("the accounting does not answer")
        return {i: self.past[i] for i in ids if i in self.past}

    def cancel(self, ids: Iterable[str]) -> None:
        if self.is_down:
            raise SchedulerDownError("nobody answers")
        self.cancelled += ids

    def close(self) -> None:
        self.jobs.clear()

    def set(self, batch_id: str, status: Status) -> None:
        self.jobs[batch_id] = (self.jobs[batch_id][0], status)

    def run(self, batch_id: str) -> None:
        """Run the job to its report."""
        wrapper.run_job(self.jobs[batch_id][0], lambda job: Fresh(), wrapper.Stop())
        self.set(batch_id, Status("finished", 0))


class World:
    """A workspace with two prepared jobs, its agents, and one puppet per farm."""

    def __init__(self, root: Path) -> None:
        opened = make(root)
        opened.db.close()
        self.workspace = Workspace(root, opened.settings, ManualClock(1000.0))
        self.near, self.far = Puppet(), Puppet()
        farms = {"near": self.near, "far": self.far}
        self.submitter = Submitter(self.workspace, farms, COMMANDS)
        self.tracker = Tracker(self.workspace, farms)
        self.importer = Importer(self.workspace)

    def rows(self, table: sa.Table) -> list[Any]:
        with self.workspace.db.read() as conn:
            return list(conn.execute(sa.select(table).order_by(table.c.id)))

    def states(self, table: sa.Table) -> list[str]:
        return [row.state for row in self.rows(table)]

    def places(self, number: int = 0) -> jobs.Places:
        row = self.rows(schema.attempt)[number]
        unit_id = next(job.unit_id for job in self.rows(schema.job) if job.id == row.job_id)
        key = next(unit.key for unit in self.rows(schema.unit) if unit.id == unit_id)
        return jobs.Places(self.workspace.farm(row.farm), key, row.nonce)

    def later(self, seconds: float) -> None:
        self.workspace.clock.sleep(seconds)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "workspace")
    yield made
    made.workspace.db.close()


def test_work_goes_through_submitter_tracker_and_importer(world: World) -> None:
    assert world.submitter.turn() == 2 and world.submitter.turn() == 0
    assert world.states(schema.attempt) == ["submitted"] * 2 and world.states(schema.job) == ["submitted"] * 2
    assert len(world.near.jobs) == len(world.far.jobs) == 1
    for farm in (world.near, world.far):
        farm.run("b0")
    assert world.tracker.turn() == 0  # there are reports: the importer's affair
    assert world.importer.turn() == 2 and world.importer.turn() == 0
    assert world.states(schema.job) == ["ok"] * 2 and world.states(schema.attempt) == ["accepted"] * 2


def test_a_job_directory_holds_what_a_worker_needs_and_keeps_its_ticket_to_itself(world: World) -> None:
    world.submitter.turn()
    directory = world.places().job
    job = json.loads((directory / "job.json").read_bytes())
    unit = world.rows(schema.unit)[0]
    assert job["attempt"] == {"unit": unit.key, "number": 1, "nonce": directory.name, "farm": "near"} | {
        "farm": job["attempt"]["farm"]
    }
    assert job["release"] == "sha256:trivial" and job["inputs"] == unit.definition["inputs"]
    assert job["streams"]["dst"]["name"].startswith("p:pass.dst/")
    assert job["interval"] == ["S", [1, 0, 0], [1, 1, 6]] and job["limits"]["heartbeat_s"] == 0.5
    assert (directory / "ticket").stat().st_mode & 0o777 == 0o600
    assert (directory / "ticket").read_text() not in (directory / "job.json").read_text()


def test_farms_get_no_more_than_they_have_room_for(world: World) -> None:
    world.submitter.schedulers = {"near": world.near}
    assert world.submitter.turn() == 1 and world.submitter.turn() == 0
    world.near.set("b0", Status("finished", 0))
    assert world.submitter.turn() == 1


def test_a_farm_that_packs_jobs_has_room_for_a_pack_in_each_slot(world: World) -> None:
    farm = world.workspace.settings.farm["near"].model_copy(update={"pack": 2})
    world.workspace.settings = world.workspace.settings.model_copy(update={"farm": {"near": farm}})
    world.submitter.schedulers = {"near": world.near}
    assert world.submitter.turn() == 2
    assert len(world.near.jobs) == 2


def test_a_job_waits_until_a_farm_has_its_release_and_then_runs_in_it(world: World) -> None:
    world.submitter.here = "dev+another"
    release = "sha256:" + "ab" * 32
    with world.workspace.db.begin() as conn:
        conn.execute(sa.update(schema.production).values(release=release))
    assert world.submitter.turn() == 0
    key = world.rows(schema.unit)[0].key
    with world.workspace.db.read() as conn:
        told = explain(conn, key, world.workspace)
    assert told.holds == [
        "its release sha256:abababababab is at none of the farms that it may run at (near, far)"
    ]
    assert told.next[0].startswith("`beamwright release install near sha256:abababababab` puts it there")
    folder = installing.place(world.workspace, "far", release)
    folder.mkdir(parents=True)
    (folder / installing.MANIFEST).touch()
    assert world.submitter.turn() == 1
    assert not world.near.jobs
    job = json.loads((world.places().job / "job.json").read_bytes())
    assert job["commands"]["process"] == [str(folder / "bin/python"), *installing.COMMAND, "process"]


def test_a_production_tells_under_which_release_its_agents_ran(world: World) -> None:
    with world.workspace.db.begin() as conn:
        row = conn.execute(sa.select(schema.production)).one()
        tasks.note_agents(conn, row.id, "sha256:" + "ab" * 32, "sha256:" + "ab" * 32, 1.0)
        tasks.note_agents(conn, row.id, "sha256:" + "ab" * 32, "sha256:" + "cd" * 32, 2.0)
        told = " ".join(explain(conn, row.name).lines())
    assert told.count("made it started") == 1
    assert (
        "jobs run under sha256:abababababab; intake, calibrator and inspector under sha256:cdcdcdcd" in told
    )


def test_a_production_of_which_a_step_can_run_nowhere_is_refused_with_the_command(world: World) -> None:
    spec, release = read_spec(SPEC, "toy.toml"), "sha256:" + "ab" * 32
    installing.check_farms(world.workspace, spec, release, here=release)
    with pytest.raises(ReleaseError, match="'pass1' is not installed at any farm .*: near, far") as caught:
        installing.check_farms(world.workspace, spec, release, here="dev+another")
    assert "beamwright release install near sha256:ababababab" in caught.value.hint
    known = world.workspace.settings.farm.items()
    farms = {name: farm.model_copy(update={"installed_only": True}) for name, farm in known}
    world.workspace.settings = world.workspace.settings.model_copy(update={"farm": farms})
    with pytest.raises(ReleaseError, match="not installed"):
        installing.check_farms(world.workspace, spec, release, here=release)


def test_a_refusing_batch_system_gets_its_leases_taken_back(world: World) -> None:
    world.near.refuses = world.far.refuses = True
    world.submitter.turn()
    assert world.states(schema.attempt) == ["lost"] * 2 and world.states(schema.job) == ["prepared"] * 2
    assert all(row.failure_class == "submit" for row in world.rows(schema.attempt))
    world.near.refuses = world.far.refuses = False
    world.later(1.0)
    assert world.submitter.turn() == 2


def test_nothing_is_submitted_to_a_farm_that_does_not_answer(world: World) -> None:
    world.near.is_down = True
    assert world.submitter.turn() == 1
    assert not world.near.jobs and list(world.far.jobs) == ["b0"]


def test_no_attempt_is_given_up_while_its_farm_does_not_answer(world: World) -> None:
    world.submitter.turn()
    world.near.jobs.clear()
    world.near.is_down = True
    world.later(1e5)
    world.tracker.turn()
    farms = {row.farm: row.state for row in world.rows(schema.attempt)}
    assert farms["near"] == "submitted"
    world.near.is_down = False
    world.tracker.turn()
    assert {row.farm: row.state for row in world.rows(schema.attempt)}["near"] == "lost"


def test_an_unwanted_attempt_is_killed_once_its_farm_answers(world: World) -> None:
    world.submitter.turn()
    job = next(row for row in world.rows(schema.attempt) if row.farm == "near").job_id
    with world.workspace.db.begin() as conn:
        history.move(
            conn, schema.job, job, "submitted", "cancelled", actor="operator", reason="no", at=1001.0
        )
    polled = world.near.poll()
    world.near.is_down = True
    world.near.poll = lambda: polled  # type: ignore[method-assign]
    world.tracker.turn()
    assert "killed" not in world.states(schema.attempt)
    world.near.is_down = False
    world.tracker.turn()
    assert "killed" in world.states(schema.attempt) and world.near.cancelled == ["b0"]


@pytest.mark.parametrize(
    ("reason", "failure_class"),
    [("NODE_FAIL", "node"), ("OUT_OF_MEMORY", "memory"), ("TIMEOUT", "time"), ("", "lost")],
)
def test_what_the_batch_system_says_of_a_vanished_attempt_is_kept(
    reason: str, failure_class: str, world: World
) -> None:
    world.submitter.turn()
    world.near.set("b0", Status("finished", None, reason))
    world.tracker.turn()
    row = next(row for row in world.rows(schema.attempt) if row.farm == "near")
    assert row.state == "lost" and row.failure_class == failure_class
    assert reason in row.message and ("batch system" in row.message) == bool(reason)


def test_records_tell_how_an_attempt_ended_that_no_list_names(world: World) -> None:
    world.submitter.turn()
    del world.near.jobs["b0"], world.far.jobs["b0"]
    world.near.past["b0"] = Status("finished", None, "TIMEOUT")
    world.far.is_forgetful = True
    world.tracker.turn()
    told = {row.farm: (row.failure_class, row.message) for row in world.rows(schema.attempt)}
    assert told == {
        "near": (
            "time",
            "the attempt at farm near vanished without a report (its batch system says TIMEOUT)",
        ),
        "far": ("lost", "the attempt at farm far vanished without a report"),
    }


def test_records_that_are_written_late_are_waited_for_and_not_asked_for_all_the_time(world: World) -> None:
    world.submitter.turn()
    world.near.history_after_s = 20.0
    del world.near.jobs["b0"]
    assert [world.tracker.turn() for _ in range(5)] == [0] * 5 and world.near.asked == 1
    world.later(6.0)
    world.near.past["b0"] = Status("finished", -9, "qmaster enforced h_rt, h_cpu, or h_vmem limit")
    assert world.tracker.turn() == 1
    assert [row.failure_class for row in world.rows(schema.attempt) if row.farm == "near"] == ["time"]
    world.far.history_after_s = 20.0
    del world.far.jobs["b0"]
    assert world.tracker.turn() == 0
    world.later(21.0)
    assert world.tracker.turn() == 1
    assert [row.failure_class for row in world.rows(schema.attempt) if row.farm == "far"] == ["lost"]


def test_the_node_of_an_attempt_that_vanished_is_known_and_avoided_by_rule(world: World) -> None:
    configure(world, retry=[{"failure": "node", "action": "exclude", "delay_s": 0}])
    world.submitter.turn()
    places = world.places()
    (places.job / "lock").write_text("n17.cluster:4711")
    (near,) = (row for row in world.rows(schema.attempt) if places.nonce == row.nonce)
    farm = world.near if near.farm == "near" else world.far
    farm.set("b0", Status("finished", 0, "NODE_FAIL"))
    world.tracker.turn()
    (row,) = (row for row in world.rows(schema.attempt) if row.id == near.id)
    assert (row.failure_class, row.host) == ("node", "n17.cluster")
    with world.workspace.db.read() as conn:
        counted = counting.failures(conn)
    assert [(c["host"], c["failure_class"]) for c in counted] == [("n17.cluster", "node")]
    assert world.submitter.turn() == 1
    assert {spec.avoid for spec in world.near.specs + world.far.specs} == {(), ("n17.cluster",)}


def test_a_full_disk_at_the_farm_is_named_and_loses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes, **_: Any) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(jobs.durable, "replace", full)
    with pytest.raises(StorageError, match="No space left") as caught:
        world.submitter.turn()
    assert "run the same command again" in caught.value.hint
    monkeypatch.undo()
    restarted = Tracker(world.workspace, {})
    world.later(1.0)
    again = Tracker(world.workspace, {})
    assert restarted.turn() + again.turn() == 2
    assert world.states(schema.attempt) == ["lost"] * 2 and world.states(schema.job) == ["prepared"] * 2


def test_a_lease_of_this_very_moment_is_left_to_the_submitter(world: World) -> None:
    with world.workspace.db.begin() as conn:
        jobs.lease(conn, world.workspace, [(1, "near")], world.workspace.clock.now())
    assert world.tracker.turn() == 0
    world.later(tracker.SUBMITTING_S + 1)
    assert world.tracker.turn() == 1
    assert world.states(schema.attempt) == ["lost"]


def test_an_attempt_that_holds_its_lock_is_running_and_lives(world: World) -> None:
    world.submitter.turn()
    with durable.FileLock(world.places().job / "lock"):
        assert world.tracker.turn() == 1
        assert world.states(schema.attempt)[0] == "running" and world.states(schema.job)[0] == "running"
        for farm in (world.near, world.far):
            farm.close()  # the batch system forgets everything
        assert world.tracker.turn() == 1  # the other attempt is lost
        assert world.states(schema.attempt) == ["running", "lost"]
    assert world.tracker.turn() == 1
    assert world.states(schema.attempt) == ["lost", "lost"] and world.states(schema.job) == ["prepared"] * 2


def test_a_lost_attempt_can_never_start_again_and_leaves_nothing(world: World) -> None:
    world.submitter.turn()
    places = world.places()
    places.output.mkdir(parents=True)
    (places.output / "partial").touch()
    for farm in (world.near, world.far):
        farm.close()
    world.tracker.turn()
    assert not places.output.exists()
    assert wrapper.run_job(places.job, lambda job: Fresh(), wrapper.Stop()) == wrapper.NOT_MINE
    assert not places.report.exists()


def test_a_farm_whose_disk_takes_no_report_is_named(world: World) -> None:
    world.submitter.schedulers = {"near": world.near}
    for number in range(3):
        world.submitter.turn()
        world.near.set(f"b{number}", Status("finished", wrapper.NOT_REPORTED))
        world.tracker.turn()
        world.later(100.0)
    job = world.rows(schema.job)[0]
    assert job.state == "failed" and "make room" in job.reason
    assert {row.failure_class for row in world.rows(schema.attempt)} == {"disk"}


def test_a_vanished_attempt_with_a_report_is_not_lost(world: World) -> None:
    world.submitter.turn()
    world.near.run("b0")
    world.far.run("b0")
    world.near.close()
    world.far.close()
    assert world.tracker.turn() == 0
    assert world.importer.turn() == 2


def test_a_unit_whose_attempts_vanish_for_ever_fails_in_the_end(world: World) -> None:
    world.submitter.schedulers = {"near": world.near}
    for _ in range(2 * rules.TRIES["lost"]):
        world.submitter.turn()
        world.near.close()
        world.tracker.turn()
        world.later(400.0)
    assert world.states(schema.job) == ["failed", "failed"]
    assert len(world.rows(schema.attempt)) == 2 * rules.TRIES["lost"]
    assert "vanished" in world.rows(schema.job)[0].reason


@pytest.mark.parametrize("target", ["held", "cancelled"])
def test_attempts_at_a_job_that_is_no_longer_wanted_are_cancelled(world: World, target: str) -> None:
    world.submitter.turn()
    with world.workspace.db.begin() as conn:
        history.move(conn, schema.job, 1, "submitted", target, actor="operator", at=0.0)
    world.tracker.turn()
    farm = {"near": world.near, "far": world.far}[world.rows(schema.attempt)[0].farm]
    assert farm.cancelled == ["b0"]
    assert (world.places().job / "stop").exists()  # for a pack, of which the batch system ends all or none
    assert world.states(schema.attempt) == ["killed", "submitted"]


def test_a_hanging_wrapper_loses_its_attempt_and_its_late_report_still_counts(world: World) -> None:
    world.submitter.turn()
    lease = world.workspace.settings.limits.lease_s
    for farm in (world.near, world.far):
        farm.set("b0", Status("running"))
    with durable.FileLock(world.places().job / "lock"):
        world.tracker.turn()
        world.later(lease + 10)
        world.tracker.turn()
        assert world.states(schema.attempt)[0] == "lost" and world.states(schema.job)[0] == "prepared"
    wrapper.run_job(world.places().job, lambda job: Fresh(), wrapper.Stop())
    assert world.importer.turn() == 1
    assert world.states(schema.attempt)[0] == "accepted" and world.states(schema.job)[0] == "ok"


def test_a_beating_heart_renews_the_lease(world: World) -> None:
    world.submitter.turn()
    world.later(world.workspace.settings.limits.lease_s + 10)
    for number, farm in enumerate((world.near, world.far)):
        farm.set("b0", Status("running"))
        beat = {"at": world.workspace.clock.now(), "phase": "process", "events": 5}
        (world.places(number).job / "heartbeat.json").write_text(json.dumps(beat))
    world.tracker.turn()
    now = world.workspace.clock.now()
    assert all(row.deadline > now for row in world.rows(schema.attempt))
    assert set(world.states(schema.attempt)) <= {"submitted", "running"}


@pytest.mark.parametrize("skew", [-7200.0, 7200.0])
def test_a_node_whose_clock_is_wrong_loses_nothing(world: World, skew: float) -> None:
    world.submitter.turn()
    world.later(world.workspace.settings.limits.lease_s + 10)
    now = world.workspace.clock.now()
    for number, farm in enumerate((world.near, world.far)):
        farm.set("b0", Status("running"))
        heart = world.places(number).job / "heartbeat.json"
        heart.write_text(json.dumps({"at": now + skew, "phase": "process", "events": 5}))
        os.utime(heart, (now, now))  # what the storage says
    world.tracker.turn()
    assert all(row.deadline > now for row in world.rows(schema.attempt))
    for farm in (world.near, world.far):
        farm.run("b0")
    assert world.importer.turn() == 2 and world.states(schema.job) == ["ok"] * 2


def test_scratch_of_earlier_processes_is_removed_at_the_start(world: World) -> None:
    world.submitter.turn()
    farm = world.workspace.farm("near")
    for name in ("stale", world.places().nonce):
        (farm / "scratch" / name).mkdir(parents=True)
    world.tracker.turn()
    left = {path.name for path in (farm / "scratch").iterdir()}
    assert left == {world.places().nonce}
    shutil.rmtree(farm / "scratch")


SUBMITTED = SimpleNamespace(state="submitted", deadline=100.0)
RUNNING = SimpleNamespace(state="running", deadline=100.0)


@pytest.mark.parametrize(
    ("attempt", "job", "status", "signs", "now", "step"),
    [
        (SUBMITTED, "submitted", "queued", (False, False, 0.0), 50.0, "wait"),
        (SUBMITTED, "submitted", "queued", (False, False, 0.0), 150.0, "renew"),
        (SUBMITTED, "submitted", "running", (False, False, 0.0), 50.0, "wait"),
        (SUBMITTED, "submitted", "running", (False, True, 0.0), 50.0, "start"),
        (SUBMITTED, "submitted", "unknown", (False, True, 0.0), 50.0, "start"),
        (SUBMITTED, "submitted", "unknown", (False, False, 0.0), 50.0, "lose"),
        (SUBMITTED, "submitted", "unknown", (True, False, 0.0), 50.0, "wait"),
        (RUNNING, "running", "finished", (False, False, 0.0), 50.0, "lose"),
        (RUNNING, "running", "finished", (False, True, 0.0), 50.0, "wait"),
        (RUNNING, "running", "running", (False, True, 90.0), 150.0, "hang"),
        (RUNNING, "running", "running", (False, True, 145.0), 150.0, "renew"),
        (RUNNING, "ok", "running", (False, True, 145.0), 150.0, "kill"),
        (RUNNING, "ok", "finished", (True, False, 0.0), 50.0, "wait"),
    ],
)
def test_what_the_tracker_decides(
    attempt: Any, job: str, status: Any, signs: tuple[bool, bool, float], now: float, step: str
) -> None:
    assert tracker.decide(attempt, job, Status(status), Signs(*signs), now, 20.0) == step


# --- what the rules of a task file bring about ------------------------------------------------------------


def configure(world: World, **step: Any) -> None:
    """Give the first task rules, as its file would."""
    with world.workspace.db.begin() as conn:
        conn.execute(sa.update(schema.task).where(schema.task.c.id == 1).values(config={"step": step}))


def want(world: World, wish: str) -> None:
    """Let the payloads of all units do something special."""
    with world.workspace.db.begin() as conn:
        for row in conn.execute(sa.select(schema.unit)).all():
            changed = row.definition | {"config": {"wish": wish}}
            conn.execute(sa.update(schema.unit).where(schema.unit.c.id == row.id).values(definition=changed))


def fail_once(world: World) -> None:
    """Have both jobs submitted, run to their reports, and taken in."""
    world.submitter.turn()
    for farm in (world.near, world.far):
        for batch_id in [i for i, (_, status) in farm.jobs.items() if status.state == "queued"]:
            farm.run(batch_id)
    world.importer.turn()
    world.later(400.0)


def requested(world: World, number: int) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((world.places(number).job / "job.json").read_bytes())
    return document["limits"]


def test_a_rule_gives_more_memory_and_another_node_to_the_next_attempt(world: World) -> None:
    configure(world, retry=[{"failure": "application_error", "action": "more", "factor": 2.0}])
    want(world, "fail")
    fail_once(world)
    configure(world, retry=[{"message": "told to", "action": "exclude"}])
    fail_once(world)
    assert [requested(world, n)["memory_mb"] for n in range(4)] == [2000, 2000, 4000, 4000]
    hosts = {row.host for row in world.rows(schema.attempt)}
    assert [set(row.avoid) for row in world.rows(schema.job)] == [hosts, hosts]
    world.submitter.turn()
    specs = [spec for farm in (world.near, world.far) for spec in farm.specs]
    assert [set(spec.avoid) for spec in specs[-1:]] == [hosts] and specs[0].avoid == ()


def test_a_step_has_limits_of_its_own_that_hold_for_what_is_submitted_next(world: World) -> None:
    configure(world, memory_mb=3000)
    want(world, "fail")
    fail_once(world)
    configure(world, memory_mb=6000, wall_s=77.0, retry=[{"action": "more", "factor": 2.0}])
    fail_once(world)
    configure(world)
    fail_once(world)
    asked = [(requested(world, n)["memory_mb"], requested(world, n)["wall_s"]) for n in range(6)]
    usual = requested(world, 0)["wall_s"]
    assert asked[::2] == [(3000, usual), (6000, 77.0), (12000, usual)] and asked[1::2] == asked[::2]
    specs = [spec for farm in (world.near, world.far) for spec in farm.specs]
    assert {3000, 6000, 12000} == {spec.memory_mb for spec in specs}


def test_a_rule_holds_a_job_or_gives_it_up(world: World) -> None:
    own = {"name": "parked", "stands_for": "held"}
    rule = {"failure": "application_error", "action": "hold", "state": "parked"}
    configure(world, retry=[rule], state=[own])
    want(world, "fail")
    fail_once(world)
    assert world.states(schema.job) == ["held"] * 2 and "rule" in history_of(world, 1)[-1].reason
    assert [row.label for row in world.rows(schema.job)] == ["parked"] * 2
    configure(world, retry=[{"action": "never"}])
    with world.workspace.db.begin() as conn:
        history.move_all(conn, schema.job, [1, 2], "held", "prepared", actor="operator", at=1500.0)
    fail_once(world)
    assert world.states(schema.job) == ["failed"] * 2 and len(world.rows(schema.attempt)) == 4


def history_of(world: World, job_id: int) -> list[history.Entry]:
    with world.workspace.db.read() as conn:
        return history.of(conn, "job", job_id)


def test_the_rest_of_a_task_waits_for_its_scouts_and_asks_for_what_they_needed(world: World) -> None:
    configure(world, scouts=1)
    assert world.submitter.turn() == 1 and world.submitter.turn() == 0
    assert world.states(schema.job) == ["submitted", "prepared"]
    with world.workspace.db.read() as conn:
        assert scouting.waiting(conn, 1) == 1
    (farm,) = [farm for farm in (world.near, world.far) if farm.jobs]
    farm.run("b0")
    world.importer.turn()
    assert world.submitter.turn() == 1
    task = world.rows(schema.task)[0]
    assert task.released and task.needs["output_bytes"] > 0 and task.needs["cpu_s"] > 0
    assert requested(world, 0)["memory_mb"] == 2000
    assert requested(world, 1)["memory_mb"] == task.needs["memory_mb"] < 2000
    (spec,) = [spec for farm in (world.near, world.far) for spec in farm.specs if spec.disk_mb]
    assert spec.disk_mb == requested(world, 1)["disk_mb"] == task.needs["disk_mb"] >= 200


def test_scouts_that_fail_keep_the_rest_back(world: World) -> None:
    configure(world, scouts=1, retry=[{"action": "never"}])
    want(world, "fail")
    fail_once(world)
    assert world.states(schema.job) == ["failed", "prepared"]
    assert world.submitter.turn() == 0
    with world.workspace.db.read() as conn:
        assert closing.in_flight(conn, 1) == 0


def test_a_task_that_fails_and_fails_is_stopped(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failing, "RUNAWAY_WINDOW", 4)
    configure(world, max_failed=0.5)
    want(world, "fail")
    fail_once(world)
    assert world.states(schema.task)[0] == "active"
    fail_once(world)
    assert world.states(schema.task)[0] == "held"
    assert world.states(schema.job) == ["prepared"] * 2 and world.submitter.turn() == 0
    with world.workspace.db.read() as conn:
        assert "4 of the last 4 attempts failed" in history.of(conn, "task", 1)[-1].reason


def test_prompt_work_goes_before_reprocessing(world: World) -> None:
    world.submitter.schedulers = {"near": world.near}
    with world.workspace.db.begin() as conn:
        conn.execute(sa.update(schema.job).where(schema.job.c.id == 2).values(priority=10))
    world.submitter.turn()
    assert world.states(schema.job) == ["prepared", "submitted"]
