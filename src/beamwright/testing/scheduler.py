"""What every scheduler must do: suites to inherit from (needs the package ``pytest``).

A plug-in's test module has a class that inherits from ``SchedulerConformance`` and a fixture ``scheduler``
that gives a fresh scheduler of a system that runs; for a system that is reached through commands, a second
class inherits from ``UnreachableConformance`` with a fixture ``connect``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from beamwright.batch import packs
from beamwright.batch.scheduler import JobSpec, Scheduler, Status
from beamwright.batch.wrapper import STOP_FILE
from beamwright.core.errors import SchedulerDownError, SchedulerError
from beamwright.testing.payload import has_started, make_job, report_of

NONSENSE = "999999999"
UNKNOWN = Status("unknown")


class SchedulerConformance:
    """The four verbs, over jobs that the real wrapper runs.

    ``patience`` is how long a trivial job may take to run through, in seconds.
    """

    patience = 120.0

    def test_every_job_of_an_array_runs_once(self, scheduler: Scheduler, tmp_path: Path) -> None:
        directories = [make_job(tmp_path, f"job{n}") for n in range(5)]
        ids = scheduler.submit([JobSpec(directory) for directory in directories])
        assert len(set(ids)) == 5
        assert set(ids) <= set(scheduler.poll())
        for status in self.finished(scheduler, ids):
            assert status == Status("finished", 0, status.reason)
        reports = [report_of(directory) for directory in directories]
        assert [report and report["status"] for report in reports] == ["ok"] * 5
        assert [report and report["attempt"]["nonce"] for report in reports] == [f"job{n}" for n in range(5)]

    def test_jobs_of_different_needs_keep_their_order(self, scheduler: Scheduler, tmp_path: Path) -> None:
        wishes = ["ok", "fail", "ok"]
        directories = [make_job(tmp_path, f"job{n}", wish) for n, wish in enumerate(wishes)]
        needs = [(100, 600.0), (200, 600.0), (100, 600.0)]
        specs = [JobSpec(d, "", *need) for d, need in zip(directories, needs, strict=True)]
        ids = scheduler.submit(specs)
        assert [status.exit_code for status in self.finished(scheduler, ids)] == [0, 1, 0]

    def test_nothing_is_submitted_for_nothing(self, scheduler: Scheduler) -> None:
        before = set(scheduler.poll())
        assert scheduler.submit([]) == []
        assert set(scheduler.poll()) <= before  # jobs of before may be forgotten meanwhile

    def test_a_running_job_is_said_to_run(self, scheduler: Scheduler, tmp_path: Path) -> None:
        directory = make_job(tmp_path, "sleeper", "sleep")
        ids = scheduler.submit([JobSpec(directory)])
        self.until(lambda: has_started(directory))
        self.until(lambda: scheduler.poll()[ids[0]].state == "running")
        scheduler.cancel(ids)
        self.finished(scheduler, ids)

    def test_a_cancelled_job_stops_with_a_report_and_its_neighbour_goes_on(
        self, scheduler: Scheduler, tmp_path: Path
    ) -> None:
        stopped, other = make_job(tmp_path, "stopped", "sleep"), make_job(tmp_path, "other")
        ids = scheduler.submit([JobSpec(stopped), JobSpec(other)])
        self.until(lambda: has_started(stopped))
        scheduler.cancel([NONSENSE, ids[0]])
        self.finished(scheduler, ids)
        self.until(lambda: report_of(stopped) is not None)
        assert (report_of(stopped) or {})["failure_class"] == "node"
        assert (report_of(other) or {})["status"] == "ok"
        scheduler.cancel(ids)

    def test_a_job_that_is_cancelled_at_once_does_not_stay_queued(
        self, scheduler: Scheduler, tmp_path: Path
    ) -> None:
        ids = scheduler.submit([JobSpec(make_job(tmp_path, f"job{n}", "sleep")) for n in range(4)])
        scheduler.cancel(ids)
        self.ended(scheduler, ids)

    def test_an_unknown_id_is_not_finished(self, scheduler: Scheduler, tmp_path: Path) -> None:
        ids = scheduler.submit([JobSpec(make_job(tmp_path, "known"))])
        self.finished(scheduler, ids)
        assert NONSENSE not in scheduler.poll()
        assert NONSENSE not in scheduler.history([NONSENSE, *ids])
        scheduler.cancel([NONSENSE])

    def test_the_history_knows_how_jobs_ended(self, scheduler: Scheduler, tmp_path: Path) -> None:
        directories = [make_job(tmp_path, "good"), make_job(tmp_path, "bad", "fail")]
        ids = scheduler.submit([JobSpec(directory) for directory in directories])
        self.finished(scheduler, ids)
        self.until(lambda: set(scheduler.history(ids)) == set(ids))
        told = scheduler.history(ids)
        assert [told[i].state for i in ids] == ["finished", "finished"]
        assert [told[i].exit_code for i in ids] == [0, 1]

    def test_a_directory_without_a_job_ends_with_a_bad_exit_code(
        self, scheduler: Scheduler, tmp_path: Path
    ) -> None:
        empty = tmp_path / "it's empty"
        empty.mkdir()
        ids = scheduler.submit([JobSpec(empty), JobSpec(make_job(tmp_path, "good"))])
        bad, good = self.finished(scheduler, ids)
        assert bad.exit_code not in (None, 0)
        assert good.exit_code == 0

    def test_an_attempt_that_is_delivered_twice_runs_once(self, scheduler: Scheduler, tmp_path: Path) -> None:
        directory = make_job(tmp_path, "twice")
        self.finished(scheduler, scheduler.submit([JobSpec(directory)]))
        first = report_of(directory)
        (again,) = self.finished(scheduler, scheduler.submit([JobSpec(directory)]))
        assert again.exit_code == 0
        assert report_of(directory) == first

    def finished(self, scheduler: Scheduler, ids: Sequence[str]) -> list[Status]:
        """Wait until all jobs are finished, as the list or the history says; return what is said of them."""
        self.until(lambda: all(self.said(scheduler, ids)[i].state == "finished" for i in ids))
        said = self.said(scheduler, ids)
        return [said[i] for i in ids]

    def said(self, scheduler: Scheduler, ids: Sequence[str]) -> dict[str, Status]:
        """Return what the list says of jobs, and of those that it no longer names, the history."""
        polled = scheduler.poll()
        gone = [i for i in ids if i not in polled]
        remembered = scheduler.history(gone) if gone else {}
        return {i: polled.get(i) or remembered.get(i, UNKNOWN) for i in ids}

    def ended(self, scheduler: Scheduler, ids: Sequence[str]) -> None:
        """Wait until all jobs are finished or no longer known."""
        self.until(
            lambda: all(scheduler.poll().get(i, UNKNOWN).state in ("finished", "unknown") for i in ids)
        )

    def until(self, holds: Callable[[], bool], patience: float = 0.0) -> None:
        """Wait until something holds."""
        limit = time.monotonic() + (patience or self.patience)
        while not holds():
            assert time.monotonic() < limit, f"it did not come true in {patience or self.patience} s"
            time.sleep(0.05)


class PackedConformance:
    """Packs: jobs in one element, each with its own attempt and report. ``packed`` packs three together."""

    patience = 120.0

    def test_each_job_of_a_pack_reports_for_itself(self, packed: Scheduler, tmp_path: Path) -> None:
        directories = [make_job(tmp_path, f"job{n}") for n in range(7)]
        ids = packed.submit([JobSpec(directory) for directory in directories])
        assert len(set(ids)) == 7
        assert len({packs.element(batch_id) for batch_id in ids}) == 3
        assert set(ids) <= set(packed.poll())
        self.ended(packed, ids)
        reports = [report_of(directory) for directory in directories]
        assert [report and report["attempt"]["nonce"] for report in reports] == [f"job{n}" for n in range(7)]
        assert {report and report["status"] for report in reports} == {"ok"}

    def test_what_befalls_one_leaves_the_others_alone(self, packed: Scheduler, tmp_path: Path) -> None:
        empty = tmp_path / "empty"
        empty.mkdir()
        bad, good = make_job(tmp_path, "bad", "fail"), make_job(tmp_path, "good")
        ids = packed.submit([JobSpec(directory) for directory in (bad, empty, good)])
        self.ended(packed, ids)
        assert (report_of(bad) or {})["failure_class"] == "application_error"
        assert (report_of(good) or {})["status"] == "ok"

    def test_one_is_stopped_and_the_others_go_on(self, packed: Scheduler, tmp_path: Path) -> None:
        directories = [make_job(tmp_path, "first", "sleep"), *(make_job(tmp_path, n) for n in "ab")]
        ids = packed.submit([JobSpec(directory) for directory in directories])
        self.until(lambda: has_started(directories[0]))
        packed.cancel(ids[:2])  # nothing is cancelled through the batch system but whole packs
        for directory in directories[:2]:
            (directory / STOP_FILE).touch()
        self.ended(packed, ids)
        reports = [report_of(directory) for directory in directories]
        assert (reports[0] or {})["failure_class"] == "node"
        assert reports[1] is None
        assert (reports[2] or {})["status"] == "ok"

    def test_a_pack_is_cancelled_whole(self, packed: Scheduler, tmp_path: Path) -> None:
        directories = [make_job(tmp_path, f"job{n}", "sleep") for n in range(3)]
        ids = packed.submit([JobSpec(directory) for directory in directories])
        self.until(lambda: has_started(directories[0]))
        packed.cancel(ids)
        self.ended(packed, ids)
        self.until(lambda: report_of(directories[0]) is not None)
        assert [report_of(directory) is None for directory in directories] == [False, True, True]

    def ended(self, scheduler: Scheduler, ids: Sequence[str]) -> None:
        """Wait until all jobs are finished or no longer known."""
        self.until(
            lambda: all(scheduler.poll().get(i, UNKNOWN).state in ("finished", "unknown") for i in ids)
        )

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds."""
        limit = time.monotonic() + self.patience
        while not holds():
            assert time.monotonic() < limit, f"it did not come true in {self.patience} s"
            time.sleep(0.05)


class UnreachableConformance:
    """A system that is down, hangs or talks nonsense: nothing is known then, and nothing is invented.

    The fixture ``connect`` takes the directory of the stand-ins' programs (already the whole PATH) and gives
    a scheduler with a time limit of a second. ``programs`` are the system's commands.
    """

    programs: Sequence[str] = ()
    kinds = {
        "is down": 'echo "cannot connect to server" >&2; exit 255',
        "hangs": "/bin/sleep 30",
        "talks nonsense": 'echo "<html>502 Bad Gateway</html>"',
        "is cut off": "printf '{ \"Jobs\": {'",
        "talks bytes": r"printf '\377\376\000'",
    }

    @pytest.mark.parametrize("kind", list(kinds))
    def test_nothing_is_known_of_a_system_that_fails(
        self, kind: str, connect: Callable[[Path], Scheduler], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scheduler = self.standing_in(self.kinds[kind], connect, tmp_path, monkeypatch)
        for _ in range(2):
            with pytest.raises(SchedulerDownError) as caught:
                scheduler.poll()
            assert caught.value.hint
        with pytest.raises(SchedulerError):
            scheduler.submit([JobSpec(tmp_path)])

    def test_missing_programs_are_named(
        self, connect: Callable[[Path], Scheduler], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(SchedulerDownError, match="no program"):
            connect(tmp_path).poll()

    def standing_in(
        self, body: str, connect: Callable[[Path], Scheduler], folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Scheduler:
        """Put a script in the place of each program."""
        for program in self.programs:
            put_program(folder / program, body)
        monkeypatch.setenv("PATH", str(folder))
        return connect(folder)


def put_program(path: Path, body: str) -> None:
    """Write a shell script that can be run."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    os.chmod(path, 0o755)
