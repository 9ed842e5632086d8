"""One attempt under the wrapper, with a real payload process: what is reported, and what is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from beamwright import durable
from beamwright.batch import children, packs, script, wrapper
from beamwright.batch.children import Fresh, FreshJobs, Warm
from beamwright.batch.scheduler import Status
from beamwright.production.tickets import is_signed
from support.jobs import COMMANDS, KEY, make_job, report_of, wish
from support.waiting import is_dead, wait_for


def run(directory: Path) -> int:
    return wrapper.run_job(directory, lambda job: Fresh(), wrapper.Stop())


def failure(directory: Path) -> tuple[str, str]:
    assert run(directory) == wrapper.REPORTED_FAILURE
    report = report_of(directory)
    left = [name.name for name in Path(report_directory(directory)).iterdir()]
    assert left == ["report.json"]
    assert report["outputs"] == [] and report["status"] == "failed"
    return report["failure_class"], report["message"]


def report_directory(directory: Path) -> str:
    return str(json.loads((directory / "job.json").read_bytes())["output_directory"])


def test_a_good_job_ends_with_outputs_in_place_and_a_signed_report(tmp_path: Path) -> None:
    directory = make_job(tmp_path)
    assert run(directory) == wrapper.REPORTED_OK
    report = report_of(directory)
    assert report["status"] == "ok" and report["exit_code"] == 0
    assert is_signed(report, KEY) and not is_signed(report, b"another")
    dst = next(o for o in report["outputs"] if o["stream"] == "dst")
    assert durable.hash_file(Path(dst["path"])) == durable.Digest(dst["size"], dst["sha256"], dst["adler32"])
    assert dst["events"] == 15
    assert [q["key"] for q in report["payload"]["quarantined"]] == ["S:1:1:3"]
    assert set(report["timings"]) == {"start", "stage", "process", "validate", "hash", "copy"}
    assert report["resources"]["cpu_s"] > 0 and report["resources"]["max_rss_kb"] > 1000
    assert not (tmp_path / "scratch" / "one").exists()


def test_a_job_that_takes_longer_than_a_moment_shows_its_heartbeat(tmp_path: Path) -> None:
    directory = make_job(tmp_path, **wish("nap"))
    assert run(directory) == wrapper.REPORTED_OK
    assert json.loads((directory / "heartbeat.json").read_bytes())["at"] > 0


def test_a_second_delivery_of_a_done_attempt_changes_nothing(tmp_path: Path) -> None:
    directory = make_job(tmp_path)
    run(directory)
    before = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in Path(report_directory(directory)).iterdir()}
    assert run(directory) == wrapper.REPORTED_OK
    assert before == {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in before}


def test_an_attempt_that_runs_or_is_revoked_is_left_alone(tmp_path: Path) -> None:
    directory = make_job(tmp_path)
    with durable.FileLock(directory / "lock"):
        assert run(directory) == wrapper.NOT_MINE
    (directory / "revoked").touch()
    assert run(directory) == wrapper.NOT_MINE
    assert not Path(report_directory(directory)).exists()


@pytest.mark.parametrize(
    ("what", "failure_class", "words"),
    [
        ("crash", "application_crash", "SIGSEGV"),
        ("fail", "application_error", "told to fail"),
        ("silent", "application_error", "exit code 0 and left no report"),
        ("liar", "application_error", "ended with exit code 3"),
        ("full", "disk", "No space left"),
        ("undeclared", "output_invalid", "other"),
        ("missing", "output_invalid", "declared output dst"),
        ("few", "output_invalid", "16"),
        ("garbage", "output_invalid", "no header"),
        ("outside", "policy", "symbolic link"),
        ("nan", "output_invalid", "NaN"),
    ],
)
def test_a_payload_that_misbehaves_fails_in_its_class(
    tmp_path: Path, what: str, failure_class: str, words: str
) -> None:
    found, message = failure(make_job(tmp_path, **wish(what)))
    assert found == failure_class
    assert words in message


def test_inputs_are_compared_with_their_registration(tmp_path: Path) -> None:
    directory = make_job(tmp_path)
    raw = tmp_path / "raw.txt"
    raw.write_bytes(raw.read_bytes().replace(b"0 1 1", b"0 1 3"))
    assert failure(directory)[0] == "input"
    assert "sha256" in report_of(directory)["message"]
    second = make_job(tmp_path, "two")
    raw.write_bytes(raw.read_bytes()[:-4])
    found, message = failure(second)
    assert found == "input" and "raw:one" in message and "bytes" in message
    third = make_job(tmp_path, "three")
    raw.unlink()
    assert failure(third)[0] == "input"


@pytest.mark.parametrize("launcher", [Fresh(), Warm(["/no/such/program"])])
def test_a_program_that_is_not_there_is_named(tmp_path: Path, launcher: Fresh | Warm) -> None:
    directory = make_job(tmp_path, commands={"process": ["/no/such/program"], "validate": ["false"]})
    assert wrapper.run_job(directory, lambda job: launcher, wrapper.Stop()) == wrapper.REPORTED_FAILURE
    report = report_of(directory)
    assert report["failure_class"] == "node"
    assert "/no/such/program could not be started: [Errno 2] No such file" in report["message"]


def test_a_job_document_without_limits_is_reported(tmp_path: Path) -> None:
    found, message = failure(make_job(tmp_path, limits=None))
    assert (found, "agreed form" in message) == ("output_invalid", True)


def test_a_process_per_job_has_its_outputs_read_by_one_that_stays(tmp_path: Path) -> None:
    launcher = FreshJobs(Warm([*COMMANDS["process"], "--serve"]))
    for name in ("one", "two"):
        directory = make_job(tmp_path, name)
        assert wrapper.run_job(directory, lambda job: launcher, wrapper.Stop()) == wrapper.REPORTED_OK
    runner = launcher._warm._runner
    assert runner is not None and len(children._children(runner.pid)) == 1
    launcher.close()
    assert runner.pid not in children._children(os.getpid())


def test_the_wall_time_limit_ends_the_payload(tmp_path: Path) -> None:
    for wall_s in (0.6, 5.0, 50.0):  # a payload that starts slowly gets more
        limits = {"wall_s": wall_s, "memory_mb": 1000, "heartbeat_s": 0.1}
        directory = make_job(tmp_path, f"within {wall_s} s", limits=limits, **wish("sleep"))
        message = f"the wall time limit of {wall_s:g} s was reached while the application ran"
        assert failure(directory) == ("time", message)
        if b"sleeping" in read(directory / "log"):
            break
    assert json.loads((directory / "heartbeat.json").read_bytes())["events"] == 7
    assert b"sleeping" in (directory / "log").read_bytes()


def test_the_memory_limit_ends_the_payload(tmp_path: Path) -> None:
    limits = {"wall_s": 30, "memory_mb": 100}
    message = "the memory limit of 100 MB was reached while the application ran"
    assert failure(make_job(tmp_path, limits=limits, **wish("eat"))) == ("memory", message)


@pytest.fixture
def small_node(tmp_path: Path) -> Iterator[Path]:
    """A control group with 150 MB for its processes, as batch systems make them."""
    roots = {"memory": "memory.limit_in_bytes", "": "memory.max"}
    for root, limit in roots.items():
        group = Path("/sys/fs/cgroup") / root / f"beamwright-{os.getpid()}-{tmp_path.name}"
        try:
            group.mkdir()
            (group / limit).write_text(str(150 << 20))
        except OSError:
            with suppress(OSError):
                group.rmdir()
            continue
        break
    else:
        pytest.skip("no control group can be made here")
    yield group
    wait_for(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


def test_what_the_kernel_ends_for_want_of_memory_fails_in_class_memory(
    tmp_path: Path, small_node: Path
) -> None:
    directory = make_job(tmp_path, **wish("eat"))
    join = f'echo $$ >{small_node}/cgroup.procs && exec "$@"'
    argv = ["/bin/sh", "-c", join, "sh", sys.executable, "-m", "beamwright.batch.wrapper", str(directory)]
    assert subprocess.run(argv).returncode == wrapper.REPORTED_FAILURE
    report = report_of(directory)
    assert (
        report["failure_class"] == "memory"
        and "want of memory; its limit here is 1000 MB" in report["message"]
    )
    killed = make_job(tmp_path, "killed", **wish("sleep"))
    process = subprocess.Popen([*argv[:-1], str(killed)])
    wait_for(lambda: b"sleeping" in read(killed / "log"))
    for pid in processes_in(tmp_path / "scratch" / "killed"):
        os.kill(pid, signal.SIGKILL)
    assert process.wait(120) == wrapper.REPORTED_FAILURE
    assert report_of(killed)["failure_class"] == "application_crash"  # somebody did it, and not for memory


def test_what_a_payload_leaves_running_is_ended(tmp_path: Path) -> None:
    directory = make_job(tmp_path, **wish("daemon"))
    code = subprocess.run(
        [sys.executable, "-m", "beamwright.batch.wrapper", str(directory)], timeout=240
    ).returncode
    assert code == wrapper.REPORTED_OK
    assert not processes_in(tmp_path / "scratch" / "one")


def processes_in(directory: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "cwd").startswith(str(directory)):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_sigterm_ends_the_job_with_a_report(tmp_path: Path) -> None:
    directory = make_job(tmp_path, **wish("sleep"))
    process = subprocess.Popen([sys.executable, "-m", "beamwright.batch.wrapper", str(directory)])
    wait_for(lambda: b"sleeping" in read(directory / "log"))
    process.terminate()
    assert process.wait(120) == wrapper.REPORTED_FAILURE
    assert report_of(directory)["failure_class"] == "node"
    assert not processes_in(tmp_path / "scratch" / "one")


def test_a_warning_of_suspension_ends_neither_the_job_nor_its_payload(tmp_path: Path) -> None:
    directory = make_job(tmp_path, **wish("sleep"))
    process = subprocess.Popen([sys.executable, "-m", "beamwright.batch.wrapper", str(directory)])
    wait_for(lambda: b"sleeping" in read(directory / "log"))
    for pid in (process.pid, *processes_in(tmp_path / "scratch" / "one")):
        os.kill(pid, signal.SIGUSR1)
    process.terminate()
    assert process.wait(120) == wrapper.REPORTED_FAILURE  # by SIGTERM, and not dead of SIGUSR1
    assert report_of(directory)["message"].startswith("the job was told to stop while the application")


def test_a_killed_wrapper_takes_its_payload_with_it_and_frees_the_lock(tmp_path: Path) -> None:
    directory = make_job(tmp_path, **wish("sleep"))
    process = subprocess.Popen([sys.executable, "-m", "beamwright.batch.wrapper", str(directory)])
    wait_for(lambda: b"sleeping" in read(directory / "log"))
    assert durable.is_locked(directory / "lock")
    process.send_signal(signal.SIGKILL)
    process.wait(120)
    wait_for(lambda: not processes_in(tmp_path / "scratch" / "one"))
    assert not durable.is_locked(directory / "lock")
    assert not (Path(report_directory(directory)) / "report.json").exists()


def test_a_full_output_disk_fails_in_class_disk_with_nothing_partial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, count = make_job(tmp_path), [0]
    real = os.link

    def full(source: Path, target: Path) -> None:
        if "store" in str(target):
            count[0] += 1
            if count[0] == 2:
                raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(durable.os, "link", full)
    found, message = failure(directory)
    assert found == "disk" and "no space left" in message


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB, where this account may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this account may not mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_really_full_output_disk_is_named_and_left_as_it_was(tmp_path: Path, small_disk: Path) -> None:
    directory = make_job(tmp_path, output_directory=str(small_disk / "store" / "one"))
    (small_disk / "store").mkdir()
    with suppress(OSError), open(small_disk / "ballast", "wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))
    assert run(directory) == wrapper.NOT_REPORTED
    (small_disk / "ballast").unlink()
    assert run(directory) == wrapper.REPORTED_OK
    assert report_of(directory)["status"] == "ok"


def test_a_payload_that_fills_its_disk_fails_in_class_disk(tmp_path: Path, small_disk: Path) -> None:
    directory = make_job(tmp_path, scratch=str(small_disk / "scratch"), **wish("flood"))
    found, message = failure(directory)
    assert found == "disk"
    assert not (small_disk / "scratch").exists()


def test_warm_and_fresh_children_give_the_same_bytes(tmp_path: Path) -> None:
    fresh, warm = make_job(tmp_path, "fresh"), [make_job(tmp_path, f"warm{i}") for i in range(3)]
    run(fresh)
    launcher = Warm([*COMMANDS["process"], "--serve"])
    for directory in warm:
        assert wrapper.run_job(directory, lambda job: launcher, wrapper.Stop()) == wrapper.REPORTED_OK
    launcher.close()
    expected = [(o["stream"], o["sha256"]) for o in report_of(fresh)["outputs"]]
    for directory in warm:
        assert [(o["stream"], o["sha256"]) for o in report_of(directory)["outputs"]] == expected
        assert report_of(directory)["payload"]["ledger"] == report_of(fresh)["payload"]["ledger"]


def test_one_process_that_runs_no_job_reads_the_outputs_of_many(tmp_path: Path) -> None:
    launcher, readers = Warm([*COMMANDS["process"], "--serve"]), []
    for name in ("one", "two", "three"):
        directory = make_job(tmp_path, name)
        assert wrapper.run_job(directory, lambda job: launcher, wrapper.Stop()) == wrapper.REPORTED_OK
        assert launcher._runner is not None
        readers.append(children._children(launcher._runner.pid))
        assert (readers[-1], os.readlink(f"/proc/{readers[-1][0]}/cwd")) == (readers[0], "/")
        if name == "two":  # killed while it has nothing to do, it is missed by nobody
            killed = readers.pop()[0]
            os.kill(killed, signal.SIGKILL)
            wait_for(lambda killed=killed: is_dead(killed))
            readers.clear()
    launcher.close()


def test_a_validation_that_dies_fails_its_job_alone(tmp_path: Path) -> None:
    launcher = Warm([*COMMANDS["process"], "--serve"])
    for name, what in (("before", ""), ("struck", "fell the reader"), ("after", "")):
        directory = make_job(tmp_path, name, **wish(what))
        wrapper.run_job(directory, lambda job: launcher, wrapper.Stop())
    launcher.close()
    assert [report_of(tmp_path / "jobs" / n)["status"] for n in ("before", "after")] == ["ok", "ok"]
    report = report_of(tmp_path / "jobs" / "struck")
    assert (report["status"], report["failure_class"]) == ("failed", "output_invalid")
    assert "ended with exit code -11" in report["message"]


def test_a_runner_is_replaced_after_a_failure_and_after_its_share(tmp_path: Path) -> None:
    launcher = Warm([*COMMANDS["process"], "--serve"], every=2)
    crash = make_job(tmp_path, "crash", **wish("crash"))
    assert wrapper.run_job(crash, lambda job: launcher, wrapper.Stop()) == wrapper.REPORTED_FAILURE
    assert report_of(crash)["failure_class"] == "application_crash"
    assert launcher._runner is None
    good = make_job(tmp_path, "good")
    assert wrapper.run_job(good, lambda job: launcher, wrapper.Stop()) == wrapper.REPORTED_OK
    assert launcher._runner is None  # payload and validation were its two commands


def read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def test_a_batch_job_runs_by_an_interpreter_without_more_than_it_needs(tmp_path: Path) -> None:
    directory = make_job(tmp_path)
    assert subprocess.run([*script.WRAPPER, str(directory)], env={}, check=False).returncode == 0
    assert report_of(directory)["status"] == "ok"
    *options, start = script.WRAPPER
    shown = start.partition("; sys.exit")[0] + "; print(*sys.modules)"
    loaded = subprocess.run([*options, shown], capture_output=True, text=True, check=True).stdout.split()
    assert "beamwright.batch.wrapper" in loaded
    assert not {"dataclasses", "pathlib", "subprocess", "threading", "typing"} & set(loaded)


def test_a_pack_runs_its_jobs_one_after_the_other_each_with_its_own_report(tmp_path: Path) -> None:
    wishes = {"good": "", "crashed": "crash", "unwanted": "", "last": ""}
    jobs = [make_job(tmp_path, name, **wish(what)) for name, what in wishes.items()]
    (jobs[2] / "stop").touch()
    lines = [*jobs[:2], tmp_path / "nowhere", *jobs[2:]]
    pack = packs.directory(tmp_path, lines)
    done = subprocess.run([sys.executable, "-m", "beamwright.batch.wrapper", str(pack)], check=False)
    assert done.returncode == wrapper.NOT_MINE
    reports = [report_of(directory) for directory in (jobs[0], jobs[1], jobs[3])]
    assert [report["failure_class"] for report in reports] == [None, "application_crash", None]
    assert [report["attempt"]["nonce"] for report in reports] == ["good", "crashed", "last"]
    assert not (tmp_path / "store" / "unwanted").exists()


def test_a_pack_that_is_told_to_stop_begins_no_further_job(tmp_path: Path) -> None:
    jobs = [make_job(tmp_path, "first", **wish("sleep")), make_job(tmp_path, "second")]
    pack = packs.directory(tmp_path, jobs)
    process = subprocess.Popen([sys.executable, "-m", "beamwright.batch.wrapper", str(pack)])
    wait_for(lambda: b"sleeping" in read(jobs[0] / "log"))
    process.terminate()
    process.wait(120)
    assert report_of(jobs[0])["failure_class"] == "node"
    assert not (jobs[1] / "lock").exists()


def test_a_file_ends_one_attempt_alone(tmp_path: Path) -> None:
    directory = make_job(tmp_path, **wish("sleep"))
    process = subprocess.Popen([sys.executable, "-m", "beamwright.batch.wrapper", str(directory)])
    wait_for(lambda: b"sleeping" in read(directory / "log"))
    (directory / "stop").touch()
    process.wait(120)
    assert report_of(directory)["failure_class"] == "node"


def test_the_ids_of_a_packs_members_lead_to_their_element() -> None:
    ids = packs.members("12_3", 2)
    assert ids == ["12_3#0/2", "12_3#1/2"] and packs.members("12_4", 1) == ["12_4"]
    assert [packs.element(batch_id) for batch_id in [*ids, "12_4"]] == ["12_3", "12_3", "12_4"]
    assert packs.whole([ids[0], "12_4"]) == ["12_4"] and packs.whole(ids) == ["12_3"]
    said = packs.Statuses({"12_3": Status("running")}, ids)
    assert said[ids[1]] == Status("running") and set(said) == {"12_3", *ids} and "12_4" not in said


def counted(root: Path, name: str) -> tuple[dict[str, list[str]], Path]:
    """Return commands of the payload through a program that notes its starts, and where it does."""
    shim, starts = root / f"{name}.sh", root / "starts"
    program = " ".join(COMMANDS["process"][:-1])
    shim.write_text(f'echo "$@" >>"{starts}"\nexec {program} "$@"\n')
    return {verb: ["/bin/sh", str(shim), verb] for verb in COMMANDS}, starts


def alone(directory: Path) -> int:
    """Run a job as a batch system does that is not asked to pack."""
    return subprocess.run([*script.WRAPPER, str(directory)], timeout=120).returncode


def test_a_program_that_works_and_validates_is_started_once_for_a_job(tmp_path: Path) -> None:
    commands, starts = counted(tmp_path, "both")
    directory = make_job(tmp_path, commands=commands)
    assert alone(directory) == wrapper.REPORTED_OK
    assert starts.read_text().splitlines() == ["process --serve"]
    assert report_of(directory)["status"] == "ok"


def test_different_programs_for_work_and_validation_are_started_each(tmp_path: Path) -> None:
    commands, starts = counted(tmp_path, "one")
    other, _ = counted(tmp_path, "other")
    directory = make_job(tmp_path, commands={"process": commands["process"], "validate": other["validate"]})
    assert alone(directory) == wrapper.REPORTED_OK
    assert [line.split()[:2] for line in starts.read_text().splitlines()] == [
        ["process", "--job"], ["validate", "--json"],
    ]  # fmt: skip


def test_a_runner_takes_no_notice_when_all_processes_of_a_job_are_told_to_end(tmp_path: Path) -> None:
    warm = Warm([*COMMANDS["process"], "--serve"])
    try:
        for _ in range(2):
            argv = [*COMMANDS["validate"], "--json"]
            command = children.Command(argv, str(tmp_path), str(tmp_path / "log"), {}, is_kept=True)
            ended = warm.check(command, children.Guard(60, 1000, lambda: None, str))
            assert ended.exit_code == 0, (tmp_path / "log").read_text()
            assert warm._runner is not None
            os.kill(warm._runner.pid, signal.SIGTERM)
    finally:
        warm.close()
