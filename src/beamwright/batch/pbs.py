"""OpenPBS: arrays by ``qsub``, all states, present and past, by one ``qstat -x -t -f -F json``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from beamwright.batch import cluster, script
from beamwright.batch.cluster import LISTED_AFTER_S, Access, Answer, AnswerError, Batch, Request
from beamwright.batch.listing import Listing
from beamwright.batch.scheduler import State, Status

_QUEUED, _RUNNING, _FINISHED = frozenset("QHWT"), frozenset("REUS"), frozenset("FX")
_FINISHED_SUBSTATES = {92: "finished", 93: "failed", 91: "terminated"}
_SIGNALLED = 256
_GONE = re.compile(r"Unknown Job Id|Job has finished", re.IGNORECASE)


class Pbs(Listing):
    """OpenPBS's commands and words."""

    name = "OpenPBS"
    listed_after_s = LISTED_AFTER_S
    gone = _GONE
    evidence = {
        "submit": "documentation only (experimental); the ids it prints: recording",
        "poll": "recording of OpenPBS 23.06",
        "cancel": "documentation only (experimental)",
        "history": "recording of OpenPBS 23.06",
    }

    def submit(self, access: Access, batch: Batch) -> Request:
        """Return the command that submits an array, or a job: PBS refuses arrays of one."""
        count = len(batch.directories)
        memory = f":mem={batch.memory_mb}mb" if batch.memory_mb else ""
        disk = f":{access.disk}={batch.disk_mb}mb" if access.disk and batch.disk_mb else ""
        resources = [f"select=1:ncpus={batch.cores}{memory}{disk}"]
        if batch.wall_s:
            resources.append(f"walltime={batch.minutes // 60:02d}:{batch.minutes % 60:02d}:00")
        argv = ["qsub", "-N", access.label, "-r", "n", "-o", "/dev/null", "-e", "/dev/null"]
        argv += [part for resource in resources for part in ("-l", resource)]
        argv += ["-J", f"0-{count - 1}"] if count > 1 else []
        argv += ["-q", access.queue] if access.queue else []
        # qsub reads the script from its input when no file is named.
        return Request([*argv, *access.options], script.array(access, batch, "PBS_ARRAY_INDEX"))

    def submitted(self, answer: Answer, count: int) -> list[str]:
        """Return the job's id, or those of the array's elements."""
        found = re.fullmatch(r"(\d+)(\[\])?(\.\S+)", answer.out.strip())
        if answer.exit_code or not found or bool(found[2]) != (count > 1):
            raise AnswerError(f"qsub printed {answer.out[:100]!r}")
        return [f"{found[1]}[{n}]{found[3]}" for n in range(count)] if count > 1 else [found[0]]

    def poll(self, access: Access) -> Request:
        """Return the command that lists all jobs: finished ones and elements of arrays, too."""
        return Request(["qstat", "-x", "-t", "-f", "-F", "json"])

    def polled(self, access: Access, answer: Answer) -> dict[str, Status]:
        """Read the farm's jobs out of the list of everybody's."""
        if answer.exit_code:
            raise AnswerError(answer.complaint())
        document = json.loads(answer.out)
        if "pbs_server" not in document:
            raise AnswerError("it names no server")
        jobs = document.get("Jobs", {}).items()
        mine = {i: job for i, job in jobs if job["Job_Name"] == access.label and job.get("array") != "True"}
        return {batch_id: status for batch_id, job in mine.items() if (status := _status(job))}

    def cancel(self, ids: Sequence[str]) -> Request:
        """Return the command that ends jobs; it sends SIGTERM first."""
        return Request(["qdel", *ids])


def make(workspace: cluster.Workspace, name: str, farm: cluster.FarmSettings) -> cluster.Cluster:
    """Return the scheduler of a farm: the plug-in ``pbs`` of ``beamwright.schedulers``."""
    return cluster.Cluster(Pbs(), cluster.access(workspace, name, farm))


def _status(job: Mapping[str, Any]) -> Status | None:
    """Return the status of a job; one that moved to another server is not known here."""
    word = job["job_state"]
    state: State
    if word in _FINISHED:
        reason = _FINISHED_SUBSTATES.get(job.get("substate", 0), "finished")
        return Status("finished", _exit_code(job.get("Exit_status")), reason)
    if word in _RUNNING:
        state = "running"
    elif word in _QUEUED:
        state = "queued"
    elif word == "M":
        return None
    else:
        raise AnswerError(f"{word!r} is no state of a job")
    return Status(state, None, str(word))


def _exit_code(status: int | None) -> int | None:
    """Return PBS's exit status; from 256 on it tells a signal. Below 0 PBS could not run the job."""
    if status is None or status < _SIGNALLED:
        return status
    return _SIGNALLED - status
