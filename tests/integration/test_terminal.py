"""Commands at a real terminal: colours where they are wanted, lines that fit, errors in one block."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from beamwright.cli.main import run

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COMMAND = [sys.executable, "-m", "beamwright.cli.main"]


def at_terminal(*words: str, folder: Path, width: int = 80, **environment: str) -> str:
    """Run a command at a terminal of its own; return all that it wrote there."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    with subprocess.Popen(
        [*COMMAND, *words],
        cwd=folder,
        env={**kept, "TERM": "xterm", **environment},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ):
        os.close(theirs)
        written = b""
        while piece := _read(ours):
            written += piece
    os.close(ours)
    return written.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # nobody holds the other side any more
        return b""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terminal") / "lab"
    assert run(["init", str(folder)]) == 0
    return folder


def test_colours_are_shown_where_the_terminal_has_them(lab: Path) -> None:
    written = at_terminal("run", "show", "A/1", folder=lab)
    assert ESCAPE.search(written)
    assert ESCAPE.sub("", written) == "error: no run is called 'A/1'\n  next: there are none yet\n"


@pytest.mark.parametrize("name", ["NO_COLOR", "TERM"])
def test_no_colours_are_shown_where_they_are_not_wanted(lab: Path, name: str) -> None:
    wanted = {name: {"NO_COLOR": "1", "TERM": "dumb"}[name]}
    assert not ESCAPE.search(at_terminal("run", "show", "A/1", folder=lab, **wanted))
    assert not ESCAPE.search(at_terminal("experiment", "ls", folder=lab, **wanted))


def test_a_terminal_that_cannot_overwrite_gets_lines(lab: Path) -> None:
    assert at_terminal("top", folder=lab, TERM="dumb").startswith("no tasks\nfarm  slots")


@pytest.mark.parametrize("width", [80, 120])
def test_help_fits_the_terminal(lab: Path, width: int) -> None:
    for words in (("--help",), ("process", "--help"), ("file", "reconcile", "--help")):
        lines = at_terminal(*words, folder=lab, width=width).splitlines()
        assert len(lines) > 10 and max(map(len, lines)) <= width
