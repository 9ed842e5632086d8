"""HTCondor: a cluster by ``condor_submit``, what is queued by ``condor_q``, the past by ``condor_history``.

After its documentation: experimental. A completed job leaves the queue at once; its report tells the rest. A
held job would wait for an operator, so it counts as finished, with the reason of the hold.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from beamwright.batch import cluster, script
from beamwright.batch.cluster import LISTED_AFTER_S, Access, Answer, AnswerError, Batch, Request, each
from beamwright.batch.scheduler import VERBS, State, Status

_STATES: dict[int, tuple[State, str]] = {
    1: ("queued", "idle"),
    2: ("running", "running"),
    3: ("finished", "removed"),
    4: ("finished", "completed"),
    5: ("finished", "held"),
    6: ("running", "transferring output"),
    7: ("running", "suspended"),
}
_ATTRIBUTES = "ClusterId,ProcId,JobStatus,ExitCode,ExitBySignal,ExitSignal,HoldReason"


class HtCondor:
    """HTCondor's commands and words."""

    name = "HTCondor"
    listed_after_s = LISTED_AFTER_S
    history_after_s = 0.0
    evidence = dict.fromkeys(VERBS, "documentation only (experimental)")

    def submit(self, access: Access, batch: Batch) -> Request:
        """Return the command that submits one process for each job directory."""
        return Request(["condor_submit", "-terse", *access.options, "-"], description(access, batch))

    def submitted(self, answer: Answer, count: int) -> list[str]:
        """Return the ids of the processes."""
        found = re.fullmatch(r"(\d+)\.0 - (\d+)\.(\d+)", answer.out.strip())
        if answer.exit_code or not found or found[1] != found[2] or int(found[3]) != count - 1:
            raise AnswerError(f"condor_submit printed {answer.out[:100]!r}")
        return [f"{found[1]}.{number}" for number in range(count)]

    def poll(self, access: Access) -> Request:
        """Return the command that lists the farm's jobs in the queue."""
        wanted = f'JobBatchName == "{access.label}"'
        return Request(["condor_q", "-json", "-attributes", _ATTRIBUTES, "-constraint", wanted])

    def polled(self, access: Access, answer: Answer) -> dict[str, Status]:
        """Read the list; nothing at all stands for an empty one."""
        if answer.exit_code:
            raise AnswerError(answer.complaint())
        jobs = json.loads(answer.out or "[]")
        if not isinstance(jobs, list):
            raise AnswerError("it is no list of jobs")
        return each(jobs, _read)

    def cancel(self, ids: Sequence[str]) -> Request:
        """Return the command that ends jobs; it sends SIGTERM first."""
        return Request(["condor_rm", *ids])

    def cancelled(self, answer: Answer) -> bool:
        """Tell whether the request arrived."""
        return answer.exit_code == 0 or "not found" in answer.err

    def history(self, access: Access, ids: Sequence[str]) -> Request:
        """Return the command that reads the history of jobs that left the queue."""
        return Request(["condor_history", "-json", "-attributes", _ATTRIBUTES, *ids])

    def remembered(self, access: Access, answer: Answer) -> dict[str, Status]:
        """Read the history."""
        return self.polled(access, answer)


def description(access: Access, batch: Batch) -> str:
    """Return the submit description; the shell in each job becomes the wrapper."""
    commands = [*([f". {shlex.quote(access.setup)}"] if access.setup else []), script.command()]
    arguments = ["-c", "; ".join(commands), "beamwright"]
    given = {name: value for name, value in script.variables(access).items() if "\n" not in value}
    lines = {
        "universe": "vanilla",
        "executable": "/bin/sh",
        "transfer_executable": "false",
        "should_transfer_files": "no",
        "initialdir": str(access.folder),
        "batch_name": access.label,
        "arguments": f"\"{' '.join(map(quoted, arguments))} '$(directory)'\"",
        "environment": f'"{" ".join(f"{name}={quoted(value)}" for name, value in given.items())}"',
        "getenv": "false",
        "max_retries": "0",
        "request_cpus": str(batch.cores),
        "request_memory": f"{batch.memory_mb}MB" if batch.memory_mb else "",
        "request_disk": f"{batch.disk_mb}MB" if batch.disk_mb else "",
        "+MaxWallTimeMins": str(batch.minutes) if batch.wall_s else "",
        "accounting_group": access.queue,
        "requirements": " && ".join(f'(Machine != "{host}")' for host in batch.avoid),
    }
    declared = [f"{name} = {value}" for name, value in lines.items() if value]
    return "\n".join([*declared, "queue directory from (", *map(str, batch.directories), ")", ""])


def quoted(argument: str) -> str:
    """Quote one argument inside a double-quoted value: both kinds of quotes are doubled."""
    return "'" + argument.replace("'", "''").replace('"', '""') + "'"


def make(workspace: cluster.Workspace, name: str, farm: cluster.FarmSettings) -> cluster.Cluster:
    """Return the scheduler of a farm: the plug-in ``htcondor`` of ``beamwright.schedulers``."""
    return cluster.Cluster(HtCondor(), cluster.access(workspace, name, farm))


def _read(job: Mapping[str, Any]) -> tuple[str, Status]:
    batch_id = f"{int(job['ClusterId'])}.{int(job['ProcId'])}"
    if job["JobStatus"] not in _STATES:
        return batch_id, cluster.strange(job["JobStatus"])
    state, word = _STATES[job["JobStatus"]]
    exit_code = -job["ExitSignal"] if job.get("ExitBySignal") else job.get("ExitCode")
    return batch_id, Status(state, exit_code if state == "finished" else None, job.get("HoldReason") or word)
