"""Somebody who does what the documentation says: writes its files, types its commands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from beamwright.cli.main import run

DOCS = Path(__file__).resolve().parents[2] / "docs"
FILE = re.compile(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^(?:\$ )?((?:beamwright|python) .*)$", flags=re.MULTILINE)
# What stands behind a command: a comment, or in some blocks what it shows.
BEHIND = re.compile(r"\s+#\s.*$|\s{3,}.*$")
INSTALL = "python -m pip install"
# What starts processes of its own, or is a process to be looked at.
APART = {"produce", "process", "calibrate", "rerun", "analyse"}


def files(page: str) -> dict[str, str]:
    """Return the files that a page gives in full, by name."""
    return dict(FILE.findall((DOCS / page).read_text(encoding="utf-8")))


def commands(page: str) -> list[str]:
    """Return the commands of a page, in order."""
    blocks = BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))
    typed = [block for kind, block in blocks if kind in ("console", "text", "")]
    return [BEHIND.sub("", line) for block in typed for line in COMMAND.findall(block)]


def _apart(words: list[str], folder: Path, site: Path) -> tuple[int, str, str]:
    words = [sys.executable, *([] if words[0] == "python" else ["-m", "beamwright.cli.main"]), *words[1:]]
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, "PYTHONPATH": str(site)}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def _here(words: list[str], folder: Path, site: Path) -> tuple[int, str, str]:
    """Run a command in this process, which spares the start of another."""
    said, told = StringIO(), StringIO()
    sys.path.insert(0, str(site))
    try:
        with chdir(folder), redirect_stdout(said), redirect_stderr(told):
            return run(words[1:]), said.getvalue(), told.getvalue()
    finally:
        sys.path.remove(str(site))


@dataclass
class Follower:
    """Works in a folder of their own, with what they install beside the installation."""

    folder: Path
    said: dict[str, str] = field(default_factory=dict)

    @property
    def site(self) -> Path:
        return self.folder / "site"

    def write(self, texts: Mapping[str, str]) -> None:
        for name, content in texts.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")

    def run(self, line: str, *, where: str = ".", code: int = 0) -> str:
        """Run a command as it is told; return what it said on standard output."""
        if line.startswith(INSTALL):  # as told, but beside the installation and without an index
            options = f"--no-deps --no-build-isolation --no-index --quiet --target={self.site}"
            line = line.replace(INSTALL, f"{INSTALL} {options}")
        words = shlex.split(line)
        is_apart = words[0] == "python" or not APART.isdisjoint(words[1:3])
        call = _apart if is_apart else _here
        found, said, told = call(words, self.folder / where, self.site)
        assert found == code, f"{line}: {found}\n{said}\n{told}"
        self.said[line] = said
        return said

    def follow(
        self,
        page: str,
        *,
        where: str = ".",
        swaps: Mapping[str, str | Callable[[], str]] | None = None,
        before: Mapping[str, Sequence[str | Callable[[], object]]] | None = None,
        leave: Sequence[str] = (),
    ) -> None:
        """Run the commands of a page.

        ``swaps`` says what stands for names of the page, or finds it when it is time; ``before`` what happens
        just before a command that begins so; ``leave`` which commands are left out. None of them may be
        there for nothing.
        """
        swaps, before = swaps or {}, before or {}
        told = commands(page)
        for begin in (*before, *leave):
            assert any(line.startswith(begin) for line in told), f"{page} has no {begin!r}"
        for name in swaps:
            assert any(name in line for line in told), f"{page} has no {name!r}"
        for line in told:
            if line.startswith(tuple(leave)):
                continue
            ready = [more for begin, lines in before.items() if line.startswith(begin) for more in lines]
            for name, mine in swaps.items():
                if name in line:
                    line = line.replace(name, mine if isinstance(mine, str) else mine())
            for one in (*ready, line):
                if isinstance(one, str):
                    self.run(one, where=where)
                else:
                    one()
