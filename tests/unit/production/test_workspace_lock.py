"""The lock of a workspace: who holds it, and for how long."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from beamwright.core.errors import WorkspaceBusyError
from beamwright.production.workspace import Workspace

# Dies like a killed process that was just starting another: the lock's descriptor lives on in the child.
DIES = """
import os, sys
from pathlib import Path
from beamwright.production.workspace import Workspace
Workspace.open(Path(sys.argv[1])).lock().acquire()
if os.fork() == 0:
    os.close(1)
    sys.stdin.read()
os._exit(0)
"""
HOLDS = """
import sys
from pathlib import Path
from beamwright.production.workspace import Workspace
with Workspace.open(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    made = Workspace.create(tmp_path / "workspace")
    yield made
    made.db.close()


def start(script: str, workspace: Workspace) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-c", script, str(workspace.root)]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_what_a_killed_process_was_just_starting_is_waited_for(workspace: Workspace) -> None:
    with start(DIES, workspace) as process:
        assert process.wait() == 0 and process.stdin is not None
        ending = threading.Timer(0.2, process.stdin.close)
        ending.start()
        with workspace.lock() as lock:
            assert lock.holder() != str(process.pid)
        ending.join()


def test_a_process_that_lives_is_named_at_once(workspace: Workspace) -> None:
    with start(HOLDS, workspace) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        with pytest.raises(WorkspaceBusyError, match=f"in use by process {process.pid}"):
            workspace.lock().__enter__()
        process.communicate()
    with workspace.lock():
        pass
