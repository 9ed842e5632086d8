"""Grid Engine, a real one: the four verbs on a system that forgets a job as soon as it has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from beamwright import durable
from beamwright.batch.cluster import NOBODY, Access, Answer, AnswerError, Cluster
from beamwright.batch.gridengine import GridEngine
from beamwright.batch.scheduler import JobSpec, Scheduler, Status
from beamwright.core.errors import SchedulerError
from beamwright.testing.payload import has_started, make_job, report_of
from beamwright.testing.scheduler import PackedConformance, SchedulerConformance, UnreachableConformance
from support.gridengine import RealGridEngine, missing, running
from support.scratch import MUCH_MB, TOO_MUCH_MB, explained


@pytest.fixture(scope="module")
def grid_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealGridEngine]:
    if absent := missing():
        pytest.skip(f"Grid Engine cannot be started: no {', '.join(absent)}")
    with running(tmp_path_factory.mktemp("gridengine")) as engine:
        yield engine


def connected(folder: Path, label: str = "bwtests", **more: object) -> Cluster:
    return Cluster(GridEngine(), Access(label, folder, poll_s=0.2, **more))  # type: ignore[arg-type]


@pytest.fixture
def scheduler(grid_engine: RealGridEngine, tmp_path: Path) -> Iterator[Cluster]:
    scheduler = connected(tmp_path)
    yield scheduler
    scheduler.cancel(scheduler.poll())
    scheduler.close()


class TestGridEngineInPacks(PackedConformance):
    @pytest.fixture
    def packed(self, grid_engine: RealGridEngine, tmp_path: Path) -> Cluster:
        return connected(tmp_path, pack=3)


class TestGridEngine(SchedulerConformance):
    def test_another_process_finds_the_jobs(self, scheduler: Scheduler, tmp_path: Path) -> None:
        ids = scheduler.submit([JobSpec(make_job(tmp_path, "one"))])
        assert self.finished(connected(tmp_path), ids) == [Status("finished", 0, "done")]

    def test_jobs_of_another_farm_are_not_ours(self, scheduler: Scheduler, tmp_path: Path) -> None:
        directory = make_job(tmp_path, "one", "sleep")
        ids = scheduler.submit([JobSpec(directory)])
        self.until(lambda: has_started(directory))
        assert not set(ids) & set(connected(tmp_path, "bwothers").poll())
        scheduler.cancel(ids)
        self.ended(scheduler, ids)

    def test_a_refused_submission_says_why(self, scheduler: Scheduler, tmp_path: Path) -> None:
        with pytest.raises(SchedulerError, match="unknown queue"):
            connected(tmp_path, queue="nowhere.q").submit([JobSpec(make_job(tmp_path, "one"))])

    def test_a_job_gets_the_farms_environment_and_not_ours(
        self, grid_engine: RealGridEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SECRET_OF_THE_AGENT", "x")
        setup = tmp_path / "set up.sh"
        setup.write_text(f'env > "{tmp_path}/environment"\n')
        scheduler = connected(tmp_path, setup=str(setup), environment={"SITE_TOP": "it's here"})
        self.finished(scheduler, scheduler.submit([JobSpec(make_job(tmp_path, "one"))]))
        seen = (tmp_path / "environment").read_text()
        assert "SITE_TOP=it's here\n" in seen and "SECRET_OF_THE_AGENT" not in seen

    def test_a_job_that_asks_for_more_scratch_space_than_any_node_has_is_not_started(
        self, grid_engine: RealGridEngine, scheduler: Scheduler, tmp_path: Path
    ) -> None:
        grid_engine.declare_scratch("scratch", 2000)
        asking = connected(tmp_path, disk="scratch")
        big = make_job(tmp_path, "big")
        (waits,) = asking.submit([JobSpec(big, disk_mb=TOO_MUCH_MB)])
        ends = asking.submit([JobSpec(make_job(tmp_path, "much"), disk_mb=MUCH_MB)])
        assert self.finished(asking, ends) == [Status("finished", 0, "done")]
        assert asking.poll()[waits].state == "queued" and not has_started(big)
        asking.cancel([waits])
        self.until(lambda: waits not in asking.poll())
        strict = connected(tmp_path, disk="scratch", options=("-w", "e"))  # refuse what can never start
        fits = strict.submit([JobSpec(make_job(tmp_path, "fits"), disk_mb=MUCH_MB)])
        assert self.finished(strict, fits) == [Status("finished", 0, "done")]
        told = explained(tmp_path / "workspace", strict)
        assert "the last failure was submit" in told and "no suitable queues" in told

    @pytest.mark.parametrize(("name", "number"), [("KILL", 9), ("USR2", 12)])
    def test_a_job_that_a_signal_ended_hides_no_other(
        self, grid_engine: RealGridEngine, tmp_path: Path, name: str, number: int
    ) -> None:
        setup = tmp_path / "set up.sh"
        setup.write_text(f"kill -{name} $$\n")
        killed = connected(tmp_path, setup=str(setup))
        whole = connected(tmp_path)
        ids = killed.submit([JobSpec(make_job(tmp_path, "killed"))])
        ids += whole.submit([JobSpec(make_job(tmp_path, "one"))])
        assert self.finished(whole, ids) == [
            Status("finished", -number, "assumedly after job"),
            Status("finished", 0, "done"),
        ]

    def test_a_suspended_job_goes_on_when_it_is_let_go(
        self, grid_engine: RealGridEngine, scheduler: Scheduler, tmp_path: Path
    ) -> None:
        directory = make_job(tmp_path, "sleeper", "sleep")
        ids = scheduler.submit([JobSpec(directory)])
        self.until(lambda: has_started(directory))
        grid_engine.must("qmod", "-sj", ids[0])
        self.until(lambda: "s" in scheduler.poll()[ids[0]].reason)
        assert scheduler.poll()[ids[0]].state == "running"
        grid_engine.must("qmod", "-usj", ids[0])
        self.until(lambda: scheduler.poll()[ids[0]].reason == "r")
        assert durable.is_locked(directory / "lock") and report_of(directory) is None
        scheduler.cancel(ids)
        self.until(lambda: report_of(directory) is not None)
        assert (report_of(directory) or {})["failure_class"] == "node"

    @pytest.mark.slow  # a daemon that starts anew looks once a minute after jobs that it has not started
    def test_a_payload_goes_on_without_the_daemon_of_its_node(
        self, grid_engine: RealGridEngine, scheduler: Scheduler, tmp_path: Path
    ) -> None:
        directory = make_job(tmp_path, "orphan", "sleep")
        ids = scheduler.submit([JobSpec(directory)])
        self.until(lambda: has_started(directory))
        grid_engine.kill_node()
        assert self.said(scheduler, ids)[ids[0]].state == "running"
        assert durable.is_locked(directory / "lock")
        grid_engine.must("sge_execd")
        scheduler.cancel(ids)
        self.until(lambda: self.said(scheduler, ids)[ids[0]].state == "finished", 180)
        assert (report_of(directory) or {})["failure_class"] == "node"


class TestGridEngineThatFails(UnreachableConformance):
    programs = ("qsub", "qstat", "qdel", "qacct")

    @pytest.fixture
    def connect(self) -> Callable[[Path], Scheduler]:
        return lambda folder: connected(folder, timeout_s=1.0)


@pytest.mark.parametrize(
    ("failed", "exit_status", "status"),
    [
        ("0    ", "7    ", Status("finished", 7, "done")),
        ("0    ", "140                  (User defined signal 2)", Status("finished", 140, "done")),
        ("100 : assumedly after job", "137       (Killed)", Status("finished", -9, "assumedly after job")),
        ("37  : enforced h_rt", "140     (User defined signal 2)", Status("finished", -12, "enforced h_rt")),
        ("11  : before job", "0    ", Status("finished", None, "before job")),
    ],
)
def test_the_accounting_tells_how_a_job_ended(failed: str, exit_status: str, status: Status) -> None:
    said = [("undefined", "1 : x", "1"), ("3", "11 : before job", "0"), ("3", failed, exit_status)]
    told = GridEngine().remembered(Access("x", Path()), Answer(0, accounted(said), ""))
    assert told == {"12.1": Status("finished", 1, "x"), "12.3": status}


def test_a_damaged_record_of_the_accounting_does_not_hide_the_others() -> None:
    said = [("2", "0", ""), ("3", "0", "a few"), ("4", "0", "0")]
    told = GridEngine().remembered(Access("x", Path()), Answer(0, accounted(said), ""))
    assert told.pop(NOBODY).state == "unknown"
    assert told == {"12.4": Status("finished", 0, "done")}


def test_an_accounting_of_damaged_records_alone_is_no_answer() -> None:
    with pytest.raises(AnswerError, match="no record of it"):
        GridEngine().remembered(Access("x", Path()), Answer(0, accounted([("3", "0", "a few")]), ""))


def accounted(records: Sequence[tuple[str, str, str]]) -> str:
    """Return what ``qacct`` prints of elements of job 12: element, its own judgement, exit status."""
    rule = "=" * 62
    return "".join(
        f"{rule}\njobnumber    12\ntaskid       {task}\nfailed       {why}\nexit_status  {code}\n"
        for task, why, code in records
    )


@pytest.mark.parametrize(
    ("word", "state"),
    [(word, "queued") for word in ("qw", "hqw", "Eqw", "hRwq")]
    + [(word, "running") for word in ("t", "r", "Rr", "dr", "dt", "s", "T")],
)
def test_states_are_read_by_their_letters(word: str, state: str) -> None:
    members = {"JB_job_number": 7, "JB_name": "x", "state": word, "tasks": 2}
    job = "".join(f"<{name}>{value}</{name}>" for name, value in members.items())
    listed = f"<job_info><queue_info><job_list>{job}</job_list></queue_info><job_info/></job_info>"
    found = GridEngine().polled(Access("x", Path()), Answer(0, listed, ""))
    assert {i: status.state for i, status in found.items()} == {"7.2": state}


def test_a_list_with_a_document_type_is_not_read() -> None:
    text = '<!DOCTYPE x [<!ENTITY a "b">]><job_info>&a;</job_info>'
    with pytest.raises(AnswerError, match="document type"):
        GridEngine().polled(Access("x", Path()), Answer(0, text, ""))
