"""Worker processes: forked from a clean process, watched, and replaced when they die.

Before anything is read or written, one process is forked off and kept as it is: the nursery. Every worker,
the first as well
as the replacement of a dead one, is forked from it, so that each starts from the same state, and so that the
parent may use threads (to compress what it writes).
"""

from __future__ import annotations

import faulthandler
import gc
import math
import mmap
import os
import resource
import select
import selectors
import signal
import socket
import stat
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from beamwright.core.errors import BeamwrightError, ModuleError
from beamwright.event import engine as engines
from beamwright.event.ahead import ReadAhead
from beamwright.event.engine import HOOK, SINCE, STEP, Engine, Failure, Result, Stumble
from beamwright.event.patience import Patience
from beamwright.event.plan import Task
from beamwright.event.tally import HOOKS, PROCESS
from beamwright.event.transport import (
    ConnectionLost,
    receive_outcome,
    receive_task,
    send_failure,
    send_fatal,
    send_result,
    send_task,
)

_REQUEST = struct.Struct("<cq")
_ANSWER = struct.Struct("<q")
_START, _WAIT = b"S", b"W"
_ENGINE, _CALLERS = (f'  File "{place}' for place in (f'{engines.__file__}"', engines.OWN_FOLDER))
_NOTES = 3
"""Numbers that a worker notes of its progress."""
_HOOK_DEATHS = 2
"""How often a hook may end its worker, and once more for each worker, before the module is to blame."""
_LAST_WORDS = 5.0  # s, in which a stuck worker says where it is and ends
_ENDING = 1.0  # s; the system may show a thread for a moment after it was joined
_END = Task(-1, 0, 0)
# Threads that only return memory to the system, and that their library starts anew after a fork.
_HARMLESS = ("jemalloc_bg_thd",)


def check_forkable() -> None:
    """Refuse to fork while threads live or connections are open, and name them.

    Raises: ModuleError.
    """
    threads = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    patience = time.monotonic() + _ENDING
    if not threads:
        while (threads := _native_threads()) and time.monotonic() < patience:
            time.sleep(0.002)
    if threads:
        raise ModuleError(
            f"cannot start workers while these threads live: {', '.join(threads)}",
            hint="numerical libraries: set OPENBLAS_NUM_THREADS=1 and OMP_NUM_THREADS=1; "
            "readers: start none before the first event (uproot: open with handler=uproot.MemmapSource)",
        )
    connections = _connections()
    if connections:
        raise ModuleError(
            f"cannot start workers while these connections are open: {', '.join(connections)}",
            hint="close them before the first event; a connection cannot be shared by processes",
        )


def _native_threads() -> list[str]:
    """Return the names of threads that Python does not know, those of numerical libraries above all."""
    names = []
    with suppress(FileNotFoundError):
        for task in sorted(os.listdir("/proc/self/task"), key=int):
            with open(f"/proc/self/task/{task}/comm", encoding="utf-8") as stream:
                names.append(f"{stream.read().strip()} ({task})")
    return [name for name in names[1:] if not name.startswith(_HARMLESS)]


def _connections() -> list[str]:
    """Return the open internet sockets; those of standard streams are the caller's affair."""
    found = []
    with suppress(FileNotFoundError):
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                if int(name) > 2 and stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                    found += _internet(int(name))
    return found


def _internet(descriptor: int) -> list[str]:
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        if copy.family not in (socket.AF_INET, socket.AF_INET6):
            return []
        return [f"descriptor {descriptor} to {copy.getpeername()}"]


@dataclass
class _Worker:
    slot: int
    pid: int
    connection: socket.socket
    task: Task | None = None
    begun: float = 0.0
    limit: float = math.inf
    deadline: float = math.inf


class WorkerPool:
    """Runs tasks in forked processes; a dead or stuck one leaves a ``Failure`` and is replaced."""

    def __init__(
        self, engine: Engine, workers: int, event_s: float | None = None, memory_mb: int | None = None,
        hook_s: float = math.inf,
    ) -> None:  # fmt: skip
        check_forkable()
        self._engine = engine
        self._memory_mb = memory_mb
        self._is_single = workers == 1
        self._patience = Patience(event_s)
        self._hook_s = math.inf if event_s is None else hook_s
        self._hook_deaths = 0
        self._shared = mmap.mmap(-1, 8 * _NOTES * workers)
        self._notes = memoryview(self._shared).cast("q")
        self._faults = [os.memfd_create(f"fault-{slot}") for slot in range(workers)]
        self._control, theirs = socket.socketpair()
        self._nursery = _fork(partial(self._serve_nursery, theirs))
        theirs.close()
        self._selector = selectors.DefaultSelector()
        self._workers = [self._start(slot) for slot in range(workers)]
        self.died = 0

    @property
    def window(self) -> int:
        """How many batches may be on their way."""
        return 2 * len(self._workers) + 2

    def can_take(self) -> bool:
        """Tell whether a worker is idle."""
        return any(worker.task is None for worker in self._workers)

    def submit(self, task: Task) -> None:
        """Give a task to an idle worker."""
        worker = next(worker for worker in self._workers if worker.task is None)
        worker.task, worker.begun = task, time.monotonic()
        limit = self._patience.limit(task)
        worker.limit = math.inf if limit is None else limit
        worker.deadline = worker.begun + min(worker.limit, self._hook_s)
        with suppress(OSError):  # a dead worker is found when its answer is awaited
            send_task(worker.connection, task, self._engine.plan.parcel(task))

    def wait(self) -> tuple[Task, Result | Failure]:
        """Return the next task that ended, with what became of it.

        Raises: whatever ends the pass.
        """
        while True:
            for key, _ in self._selector.select(self._time_left()):
                worker = self._workers[key.data]
                if worker.task is not None:
                    return self._take(worker)
                self._bury(worker)  # it was killed while it had nothing to do
            for worker in self._workers:
                if worker.task is not None and self._is_late(worker):
                    return self._replace(worker, self._patience.reason(worker.task))

    def finish(self) -> list[Result]:
        """Let every worker end its run, and return what that left."""
        for worker in self._workers:
            with suppress(OSError):
                send_task(worker.connection, _END)
        found = [self._last_result(worker) for worker in list(self._workers)]
        return [result for result in found if isinstance(result, Result)]

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
            worker.connection.close()
        self._selector.close()
        self._control.close()
        os.waitpid(self._nursery, 0)
        self._notes.release()
        self._shared.close()
        for descriptor in self._faults:
            os.close(descriptor)

    # --- the parent's side

    def _take(self, worker: _Worker) -> tuple[Task, Result | Failure]:
        assert worker.task is not None, "only a worker at work is asked"
        try:
            outcome = receive_outcome(worker.connection, self._engine.banks)
        except ConnectionLost:
            return self._replace(worker, "")
        task, worker.task = worker.task, None
        if isinstance(outcome, Result):
            self._hook_deaths = 0
            self._patience.learn(task, time.monotonic() - self._since(worker))
        return task, outcome

    def _noted(self, slot: int) -> memoryview:
        return self._notes[_NOTES * slot : _NOTES * (slot + 1)]

    def _since(self, worker: _Worker) -> float:
        """Return since when a worker has been at the records of its task."""
        return max(worker.begun, self._notes[_NOTES * worker.slot + SINCE] / 1e9)

    def _is_late(self, worker: _Worker) -> bool:
        """Tell whether a worker is beyond its limit; what hooks take counts against a limit of their own."""
        now = time.monotonic()
        if now <= worker.deadline:
            return False
        if self._notes[_NOTES * worker.slot + HOOK] == PROCESS:
            worker.deadline = self._since(worker) + worker.limit
        else:
            # Looked at again soon: it may go on with its records, and be stuck there.
            worker.deadline = min(now + worker.limit, worker.begun + self._hook_s)
        return now > worker.deadline

    def _replace(self, worker: _Worker, reason: str) -> tuple[Task, Failure]:
        """Bury a worker that was at work, and say what it died of."""
        assert worker.task is not None, "only a worker at work fails"
        if reason:
            self._ask_where(worker)
        step, hook, _ = self._noted(worker.slot)
        status = self._bury(worker)
        text = self._fault_text(worker.slot) or f"it was {_cause(status)} and could leave no traceback"
        failure = Failure(step, reason or _cause(status), text, bool(reason), hook != PROCESS)
        if failure.is_of_hook:
            self._hook_deaths += 1
            if failure.is_late or self._hook_deaths > _HOOK_DEATHS + len(self._workers):
                raise self._hook_error(failure, hook)
        return worker.task, failure

    def _hook_error(self, failure: Failure, hook: int) -> ModuleError:
        error = f"more than {self._hook_s:g} s" if failure.is_late else failure.error
        return ModuleError(
            f"module {self._engine.path.steps[failure.step].name} failed in {HOOKS[hook]}: {error}",
            hint="no event is to blame; mend the module or its parameters",
            traceback=failure.traceback,
        )

    def _last_result(self, worker: _Worker) -> Result | Failure | None:
        """Return what the end of its run left in a worker, None where it was killed from outside."""
        worker.connection.settimeout(None if self._hook_s == math.inf else self._hook_s)
        try:
            return receive_outcome(worker.connection, self._engine.banks)
        except (ConnectionLost, TimeoutError) as error:
            is_late = isinstance(error, TimeoutError)
            if is_late:
                self._ask_where(worker)
            step, hook, _ = self._noted(worker.slot)
            cause = _cause(self._bury(worker))
            if hook != PROCESS and (is_late or cause != "killed by SIGKILL"):
                failure = Failure(step, cause, self._fault_text(worker.slot), is_late, True)
                raise self._hook_error(failure, hook) from None
        return None

    def _ask_where(self, worker: _Worker) -> None:
        """Let a stuck worker write where it is; its end says that all of it is written."""
        with suppress(OSError):
            ending = os.pidfd_open(worker.pid)
            try:
                os.kill(worker.pid, signal.SIGUSR2)
                select.select([ending], [], [], _LAST_WORDS)
            finally:
                os.close(ending)

    def _bury(self, worker: _Worker) -> int:
        """End a worker for good, start another in its place, and return its status."""
        with suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)
        status = self._ask(_WAIT, worker.pid)
        self._selector.unregister(worker.connection)
        worker.connection.close()
        self._workers[worker.slot] = self._start(worker.slot)
        self.died += 1
        return status

    def _start(self, slot: int) -> _Worker:
        ours, theirs = socket.socketpair()
        notes = self._noted(slot)
        notes[STEP], notes[HOOK], notes[SINCE] = -1, PROCESS, 0
        socket.send_fds(self._control, [_REQUEST.pack(_START, slot)], [theirs.fileno()])
        theirs.close()
        worker = _Worker(slot, self._answer(), ours)
        self._selector.register(ours, selectors.EVENT_READ, slot)
        return worker

    def _ask(self, request: bytes, argument: int) -> int:
        self._control.sendall(_REQUEST.pack(request, argument))
        return self._answer()

    def _answer(self) -> int:
        data = self._control.recv(_ANSWER.size, socket.MSG_WAITALL)
        if len(data) < _ANSWER.size:
            raise ModuleError(
                "the process that workers are forked from died", hint="is the machine out of memory?"
            )
        return int(_ANSWER.unpack(data)[0])

    def _fault_text(self, slot: int) -> str:
        """Return the traceback that a dying worker left, and forget it."""
        size = os.fstat(self._faults[slot]).st_size
        text = os.pread(self._faults[slot], size, 0).decode(errors="replace")
        os.ftruncate(self._faults[slot], 0)
        os.lseek(self._faults[slot], 0, os.SEEK_SET)
        return _of_module(text)

    def _time_left(self) -> float | None:
        """Return the seconds until the first deadline, None where there is none."""
        first = min(worker.deadline for worker in self._workers if worker.task is not None)
        return None if first == math.inf else max(0.0, first - time.monotonic())

    # --- in the nursery and in the workers

    def _serve_nursery(self, control: socket.socket) -> None:
        self._control.close()
        gc.freeze()
        children: set[int] = set()
        while True:
            data, descriptors, _, _ = socket.recv_fds(control, _REQUEST.size, 1)
            if len(data) < _REQUEST.size:
                break
            request, argument = _REQUEST.unpack(data)
            if request == _START:
                connection = socket.socket(fileno=descriptors[0])
                pid = _fork(partial(self._serve, control, connection, argument))
                connection.close()
                children.add(pid)
                control.sendall(_ANSWER.pack(pid))
            else:
                children.discard(argument)
                control.sendall(_ANSWER.pack(os.waitpid(argument, 0)[1]))
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def _serve(self, control: socket.socket, connection: socket.socket, slot: int) -> None:
        """Work off tasks until the parent is gone."""
        control.close()
        faulthandler.enable(self._faults[slot])
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
        faulthandler.register(signal.SIGUSR2, self._faults[slot], all_threads=False, chain=True)
        engine = self._engine
        engine.progress = self._noted(slot)
        if self._memory_mb is not None:
            _limit_memory(self._memory_mb << 20)
        try:
            engine.reader.reopen()
            if self._is_single and engine.reader.reads_ahead:
                engine.ahead = ReadAhead(engine.reader, engine.plan, engine.read_banks)
            while True:
                task, parcel = receive_task(connection)
                self._work(engine, connection, task, parcel)
        except ConnectionLost:
            return
        except Exception as error:  # noqa: BLE001 - the parent decides; here nobody would see it
            with suppress(ConnectionLost):
                send_fatal(connection, error)

    def _work(self, engine: Engine, connection: socket.socket, task: Task, parcel: bytes) -> None:
        try:
            engine.plan.take(task, parcel)
            result = engine.run(task) if task != _END else engine.finish()
        except Stumble as stumble:
            send_failure(connection, Failure.of(stumble))
        except BeamwrightError as error:
            send_fatal(connection, error)
        else:
            send_result(connection, result)


def _fork(work: Callable[[], None]) -> int:
    """Fork a process that does ``work`` and ends without running anything of the parent's."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    return pid if pid else _child(work)


def _child(work: Callable[[], None]) -> NoReturn:
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        work()
        status = 0
    except BaseException:  # noqa: BLE001 - nothing of the parent's may run here
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _limit_memory(more: int) -> None:
    """Let this process take only so many bytes more than it has: what asks for more gets a MemoryError."""
    held = 0
    with suppress(OSError), open("/proc/self/status", encoding="ascii") as stream:
        held = next(int(line.split()[1]) << 10 for line in stream if line.startswith("VmData"))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = held + more if hard == resource.RLIM_INFINITY else min(held + more, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _of_module(text: str) -> str:
    """Return what a dying process said of its stack, the last call first, without what called the module."""
    lines = text.partition(_ENGINE)[0].splitlines(keepends=True)
    last = next((n for n in range(len(lines), 0, -1) if _is_foreign(lines[n - 1])), len(lines))
    return "".join(lines[:last])


def _is_foreign(line: str) -> bool:
    return line.startswith('  File "') and not line.startswith(_CALLERS)


def _cause(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"killed by {signal.Signals(number).name}"
    return f"ended the process with code {os.waitstatus_to_exitcode(status)}"
