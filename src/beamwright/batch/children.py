"""Child processes of the wrapper: started fresh or by a warm runner, held to limits, leaving nothing behind.

Standard library only, and little of it: this module travels with the wrapper, which starts anew for many
jobs. The wrapper has one thread; so this module forks where ``subprocess`` would do more than is needed.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Launcher(Protocol):
        """Runs commands one after the other: ``run`` those of the job, ``check`` what reads its outputs."""

        def run(self, command: Command, guard: Guard) -> Ended: ...

        def check(self, command: Command, guard: Guard) -> Ended: ...

        def close(self) -> None: ...


GRACE_S = 5.0
TICK_S = 0.25
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_prctl = ctypes.CDLL(None, use_errno=True).prctl
# Runners that stay from one command to the next.
_staying: set[int] = set()
_counted: list[int] = []


class Command:
    """What to run: in ``cwd``, errors appended to ``log``, and output too, unless it is ``kept``."""

    def __init__(
        self,
        argv: Sequence[str],
        cwd: str,
        log: str,
        environment: Mapping[str, str],
        is_kept: bool = False,
    ) -> None:
        self.argv, self.cwd, self.log = list(argv), cwd, log
        self.environment, self.is_kept = environment, is_kept


class Ended:
    """How a child ended: ``exit_code`` is minus the signal that killed it, ``stopped`` why we did."""

    def __init__(
        self,
        exit_code: int,
        cpu_s: float,
        wall_s: float,
        max_rss_kb: int,
        stopped: str = "",
        output: str = "",
    ) -> None:
        self.exit_code, self.cpu_s, self.wall_s = exit_code, cpu_s, wall_s
        self.max_rss_kb, self.stopped, self.output = max_rss_kb, stopped, output


class Guard:
    """Holds a child to its limits, with a ``beat`` now and then; ``stop`` says why all must end, if so."""

    def __init__(
        self,
        wall_s: float,
        memory_mb: float,
        beat: Callable[[], None],
        stop: Callable[[], str],
        grace_s: float = GRACE_S,
    ) -> None:
        self.wall_s, self.memory_mb, self.grace_s = wall_s, memory_mb, grace_s
        self.beat, self.stop = beat, stop

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


class Fresh:
    """Starts a new process for each command."""

    def run(self, command: Command, guard: Guard) -> Ended:
        """Run the command to its end.

        Raises: OSError when it cannot be started.
        """
        start = time.monotonic()
        log = os.open(command.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        output = os.memfd_create("output") if command.is_kept else os.dup(log)
        try:
            environment = os.environ | dict(command.environment)
            process = _Process(command.argv, (-1, output, log), command.cwd, environment)
            reason = guard.watch(process.pid, process.ended)
            exit_code, usage = process.bury()
            sweep(process.pid)
            said = _content(output) if command.is_kept else ""
        finally:
            os.close(log)
            os.close(output)
        cpu = usage.ru_utime + usage.ru_stime
        return Ended(exit_code, cpu, time.monotonic() - start, usage.ru_maxrss, reason, said)

    check = run

    def close(self) -> None:
        """There is nothing to end."""


class Warm:
    """Hands commands to one runner process, which forks a child for each job.

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

    check = run

    def close(self) -> None:
        """End the runner."""
        if self._runner is not None:
            self._runner.close()
        self._runner, self._served = None, 0


class FreshJobs:
    """Starts a new process for each job, and has a warm runner read what it wrote."""

    def __init__(self, warm: Warm) -> None:
        self._warm = warm
        self.run = Fresh().run
        self.check = warm.check

    def close(self) -> None:
        """End the runner."""
        self._warm.close()


class Runners:
    """The warm runner for consecutive jobs of one kind; another release or experiment gets a new one.

    With ``is_fresh``, each job has a process of its own, and the runner only reads outputs.
    """

    def __init__(self, every: int, is_fresh: bool = False) -> None:
        self._every = every
        self._is_fresh = is_fresh
        self._key: tuple[Any, ...] = ()
        self._launcher: Launcher | None = None

    def choose(self, job: dict[str, Any]) -> Launcher:
        """Return the launcher that serves this job."""
        command = job["commands"]["process"]
        key = (*command, job["release"], job["experiment"])
        if self._launcher is None or key != self._key:
            self.close()
            warm = Warm([*command, "--serve"], self._every)
            self._key, self._launcher = key, FreshJobs(warm) if self._is_fresh else warm
        return self._launcher

    def close(self) -> None:
        """End the runner."""
        if self._launcher is not None:
            self._launcher.close()


class _Process:
    """A process in a session of its own that ends with us; ``streams`` are its first three descriptors."""

    def __init__(
        self, argv: Sequence[str], streams: Sequence[int], cwd: str, environment: Mapping[str, str]
    ) -> None:
        news, ours = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _become(argv, streams, cwd, environment, ours)
        os.close(ours)
        problem = os.read(news, 16)
        os.close(news)
        if problem:
            os.waitpid(self.pid, 0)
            raise OSError(int(problem), os.strerror(int(problem)), argv[0])
        self._descriptor = os.pidfd_open(self.pid)

    def ended(self, seconds: float) -> bool:
        """Wait for the end for so long; tell whether it has come."""
        return _readable(self._descriptor, seconds)

    def bury(self) -> tuple[int, Any]:
        """Wait for the end; return the exit code and what was used."""
        _, status, usage = os.wait4(self.pid, 0)
        os.close(self._descriptor)
        return os.waitstatus_to_exitcode(status), usage


def _become(
    argv: Sequence[str], streams: Sequence[int], cwd: str, environment: Mapping[str, str], news: int
) -> None:
    """Turn a fresh child into another program; never returns. Why it cannot be done goes to ``news``."""
    try:
        die_with_parent()
        os.setsid()
        os.chdir(cwd)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for target, source in enumerate(streams):
            os.dup2(nothing if source < 0 else source, target)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them; what it starts shall not
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(argv[0], list(argv), dict(environment))
    except OSError as error:
        os.write(news, str(error.errno).encode())
    finally:
        os._exit(127)


class _Runner:
    """One runner process: a line of JSON asks, a line names the child's pid, a last one says how it ended."""

    def __init__(self, argv: Sequence[str], log: str) -> None:
        theirs, self._requests = os.pipe()
        self._answers, ours = os.pipe()
        self._buffer = b""
        errors = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self._process = _Process(argv, (theirs, ours, errors), ".", os.environ)
        except OSError:
            os.close(self._requests)
            os.close(self._answers)
            raise
        finally:
            for descriptor in (theirs, ours, errors):
                os.close(descriptor)
        _staying.add(self._process.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return not self._process.ended(0.0)

    def run(self, command: Command, guard: Guard) -> Ended:
        request: dict[str, Any] = {"argv": command.argv, "cwd": command.cwd, "log": command.log}
        request |= {"environment": dict(command.environment), "is_kept": command.is_kept}
        os.write(self._requests, json.dumps(request).encode() + b"\n")
        reason = guard.watch(self.pid, self._ready)
        begun = self._answer()
        pid = int(begun["pid"])
        reason = reason or guard.watch(pid, self._ready)
        end = self._answer()
        if not begun.get("stays"):
            sweep(pid)
        return Ended(
            end["exit_code"], end["cpu_s"], end["wall_s"], end["max_rss_kb"], reason, end.get("output", "")
        )

    def close(self) -> None:
        os.close(self._requests)
        os.close(self._answers)
        if not self._process.ended(GRACE_S):
            os.kill(self.pid, signal.SIGKILL)
        self._process.bury()
        _staying.discard(self.pid)
        sweep(self.pid)

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


def sweep(group: int) -> None:
    """Kill what a command left behind: its process group, and orphans that came to us; but no runner."""
    _signal_group(group, signal.SIGKILL)
    own = os.getpid()
    for pid in _children_of_thread(own, own):
        if pid not in _staying:
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


def has_lacked_memory() -> bool:
    """Tell whether the kernel has ended a process of ours for want of memory since this was asked before."""
    count = _oom_kills()
    before = _counted[-1] if _counted else count
    _counted[:] = [count]
    return count > before


def _oom_kills() -> int:
    """Return how many processes the kernel has ended for want of memory, as our control group counts them."""
    count = 0
    with suppress(OSError, ValueError):
        for line in _read("/proc/self/cgroup").decode().splitlines():
            _, controllers, path = line.split(":", 2)
            files = {"": f"{path}/memory.events", "memory": f"/memory{path}/memory.oom_control"}
            if controllers in files:
                with suppress(OSError, ValueError):
                    words = _read(f"/sys/fs/cgroup{files[controllers]}").split()
                    count += int(words[words.index(b"oom_kill") + 1])
    return count


def host() -> str:
    """Return the name of this node: that by which its batch system can be asked to avoid it."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def _content(descriptor: int) -> str:
    """Return what was written to an open file."""
    with open(os.dup(descriptor), "rb") as stream:
        stream.seek(0)
        return stream.read().decode(errors="replace")


def _readable(descriptor: int, seconds: float) -> bool:
    return bool(select.select([descriptor], [], [], seconds)[0])


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _note(log: str, text: str) -> None:
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
        for thread in os.listdir(f"/proc/{pid}/task"):
            found.extend(_children_of_thread(pid, thread))
    return found


def _children_of_thread(pid: int, thread: int | str) -> list[int]:
    return [int(p) for p in _read(f"/proc/{pid}/task/{thread}/children").split()]


def _kilobytes(pid: int, file: str, key: bytes) -> int:
    with suppress(OSError):
        for line in _read(f"/proc/{pid}/{file}").splitlines():
            if line.startswith(key):
                return int(line.split()[1])
    return 0


def _read(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()
