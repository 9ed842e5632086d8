"""Slurm, a real one: the four verbs, lost nodes, and attempts that outlive what Slurm thinks of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from beamwright import durable
from beamwright.batch.cluster import Access
from beamwright.batch.scheduler import JobSpec, Scheduler, Status
from beamwright.batch.slurm import Slurm, SlurmCluster
from beamwright.core.errors import SchedulerError
from beamwright.testing.payload import has_started, make_job, report_of
from beamwright.testing.scheduler import PackedConformance, SchedulerConformance, UnreachableConformance
from support.scratch import LITTLE_MB, MUCH_MB, explained
from support.slurm import RealSlurm, end, holder, missing, running


def connected(folder: Path, **more: object) -> SlurmCluster:
    return SlurmCluster(Slurm(), Access("bwtests", folder, poll_s=0.1, **more))  # type: ignore[arg-type]


@pytest.fixture
def scheduler(slurm: RealSlurm, tmp_path: Path) -> Iterator[SlurmCluster]:
    scheduler = connected(tmp_path)
    yield scheduler
    scheduler.cancel(i for i, status in scheduler.poll().items() if status.state != "finished")
    scheduler.close()


class TestSlurmInPacks(PackedConformance):
    @pytest.fixture
    def packed(self, slurm: RealSlurm, tmp_path: Path) -> SlurmCluster:
        return connected(tmp_path, pack=3)

    def test_another_process_knows_the_members(self, packed: SlurmCluster, tmp_path: Path) -> None:
        directories = [make_job(tmp_path, "first", "sleep"), make_job(tmp_path, "second")]
        ids = packed.submit([JobSpec(directory) for directory in directories])
        self.until(lambda: has_started(directories[0]))
        other = connected(tmp_path)  # the settings may have changed since
        self.until(lambda: other.poll()[ids[1]].state == "running")
        other.cancel(ids)
        self.ended(packed, ids)
        self.until(lambda: set(other.history(ids)) == set(ids))


class TestSlurm(SchedulerConformance):
    def test_another_process_finds_the_jobs(self, scheduler: Scheduler, tmp_path: Path) -> None:
        ids = scheduler.submit([JobSpec(make_job(tmp_path, "one"))])
        scheduler.close()
        (status,) = self.finished(connected(tmp_path), ids)
        assert status.exit_code == 0 and status.reason == "COMPLETED"

    def test_jobs_of_another_workspace_are_not_ours(self, scheduler: Scheduler, tmp_path: Path) -> None:
        ids = scheduler.submit([JobSpec(make_job(tmp_path, "one"))])
        other = SlurmCluster(Slurm(), Access("bwothers", tmp_path))
        assert not set(ids) & set(other.poll())
        self.finished(scheduler, ids)

    def test_a_job_gets_the_farms_environment_and_not_ours(
        self, slurm: RealSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SECRET_OF_THE_AGENT", "x")
        setup = tmp_path / "set up.sh"
        setup.write_text(f'env > "{tmp_path}/environment"\n')
        scheduler = connected(tmp_path, setup=str(setup), environment={"SITE_TOP": "it's here"})
        self.finished(scheduler, scheduler.submit([JobSpec(make_job(tmp_path, "one"))]))
        seen = (tmp_path / "environment").read_text()
        assert "SITE_TOP=it's here\n" in seen and "SECRET_OF_THE_AGENT" not in seen

    def test_a_job_that_cannot_start_says_why(self, scheduler: Scheduler, tmp_path: Path) -> None:
        ids = scheduler.submit([JobSpec(make_job(tmp_path, "long"), "", 0, 1e6)])
        self.until(lambda: "PartitionTimeLimit" in scheduler.poll()[ids[0]].reason)
        assert scheduler.poll()[ids[0]].state == "queued"
        scheduler.cancel(ids)
        self.ended(scheduler, ids)

    def test_a_job_runs_where_the_scratch_space_is_that_it_asks_for(
        self, slurm: RealSlurm, scheduler: Scheduler, tmp_path: Path
    ) -> None:
        asking = connected(tmp_path, disk="scratch")
        ids = asking.submit([JobSpec(make_job(tmp_path, "much"), disk_mb=MUCH_MB)])
        (status,) = self.finished(asking, ids)
        assert status == Status("finished", 0, "COMPLETED")
        assert slurm.node_of(ids[0]) == "n2"  # the other node has too little
        little = asking.submit([JobSpec(make_job(tmp_path, "little"), disk_mb=LITTLE_MB)])
        assert [status.exit_code for status in self.finished(asking, little)] == [0]

    def test_a_job_that_asks_for_more_scratch_space_than_any_node_has_is_refused(
        self, slurm: RealSlurm, tmp_path: Path
    ) -> None:
        told = explained(tmp_path / "workspace", connected(tmp_path, disk="scratch"))
        assert "the last failure was submit" in told
        assert "Requested node configuration is not available" in told

    def test_a_refused_submission_leaves_nothing_behind(self, scheduler: Scheduler, tmp_path: Path) -> None:
        before = set(scheduler.poll())
        picky = connected(tmp_path, options=("--constraint=nowhere",))
        with pytest.raises(SchedulerError, match="feature"):
            picky.submit([JobSpec(make_job(tmp_path, "one"))])
        assert set(connected(tmp_path).poll()) <= before

    def test_batches_taken_before_a_refused_one_are_taken_back(
        self, scheduler: Scheduler, tmp_path: Path
    ) -> None:
        first, second = make_job(tmp_path, "first", "sleep"), make_job(tmp_path, "second")
        before = set(scheduler.poll())
        with pytest.raises(SchedulerError, match="memory|configuration"):
            scheduler.submit([JobSpec(first, "", 100, 60.0), JobSpec(second, "", 10_000_000, 60.0)])
        time.sleep(0.2)  # the answer before may be as old
        self.ended(scheduler, [i for i in scheduler.poll() if i not in before])

    @pytest.mark.slow  # Slurm looks at its limits once a minute
    def test_a_time_limit_ends_a_job_with_a_report(self, slurm: RealSlurm, tmp_path: Path) -> None:
        directory = make_job(tmp_path, "late", "sleep")
        scheduler = connected(tmp_path)
        ids = scheduler.submit([JobSpec(directory)])
        self.until(lambda: has_started(directory))
        slurm.scontrol("update", f"jobid={ids[0]}", "timelimit=0:01")
        self.until(lambda: scheduler.poll()[ids[0]].state == "finished", 150)
        status = scheduler.poll()[ids[0]]
        assert status.reason in ("TIMEOUT", "FAILED", "CANCELLED")
        assert (report_of(directory) or {})["failure_class"] == "node"

    def test_a_payload_outlives_its_node_and_its_attempt_lives_until_it_ends(
        self, slurm: RealSlurm, tmp_path: Path
    ) -> None:
        directory = make_job(tmp_path, "zombie", "sleep")
        scheduler = connected(tmp_path, options=("--nodelist=n1",))
        ids = scheduler.submit([JobSpec(directory)])
        self.until(lambda: has_started(directory))
        slurm.lose_node("n1")
        try:
            (status,) = self.finished(scheduler, ids)
            assert status.reason == "NODE_FAIL"
            assert durable.is_locked(directory / "lock")
            assert report_of(directory) is None
            end(holder(directory / "lock"))
            self.until(lambda: not durable.is_locked(directory / "lock"))
            assert (report_of(directory) or {})["failure_class"] == "node"
        finally:
            slurm.recover_node("n1")

    @pytest.mark.slow
    def test_a_requeued_job_does_not_run_beside_the_payload_that_is_still_there(self, tmp_path: Path) -> None:
        if missing():
            pytest.skip("Slurm is not installed")
        with running(tmp_path / "slurm") as slurm:  # one whose nodes have not been lost before
            directory = make_job(tmp_path, "zombie", "sleep")
            scheduler = connected(tmp_path, options=("--requeue",))
            ids = scheduler.submit([JobSpec(directory)])
            self.until(lambda: has_started(directory))
            first = holder(directory / "lock")
            slurm.lose_node(slurm.output("squeue", "-h", "-r", "-j", ids[0], "-o", "%N").strip())
            self.until(lambda: scheduler.poll()[ids[0]].state == "queued")
            slurm.scontrol("update", f"jobid={ids[0]}", "starttime=now")  # not in two minutes
            (status,) = self.finished(scheduler, ids)
            assert status.exit_code == 75  # the second wrapper: the attempt is not its own
            assert holder(directory / "lock") == first and durable.is_locked(directory / "lock")
            end(first)
            self.until(lambda: report_of(directory) is not None)


class TestSlurmThatFails(UnreachableConformance):
    programs = ("sbatch", "squeue", "scancel", "sacct", "scontrol")

    @pytest.fixture
    def connect(self) -> Callable[[Path], Scheduler]:
        return lambda folder: connected(folder, timeout_s=1.0)
