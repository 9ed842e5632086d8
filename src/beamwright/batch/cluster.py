"""Batch systems that are reached through their commands: what all of them share.

A ``Dialect`` knows one system's commands and words, and nothing else; it is pure. The ``Cluster`` runs the
commands with a time limit, asks for all jobs at once and no oftener than it should, and keeps jobs that were
submitted a moment ago known until the system lists them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from beamwright import durable
from beamwright.batch import packs
from beamwright.batch.scheduler import JobSpec, Status
from beamwright.core.errors import SchedulerDownError, SchedulerError

# What a command of a batch system, and a job, is given of our environment.
KEPT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "PYTHONPATH", "LD_LIBRARY_PATH")
# A job that the system took is believed to be queued for so long before the system lists it.
LISTED_AFTER_S = 60.0
PATIENCE_S = 3600.0
# Whom records of a list are about that cannot be read.
NOBODY = ""
# A system that does not answer is asked more and more seldom: the agents wait for it each time.
LONGEST_PAUSE_S = 60.0
IDS_AT_ONCE = 500

T = TypeVar("T")
R = TypeVar("R")
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError)


class AnswerError(ValueError):
    """An answer is not in the form that the batch system's documentation gives."""


@dataclass(frozen=True)
class Answer:
    """What a command said, and how it ended."""

    exit_code: int
    out: str
    err: str

    def complaint(self) -> str:
        """Return what the command said went wrong, in one line."""
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        return "; ".join(lines[:3])[:300] or f"it ended with exit code {self.exit_code}"


@dataclass(frozen=True)
class Request:
    """A command, and what goes to its standard input."""

    argv: Sequence[str]
    text: str = ""


@dataclass(frozen=True)
class Access:
    """How a farm is reached; ``label`` marks its jobs, ``folder`` is where they start, ``disk`` is what its
    batch system calls scratch space.
    """

    label: str
    folder: Path
    queue: str = ""
    options: tuple[str, ...] = ()
    setup: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    array: int = 1000
    pack: int = 1
    poll_s: float = 5.0
    timeout_s: float = 30.0
    disk: str = ""


@dataclass(frozen=True)
class Batch:
    """Elements of the same needs that are submitted together: directories of jobs, or of packs of them."""

    directories: tuple[Path, ...]
    memory_mb: int
    wall_s: float
    avoid: tuple[str, ...] = ()
    disk_mb: int = 0
    cores: int = 1

    @property
    def minutes(self) -> int:
        """The wall time to ask for: the wrapper ends its job earlier."""
        return int(self.wall_s * 1.1 + 120) // 60 + 1


class Dialect(Protocol):
    """One batch system's commands and words.

    What reads an answer raises AnswerError when it cannot be understood. ``evidence`` says of each verb what
    its form was checked against, ``listed_after_s`` how long a job may be missing from the list after it was
    taken, ``history_after_s`` how long one that has left the list may be missing from the records.
    """

    @property
    def name(self) -> str: ...

    @property
    def evidence(self) -> Mapping[str, str]: ...

    @property
    def listed_after_s(self) -> float: ...

    @property
    def history_after_s(self) -> float: ...

    def submit(self, access: Access, batch: Batch) -> Request: ...

    def submitted(self, answer: Answer, count: int) -> list[str]: ...

    def poll(self, access: Access) -> Request: ...

    def polled(self, access: Access, answer: Answer) -> dict[str, Status]: ...

    def cancel(self, ids: Sequence[str]) -> Request: ...

    def cancelled(self, answer: Answer) -> bool: ...

    def history(self, access: Access, ids: Sequence[str]) -> Request: ...

    def remembered(self, access: Access, answer: Answer) -> dict[str, Status]: ...


class Cluster:
    """A batch system behind its commands; jobs outlive the process that submitted them."""

    def __init__(self, dialect: Dialect, access: Access, now: Callable[[], float] = time.monotonic) -> None:
        self.dialect = dialect
        self.access = access
        self._now = now
        self._next = float("-inf")
        self._known: dict[str, Status] = {}
        self._fresh: dict[str, float] = {}
        self._members: list[str] = []
        self._down: SchedulerError | None = None
        self._silent_since: float | None = None
        self._garbled_since: float | None = None

    @property
    def evidence(self) -> Mapping[str, str]:
        """What each verb was checked against."""
        return self.dialect.evidence

    @property
    def history_after_s(self) -> float:
        """How long a job that has left the list may be missing from the batch system's records."""
        return self.dialect.history_after_s

    def submit(self, jobs: Sequence[JobSpec]) -> list[str]:
        """Hand in the jobs, equal needs together; when one batch is refused, all are taken back."""
        ids: dict[int, str] = {}
        for packed, batch in list(_batches(jobs, self.access)):
            try:
                answer = self.run(self.dialect.submit(self.access, batch))
                taken = self._understood(answer, partial(self.dialect.submitted, answer, len(packed)))
            except SchedulerError:
                with suppress(SchedulerError):
                    self.cancel(ids.values())
                raise
            for batch_id, indices in zip(taken, packed, strict=True):
                ids |= dict(zip(indices, packs.members(batch_id, len(indices)), strict=True))
        self._fresh |= dict.fromkeys(map(packs.element, ids.values()), self._now())
        self._members += [batch_id for batch_id in ids.values() if batch_id != packs.element(batch_id)]
        return [ids[index] for index in range(len(jobs))]

    def poll(self) -> Mapping[str, Status]:
        """Return the status of every job of this farm; one request serves ``poll_s`` seconds."""
        now = self._now()
        if now >= self._next:
            self._ask(now)
        if self._down is not None:
            raise self._down
        known = self._known | {i: Status("queued") for i in self._fresh if i not in self._known}
        self._members = [batch_id for batch_id in self._members if packs.element(batch_id) in known]
        return packs.Statuses(known, self._members)

    def history(self, ids: Iterable[str]) -> Mapping[str, Status]:
        """Return what the batch system's records say of jobs."""
        wanted = list(ids)
        told = packs.Statuses(self.past(sorted({packs.element(batch_id) for batch_id in wanted})))
        return {batch_id: told[batch_id] for batch_id in wanted if batch_id in told}

    def past(self, ids: Sequence[str]) -> Mapping[str, Status]:
        """Return what the batch system's records say of elements."""
        found: dict[str, Status] = {}
        for part in _parts(list(ids)):
            answer = self.run(self.dialect.history(self.access, part))
            said = self._understood(answer, partial(self.dialect.remembered, self.access, answer))
            found |= {batch_id: said[batch_id] for batch_id in part if batch_id in said}
        return found

    def cancel(self, ids: Iterable[str]) -> None:
        """Ask for the end of jobs; what the batch system does not know is passed over.

        Members of a pack end together only; a file in its job directory ends one alone.
        """
        for part in _parts(packs.whole(batch_id for batch_id in ids if batch_id)):
            answer = self.run(self.dialect.cancel(part))
            if not self.dialect.cancelled(answer):
                raise self.unreachable(answer.complaint())
            for batch_id in part:
                self._fresh.pop(batch_id, None)

    def close(self) -> None:
        """Let go; the jobs stay where they are and are found again by their ids."""

    def run(self, request: Request) -> Answer:
        """Run a command of the batch system.

        Raises: SchedulerDownError when it is missing or hangs.
        """
        program = request.argv[0]
        try:
            return _run(request, self.access.timeout_s)
        except FileNotFoundError:
            raise self.unreachable(f"there is no program {program} on PATH") from None
        except subprocess.TimeoutExpired:
            raise self.unreachable(f"{program} gave no answer in {self.access.timeout_s:g} s") from None
        except OSError as error:
            raise self.unreachable(f"{program}: {error}") from error

    def _ask(self, now: float) -> None:
        """Ask for all jobs and keep the answer, or that there was none."""
        try:
            answer = self.run(self.dialect.poll(self.access))
            said = self._understood(answer, partial(self.dialect.polled, self.access, answer))
            self._known = self._with_unread(said, now)
        except SchedulerDownError as error:
            self._silent_since = now if self._silent_since is None else self._silent_since
            now = self._now()
            silence = now - self._silent_since
            self._down = error if silence < PATIENCE_S else _given_up(error)
            self._next = now + max(self.access.poll_s, min(silence / 2, LONGEST_PAUSE_S))
            return
        self._next = now + self.access.poll_s
        self._down = self._silent_since = None
        lag = self.dialect.listed_after_s
        young = (i for i, at in self._fresh.items() if i not in self._known and now - at < lag)
        self._fresh = {batch_id: self._fresh[batch_id] for batch_id in young}

    def _with_unread(self, said: dict[str, Status], now: float) -> dict[str, Status]:
        """Return the list; where records of it cannot be read, a job that it lacks may be one of them.

        So what was known of such jobs holds for a while.
        """
        if said.pop(NOBODY, None) is None:
            self._garbled_since = None
            return said
        self._garbled_since = now if self._garbled_since is None else self._garbled_since
        return self._known | said if now - self._garbled_since < LISTED_AFTER_S else said

    def _understood(self, answer: Answer, read: Callable[[], T]) -> T:
        try:
            return read()
        except UNREADABLE as error:
            cause = answer.complaint() if answer.exit_code else f"its answer cannot be understood: {error}"
            raise self.unreachable(cause) from error

    def unreachable(self, cause: str) -> SchedulerDownError:
        """Return the error that says why nothing is known."""
        message = f"{self.dialect.name} does not answer as it should: {cause}"
        hint = "its jobs go on meanwhile; `beamwright site check` asks each farm again"
        return SchedulerDownError(message, hint=hint)


def each(records: Iterable[R], read: Callable[[R], tuple[str, Status] | None]) -> dict[str, Status]:
    """Read records, those of others (None) left out; one that cannot be read hides no other.

    Those are told under the id NOBODY. Raises: AnswerError when none can be read.
    """
    told: dict[str, Status] = {}
    count, odd = 0, ""
    for record in records:
        try:
            found = read(record)
        except UNREADABLE as error:
            odd = odd or f"{str(record)[:200]!r} ({error!r})"
            continue
        count += 1
        told |= [found] if found else []
    if odd and not count:
        raise AnswerError(f"no record of it can be understood, such as {odd}")
    return told | ({NOBODY: Status("unknown", None, odd)} if odd else {})


def strange(word: object) -> Status:
    """Return the status of a job that is there, in a state that nobody knows: nothing follows from it."""
    return Status("queued", None, f"{str(word)[:40]!r}, which is no state that is known")


class Workspace(Protocol):
    """What is needed of a workspace."""

    @property
    def root(self) -> Path: ...

    def farm(self, name: str) -> Path: ...


class FarmSettings(Protocol):
    """What is needed of a farm's settings."""

    @property
    def queue(self) -> str: ...
    @property
    def options(self) -> list[str]: ...
    @property
    def setup(self) -> str: ...
    @property
    def environment(self) -> dict[str, str]: ...
    @property
    def array(self) -> int: ...
    @property
    def pack(self) -> int: ...
    @property
    def poll_s(self) -> float: ...
    @property
    def timeout_s(self) -> float: ...
    @property
    def disk(self) -> str: ...


def access(workspace: Workspace, name: str, farm: FarmSettings) -> Access:
    """Return how a farm is reached; its jobs bear a name that only this workspace's farm uses."""
    folder = workspace.farm(name)
    durable.make_directory(folder)
    return Access(
        label=label(workspace.root, name),
        folder=folder,
        queue=farm.queue,
        options=tuple(farm.options),
        setup=farm.setup,
        environment=farm.environment,
        array=farm.array,
        pack=farm.pack,
        poll_s=farm.poll_s,
        timeout_s=farm.timeout_s,
        disk=farm.disk,
    )


def label(root: Path, name: str) -> str:
    """Return the name of a farm's jobs: short enough for every batch system."""
    return "bw" + hashlib.sha256(f"{root}\0{name}".encode()).hexdigest()[:10]


def programs(dialect: Dialect, access: Access) -> dict[str, str | None]:
    """Return where the programs behind each verb are, or None."""
    batch = Batch((access.folder,), 0, 0.0)
    requests = {
        "submit": dialect.submit(access, batch),
        "poll": dialect.poll(access),
        "cancel": dialect.cancel(["0"]),
        "history": dialect.history(access, ["0"]),
    }
    return {verb: shutil.which(request.argv[0]) for verb, request in requests.items()}


def environment(variables: Sequence[str]) -> dict[str, str]:
    """Return what of our environment is passed on, with further variables (a prefix ends in ``_``)."""
    prefixes = tuple(name for name in variables if name.endswith("_"))
    names = {*KEPT, *variables}
    return {k: v for k, v in os.environ.items() if k in names or (prefixes and k.startswith(prefixes))}


def _batches(jobs: Sequence[JobSpec], access: Access) -> Iterator[tuple[list[list[int]], Batch]]:
    """Group jobs of equal needs into packs, and packs into arrays that are not too large."""
    groups: dict[tuple[int, float, tuple[str, ...], int, int], list[int]] = {}
    for index, job in enumerate(jobs):
        needs = (job.memory_mb, job.wall_s, job.avoid, job.disk_mb, job.cores)
        groups.setdefault(needs, []).append(index)
    for (memory_mb, wall_s, avoid, *others), indices in groups.items():
        packed = [indices[start : start + access.pack] for start in range(0, len(indices), access.pack)]
        for start in range(0, len(packed), access.array):
            part = packed[start : start + access.array]
            found = [[jobs[index].directory for index in pack] for pack in part]
            directories = tuple(packs.directory(access.folder, pack) for pack in found)
            yield part, Batch(directories, memory_mb, wall_s * len(part[0]), avoid, *others)


def _parts(ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), IDS_AT_ONCE):
        yield ids[start : start + IDS_AT_ONCE]


def _run(request: Request, seconds: float) -> Answer:
    """Run a command in a session of its own, so that all of it can be ended when it hangs."""
    kept = environment(("TZ", "SLURM_", "PBS_", "LSF_", "CONDOR_", "SGE_"))
    pipe = subprocess.PIPE
    with subprocess.Popen(
        list(request.argv), stdin=pipe, stdout=pipe, stderr=pipe, env=kept, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(request.text.encode(), seconds)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return Answer(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


def _given_up(error: SchedulerDownError) -> SchedulerError:
    message = f"{error.message}; that for {PATIENCE_S / 60:g} minutes"
    return SchedulerError(message, hint="mend it, then run the same command again: jobs are taken up again")
