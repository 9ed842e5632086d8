"""The warm runner: imports the event framework and the experiment once, then forks a child for each job.

One line of JSON asks for a command (``argv`` of ``beamwright process --job FILE`` or ``beamwright
validate --json FILE…``, ``cwd``, ``log``, ``environment``); a line answers with the pid of the process that
runs it, a last one with its exit code, what it used and, where this ``is_kept``, what it printed. The end of
the input ends the runner; its own end ends its children.

Outputs are read by one more child, which serves all validations: no job ever runs in it, and nothing that it
has read gets into the process from which jobs are forked.
"""

from __future__ import annotations

import gc
import io
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, redirect_stdout, suppress

from beamwright.batch.children import die_with_parent

# A runner starts for each pack of jobs: what not every one of them needs is imported where it is needed.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

Perform = Callable[[list[str]], int]


def main(perform: Perform | None = None) -> int:
    """Serve requests until the input ends; ``perform`` stands in for what runs a command."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what anything prints must not come between the answers
    # A batch system may tell every process of a job to end; how it ends is for the wrapper to say.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    validator: _Validator | None = None
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if command_of(request["argv"])[:1] == ["validate"]:
            if validator is None or not validator.is_alive():
                validator = _Validator(answers, perform or _perform)
            validator.serve(line)
            continue
        try:
            if perform is None:
                warm(request["argv"])
        except Exception:  # noqa: BLE001 - the child meets the same error and reports it
            _print_error()
        _serve(request, [answers, *(validator.descriptors if validator else ())], perform or _perform)
    return 0


def warm(argv: list[str]) -> None:
    """Do before the fork what every job would do first: import the experiment, find the release."""
    from pathlib import Path

    from beamwright.production import experiment, release, work  # noqa: F401

    if "--job" in argv:
        job = json.loads(Path(argv[argv.index("--job") + 1]).read_bytes())
        chosen = experiment.load(job["experiment"])
        release.current(chosen.distributions)
        for name in {file["reader"] for file in job["inputs"]} & set(chosen.readers):
            chosen.readers[name].warm()


def command_of(argv: list[str]) -> list[str]:
    """Return the arguments from the name of the command on; what precedes it starts an interpreter."""
    names = [i for i, argument in enumerate(argv) if argument in ("process", "validate")]
    return argv[names[0] :] if names else argv


def run(argv: list[str]) -> int:
    """Run one command in this process and return its exit code."""
    from pathlib import Path

    from beamwright.core.errors import UsageError
    from beamwright.production import work

    command, *rest = argv
    if command == "process" and rest[:1] == ["--job"]:
        return work.run(Path(rest[1]))
    if command == "validate" and rest[:1] == ["--json"]:
        verdicts = work.validate([Path(name) for name in rest[1:]])
        for verdict in verdicts:
            sys.stdout.write(json.dumps(verdict) + "\n")
        return 0 if all(verdict["valid"] for verdict in verdicts) else 4
    raise UsageError(
        f"a runner does not know {' '.join(argv)}", hint="process --job FILE, or validate --json FILE…"
    )


def _perform(argv: list[str]) -> int:
    return run(command_of(argv))


def _serve(request: dict[str, Any], descriptors: Sequence[int], perform: Perform) -> None:
    """Fork a child for the request, and answer (on the first descriptor) with its pid and its end."""
    start, answers = time.monotonic(), descriptors[0]
    pid = _fork(lambda: _become(request, descriptors, perform))
    _answer(answers, {"pid": pid})
    _, status, usage = os.wait4(pid, 0)
    end = {"exit_code": os.waitstatus_to_exitcode(status), "cpu_s": usage.ru_utime + usage.ru_stime}
    _answer(answers, end | {"max_rss_kb": usage.ru_maxrss, "wall_s": time.monotonic() - start})


def _fork(become: Callable[[], NoReturn]) -> int:
    """Fork a child with a process group of its own, and return its pid."""
    _refuse_threads()
    gc.freeze()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        become()
    with suppress(OSError):  # the child does the same; whoever comes first
        os.setpgid(pid, pid)
    return pid


class _Validator:
    """The child that validates: forked at the first request, it stays for the next ones.

    The wrapper ends the runner, and this child with it, after a validation that went wrong.
    """

    def __init__(self, answers: int, perform: Perform) -> None:
        requests, self._requests = os.pipe()
        self._ends, ends = os.pipe()
        self._answers = answers
        own = [answers, *self.descriptors]
        self._pid = _fork(lambda: _stay(requests, ends, own, perform))
        os.close(requests)
        os.close(ends)

    @property
    def descriptors(self) -> tuple[int, int]:
        """What no other child may keep open."""
        return self._requests, self._ends

    def is_alive(self) -> bool:
        """Tell whether the child still waits for requests; one that died meanwhile is buried."""
        if os.waitpid(self._pid, os.WNOHANG)[0] == 0:
            return True
        for descriptor in self.descriptors:
            os.close(descriptor)
        return False

    def serve(self, line: bytes) -> None:
        """Pass a request on, and its end back."""
        _answer(self._answers, {"pid": self._pid, "stays": True})
        with suppress(BrokenPipeError):
            os.write(self._requests, line)
        end = b""
        while not end.endswith(b"\n"):
            part = os.read(self._ends, 1 << 16)
            if not part:
                end = _line(self._ended())
                break
            end += part
        os.write(self._answers, end)

    def _ended(self) -> dict[str, Any]:
        """Return how the child ended, in the middle of its work."""
        _, status, usage = os.wait4(self._pid, 0)
        code = os.waitstatus_to_exitcode(status) or 1
        return {"exit_code": code, "cpu_s": usage.ru_utime + usage.ru_stime, "max_rss_kb": usage.ru_maxrss,
                "wall_s": 0.0}  # fmt: skip


def _stay(requests: int, ends: int, foreign: Sequence[int], perform: Perform) -> NoReturn:
    """Turn a fresh child into the process that validates until its requests end; never returns."""
    exit_code = 1
    try:
        _detach(foreign)
        with open(requests, "rb") as lines:
            for line in lines:
                os.write(ends, _line(_measured(json.loads(line), perform)))
        exit_code = 0
    except BaseException:  # noqa: BLE001 - the child's last word is its traceback and exit code
        _print_error()
    finally:
        sys.stderr.flush()
        os._exit(exit_code)


def _measured(request: dict[str, Any], perform: Perform) -> dict[str, Any]:
    """Run one command of many in this process; return how it ended, and keep no file open."""
    start, before, kept = time.monotonic(), time.process_time(), [os.dup(1), os.dup(2)]
    _forget_peak()
    output = io.StringIO()
    try:
        with redirect_stdout(output) if request["is_kept"] else nullcontext():
            exit_code = _run(request, perform)
    finally:
        for target, descriptor in enumerate(kept, 1):
            os.dup2(descriptor, target)
            os.close(descriptor)
        os.chdir("/")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"exit_code": exit_code, "cpu_s": time.process_time() - before, "max_rss_kb": peak,
            "wall_s": time.monotonic() - start, "output": output.getvalue()}  # fmt: skip


def _forget_peak() -> None:
    """Have the kernel count the memory of this process anew."""
    with suppress(OSError), open("/proc/self/clear_refs", "w") as stream:
        stream.write("5")


def _refuse_threads() -> None:
    """A child forked beside living threads may wait for ever for a lock that one of them holds.

    Raises: UsageError, naming them.
    """
    if "threading" not in sys.modules:  # importing it would cost each child: it mends itself after a fork
        return
    import threading

    from beamwright.core.errors import UsageError

    names = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if names:
        message = f"the runner cannot fork while threads live: {', '.join(names)}"
        raise UsageError(message, hint="start threads when the job runs, not when modules are imported")


def _become(request: dict[str, Any], descriptors: Iterable[int], perform: Perform) -> NoReturn:
    """Turn a fresh child into the process that was asked for; never returns."""
    exit_code = 1
    try:
        _detach(descriptors)
        exit_code = _run(request, perform)
    except BaseException:  # noqa: BLE001 - the child's last word is its traceback and exit code
        _print_error()
    finally:
        sys.stderr.flush()
        os._exit(exit_code)


def _detach(descriptors: Iterable[int]) -> None:
    """End with the parent, as a group of its own, and without the parent's pipes."""
    die_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setpgid(0, 0)
    for descriptor in descriptors:
        os.close(descriptor)


def _run(request: dict[str, Any], perform: Perform) -> int:
    """Run a command with the streams, folder and variables that it wants; return its exit code."""
    _redirect(request["log"])
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    try:
        return perform(request["argv"])
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - the command's last word is its traceback and exit code
        _print_error()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _redirect(log: str) -> None:
    """Read from nothing, and write everything to the log."""
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(nothing)
    os.close(target)


def _print_error() -> None:
    """Print the error that is being handled, with its traceback."""
    sys.excepthook(*sys.exc_info())


def _answer(descriptor: int, document: dict[str, Any]) -> None:
    os.write(descriptor, _line(document))


def _line(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode() + b"\n"


if __name__ == "__main__":
    sys.exit(main())
