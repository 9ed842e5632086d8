"""OpenPBS: arrays by ``qsub``, all states, present and past, by one ``qstat -x -t -f -F json``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from beamwright.batch import cluster, script
from beamwright.batch.cluster import LISTED_AFTER_S, Access, Answer, AnswerError, Batch, Request, each
from beamwright.batch.listing import Listing
from beamwright.batch.scheduler import Status

_QUEUED, _RUNNING, _FINISHED = frozenset("QHWT"), frozenset("REUS"), frozenset("FX")
_FINISHED_SUBSTATES = {92: "finished", 93: "failed", 91: "terminated"}
_SIGNALLED = 256
# What OpenPBS ends for a limit has a status of its own.
_KILLED = {-26: "JOB_EXEC_KILL_VMEM", -27: "JOB_EXEC_KILL_MEM", -29: "JOB_EXEC_KILL_WALLTIME"}
_RECORD = re.compile(r'^\s+"(\d+(?:\[\d*\])?\.[^"\s]+)"\s*:\s*(?=\{)', re.MULTILINE)
_GONE = re.compile(r"Unknown Job Id|Job has finished", re.IGNORECASE)


class Pbs(Listing):
    """OpenPBS's commands and words."""

    name = "OpenPBS"
    listed_after_s = LISTED_AFTER_S
    history_after_s = 0.0
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
        return each(_jobs(answer.out), partial(_listed, access.label))

    def cancel(self, ids: Sequence[str]) -> Request:
        """Return the command that ends jobs; it sends SIGTERM first."""
        return Request(["qdel", *ids])


def make(workspace: cluster.Workspace, name: str, farm: cluster.FarmSettings) -> cluster.Cluster:
    """Return the scheduler of a farm: the plug-in ``pbs`` of ``beamwright.schedulers``."""
    return cluster.Cluster(Pbs(), cluster.access(workspace, name, farm))


def _jobs(text: str) -> Iterable[tuple[str, Any]]:
    """Return the records of jobs by their ids; those of others, whatever is in them, are among them.

    OpenPBS writes the variables of a job's environment as they are: ``005`` as a number, ``\\'`` too.
    Such a document is none, and of each record only the members that are needed are read.
    """
    try:
        document = json.loads(text)
    except ValueError:
        head, *parts = _RECORD.split(text)
        if not parts or '"pbs_server"' not in head:
            raise
        return [(i, _members(record)) for i, record in zip(parts[::2], parts[1::2], strict=True)]
    if "pbs_server" not in document:
        raise AnswerError("it names no server")
    return list(document.get("Jobs", {}).items())


def _members(record: str) -> dict[str, Any]:
    """Return the members of a record that are needed; its own stand as far to the right as its first."""
    first = re.match(r"\{\s*\n(\s+)", record)
    names = "Job_Name|job_state|substate|array|Exit_status"
    found = re.findall(
        rf'^{first[1] if first else ""}"({names})"\s*:\s*("[^"\n]*"|-?\d+),?$', record, re.MULTILINE
    )
    return {name: json.loads(value) for name, value in found}


def _listed(label: str, record: tuple[str, Any]) -> tuple[str, Status] | None:
    """Read one job, if it is ours and not an array as a whole."""
    batch_id, job = record
    if job["Job_Name"] != label or job.get("array") == "True":
        return None
    status = _status(job)
    return (batch_id, status) if status else None


def _status(job: Mapping[str, Any]) -> Status | None:
    """Return the status of a job; one that moved to another server is not known here."""
    word, code = str(job["job_state"]), job.get("Exit_status")
    if word in _FINISHED:
        reason = _FINISHED_SUBSTATES.get(job.get("substate", 0), "finished")
        return Status("finished", _exit_code(code), _KILLED.get(code or 0, reason))
    if word in _RUNNING or word in _QUEUED:
        return Status("running" if word in _RUNNING else "queued", None, word)
    return None if word == "M" else cluster.strange(word)


def _exit_code(status: int | None) -> int | None:
    """Return PBS's exit status; from 256 on it tells a signal. Below 0 PBS could not run the job."""
    if status is None or status < _SIGNALLED:
        return status
    return _SIGNALLED - status
