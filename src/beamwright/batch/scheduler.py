"""The interface to a batch system: four verbs, and no notion of success of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

State = Literal["queued", "running", "finished", "unknown"]
VERBS = ("submit", "poll", "cancel", "history")

# What a batch system's reason means for a job that it ended before it could report, by failure class.
CAUSES = {
    "memory": re.compile(r"OUT_OF_MEMORY|TERM_(MEMLIMIT|SWAP)|KILL_V?MEM\b|memory limit", re.IGNORECASE),
    "time": re.compile(
        r"TIMEOUT|DEADLINE|TERM_(RUN|CPU)LIMIT|KILL_WALLTIME|enforced h_rt|allowed (job|execute) duration",
        re.IGNORECASE,
    ),
    "node": re.compile(r"NODE_FAIL|BOOT_FAIL|PREEMPT|TERM_(LOAD|WINDOW|ZOMBIE)|execd died"),
}


def cause(reason: str) -> str:
    """Return the failure class of a job that ended without a report, by its batch system's reason."""
    return next((name for name, pattern in CAUSES.items() if pattern.search(reason)), "lost")


@dataclass(frozen=True)
class JobSpec:
    """What is submitted: the directory of an attempt, what it asks of a node, and the nodes to avoid.

    ``disk_mb`` is what it needs of scratch space, 0 where nobody knows; ``cores`` is how many processes work
    in it.
    """

    directory: Path
    name: str = ""
    memory_mb: int = 0
    wall_s: float = 0.0
    avoid: tuple[str, ...] = ()
    disk_mb: int = 0
    cores: int = 1


@dataclass(frozen=True)
class Status:
    """What a batch system says of a job; a finished job's success is told by its report alone.

    ``reason`` is the batch system's own word, such as ``NODE_FAIL``. A negative exit code is a signal.
    """

    state: State
    exit_code: int | None = None
    reason: str = ""


class Scheduler(Protocol):
    """A batch system. An id that it does not know is ``unknown``, never finished.

    Every verb raises SchedulerDownError when the batch system does not answer or talks nonsense: then
    nothing is known, and nothing follows.
    """

    def submit(self, jobs: Sequence[JobSpec]) -> list[str]:
        """Hand in the jobs and return their batch ids in order.

        Raises: SchedulerError when none was taken.
        """
        ...

    def poll(self) -> Mapping[str, Status]:
        """Return the status of every job that the batch system knows, in one request at most."""
        ...

    def history(self, ids: Iterable[str]) -> Mapping[str, Status]:
        """Return what is remembered of jobs that ``poll`` no longer names."""
        ...

    def cancel(self, ids: Iterable[str]) -> None:
        """Ask for the end of jobs; unknown ids are passed over."""
        ...

    def close(self) -> None:
        """Let go of the batch system."""
        ...
