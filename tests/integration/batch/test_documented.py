"""OpenPBS by recordings of a real server; LSF and HTCondor by the forms that their documentation gives.

Stand-ins for their programs print these bytes and note how they were called.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from beamwright.batch.cluster import Access, Batch, Cluster, Dialect
from beamwright.batch.gridengine import GridEngine
from beamwright.batch.htcondor import HtCondor, description, quoted
from beamwright.batch.lsf import Lsf
from beamwright.batch.pbs import Pbs
from beamwright.batch.scheduler import JobSpec, Scheduler, Status
from beamwright.batch.slurm import Slurm
from beamwright.core.errors import SchedulerDownError, SchedulerError
from beamwright.testing.payload import make_job, report_of
from beamwright.testing.scheduler import UnreachableConformance, put_program

RECORDINGS = Path(__file__).parents[2] / "support" / "recordings" / "openpbs"
BJOBS = {
    "COMMAND": "bjobs",
    "JOBS": 5,
    "RECORDS": [
        {"JOBID": "123", "JOBINDEX": "1", "STAT": "DONE", "EXIT_CODE": "", "EXIT_REASON": ""},
        {"JOBID": "123", "JOBINDEX": "2", "STAT": "EXIT", "EXIT_CODE": "130", "EXIT_REASON": "TERM_OWNER"},
        {"JOBID": "123", "JOBINDEX": "3", "STAT": "RUN", "EXIT_CODE": "", "EXIT_REASON": ""},
        {"JOBID": "123", "JOBINDEX": "4", "STAT": "PEND", "EXIT_CODE": "", "EXIT_REASON": ""},
        {"JOBID": "77", "ERROR": "Job <77> is not found"},
    ],
}
CONDOR_Q = [
    {"ClusterId": 12, "ProcId": 0, "JobStatus": 1},
    {"ClusterId": 12, "ProcId": 1, "JobStatus": 2},
    {"ClusterId": 12, "ProcId": 2, "JobStatus": 5, "HoldReason": "Failed to start"},
]
CONDOR_HISTORY = [
    {"ClusterId": 12, "ProcId": 3, "JobStatus": 4, "ExitCode": 1, "ExitBySignal": False},
    {"ClusterId": 12, "ProcId": 4, "JobStatus": 4, "ExitBySignal": True, "ExitSignal": 9},
]


@dataclass
class StandIns:
    """A directory of programs that print what was recorded, and keep their arguments and input."""

    folder: Path

    def put(self, program: str, out: str = "", err: str = "", exit_code: int = 0) -> None:
        (self.folder / f"{program}.out").write_text(out)
        (self.folder / f"{program}.err").write_text(err)
        keep = f'printf "%s\\n" "$@" >>{self.folder}/{program}.arguments; cat >{self.folder}/{program}.input'
        say = f"cat {self.folder}/{program}.out; cat {self.folder}/{program}.err >&2"
        put_program(self.folder / program, f"{keep}; {say}; exit {exit_code}")

    def arguments(self, program: str) -> list[str]:
        return (self.folder / f"{program}.arguments").read_text().splitlines()

    def given(self, program: str) -> str:
        return (self.folder / f"{program}.input").read_text()


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIns:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return StandIns(folder)


def access(folder: Path, label: str = "bwtests", **more: object) -> Access:
    return Access(label, folder, poll_s=0.0, **more)  # type: ignore[arg-type]


def run_element(script: str, variable: str, value: str) -> int:
    return subprocess.run(["sh"], input=script.encode(), env={variable: value}).returncode


# --- OpenPBS ------------------------------------------------------------------------------------------------


def test_pbs_reads_a_recorded_list(stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.put("qstat", (RECORDINGS / "qstat.json").read_text())
    arrays, single, running = (Cluster(Pbs(), access(tmp_path, label)) for label in ("arr", "t1", "long"))
    assert arrays.poll() == {f"104[{n}].pbshost": Status("finished", 0, "finished") for n in range(4)}
    assert single.poll() == {"103.pbshost": Status("finished", 3, "failed")}
    assert running.poll() == {"105.pbshost": Status("running", None, "R")}
    assert stand_ins.arguments("qstat")[:5] == ["-x", "-t", "-f", "-F", "json"]


def test_pbs_remembers_what_is_finished_and_no_unknown_job(stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.put("qstat", (RECORDINGS / "qstat.json").read_text())
    assert list(Cluster(Pbs(), access(tmp_path, "long")).history(["105.pbshost"])) == []
    told = Cluster(Pbs(), access(tmp_path, "t1")).history(["103.pbshost", "9999.pbshost"])
    assert told == {"103.pbshost": Status("finished", 3, "failed")}


def test_pbs_without_jobs_knows_none(stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.put("qstat", (RECORDINGS / "qstat-no-jobs.json").read_text())
    assert Cluster(Pbs(), access(tmp_path)).poll() == {}


def test_pbs_submits_an_array_whose_elements_run_their_own_jobs(stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.put("qsub", "104[].pbshost\n")
    stand_ins.put("qstat", (RECORDINGS / "qstat-no-jobs.json").read_text())
    directories = [make_job(tmp_path, f"it's {n}") for n in range(3)]
    scheduler = Cluster(Pbs(), access(tmp_path, queue="workq"))
    ids = scheduler.submit([JobSpec(directory, "", 500, 5400.0) for directory in directories])
    assert ids == ["104[0].pbshost", "104[1].pbshost", "104[2].pbshost"]
    assert scheduler.poll() == dict.fromkeys(ids, Status("queued"))
    said = stand_ins.arguments("qsub")
    assert {"0-2", "workq", "bwtests", "select=1:ncpus=1:mem=500mb", "walltime=01:42:00"} <= set(said)
    assert run_element(stand_ins.given("qsub"), "PBS_ARRAY_INDEX", "2") == 0
    reports = [report_of(directory) for directory in directories]
    assert [report is not None for report in reports] == [False, False, True]


def test_scratch_space_is_asked_for_in_each_system_s_own_words(tmp_path: Path) -> None:
    batch, here = Batch((tmp_path,), 0, 0.0, (), 700), access(tmp_path, disk="scratch")
    assert "select=1:ncpus=1:scratch=700mb" in Pbs().submit(here, batch).argv
    assert "rusage[scratch=700]" in Lsf().submit(here, batch).argv
    assert "rusage[tmp=700]" in Lsf().submit(access(tmp_path), batch).argv
    assert "--tmp=700M" in Slurm().submit(here, batch).argv
    assert "scratch=700M" in GridEngine().submit(here, batch).argv
    assert "request_disk = 700MB" in description(access(tmp_path), batch)
    # Where the nodes of a farm declare no such resource, a job that asks for it would wait for ever.
    plain = access(tmp_path)
    for dialect in (Pbs(), Slurm(), GridEngine()):
        assert not any("700" in argument for argument in dialect.submit(plain, batch).argv)


def test_cores_are_asked_for_where_a_job_has_several_workers(tmp_path: Path) -> None:
    here = access(tmp_path)
    many, one = Batch((tmp_path,), 0, 0.0, cores=4), Batch((tmp_path,), 0, 0.0)
    assert "select=1:ncpus=4" in Pbs().submit(here, many).argv
    assert "--cpus-per-task=4" in Slurm().submit(here, many).argv
    assert {"-n", "4", "span[hosts=1]"} <= set(Lsf().submit(here, many).argv)
    assert "request_cpus = 4" in description(here, many)
    assert not any("cpus-per-task" in word for word in Slurm().submit(here, one).argv)
    assert "-n" not in Lsf().submit(here, one).argv and "request_cpus = 1" in description(here, one)


def test_jobs_of_other_needs_of_cores_are_submitted_apart(stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.put("bsub", "Job <9> is submitted to queue <q>.\n")
    specs = [JobSpec(tmp_path / str(n), cores=1 + n % 2) for n in range(4)]
    assert Cluster(Lsf(), access(tmp_path)).submit(specs) == ["9[1]", "9[1]", "9[2]", "9[2]"]


def test_jobs_of_other_needs_of_space_are_submitted_apart(stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.put("bsub", "Job <9> is submitted to queue <q>.\n")
    specs = [JobSpec(tmp_path / str(n), disk_mb=n // 2) for n in range(4)]
    assert Cluster(Lsf(), access(tmp_path)).submit(specs) == ["9[1]", "9[2]", "9[1]", "9[2]"]
    said = stand_ins.arguments("bsub")
    assert said.count("bwtests[1-2]") == 2 and said.count("rusage[tmp=1]") == 1


def test_pbs_submits_a_single_job_without_an_array(stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.put("qsub", "103.pbshost\n")
    directory = make_job(tmp_path, "one")
    assert Cluster(Pbs(), access(tmp_path)).submit([JobSpec(directory)]) == ["103.pbshost"]
    assert "-J" not in stand_ins.arguments("qsub")
    assert run_element(stand_ins.given("qsub"), "NOTHING", "") == 0
    assert report_of(directory) is not None


def test_pbs_passes_over_jobs_that_are_gone(stand_ins: StandIns, tmp_path: Path) -> None:
    scheduler = Cluster(Pbs(), access(tmp_path))
    stand_ins.put("qdel", "", "qdel: Unknown Job Id 9999.pbshost\n", 153)
    scheduler.cancel(["9999.pbshost"])
    stand_ins.put("qdel", "", "cannot connect to server pbshost (errno=111)\n", 255)
    with pytest.raises(SchedulerDownError, match="cannot connect"):
        scheduler.cancel(["103.pbshost"])


# --- LSF ----------------------------------------------------------------------------------------------------


def test_lsf_reads_records_and_leaves_out_unknown_jobs(stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.put("bjobs", json.dumps(BJOBS))
    polled = Cluster(Lsf(), access(tmp_path)).poll()
    assert polled == {
        "123[1]": Status("finished", 0, "DONE"),
        "123[2]": Status("finished", 130, "TERM_OWNER"),
        "123[3]": Status("running", None, "RUN"),
        "123[4]": Status("queued", None, "PEND"),
    }
    history = Cluster(Lsf(), access(tmp_path)).history(["123[1]", "123[3]", "77"])
    assert history == {"123[1]": Status("finished", 0, "DONE")}


def test_lsf_without_jobs_knows_none(stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.put("bjobs", "", "Job <bwtests> is not found\n", 255)
    assert Cluster(Lsf(), access(tmp_path)).poll() == {}


@pytest.mark.parametrize("queue", ["queue <normal>", "default queue <normal>"])
def test_lsf_counts_elements_from_one(queue: str, stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.put("bsub", f"Job <123> is submitted to {queue}.\n")
    directories = [make_job(tmp_path, f"job{n}") for n in range(2)]
    ids = Cluster(Lsf(), access(tmp_path)).submit([JobSpec(directory) for directory in directories])
    assert ids == ["123[1]", "123[2]"]
    assert "bwtests[1-2]" in stand_ins.arguments("bsub")
    assert run_element(stand_ins.given("bsub"), "LSB_JOBINDEX", "1") == 0
    assert [report_of(directory) is not None for directory in directories] == [True, False]


# --- HTCondor -----------------------------------------------------------------------------------------------


def test_htcondor_reads_queue_and_history(stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.put("condor_q", json.dumps(CONDOR_Q))
    stand_ins.put("condor_history", json.dumps(CONDOR_HISTORY))
    scheduler = Cluster(HtCondor(), access(tmp_path))
    assert scheduler.poll() == {
        "12.0": Status("queued", None, "idle"),
        "12.1": Status("running", None, "running"),
        "12.2": Status("finished", None, "Failed to start"),
    }
    assert scheduler.history(["12.3", "12.4", "99.0"]) == {
        "12.3": Status("finished", 1, "completed"),
        "12.4": Status("finished", -9, "completed"),
    }
    stand_ins.put("condor_q", "")
    assert scheduler.poll() == {}


def test_htcondor_submits_one_process_for_each_directory(stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.put("condor_submit", "12.0 - 12.1\n")
    specs = [JobSpec(tmp_path / "a"), JobSpec(tmp_path / "b")]
    scheduler = Cluster(HtCondor(), access(tmp_path))
    assert scheduler.submit(specs) == ["12.0", "12.1"]
    assert stand_ins.given("condor_submit").endswith(f"from (\n{tmp_path}/a\n{tmp_path}/b\n)\n")
    with pytest.raises(SchedulerError, match=r"12\.0 - 12\.1"):
        scheduler.submit(specs[:1])


def test_htcondor_doubles_quotes_of_both_kinds() -> None:
    assert quoted("""it's "so\"""") == """'it''s ""so""'"""


def test_htcondors_own_library_reads_the_submit_description(tmp_path: Path) -> None:
    htcondor = pytest.importorskip("htcondor2")
    batch = Batch((tmp_path / "a", tmp_path / "b c"), 500, 60.0)
    parsed = htcondor.Submit(description(access(tmp_path, setup="/it's/set up.sh"), batch))
    assert [item["directory"] for item in parsed.itemdata()] == [f"{tmp_path}/a", f"{tmp_path}/b c"]
    assert parsed["batch_name"] == "bwtests" and parsed["request_memory"] == "500MB"


# --- none of them -------------------------------------------------------------------------------------------


class TestPbsThatFails(UnreachableConformance):
    programs = ("qsub", "qstat", "qdel")

    @pytest.fixture
    def connect(self) -> Callable[[Path], Scheduler]:
        return lambda folder: Cluster(Pbs(), Access("bwtests", folder, timeout_s=1.0))


class TestLsfThatFails(UnreachableConformance):
    programs = ("bsub", "bjobs", "bkill")

    @pytest.fixture
    def connect(self) -> Callable[[Path], Scheduler]:
        return lambda folder: Cluster(Lsf(), Access("bwtests", folder, timeout_s=1.0))


class TestHtCondorThatFails(UnreachableConformance):
    programs = ("condor_submit", "condor_q", "condor_rm", "condor_history")

    @pytest.fixture
    def connect(self) -> Callable[[Path], Scheduler]:
        return lambda folder: Cluster(HtCondor(), Access("bwtests", folder, timeout_s=1.0))


def test_a_system_that_is_silent_for_long_ends_the_production(tmp_path: Path) -> None:
    times = iter([0.0, 0.0, 10.0, 10.0, 4000.0, 4000.0])
    scheduler = Cluster(Pbs(), access(tmp_path), lambda: next(times))
    for _ in range(2):
        with pytest.raises(SchedulerDownError):
            scheduler.poll()
    with pytest.raises(SchedulerError, match="60 minutes") as caught:
        scheduler.poll()
    assert not isinstance(caught.value, SchedulerDownError)


def test_one_request_serves_for_a_while(stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.put("qstat", (RECORDINGS / "qstat.json").read_text())
    times = iter([0.0, 1.0, 4.9, 5.0])
    scheduler = Cluster(Pbs(), Access("t1", tmp_path, poll_s=5.0), lambda: next(times))
    for asked in (1, 1, 1, 2):
        scheduler.poll()
        assert stand_ins.arguments("qstat").count("-x") == asked


# --- packs --------------------------------------------------------------------------------------------------


def run_process(text: str, index: int) -> int:
    """Do what HTCondor does with one process of a submit description."""
    listed = text.partition("queue directory from (\n")[2].splitlines()
    (arguments,) = re.findall(r'^arguments = "(.*)"$', text, re.MULTILINE)
    words = re.findall(r"'((?:[^']|'')*)'|(\S+)", arguments.replace('""', '"'))
    plain = [(quoted_.replace("''", "'") or bare) for quoted_, bare in words]
    return subprocess.run(
        ["/bin/sh", *[word.replace("$(directory)", listed[index]) for word in plain]]
    ).returncode


@dataclass(frozen=True)
class Packed:
    """A batch system with four elements: its programs and what they print, their states, how one is run."""

    dialect: Dialect
    label: str
    submit: tuple[str, str]
    poll: tuple[str, str]
    cancel: str
    elements: tuple[str, ...]
    states: tuple[str, ...]
    run: Callable[[str, int], int]


PACKED = [
    Packed(
        Pbs(), "arr", ("qsub", "104[].pbshost\n"), ("qstat", (RECORDINGS / "qstat.json").read_text()), "qdel",
        tuple(f"104[{n}].pbshost" for n in range(4)), ("finished",) * 4,
        lambda text, n: run_element(text, "PBS_ARRAY_INDEX", str(n)),
    ),
    Packed(
        Lsf(), "bwtests", ("bsub", "Job <123> is submitted to queue <q>.\n"),
        ("bjobs", json.dumps(BJOBS)), "bkill",
        tuple(f"123[{n}]" for n in range(1, 5)), ("finished", "finished", "running", "queued"),
        lambda text, n: run_element(text, "LSB_JOBINDEX", str(n + 1)),
    ),
    Packed(
        HtCondor(), "bwtests", ("condor_submit", "12.0 - 12.3\n"),
        ("condor_q", json.dumps(CONDOR_Q)), "condor_rm",
        tuple(f"12.{n}" for n in range(4)), ("queued", "running", "finished", "queued"), run_process,
    ),
]  # fmt: skip


@pytest.mark.parametrize("system", PACKED, ids=lambda system: system.dialect.name)
def test_packed_jobs_are_reported_each(system: Packed, stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.put(*system.submit)
    stand_ins.put(*system.poll)
    stand_ins.put(system.cancel)
    directories = [make_job(tmp_path, f"it's {n}", "fail" if n == 1 else "") for n in range(7)]
    scheduler = Cluster(system.dialect, access(tmp_path, system.label, pack=2))
    ids = scheduler.submit([JobSpec(directory, "", 500, 600.0) for directory in directories])
    assert ids == [f"{one}#{n}/2" for one in system.elements[:3] for n in range(2)] + [system.elements[3]]

    polled = scheduler.poll()
    states = [polled[batch_id].state for batch_id in ids]
    assert states == [state for state in system.states[:3] for _ in range(2)] + [system.states[3]]

    for element in range(4):
        system.run(stand_ins.given(system.submit[0]), element)
    reports = [report_of(directory) or {} for directory in directories]
    assert [report["attempt"]["nonce"] for report in reports] == [f"it's {n}" for n in range(7)]
    assert [report["status"] for report in reports] == ["ok", "failed", *["ok"] * 5]

    scheduler.cancel([ids[0], ids[2], ids[3]])  # one alone has no end of its own there
    assert stand_ins.arguments(system.cancel) == [system.elements[1]]
