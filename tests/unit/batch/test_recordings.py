"""What real batch systems printed of jobs that ended in every way, and records that nobody can read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from beamwright.batch.cluster import LISTED_AFTER_S, NOBODY, Access, Answer, AnswerError, Cluster, Dialect
from beamwright.batch.gridengine import GridEngine
from beamwright.batch.htcondor import HtCondor
from beamwright.batch.lsf import Lsf
from beamwright.batch.pbs import Pbs
from beamwright.batch.scheduler import Status, cause
from beamwright.batch.slurm import Slurm, read_completed

RECORDINGS = Path(__file__).parents[2] / "support" / "recordings"
SQUEUE = RECORDINGS / "slurm" / "squeue-3.txt"
QSTAT = RECORDINGS / "gridengine" / "qstat.xml"
QSTAT_PBS = RECORDINGS / "openpbs" / "qstat.json"


def polled(dialect: Dialect, text: str, label: str = "bwrec") -> dict[str, Status]:
    return dialect.polled(Access(label, Path()), Answer(0, text, ""))


def by_state(told: dict[str, Status], state: str) -> dict[str, Status]:
    return {batch_id: status for batch_id, status in told.items() if status.state == state}


# --- Slurm --------------------------------------------------------------------------------------------------


def test_slurm_lists_jobs_that_end_and_that_wait_in_every_way() -> None:
    while_ending, later, in_the_end = (
        polled(Slurm(), (RECORDINGS / "slurm" / f"squeue-{n}.txt").read_text()) for n in (2, 3, 4)
    )
    assert {i for i, s in while_ending.items() if s.reason == "COMPLETING"} == {"6_0", "9_0", "10_0", "11_0"}
    assert while_ending["12_0"] == Status("running", None, "SUSPENDED")
    assert later["10_0"] == Status("queued", None, "PENDING: job requeued in held state")
    assert later["11_0"] == Status("queued", None, "SPECIAL_EXIT: job requeued in held state")
    assert later["13_1"] == Status("queued", None, "PENDING: JobHeldUser")
    assert by_state(in_the_end, "running") == {"9_0": Status("running", None, "RUNNING")}
    assert by_state(in_the_end, "finished") == {
        "1_0": Status("finished", -15, "TIMEOUT"),
        **dict.fromkeys(("2_0", "2_1", "7_0"), Status("finished", 0, "COMPLETED")),
        "3_0": Status("finished", 3, "FAILED"),
        "4_0": Status("finished", -9, "FAILED"),
        "5_0": Status("finished", -11, "FAILED"),
        "6_0": Status("finished", -15, "CANCELLED"),
        **dict.fromkeys(("8_0", "12_0"), Status("finished", 0, "NODE_FAIL")),
        "16_0": Status("finished", -1, "DEADLINE"),
    }
    assert "13_0" not in while_ending  # cancelled while it waited: no trace is left of it


def test_slurm_s_file_of_completed_jobs_tells_the_same() -> None:
    record = RECORDINGS / "slurm" / "completed.txt"
    told = read_completed(record, {f"{n}_{m}" for n in range(1, 20) for m in (0, 1)})
    assert {i: (status.exit_code, status.reason) for i, status in told.items()} == {
        "1_0": (0, "TIMEOUT"),
        **dict.fromkeys(("2_0", "2_1", "7_0"), (0, "COMPLETED")),
        "3_0": (3, "FAILED"),
        "4_0": (-9, "FAILED"),
        "5_0": (-11, "FAILED"),
        "6_0": (0, "CANCELLED"),
        **dict.fromkeys(("8_0", "12_0"), (0, "NODE_FAIL")),
        **dict.fromkeys(("9_0", "10_0", "11_0"), (0, "PENDING")),
    }
    assert {status.state for i, status in told.items() if i in ("9_0", "10_0", "11_0")} == {"queued"}


def test_a_cut_line_of_the_file_of_completed_jobs_hides_no_other(tmp_path: Path) -> None:
    first, *rest = (RECORDINGS / "slurm" / "completed.txt").read_text().splitlines()
    cut = tmp_path / "completed"
    cut.write_text("\n".join([first.replace("ExitCode=0:0", "ExitCode=0"), "JobId=3 Na", *rest]))
    assert sorted(read_completed(cut, {"2_0", "2_1", "3_0"})) == ["2_1", "3_0"]


# --- Grid Engine --------------------------------------------------------------------------------------------


def test_grid_engine_lists_what_waits_and_runs() -> None:
    told = polled(GridEngine(), QSTAT.read_text())
    assert {i: (s.state, s.reason) for i, s in told.items()} == {
        "4.1": ("running", "Rt"),
        "8.1": ("running", "r"),
        "12.1": ("running", "dr"),
        "13.1": ("running", "r"),
        "14.1": ("running", "r"),
        **dict.fromkeys(("3.1", "11.1"), ("queued", "Eqw")),
        **dict.fromkeys(("15.1", "16.2", "17.1"), ("queued", "hqw")),
        "18.1": ("queued", "qw"),
    }
    later = polled(GridEngine(), (RECORDINGS / "gridengine" / "qstat-later.xml").read_text())
    assert (later["4.1"].state, later["13.1"].state) == ("queued", "running")  # both were put back before
    assert polled(GridEngine(), QSTAT.read_text(), "others") == {}


def test_the_accounting_of_grid_engine_tells_how_jobs_ended() -> None:
    text = (RECORDINGS / "gridengine" / "qacct.txt").read_text()
    told = GridEngine().remembered(Access("bwrec", Path()), Answer(0, text, ""))
    after = "assumedly after job"
    assert {i: (status.exit_code, status.reason) for i, status in told.items()} == {
        **dict.fromkeys(("1.1", "1.2", "17.1", "19.1", "21.1"), (0, "done")),
        "2.1": (3, "done"),
        "3.1": (100, "application error returned"),
        "4.1": (99, "rescheduling"),
        "5.1": (-9, after),
        "6.1": (-11, after),
        "7.1": (-12, after),
        "8.1": (-9, "qmaster enforced h_rt, h_cpu, or h_vmem limit"),
        "9.1": (-10, after),
        "10.1": (1, "done"),
        "12.1": (-12, after),
        "14.1": (-10, after),
    }


# --- what the reasons mean ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "failure_class"),
    [
        ("NODE_FAIL", "node"),
        ("BOOT_FAIL", "node"),
        ("PREEMPTED", "node"),
        ("TIMEOUT", "time"),
        ("OUT_OF_MEMORY", "memory"),
        ("CANCELLED", "lost"),
        ("qmaster enforced h_rt, h_cpu, or h_vmem limit", "time"),
        ("assumedly after job", "lost"),
        ("JOB_EXEC_KILL_WALLTIME", "time"),
        ("JOB_EXEC_KILL_MEM", "memory"),
        ("TERM_MEMLIMIT: job killed after reaching LSF memory usage limit", "memory"),
        ("TERM_RUNLIMIT: job killed after reaching LSF run time limit", "time"),
        ("TERM_OWNER", "lost"),
        ("Error from slot1@node: Job has gone over memory limit of 2048 megabytes", "memory"),
        ("The job exceeded allowed execute duration of 0+01:00:00", "time"),
        ("", "lost"),
    ],
)
def test_a_reason_of_a_batch_system_gives_the_failure_class(reason: str, failure_class: str) -> None:
    assert cause(reason) == failure_class


# --- records that cannot be read ----------------------------------------------------------------------------

BJOBS = {
    "COMMAND": "bjobs",
    "JOBS": 3,
    "RECORDS": [
        {"JOBID": "7", "JOBINDEX": str(n), "STAT": "RUN", "EXIT_CODE": "", "EXIT_REASON": ""}
        for n in range(1, 4)
    ],
}
CONDOR_Q = [{"ClusterId": 12, "ProcId": n, "JobStatus": 2} for n in range(3)]


def damaged(document: Any, place: Callable[[Any], list[Any]], record: Any) -> str:
    """Return a JSON document with another record before those that it has."""
    document = json.loads(json.dumps(document))
    place(document).insert(0, record)
    return json.dumps(document)


LINES = SQUEUE.read_text().splitlines(keepends=True)
PBS = QSTAT_PBS.read_text()
JOBS, XML = SQUEUE.read_text(), QSTAT.read_text()
NAMELESS = XML.replace("<queue_info>", "<queue_info><job_list><JB_name>bwrec</JB_name></job_list>", 1)
SPOILT: dict[str, tuple[Dialect, str, str]] = {
    "Slurm, a line that was cut": (Slurm(), JOBS, f"  12_\n{JOBS}"),
    "Slurm, an id that is none": (Slurm(), JOBS, LINES[0].replace("6_0", "???") + JOBS),
    "Slurm, a status that is none": (Slurm(), JOBS, f" 99_0 FAILED many None\n{JOBS}"),
    "Grid Engine, a job without a number": (GridEngine(), XML, NAMELESS),
    "LSF, a record without a state": (
        Lsf(), json.dumps(BJOBS), damaged(BJOBS, lambda d: d["RECORDS"], {"JOBID": "8", "JOBINDEX": "1"}),
    ),
    "LSF, no record": (Lsf(), json.dumps(BJOBS), damaged(BJOBS, lambda d: d["RECORDS"], None)),
    "HTCondor, a job without a process": (
        HtCondor(), json.dumps(CONDOR_Q), damaged(CONDOR_Q, lambda d: d, {"ClusterId": 12, "JobStatus": 2}),
    ),
    "HTCondor, no job": (HtCondor(), json.dumps(CONDOR_Q), damaged(CONDOR_Q, lambda d: d, "error")),
}  # fmt: skip


@pytest.mark.parametrize("name", list(SPOILT))
def test_a_record_that_cannot_be_read_hides_no_other(name: str) -> None:
    dialect, sound, spoilt = SPOILT[name]
    told = polled(dialect, spoilt)
    assert told.pop(NOBODY).state == "unknown"
    assert told == polled(dialect, sound) and len(told) >= 3


def test_a_list_of_which_no_record_can_be_read_is_no_answer() -> None:
    answers: tuple[tuple[Dialect, str], ...] = (
        (Slurm(), "502 Bad Gateway\n"),
        (Lsf(), '{"RECORDS": [{"JOBID": "x"}]}'),
        (HtCondor(), '[{"ClusterId": 1}]'),
        (HtCondor(), '{"error": "busy"}'),
    )
    for dialect, text in answers:
        with pytest.raises(AnswerError):
            polled(dialect, text)


STRANGE: dict[str, tuple[Dialect, str, str]] = {
    "Slurm": (Slurm(), LINES[0].replace("CANCELLED", "EXPEDITING"), "6_0"),
    "Grid Engine": (GridEngine(), QSTAT.read_text().replace("<state>dr<", "<state>z<"), "12.1"),
    "PBS": (Pbs(), PBS.replace('"job_state":\t"R"', '"job_state":\t"Z"'), "105.pbshost"),
    "LSF": (Lsf(), json.dumps(BJOBS).replace('"RUN"', '"FORWARDED"', 1), "7[1]"),
    "HTCondor": (HtCondor(), json.dumps(CONDOR_Q).replace('"JobStatus": 2', '"JobStatus": 12', 1), "12.0"),
}


@pytest.mark.parametrize("name", list(STRANGE))
def test_a_job_in_a_state_that_nobody_knows_is_there(name: str) -> None:
    """A newer version of a batch system has states of its own; nothing is concluded from them."""
    dialect, text, batch_id = STRANGE[name]
    status = polled(dialect, text, "long" if name == "PBS" else "bwrec")[batch_id]
    assert status.state == "queued" and "no state that is known" in status.reason


@pytest.mark.parametrize("value", ["005", r'"\'x\'"', '"a\tb', "1e"])
def test_an_environment_that_openpbs_writes_badly_hides_no_job(value: str) -> None:
    """OpenPBS writes variables of anybody's job as they are, so that the document as a whole is no JSON."""
    spoilt = PBS.replace('"PBS_O_LANG":\t"C.UTF-8"', f'"array":\t{value},\n"Job_Name":\t{value}')
    assert spoilt != PBS
    with pytest.raises(ValueError):
        json.loads(spoilt)
    for label in ("arr", "t1", "long", "nobody's"):
        assert polled(Pbs(), spoilt, label) == polled(Pbs(), PBS, label)
    with pytest.raises(ValueError):
        polled(Pbs(), spoilt.replace('"pbs_server"', '"server"'))


def test_a_job_whose_record_cannot_be_read_is_not_given_up_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([0.0, 10.0, 10.0 + LISTED_AFTER_S, 200.0])
    scheduler = Cluster(Slurm(), Access("bwrec", tmp_path, poll_s=0.0), lambda: next(times))
    lists = iter([LINES, ["  6_\n", *LINES[1:]], ["  6_\n", *LINES[1:]], LINES[1:]])
    monkeypatch.setattr(scheduler, "run", lambda request: Answer(0, "".join(next(lists)), ""))
    assert ["6_0" in scheduler.poll() for _ in range(4)] == [True, True, False, False]
