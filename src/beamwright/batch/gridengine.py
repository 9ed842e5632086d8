"""Grid Engine: arrays by ``qsub``, what waits and runs by one ``qstat -xml``, the past by ``qacct``.

A job that ends leaves the list at once and comes into the accounting some seconds later; between the two it
is unknown, and its report tells the rest. Grid Engine kills without warning unless it is asked to warn:
``-notify`` has it send SIGUSR2 first, which the wrapper takes as SIGTERM.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from xml.etree import ElementTree

from beamwright.batch import cluster, script
from beamwright.batch.cluster import Access, Answer, AnswerError, Batch, Request, each
from beamwright.batch.scheduler import VERBS, Status

# How far back the accounting is searched for jobs that are neither listed nor reported.
HISTORY_DAYS = 14
_SUBMITTED = re.compile(r"^(\d+)(?:\.1-(\d+):1)?$")
_GONE = re.compile(r"does not exist|already in deletion|has (deleted|registered)")
_NONE = re.compile(r"not found|No such file or directory|no jobs running since startup", re.IGNORECASE)
_RUNNING, _QUEUED = frozenset("rtsST"), frozenset("qw")
_BY_SIGNAL = 128
_FORM_FEED = "=" * 20


class GridEngine:
    """Grid Engine's commands and words."""

    name = "Grid Engine"
    evidence = dict.fromkeys(VERBS, "real server")
    # A job is listed as soon as qsub has returned.
    listed_after_s = 0.0
    # The accounting is written out in steps: by default every 15 s.
    history_after_s = 20.0

    def submit(self, access: Access, batch: Batch) -> Request:
        """Return the command that submits an array; Grid Engine counts its elements from 1."""
        argv = ["qsub", "-terse", "-notify", "-N", access.label, "-t", f"1-{len(batch.directories)}"]
        argv += ["-r", "n", "-wd", str(access.folder), "-o", "/dev/null", "-e", "/dev/null", "-S", "/bin/sh"]
        wishes = [f"mem_free={batch.memory_mb}M"] if batch.memory_mb else []
        wishes += [f"{access.disk}={batch.disk_mb}M"] if access.disk and batch.disk_mb else []
        wishes += [f"h_rt={batch.minutes * 60}"] if batch.wall_s else []
        wishes += ["h=" + "&".join(f"!{host}" for host in batch.avoid)] if batch.avoid else []
        argv += ["-l", ",".join(wishes)] if wishes else []
        argv += ["-q", access.queue] if access.queue else []
        return Request([*argv, *access.options], script.array(access, batch, "SGE_TASK_ID", 1))

    def submitted(self, answer: Answer, count: int) -> list[str]:
        """Return the ids of the array's elements."""
        found = _SUBMITTED.match(answer.out.strip())
        if answer.exit_code or not found or int(found[2] or count) != count:
            raise AnswerError(f"qsub printed {answer.out[:100]!r}")
        return [f"{found[1]}.{index}" for index in range(1, count + 1)]

    def poll(self, access: Access) -> Request:
        """Return the command that lists our jobs, each element of an array by itself."""
        return Request(["qstat", "-xml", "-g", "d", "-u", "$user"])  # qstat's own word for whoever asks

    def polled(self, access: Access, answer: Answer) -> dict[str, Status]:
        """Read the farm's jobs out of the list."""
        if answer.exit_code:
            raise AnswerError(answer.complaint())
        return each(_jobs(answer.out), partial(_listed, access.label))

    def cancel(self, ids: Sequence[str]) -> Request:
        """Return the command that ends jobs; those that run are warned first."""
        return Request(["qdel", *ids])

    def cancelled(self, answer: Answer) -> bool:
        """Tell whether the request arrived: each line is about a job that goes or is gone."""
        lines = [line for line in (answer.out + answer.err).splitlines() if line.strip()]
        return bool(lines) and all(_GONE.search(line) for line in lines)

    def history(self, access: Access, ids: Sequence[str]) -> Request:
        """Return the command that lists what the farm's jobs of the last days came to."""
        return Request(["qacct", "-d", str(HISTORY_DAYS), "-j", access.label])

    def remembered(self, access: Access, answer: Answer) -> dict[str, Status]:
        """Read the accounting; a job that was begun several times has several records, and the last holds."""
        if answer.exit_code and _NONE.search(answer.err):
            return {}
        if answer.exit_code:
            raise AnswerError(answer.complaint())
        return each(_records(answer.out), _told)


def make(workspace: cluster.Workspace, name: str, farm: cluster.FarmSettings) -> cluster.Cluster:
    """Return the scheduler of a farm: the plug-in ``gridengine`` of ``beamwright.schedulers``."""
    return cluster.Cluster(GridEngine(), cluster.access(workspace, name, farm))


def _jobs(text: str) -> Iterator[ElementTree.Element]:
    if "<!DOCTYPE" in text:  # no answer of qstat has one, and entities could blow it up
        raise AnswerError("it declares a document type")
    try:
        document = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise AnswerError(f"it is no XML document ({error})") from None
    if document.tag != "job_info":
        raise AnswerError(f"it is a document of kind {document.tag!r}")
    return document.iter("job_list")


def _listed(label: str, job: ElementTree.Element) -> tuple[str, Status] | None:
    """Read one job, if it is ours; a job that is no array has no elements."""
    if job.findtext("JB_name") != label:
        return None
    number, task = int(job.findtext("JB_job_number", "")), int(job.findtext("tasks") or 1)
    return f"{number}.{task}", _status(job.findtext("state") or "")


def _status(word: str) -> Status:
    """Return the state; letters add up: ``dr`` runs and is being deleted, ``Eqw`` needs an operator."""
    letters = set(word)
    if letters & _RUNNING:
        return Status("running", None, word)
    return Status("queued", None, word) if letters & _QUEUED else cluster.strange(word)


def _records(text: str) -> Iterator[Mapping[str, str]]:
    record: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith(_FORM_FEED):
            if record:
                yield record
            record = {}
            continue
        name, _, value = line.partition(" ")
        record[name] = value.strip()
    if record:
        yield record


def _told(record: Mapping[str, str]) -> tuple[str, Status]:
    return _id(record), _ended(record)


def _id(record: Mapping[str, str]) -> str:
    task = record["taskid"]
    return f"{record['jobnumber']}.{task if task.isdigit() else 1}"


def _ended(record: Mapping[str, str]) -> Status:
    """Return how a job ended: ``failed`` is Grid Engine's own judgement, an exit status over 128 a signal.

    A signal's name follows its number, as in ``140    (User defined signal 2)``.
    """
    number, _, why = (part.strip() for part in record["failed"].partition(":"))
    status = int(record["exit_status"].split()[0])
    if number == "0":
        return Status("finished", status, "done")
    is_signal = status > _BY_SIGNAL
    return Status("finished", _BY_SIGNAL - status if is_signal else status or None, why or f"failed {number}")
