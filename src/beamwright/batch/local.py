"""The local scheduler: serving wrappers on this machine, one per slot.

A thread hands each wrapper its next job the moment it is free. Wrappers live in sessions of their own, so
that an interrupt at the terminal reaches the agents alone. When the process that holds the scheduler is
killed, its wrappers finish the jobs at hand, report, and end; jobs that were only queued are not started.
``close`` stops the wrappers instead. Either way a later process finds out from locks and reports; it
knows none of the ids.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from beamwright.batch.cluster import environment
from beamwright.batch.scheduler import VERBS, JobSpec, Status
from beamwright.batch.script import within
from beamwright.core.errors import SchedulerError

REMEMBERED = 5000
WRAPPER = (sys.executable, "-m", "beamwright.batch.wrapper")


@dataclass
class _Slot:
    """One serving wrapper and the id of the job that it has; one that was told to end gets no further job."""

    process: subprocess.Popen[bytes]
    job: str = ""
    is_ending: bool = False
    buffer: bytes = b""

    @property
    def descriptor(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()


class LocalScheduler:
    """Runs up to ``slots`` jobs at once, by warm runners or, with ``fresh``, in a new process for each.

    ``every`` is the number of jobs after which a warm runner is replaced; ``log`` takes the wrappers'
    complaints. ``environment`` is all that jobs have (by default, ours), after a ``setup`` file.
    """

    evidence = dict.fromkeys(VERBS, "real server: this machine")

    def __init__(
        self,
        slots: int,
        *,
        log: Path,
        fresh: bool = False,
        every: int = 1000,
        environment: Mapping[str, str] | None = None,
        setup: str = "",
    ) -> None:
        self.slots = slots
        argv = [*WRAPPER, "--serve", "--every", str(every), *(["--fresh"] if fresh else [])]
        self._argv = within(setup, argv)
        self._environment = environment
        self._log = log
        self._name = f"local-{os.getpid()}-{secrets.token_hex(3)}"
        self._numbers = itertools.count(1)
        self._queue: deque[str] = deque()
        self._past: deque[str] = deque()
        self._directories: dict[str, Path] = {}
        self._status: dict[str, Status] = {}
        self._slots: list[_Slot] = []
        self._changed = threading.Condition()
        self._closing = False
        self._failure: Exception | None = None
        self._wake_up, self._wake = os.pipe()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_up, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._pump, name="local-scheduler", daemon=True)
        self._thread.start()

    def submit(self, jobs: Sequence[JobSpec]) -> list[str]:
        """Queue the jobs in order and return their ids."""
        with self._changed:
            self._check()
            ids = [f"{self._name}-{next(self._numbers)}" for _ in jobs]
            for batch_id, job in zip(ids, jobs, strict=True):
                self._directories[batch_id] = job.directory
                self._status[batch_id] = Status("queued")
                self._queue.append(batch_id)
        os.write(self._wake, b".")
        return ids

    def poll(self) -> Mapping[str, Status]:
        """Return the status of every job; of finished ones, the last thousands."""
        with self._changed:
            self._check()
            return dict(self._status)

    def history(self, ids: Iterable[str]) -> Mapping[str, Status]:
        """Return the status of the jobs that are known."""
        with self._changed:
            return {batch_id: self._status[batch_id] for batch_id in ids if batch_id in self._status}

    def cancel(self, ids: Iterable[str]) -> None:
        """Take queued jobs out and stop the wrappers of running ones."""
        wanted = set(ids)
        with self._changed:
            for batch_id in wanted & set(self._queue):
                self._queue.remove(batch_id)
                self._status[batch_id] = Status("finished", -signal.SIGTERM)
                self._remember(batch_id)
            for slot in self._slots:
                if slot.job in wanted:
                    slot.is_ending = True
                    slot.process.terminate()

    def wait(self, seconds: float) -> bool:
        """Wait until some job's status changes, for at most so long; tell whether one did."""
        with self._changed:
            return self._changed.wait(seconds)

    def close(self) -> None:
        """Stop the wrappers: each ends its job, says so in a report, and goes."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._queue.clear()
            for slot in self._slots:
                slot.process.terminate()
        os.write(self._wake, b".")
        self._thread.join()
        for slot in self._slots:
            _end(slot.process)
        self._selector.close()
        os.close(self._wake)
        os.close(self._wake_up)

    def _check(self) -> None:
        """Refuse to go on without the thread.

        Raises: SchedulerError.
        """
        if self._failure is not None:
            message = f"the local scheduler can start no more wrappers: {self._failure}"
            raise SchedulerError(message, hint="see that processes can be started, then start again")
        if self._closing:
            raise SchedulerError("the local scheduler is closed", hint="start the production again")

    # --- the thread ----------------------------------------------------------------------------------------

    def _pump(self) -> None:
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 - the other thread must hear of it
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _work(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select(1.0):
                if key.fd == self._wake_up:
                    os.read(self._wake_up, 4096)
                else:
                    self._hear(key.data)
            with self._changed:
                self._dispatch()

    def _dispatch(self) -> None:
        """Give queued jobs to idle wrappers; make wrappers as long as there are fewer than slots."""
        while self._queue and not self._closing:
            working = [slot for slot in self._slots if not slot.is_ending]
            slot = next((slot for slot in working if not slot.job), None)
            if slot is None and len(working) < self.slots:
                slot = self._new_slot()
            if slot is None:
                return
            self._hand(slot, self._queue.popleft())

    def _new_slot(self) -> _Slot:
        with open(self._log, "ab") as log:
            process = subprocess.Popen(
                self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
                env=self._environment,
            )  # fmt: skip
        slot = _Slot(process)
        self._slots.append(slot)
        self._selector.register(slot.descriptor, selectors.EVENT_READ, slot)
        return slot

    def _hand(self, slot: _Slot, batch_id: str) -> None:
        slot.job = batch_id
        self._status[batch_id] = Status("running")
        request = json.dumps({"job": str(self._directories[batch_id])}).encode() + b"\n"
        assert slot.process.stdin is not None
        with suppress(BrokenPipeError):  # its end is heard on the other pipe
            slot.process.stdin.write(request)
            slot.process.stdin.flush()
        self._changed.notify_all()

    def _hear(self, slot: _Slot) -> None:
        """Take a wrapper's answer, or its death."""
        part = os.read(slot.descriptor, 1 << 16)
        with self._changed:
            if not part:
                self._buried(slot)
                return
            *lines, slot.buffer = (slot.buffer + part).split(b"\n")
            for line in lines:
                self._finished(slot, int(json.loads(line)["exit_code"]))

    def _buried(self, slot: _Slot) -> None:
        self._selector.unregister(slot.descriptor)
        self._slots.remove(slot)
        exit_code = _end(slot.process)
        if slot.job:
            self._finished(slot, exit_code)

    def _finished(self, slot: _Slot, exit_code: int) -> None:
        self._status[slot.job] = Status("finished", exit_code)
        self._remember(slot.job)
        slot.job = ""
        self._changed.notify_all()

    def _remember(self, batch_id: str) -> None:
        """Keep a finished job among the remembered ones, and forget the oldest."""
        self._past.append(batch_id)
        while len(self._past) > REMEMBERED:
            oldest = self._past.popleft()
            del self._status[oldest], self._directories[oldest]


class _Workspace(Protocol):
    @property
    def root(self) -> Path: ...


class _Farm(Protocol):
    @property
    def slots(self) -> int: ...
    @property
    def setup(self) -> str: ...
    @property
    def environment(self) -> dict[str, str]: ...


def make(workspace: _Workspace, name: str, farm: _Farm) -> LocalScheduler:
    """Return the local scheduler of a farm: the plug-in ``local`` of ``beamwright.schedulers``."""
    logs = workspace.root / "logs"
    logs.mkdir(exist_ok=True)
    own = environment(()) | farm.environment
    return LocalScheduler(farm.slots, log=logs / f"farm-{name}.log", environment=own, setup=farm.setup)


def _end(process: subprocess.Popen[bytes], patience: float = 15.0) -> int:
    """Close a wrapper's pipes and wait for its end; kill it when that takes too long."""
    limit = time.monotonic() + patience
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    try:
        return process.wait(max(0.0, limit - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
