"""Slurm: arrays by ``sbatch``, all states by one ``squeue``, the past by ``jobcomp/filetxt`` or ``sacct``.

Jobs are not requeued: after the loss of a node the job ends as NODE_FAIL, and a new attempt follows once the
old one's lock is free. An administrator may requeue all the same; the same attempt then starts again, unless
it still runs or has reported.

Slurm keeps no record of array elements that are cancelled while they wait: their ids vanish.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from beamwright.batch import cluster, script
from beamwright.batch.cluster import LISTED_AFTER_S, Access, Answer, AnswerError, Batch, Request, each
from beamwright.batch.scheduler import State, Status
from beamwright.core.errors import SchedulerError

_REAL = "real server"
_WORDS: dict[State, str] = {
    "queued": "PENDING CONFIGURING REQUEUED REQUEUE_HOLD REQUEUE_FED RESV_DEL_HOLD SPECIAL_EXIT",
    "running": "RUNNING COMPLETING SUSPENDED STOPPED SIGNALING STAGE_OUT RESIZING",
    "finished": "COMPLETED FAILED CANCELLED TIMEOUT NODE_FAIL OUT_OF_MEMORY BOOT_FAIL DEADLINE "
    "PREEMPTED REVOKED",
}
_STATES = {word: state for state, words in _WORDS.items() for word in words.split()}
_FIELDS = "JobArrayID:.48,State:.24,exit_code:.16,Reason:.64"
_ID = re.compile(r"\d+(_\d+)?")
_MEMBER = re.compile(r"(\w+)=(\S*)")


class Slurm:
    """Slurm's commands and words."""

    name = "Slurm"
    listed_after_s = LISTED_AFTER_S
    history_after_s = 0.0
    evidence = dict.fromkeys(("submit", "poll", "cancel"), _REAL) | {
        "history": "real server (jobcomp/filetxt); sacct: documentation only (experimental)"
    }

    def submit(self, access: Access, batch: Batch) -> Request:
        """Return the command that submits an array."""
        wishes = {
            "job-name": access.label,
            "array": f"0-{len(batch.directories) - 1}",
            "chdir": access.folder,
            "output": "/dev/null",
            "partition": access.queue,
            "cpus-per-task": batch.cores if batch.cores > 1 else "",
            "mem": f"{batch.memory_mb}M" if batch.memory_mb else "",
            "time": batch.minutes if batch.wall_s else "",
            "tmp": f"{batch.disk_mb}M" if access.disk and batch.disk_mb else "",
            "exclude": ",".join(batch.avoid),
        }
        options = [f"--{name}={value}" for name, value in wishes.items() if value]
        argv = ["sbatch", "--parsable", "--no-requeue", "--export=ALL", *options, *access.options]
        return Request(argv, script.array(access, batch, "SLURM_ARRAY_TASK_ID"))

    def submitted(self, answer: Answer, count: int) -> list[str]:
        """Return the ids of the array's elements."""
        found = re.fullmatch(r"(\d+)(;\S+)?", answer.out.strip())
        if answer.exit_code or not found:
            raise AnswerError(f"sbatch printed {answer.out[:100]!r}")
        return [f"{found[1]}_{index}" for index in range(count)]

    def poll(self, access: Access) -> Request:
        """Return the command that lists all jobs of the farm, also those that ended a while ago."""
        return Request(["squeue", "--me", "-h", "-r", "-t", "all", "-n", access.label, "-O", _FIELDS])

    def polled(self, access: Access, answer: Answer) -> dict[str, Status]:
        """Read the list: id, state, raw wait status."""
        if answer.exit_code:
            raise AnswerError(answer.complaint())
        return each((line for line in answer.out.splitlines() if line.strip()), _listed)

    def cancel(self, ids: Sequence[str]) -> Request:
        """Return the command that ends jobs; it tells the wrapper first."""
        return Request(["scancel", "--quiet", *ids])

    def cancelled(self, answer: Answer) -> bool:
        """Tell whether the request arrived."""
        return answer.exit_code == 0 or "Invalid job id" in answer.err

    def history(self, access: Access, ids: Sequence[str]) -> Request:
        """Return the command that asks the accounting."""
        fields = "JobID,State,ExitCode"
        return Request(["sacct", "-X", "-n", "-P", "--format", fields, "-j", ",".join(ids)])

    def remembered(self, access: Access, answer: Answer) -> dict[str, Status]:
        """Read ``sacct``'s lines; without accounting nothing is remembered."""
        if answer.exit_code and "accounting storage is disabled" in answer.err:
            return {}
        if answer.exit_code:
            raise AnswerError(answer.complaint())
        return each((line for line in answer.out.splitlines() if line.strip()), _accounted)


class SlurmCluster(cluster.Cluster):
    """Slurm; where it writes a file of completed jobs, that is the history."""

    _record: Path | None = None
    _has_asked = False

    def past(self, ids: Sequence[str]) -> Mapping[str, Status]:
        """Return how jobs ended, by the file of completed jobs or by the accounting."""
        record = self._completed()
        if record is None:
            return super().past(ids)
        wanted = set(ids)
        try:
            return read_completed(record, wanted)
        except OSError as error:
            message = f"Slurm's record of completed jobs cannot be read: {error}"
            raise SchedulerError(message, hint="make it readable, or use slurmdbd") from error

    def _completed(self) -> Path | None:
        if not self._has_asked:
            answer = self.run(Request(["scontrol", "show", "config"]))
            if answer.exit_code:
                raise self.unreachable(answer.complaint())
            settings = dict(re.findall(r"^(\w+) *= (.*?) *$", answer.out, re.MULTILINE))
            is_file = settings.get("JobCompType") == "jobcomp/filetxt"
            self._record = Path(settings["JobCompLoc"]) if is_file else None
            self._has_asked = True
        return self._record


def read_completed(record: Path, wanted: set[str]) -> dict[str, Status]:
    """Read a file of completed jobs: the last line of a job holds, for a requeued one has several."""
    found = {}
    with open(record, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            members = dict(_MEMBER.findall(line))
            batch_id = _element(members)
            if batch_id in wanted and "JobState" in members:
                with suppress(ValueError, KeyError):  # a line that was cut hides no other
                    found[batch_id] = _ended(members["JobState"], members.get("ExitCode", "0:0"))
    return found


def make(workspace: cluster.Workspace, name: str, farm: cluster.FarmSettings) -> SlurmCluster:
    """Return the scheduler of a farm: the plug-in ``slurm`` of ``beamwright.schedulers``."""
    return SlurmCluster(Slurm(), cluster.access(workspace, name, farm))


def _listed(line: str) -> tuple[str, Status]:
    batch_id, word, raw, *why = line.split(maxsplit=3)
    exit_code = _wait_status(int(raw))
    if not _ID.fullmatch(batch_id):
        raise AnswerError(f"{batch_id[:40]!r} is no id of a job")
    if word not in _STATES:
        return batch_id, cluster.strange(word)
    state = _STATES[word]
    if state == "queued":
        return batch_id, Status(state, None, f"{word}: {' '.join(why)}")
    return batch_id, Status(state, exit_code if state == "finished" else None, word)


def _accounted(line: str) -> tuple[str, Status]:
    batch_id, word, code = line.split("|")
    return batch_id, _ended(word, code)


def _ended(word: str, code: str) -> Status:
    """Return the status of a job from its state and ``exit code:signal``."""
    word = word.partition(" ")[0]  # `CANCELLED by 1000`
    exit_code, number = (int(part) for part in code.split(":"))
    return Status(_STATES[word], -number if number else exit_code, word)


def _wait_status(raw: int) -> int:
    """Return the exit code of a raw wait status, or the signal as a negative number."""
    return -(raw & 0x7F) if raw & 0x7F else raw >> 8


def _element(members: Mapping[str, str]) -> str:
    if members.get("ArrayTaskId", "").isdigit():
        return f"{members['ArrayJobId']}_{members['ArrayTaskId']}"
    return members.get("JobId", "")
