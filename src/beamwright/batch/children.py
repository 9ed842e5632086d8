"""Child processes of the wrapper: started fresh or by a warm runner, held to limits, leaving nothing behind.

Standard library only: this module travels with the wrapper.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

GRACE_S = 5.0
TICK_S = 0.25
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_prctl = ctypes.CDLL(None, use_errno=True).prctl


@dataclass(frozen=True)
class Command:
    """What to run: in ``cwd``, errors appended to ``log``, output to ``stdout`` or to the log too."""

    argv: Sequence[str]
    cwd: Path
    log: Path
    stdout: Path | None = None
    environment: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Ended:
    """How a child ended: ``exit_code`` is minus the signal that killed it, ``stopped`` why we did."""

    exit_code: int
    cpu_s: float
    wall_s: float
    max_rss_kb: int
    stopped: str = ""


@dataclass
class Guard:
    """Holds a child to its limits, with a ``beat`` now and then; ``stop`` says why all must end, if so."""

    wall_s: float
    memory_mb: float
    beat: Callable[[], None]
    stop: Callable[[], str]
    grace_s: float = GRACE_S

    def watch(self, pid: int, ready: Callable[[float], bool]) -> str:
        """Wait until ``ready(seconds)`` says so; return why the process group was stopped, or nothing."""
        deadline, reason = time.monotonic() + self.wall_s, ""
        while not ready(TICK_S):
            self.beat()
            if not reason:
                reason = self._reason(pid, deadline)
                if reason:
                    _signal_group(pid, signal.SIGTERM)
                    deadline = time.monotonic() + self.grace_s
            elif time.monotonic() > deadline:
                _signal_group(pid, signal.SIGKILL)
        return reason

    def _reason(self, pid: int, deadline: float) -> str:
        if time.monotonic() > deadline:
            return "time"
        return "memory" if exceeds(pid, self.memory_mb) else self.stop()


class Launcher(Protocol):
    """Runs commands one after the other."""

    def run(self, command: Command, guard: Guard) -> Ended: ...

    def close(self) -> None: ...


class Fresh:
    """Starts a new process for each command."""

    def run(self, command: Command, guard: Guard) -> Ended:
        """Run the command to its end.

        Raises: OSError when it cannot be started.
        """
        start = time.monotonic()
        process = _start(command)
        descriptor = os.pidfd_open(process.pid)
        try:
            reason = guard.watch(process.pid, lambda seconds: _readable(descriptor, seconds))
        finally:
            os.close(descriptor)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        sweep(process.pid)
        cpu = usage.ru_utime + usage.ru_stime
        return Ended(process.returncode, cpu, time.monotonic() - start, usage.ru_maxrss, reason)

    def close(self) -> None:
        """There is nothing to end."""


class Warm:
    """Hands commands to one runner process, which forks a child for each of them.

    ``argv`` starts the runner. A new one takes over after ``every`` commands, and after any failure.
    """

    def __init__(self, argv: Sequence[str], every: int = 1000) -> None:
        self.argv = tuple(argv)
        self._every = every
        self._served = 0
        self._runner: _Runner | None = None

    def run(self, command: Command, guard: Guard) -> Ended:
        """Let the runner run the command to its end; a runner that dies counts as the command's own death."""
        if self._runner is None or not self._runner.is_alive():
            self.close()
            self._runner = _Runner(self.argv, command.log)
        try:
            ended = self._runner.run(command, guard)
        except (OSError, ValueError, KeyError) as error:
            _note(command.log, f"the runner failed: {error!r}")
            ended = Ended(-signal.SIGKILL, 0.0, 0.0, 0, guard.stop())
        self._served += 1
        if ended.exit_code != 0 or self._served >= self._every:
            self.close()
        return ended

    def close(self) -> None:
        """End the runner."""
        if self._runner is not None:
            self._runner.close()
        self._runner, self._served = None, 0


class _Runner:
    """One runner process: a line of JSON asks, a line names the child's pid, a last one says how it ended."""

    def __init__(self, argv: Sequence[str], log: Path) -> None:
        self._requests, theirs = os.pipe()[::-1]
        self._answers, ours = os.pipe()
        self._buffer = b""
        with open(log, "ab") as errors:
            self._process = subprocess.Popen(
                argv,
                stdin=theirs,
                stdout=ours,
                stderr=errors,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - the wrapper has one thread
            )
        os.close(theirs)
        os.close(ours)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def run(self, command: Command, guard: Guard) -> Ended:
        request: dict[str, Any] = {
            "argv": list(command.argv),
            "cwd": str(command.cwd),
            "log": str(command.log),
        }
        request["stdout"] = str(command.stdout or "")
        request["environment"] = dict(command.environment or {})
        os.write(self._requests, json.dumps(request).encode() + b"\n")
        reason = guard.watch(self._process.pid, self._ready)
        begun = self._answer()
        pid = int(begun["pid"])
        reason = reason or guard.watch(pid, self._ready)
        end = self._answer()
        if not begun.get("stays"):
            sweep(pid, keep=self._process.pid)
        return Ended(end["exit_code"], end["cpu_s"], end["wall_s"], end["max_rss_kb"], reason)

    def close(self) -> None:
        os.close(self._requests)
        os.close(self._answers)
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        sweep(self._process.pid)

    def _ready(self, seconds: float) -> bool:
        return b"\n" in self._buffer or _readable(self._answers, seconds)

    def _answer(self) -> dict[str, Any]:
        """Read one line of JSON.

        Raises: ValueError when the runner ended or speaks another language.
        """
        while b"\n" not in self._buffer:
            part = os.read(self._answers, 1 << 16)
            if not part:
                raise ValueError("it ended without an answer")
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that made it ends; call it in the new process."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of whatever descendants lose theirs, so that ``sweep`` finds them."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def sweep(group: int, keep: int = 0) -> None:
    """Kill what a command left behind: its process group, and orphans that came to us; but not ``keep``."""
    _signal_group(group, signal.SIGKILL)
    for pid in _children(os.getpid()):
        if pid != keep:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def exceeds(pid: int, memory_mb: float) -> bool:
    """Tell whether a process and its descendants use more memory, each shared page counted once."""
    pids = _tree(pid)
    limit = memory_mb * 1024
    if sum(_kilobytes(p, "status", b"VmRSS:") for p in pids) <= limit:
        return False
    return sum(_kilobytes(p, "smaps_rollup", b"Pss:") for p in pids) > limit


def _start(command: Command) -> subprocess.Popen[bytes]:
    with open(command.log, "ab") as log, open(command.stdout or command.log, "ab") as stdout:
        return subprocess.Popen(
            command.argv,
            cwd=command.cwd,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=log,
            env={**os.environ, **(command.environment or {})},
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - the wrapper has one thread
        )


def _readable(descriptor: int, seconds: float) -> bool:
    return bool(select.select([descriptor], [], [], seconds)[0])


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _note(log: Path, text: str) -> None:
    with suppress(OSError), open(log, "ab") as stream:
        stream.write(f"{text}\n".encode())


def _tree(pid: int) -> list[int]:
    pids = [pid]
    for parent in pids:
        pids.extend(_children(parent))
    return pids


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            found.extend(int(p) for p in Path(f"/proc/{pid}/task/{task}/children").read_bytes().split())
    return found


def _kilobytes(pid: int, file: str, key: bytes) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/{file}").read_bytes().splitlines():
            if line.startswith(key):
                return int(line.split()[1])
    return 0
