"""The shell script of a job array: each element runs the wrapper in its job directory."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from beamwright.batch.cluster import Access, Batch, environment

# The wrapper needs the standard library and its own package: an interpreter without more starts sooner.
_PLACE = str(Path(__file__).resolve().parents[2])
_START = f"import sys; sys.path.append({_PLACE!r}); from beamwright.batch import wrapper"
WRAPPER = (sys.executable, "-I", "-S", "-c", f"{_START}; sys.exit(wrapper.main(sys.argv[1:]))")


def array(access: Access, batch: Batch, index: str, first: int = 0) -> str:
    """Return the script; ``index`` is the variable that numbers the elements from ``first``."""
    directories = [f"{shlex.quote(str(directory))} \\" for directory in batch.directories]
    lines = ["#!/bin/sh", *preparation(access), "set -- \\", *directories, ""]
    offset = f'"$(( ${{{index}:-{first}}} - {first} ))"'
    return "\n".join([*lines, f"shift {offset}", command(), ""])


def preparation(access: Access) -> list[str]:
    """Return the commands that set up a job's environment."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in variables(access).items()]
    return [*exports, *([f". {shlex.quote(access.setup)}"] if access.setup else [])]


def within(setup: str, argv: Sequence[str]) -> list[str]:
    """Return the command as it runs after a farm's set-up file, if there is one."""
    return ["/bin/sh", "-c", '. "$0" </dev/null; exec "$@"', setup, *argv] if setup else list(argv)


def variables(access: Access) -> Mapping[str, str]:
    """Return the variables of a job: what is passed on, and the farm's own."""
    return environment(()) | dict(access.environment)


def command() -> str:
    """Return the command that becomes the wrapper of job directory ``$1``, so that signals reach it."""
    return f'exec {shlex.join(WRAPPER)} "$1" >>"$1/wrapper.log" 2>&1'
