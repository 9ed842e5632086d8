"""The local scheduler: serving wrappers on this machine, one per slot.

Wrappers take their jobs from one socket that all of them share: whoever is free takes the next, without
waiting for this process, which has agents to run. What nobody has taken can be taken back. A thread hears
what the wrappers say.

Wrappers live in sessions of their own, so that an interrupt at the terminal reaches the agents alone. When
the process that holds the scheduler is killed, its wrappers finish the jobs at hand, report, and end; jobs
that were only queued are not started. ``close`` stops the wrappers instead. Either way a later process finds
out from locks and reports; it knows none of the ids.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from beamwright.batch.cluster import environment
from beamwright.batch.scheduler import VERBS, JobSpec, Status
from beamwright.batch.script import within
from beamwright.batch.wrapper import STOP_FILE
from beamwright.core.errors import SchedulerError

REMEMBERED = 5000
# So many jobs lie ready for each slot.
READY = 8
# What wrappers say is heard together, this often at most.
PACE_SECONDS = 0.005
# A wrapper says that it took a job as soon as it has it. After a death, what is not said within this time was
# taken by the one that died.
DOUBT_SECONDS = 2.0
WRAPPER = (sys.executable, "-m", "beamwright.batch.wrapper")


@dataclass
class _Slot:
    """One serving wrapper and the id of its job; one that was told to end takes no further job."""

    process: subprocess.Popen[bytes]
    job: str = ""
    has_served: bool = False
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
        # What lies ready for the wrappers, and what one of them has taken without having said so yet.
        self._ready: dict[str, None] = {}
        self._doubtful: dict[str, tuple[float, int]] = {}
        self._past: deque[str] = deque()
        self._directories: dict[str, Path] = {}
        self._status: dict[str, Status] = {}
        self._slots: list[_Slot] = []
        self._changed = threading.Condition()
        self._closing = False
        self._failure: Exception | None = None
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._ours, self._theirs):
            end.setblocking(False)
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
            self._lay_ready()
            is_short = len(self._slots) < self.slots
        if is_short:
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
        """Take queued jobs out and stop running ones; their wrappers end with them."""
        wanted = set(ids)
        with self._changed:
            self._take_back()
            for batch_id in wanted & set(self._queue):
                self._queue.remove(batch_id)
                self._finished(batch_id, -signal.SIGTERM)
            for batch_id in wanted & set(self._ready):
                self._stop(batch_id)
            for slot in self._slots:
                if slot.job in wanted:
                    slot.is_ending = True
                    slot.process.send_signal(signal.SIGUSR1 if self._stop(slot.job) else signal.SIGTERM)
            self._lay_ready()
        os.write(self._wake, b".")

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
            self._take_back()
            self._queue.clear()
            for slot in self._slots:
                slot.process.terminate()
        os.write(self._wake, b".")
        self._thread.join()
        for slot in self._slots:
            _end(slot.process)
        self._selector.close()
        self._ours.close()
        self._theirs.close()
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
                if not self._closing:
                    self._resolve(time.monotonic())
                    self._lay_ready()
                    self._man()
            time.sleep(PACE_SECONDS)

    def _lay_ready(self) -> None:
        """Put jobs where the wrappers take them from, as far as these shall have some ready."""
        while self._queue and len(self._ready) < READY * self.slots:
            batch_id = self._queue[0]
            request = json.dumps({"id": batch_id, "job": str(self._directories[batch_id])})
            try:
                self._ours.send(request.encode())
            except BlockingIOError:  # it holds no more
                return
            self._ready[self._queue.popleft()] = None

    def _take_back(self) -> None:
        """Queue again what no wrapper has taken."""
        found = []
        with suppress(BlockingIOError):
            while True:
                found.append(json.loads(self._theirs.recv(1 << 16))["id"])
        for batch_id in found:
            del self._ready[batch_id]
            self._doubtful.pop(batch_id, None)
        self._queue.extendleft(reversed(found))

    def _man(self) -> None:
        """Make wrappers while there are fewer than slots, and jobs for them.

        One that was told to end has its slot until it is gone.
        """
        idle = sum(not slot.job and not slot.is_ending for slot in self._slots)
        missing = min(self.slots - len(self._slots), len(self._queue) + len(self._ready) - idle)
        for _ in range(missing):
            self._new_slot()

    def _new_slot(self) -> None:
        requests = self._theirs.fileno()
        with open(self._log, "ab") as log:
            process = subprocess.Popen(
                self._argv, stdin=requests, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
                env=self._environment,
            )  # fmt: skip
        slot = _Slot(process)
        self._slots.append(slot)
        self._selector.register(slot.descriptor, selectors.EVENT_READ, slot)

    def _hear(self, slot: _Slot) -> None:
        """Take in what a wrapper says, or its death."""
        part = os.read(slot.descriptor, 1 << 16)
        with self._changed:
            if not part:
                self._bury(slot)
                return
            *lines, slot.buffer = (slot.buffer + part).split(b"\n")
            for line in lines:
                self._heard(slot, json.loads(line))
            self._changed.notify_all()

    def _heard(self, slot: _Slot, said: Mapping[str, Any]) -> None:
        """Take in that a wrapper took a job, ended it, or gave it back because it was told to end."""
        batch_id = said["id"]
        self._ready.pop(batch_id, None)
        slot.job, slot.has_served = "", True
        if said["what"] == "took":
            slot.job, self._status[batch_id] = batch_id, Status("running")
        elif said["what"] == "ended":
            self._finished(batch_id, int(said["exit_code"]))
        else:
            self._queue.appendleft(batch_id)

    def _bury(self, slot: _Slot) -> None:
        """Bury a wrapper with its job; one that never took any, with the next.

        So wrappers that cannot run are not started for ever.
        """
        self._selector.unregister(slot.descriptor)
        self._slots.remove(slot)
        exit_code = _end(slot.process)
        if slot.job:
            self._finished(slot.job, exit_code)
        self._take_back()
        for batch_id in self._ready:
            self._doubtful.setdefault(batch_id, (time.monotonic() + DOUBT_SECONDS, exit_code))
        if not slot.has_served and self._queue:
            self._finished(self._queue.popleft(), exit_code)
        self._changed.notify_all()

    def _resolve(self, now: float) -> None:
        """Finish what was taken by a wrapper that died before it could say so."""
        for batch_id, (limit, exit_code) in list(self._doubtful.items()):
            if batch_id in self._ready and now > limit:
                del self._ready[batch_id]
                self._finished(batch_id, exit_code)
            if batch_id not in self._ready:
                del self._doubtful[batch_id]

    def _stop(self, batch_id: str) -> bool:
        """Have the job itself stop, or not begin; tell whether it can be told."""
        try:
            (self._directories[batch_id] / STOP_FILE).touch()
        except OSError:
            return False
        return True

    def _finished(self, batch_id: str, exit_code: int) -> None:
        """Note a job's end, and forget the oldest of those that have ended."""
        self._status[batch_id] = Status("finished", exit_code)
        self._past.append(batch_id)
        while len(self._past) > REMEMBERED:
            oldest = self._past.popleft()
            self._status.pop(oldest, None)
            self._directories.pop(oldest, None)


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
