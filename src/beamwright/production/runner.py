"""The warm runner: imports the event framework and the experiment once, then forks a child for each request.

One line of JSON asks for a command (``argv`` of ``beamwright process --job FILE`` or ``beamwright
validate --json FILE…``, ``cwd``, ``log``, ``stdout``, ``environment``); a line answers with the child's
pid, a last one with its exit code and what it used. The end of the input ends the runner; its own end
ends its children.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from beamwright.batch.children import die_with_parent
from beamwright.core.errors import UsageError


def main(perform: Callable[[list[str]], int] | None = None) -> int:
    """Serve requests until the input ends; ``perform`` stands in for what runs a command."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what anything prints must not come between the answers
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            if perform is None:
                warm(request["argv"])
        except Exception:  # noqa: BLE001 - the child meets the same error and reports it
            traceback.print_exc()
        _serve(request, answers, perform or _perform)
    return 0


def warm(argv: list[str]) -> None:
    """Do before the fork what every job would do first: import the experiment, find the release."""
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


def _serve(request: dict[str, Any], answers: int, perform: Callable[[list[str]], int]) -> None:
    """Fork a child for the request, and answer with its pid and its end."""
    start = time.monotonic()
    _refuse_threads()
    gc.freeze()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _become(request, answers, perform)
    with suppress(OSError):  # the child does the same; whoever comes first
        os.setpgid(pid, pid)
    _answer(answers, {"pid": pid})
    _, status, usage = os.wait4(pid, 0)
    end = {"exit_code": os.waitstatus_to_exitcode(status), "cpu_s": usage.ru_utime + usage.ru_stime}
    _answer(answers, end | {"max_rss_kb": usage.ru_maxrss, "wall_s": time.monotonic() - start})


def _refuse_threads() -> None:
    """A child forked beside living threads may wait for ever for a lock that one of them holds.

    Raises: UsageError, naming them.
    """
    names = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if names:
        message = f"the runner cannot fork while threads live: {', '.join(names)}"
        raise UsageError(message, hint="start threads when the job runs, not when modules are imported")


def _become(request: dict[str, Any], answers: int, perform: Callable[[list[str]], int]) -> NoReturn:
    """Turn a fresh child into the process that was asked for; never returns."""
    exit_code = 1
    try:
        die_with_parent()
        os.setpgid(0, 0)
        os.close(answers)
        _redirect(request)
        os.environ.update(request["environment"])
        os.chdir(request["cwd"])
        exit_code = perform(request["argv"])
    except SystemExit as error:
        exit_code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - the child's last word is its traceback and exit code
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


def _redirect(request: dict[str, Any]) -> None:
    """Point the standard streams where the request wants them."""
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    log = os.open(request["log"], append, 0o644)
    out = os.open(request["stdout"], append, 0o644) if request["stdout"] else log
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (out, 1), (log, 2)):
        os.dup2(source, target)


def _answer(descriptor: int, document: dict[str, Any]) -> None:
    os.write(descriptor, json.dumps(document).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
