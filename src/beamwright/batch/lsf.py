"""LSF: arrays by ``bsub``, all states by one ``bjobs -a -json``. After its documentation: experimental."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from beamwright.batch import cluster, script
from beamwright.batch.cluster import LISTED_AFTER_S, Access, Answer, AnswerError, Batch, Request, each
from beamwright.batch.listing import Listing
from beamwright.batch.scheduler import VERBS, State, Status

_WORDS: dict[State, str] = {
    "queued": "PEND PROV PSUSP WAIT",
    "running": "RUN USUSP SSUSP UNKWN",
    "finished": "DONE EXIT ZOMBI",
}
_STATES = {word: state for state, words in _WORDS.items() for word in words.split()}
_FIELDS = "jobid jobindex stat exit_code exit_reason"
_NONE = re.compile(r"No (\w+ )?jobs? found|is not found", re.IGNORECASE)
_GONE = re.compile(r"No matching job found|has already finished|is not found", re.IGNORECASE)


class Lsf(Listing):
    """LSF's commands and words."""

    name = "LSF"
    listed_after_s = LISTED_AFTER_S
    history_after_s = 0.0
    gone = _GONE
    evidence = dict.fromkeys(VERBS, "documentation only (experimental)")

    def submit(self, access: Access, batch: Batch) -> Request:
        """Return the command that submits an array; LSF counts its elements from 1."""
        argv = ["bsub", "-J", f"{access.label}[1-{len(batch.directories)}]", "-cwd", str(access.folder)]
        argv += ["-rn", "-o", "/dev/null", "-e", "/dev/null"]
        argv += ["-M", f"{batch.memory_mb}MB"] if batch.memory_mb else []
        argv += ["-n", str(batch.cores), "-R", "span[hosts=1]"] if batch.cores > 1 else []
        argv += ["-W", str(batch.minutes)] if batch.wall_s else []
        argv += ["-q", access.queue] if access.queue else []
        others = " && ".join(f"hname!='{host}'" for host in batch.avoid)
        argv += ["-R", f"select[{others}]"] if others else []
        argv += ["-R", f"rusage[{access.disk or 'tmp'}={batch.disk_mb}]"] if batch.disk_mb else []
        return Request([*argv, *access.options], script.array(access, batch, "LSB_JOBINDEX", 1))

    def submitted(self, answer: Answer, count: int) -> list[str]:
        """Return the ids of the array's elements."""
        found = re.search(r"^Job <(\d+)> is submitted to (default )?queue <\S+>\.", answer.out, re.MULTILINE)
        if answer.exit_code or not found:
            raise AnswerError(f"bsub printed {answer.out[:100]!r}")
        return [f"{found[1]}[{index}]" for index in range(1, count + 1)]

    def poll(self, access: Access) -> Request:
        """Return the command that lists all jobs of the farm, also those that ended a while ago."""
        return Request(["bjobs", "-a", "-json", "-J", access.label, "-o", _FIELDS])

    def polled(self, access: Access, answer: Answer) -> dict[str, Status]:
        """Read the list; a record of an unknown job bears an ERROR."""
        if not answer.out.strip() and _NONE.search(answer.err):
            return {}
        if answer.exit_code and not answer.out.strip():
            raise AnswerError(answer.complaint())
        return each(json.loads(answer.out)["RECORDS"], _read)

    def cancel(self, ids: Sequence[str]) -> Request:
        """Return the command that ends jobs; it sends SIGINT and SIGTERM first."""
        return Request(["bkill", *ids])


def make(workspace: cluster.Workspace, name: str, farm: cluster.FarmSettings) -> cluster.Cluster:
    """Return the scheduler of a farm: the plug-in ``lsf`` of ``beamwright.schedulers``."""
    return cluster.Cluster(Lsf(), cluster.access(workspace, name, farm))


def _read(record: Mapping[str, str]) -> tuple[str, Status] | None:
    if "ERROR" in record:
        return None
    word, index, number = record["STAT"], int(record.get("JOBINDEX") or 0), int(record["JOBID"])
    batch_id = f"{number}[{index}]" if index else str(number)
    if word not in _STATES:
        return batch_id, cluster.strange(word)
    state = _STATES[word]
    exit_code = int(record.get("EXIT_CODE") or 0) if state == "finished" else None
    return batch_id, Status(state, exit_code, record.get("EXIT_REASON") or word)
