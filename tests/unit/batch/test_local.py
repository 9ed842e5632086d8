"""The local scheduler: slots, order, cancelling, the death of wrappers and of the scheduler's own process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from beamwright import durable
from beamwright.batch.local import LocalScheduler
from beamwright.batch.scheduler import JobSpec
from beamwright.batch.wrapper import NOT_MINE
from beamwright.core.errors import SchedulerError
from support.jobs import make_job, report_of, wish
from support.waiting import wait_for


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[LocalScheduler]:
    made = LocalScheduler(1, log=tmp_path / "log", fresh=True)
    yield made
    made.close()


def state(scheduler: LocalScheduler, batch_id: str) -> str:
    return scheduler.poll()[batch_id].state


def read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def test_jobs_run_to_their_reports_in_order(tmp_path: Path, scheduler: LocalScheduler) -> None:
    directories = [make_job(tmp_path, f"job{i}") for i in range(3)]
    ids = scheduler.submit([JobSpec(directory) for directory in directories])
    assert len(set(ids)) == 3
    wait_for(lambda: all(scheduler.poll()[i].state == "finished" for i in ids))
    assert [scheduler.poll()[i].exit_code for i in ids] == [0, 0, 0]
    reports = [report_of(directory) for directory in directories]
    assert sorted(r["started"] for r in reports) == [r["started"] for r in reports]
    assert scheduler.history([*ids, "nonsense"]).keys() == set(ids)


def test_one_slot_runs_one_job_and_the_next_waits(tmp_path: Path, scheduler: LocalScheduler) -> None:
    first, second = make_job(tmp_path, "first", **wish("sleep")), make_job(tmp_path, "second")
    ids = scheduler.submit([JobSpec(first), JobSpec(second)])
    wait_for(lambda: b"sleeping" in read(first / "log"))
    assert (state(scheduler, ids[0]), state(scheduler, ids[1])) == ("running", "queued")
    scheduler.cancel([ids[0], "nonsense"])
    wait_for(lambda: state(scheduler, ids[1]) == "finished")
    assert report_of(first)["failure_class"] == "node" and report_of(second)["status"] == "ok"


def test_a_queued_job_that_is_cancelled_never_starts(tmp_path: Path, scheduler: LocalScheduler) -> None:
    first, second = make_job(tmp_path, "first", **wish("sleep")), make_job(tmp_path, "second")
    ids = scheduler.submit([JobSpec(first), JobSpec(second)])
    scheduler.cancel(ids[1:])
    assert state(scheduler, ids[1]) == "finished"
    wait_for(lambda: b"sleeping" in read(first / "log"))
    scheduler.cancel(ids[:1])
    wait_for(lambda: state(scheduler, ids[0]) == "finished")
    assert not (second / "lock").exists()


def test_a_job_that_lies_ready_is_cancelled_and_those_after_it_keep_their_order(
    tmp_path: Path, scheduler: LocalScheduler
) -> None:
    first, *others = [
        make_job(tmp_path, name, **(wish("sleep") if name == "first" else {}))
        for name in ("first", "cancelled", "second", "third")
    ]
    ids = scheduler.submit([JobSpec(directory) for directory in (first, *others)])
    wait_for(lambda: b"sleeping" in read(first / "log"))
    scheduler.cancel([ids[1]])
    assert state(scheduler, ids[1]) == "finished"
    scheduler.cancel([ids[0]])
    wait_for(lambda: state(scheduler, ids[3]) == "finished")
    assert not (others[0] / "lock").exists()
    assert report_of(others[1])["ended"] <= report_of(others[2])["started"]


def test_a_long_job_holds_up_none_that_were_submitted_with_it(tmp_path: Path) -> None:
    long, *short = [make_job(tmp_path, f"job{n}", **(wish("sleep") if n == 0 else {})) for n in range(6)]
    scheduler = LocalScheduler(2, log=tmp_path / "log")
    try:
        ids = scheduler.submit([JobSpec(directory) for directory in (long, *short)])
        wait_for(lambda: all(state(scheduler, i) == "finished" for i in ids[1:]))
        assert state(scheduler, ids[0]) == "running"
    finally:
        scheduler.close()


def test_of_a_cancelled_job_only_that_one_is_stopped(tmp_path: Path) -> None:
    scheduler = LocalScheduler(1, log=tmp_path / "log")
    sleeper, after = make_job(tmp_path, "sleeper", **wish("sleep")), make_job(tmp_path, "after")
    try:
        ids = scheduler.submit([JobSpec(sleeper), JobSpec(after)])
        wait_for(lambda: b"sleeping" in read(sleeper / "log"))
        scheduler.cancel(ids[:1])
        wait_for(lambda: state(scheduler, ids[1]) == "finished")
        wait_for(lambda: len(scheduler._slots) == 1)
        assert report_of(sleeper)["failure_class"] == "node" and report_of(after)["status"] == "ok"
    finally:
        scheduler.close()


def test_wrappers_that_cannot_run_take_a_job_each_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beamwright.batch.local.WRAPPER", (sys.executable, "-c", "raise SystemExit(3)"))
    scheduler = LocalScheduler(1, log=tmp_path / "log")
    try:
        ids = scheduler.submit([JobSpec(make_job(tmp_path, name)) for name in "abc"])
        wait_for(lambda: all(state(scheduler, i) == "finished" for i in ids))
        assert {scheduler.poll()[i].exit_code for i in ids} == {3}
    finally:
        scheduler.close()


def test_a_job_that_a_wrapper_took_with_it_into_death_is_finished(tmp_path: Path) -> None:
    take = "import os, select; select.select([0], [], []); os.read(0, 9999); os.kill(os.getpid(), 9)"
    scheduler = LocalScheduler(1, log=tmp_path / "log")
    scheduler._argv = [sys.executable, "-c", take]
    try:
        ids = scheduler.submit([JobSpec(make_job(tmp_path, "taken"))])
        wait_for(lambda: state(scheduler, ids[0]) == "finished")
        assert scheduler.poll()[ids[0]].exit_code == -9
    finally:
        scheduler.close()


def test_more_jobs_than_can_lie_ready_all_run(tmp_path: Path) -> None:
    scheduler = LocalScheduler(2, log=tmp_path / "log")
    directories = [make_job(tmp_path, f"job{n}") for n in range(50)]
    try:
        ids = scheduler.submit([JobSpec(directory) for directory in directories])
        scheduler.cancel(ids[40:])
        wait_for(lambda: all(state(scheduler, i) == "finished" for i in ids))
        assert {scheduler.poll()[i].exit_code for i in ids[:40]} == {0}
        assert not any((directory / "lock").exists() for directory in directories[40:])
    finally:
        scheduler.close()


def test_the_death_of_a_wrapper_is_noticed_and_another_takes_over(
    tmp_path: Path, scheduler: LocalScheduler
) -> None:
    first, second = make_job(tmp_path, "first", **wish("sleep")), make_job(tmp_path, "second")
    ids = scheduler.submit([JobSpec(first), JobSpec(second)])
    wait_for(lambda: b"sleeping" in read(first / "log"))
    scheduler._slots[0].process.kill()
    wait_for(lambda: state(scheduler, ids[1]) == "finished")
    assert scheduler.poll()[ids[0]].exit_code == -9
    assert not (tmp_path / "store" / "first" / "report.json").exists()
    assert report_of(second)["status"] == "ok"


def test_closing_stops_running_jobs_with_a_report(tmp_path: Path) -> None:
    scheduler = LocalScheduler(2, log=tmp_path / "log", fresh=True)
    directories = [make_job(tmp_path, name, **wish("sleep")) for name in ("one", "two")]
    scheduler.submit([JobSpec(directory) for directory in directories])
    wait_for(lambda: all(b"sleeping" in read(directory / "log") for directory in directories))
    scheduler.close()
    scheduler.close()
    assert [report_of(directory)["failure_class"] for directory in directories] == ["node", "node"]
    assert not any(durable.is_locked(directory / "lock") for directory in directories)
    with pytest.raises(SchedulerError):
        scheduler.submit([JobSpec(directories[0])])


def test_wrappers_finish_the_job_at_hand_when_the_scheduler_is_killed(tmp_path: Path) -> None:
    first, second = make_job(tmp_path, "first", **wish("wait")), make_job(tmp_path, "second")
    code = (
        "import sys, time; from pathlib import Path\n"
        "from beamwright.batch.local import LocalScheduler; from beamwright.batch.scheduler import JobSpec\n"
        "scheduler = LocalScheduler(1, log=Path(sys.argv[1]), fresh=True)\n"
        "scheduler.submit([JobSpec(Path(p)) for p in sys.argv[2:]]); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "log"), str(first), str(second)])
    wait_for(lambda: b"waiting" in read(first / "log"))
    process.kill()
    process.wait()
    (tmp_path / "scratch" / "first.go").touch()
    wait_for((tmp_path / "store" / "first" / "report.json").exists)
    assert report_of(first)["status"] == "ok"
    wait_for(lambda: not durable.is_locked(first / "lock"))
    assert not (second / "lock").exists()


def test_a_machine_that_starts_no_process_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("beamwright.batch.local.subprocess.Popen", refuse)
    scheduler = LocalScheduler(1, log=tmp_path / "log")
    scheduler.submit([JobSpec(make_job(tmp_path))])
    scheduler._thread.join(120)
    with pytest.raises(SchedulerError, match="temporarily unavailable"):
        scheduler.poll()
    scheduler.close()


@pytest.mark.parametrize("torn", ["job.json", "ticket"])
def test_a_job_whose_document_is_torn_is_not_run_and_the_next_one_is(
    tmp_path: Path, scheduler: LocalScheduler, torn: str
) -> None:
    """A power cut may leave half of a file, or nothing of it, under its name."""
    half, empty, good = (make_job(tmp_path, name) for name in ("half", "empty", "good"))
    content = (half / torn).read_bytes()
    (half / torn).write_bytes(content[: len(content) // 2])
    (empty / torn).write_bytes(b"")
    ids = scheduler.submit([JobSpec(directory) for directory in (half, empty, good)])
    wait_for(lambda: state(scheduler, ids[2]) == "finished")
    assert [scheduler.poll()[i].exit_code for i in ids] == [NOT_MINE, NOT_MINE, 0]
    assert not (tmp_path / "scratch").exists() or not list((tmp_path / "scratch").iterdir())
    assert report_of(good)["status"] == "ok"


def test_a_job_directory_without_a_job_ends_with_an_exit_code(
    tmp_path: Path, scheduler: LocalScheduler
) -> None:
    (tmp_path / "empty").mkdir()
    good = make_job(tmp_path)
    ids = scheduler.submit([JobSpec(tmp_path / "empty"), JobSpec(good)])
    wait_for(lambda: state(scheduler, ids[1]) == "finished")
    assert scheduler.poll()[ids[0]].exit_code not in (None, 0)
    assert report_of(good)["status"] == "ok"
