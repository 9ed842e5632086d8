"""A large production in a storm: its agents, wrappers, runners and payloads are killed at random moments.

It is started again each time its agents die. In the end the ledger balances, every invariant holds, and the
outputs are those of an undisturbed run, byte by byte. `make test-all` runs it with 100,000 jobs, `make test`
with a small part of them.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

from kill import production
from kill.harness import await_end, check, outputs_of

SCRIPT = Path(production.__file__)


def start(root: Path, units: int, is_fresh: bool = False) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(SCRIPT.parent.parent), os.environ.get("PYTHONPATH", "")])
    argv = [sys.executable, str(SCRIPT), str(root), str(units), *(["--fresh"] if is_fresh else [])]
    with (root.parent / f"{root.name}.log").open("ab") as log:
        return subprocess.Popen(argv, env=os.environ | {"PYTHONPATH": path}, stdout=log, stderr=log)


def below(pid: int) -> list[int]:
    """Return the descendants of a process."""
    found: list[int] = []
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            text = Path(f"/proc/{pid}/task/{task}/children").read_text()
            found += [int(word) for word in text.split()]
    return found + [child for one in list(found) for child in below(one)]


def done(root: Path) -> int:
    """Count the outputs that were taken in, however many there are."""
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(f"file:{root}/beamwright.db?mode=ro", uri=True)) as db,
    ):
        return int(db.execute("select coalesce(max(id), 0) from output").fetchone()[0])
    return 0


def storm(root: Path, units: int, seed: int, kills: int) -> tuple[int, int]:
    """Run to the end, killing somebody whenever a part of the work is done; return how many agents and others
    died.
    """
    draw, agents, others, step = random.Random(seed), 0, 0, 3 * units // kills
    while True:
        process, begun = start(root, units), done(root)
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
                break
            if done(root) < begun + draw.uniform(0.5, 1.5) * step:
                continue
            begun = done(root)
            victims = below(process.pid)
            if not victims or (agents < others and (not agents or draw.random() < 0.8)):
                process.kill()
                agents += 1
            else:
                with suppress(ProcessLookupError):
                    os.kill(draw.choice(victims), signal.SIGKILL)
                    others += 1
        if process.wait() == 0:
            return agents, others


def in_a_storm(folder: Path, units: int, kills: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    for name in ("SECTIONS", "CHUNKS", "SETTINGS"):
        monkeypatch.setattr(production, name, getattr(production, name))
    production.enlarge(units, 2)
    still, stormy = folder / "still", folder / "stormy"
    assert start(still, units).wait() == 0, (folder / "still.log").read_text()
    expected = outputs_of(still)
    assert len(expected) == 3 * units + 2
    died = storm(stormy, units, seed=units, kills=kills)
    await_end(stormy)
    assert check(stormy, expected) == []
    return died


def test_a_storm_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agents, others = in_a_storm(tmp_path, 120, 6, monkeypatch)
    assert agents >= 1 and others >= 1


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
def test_a_storm_over_a_hundred_thousand_jobs_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents, others = in_a_storm(tmp_path, 100_000, 100, monkeypatch)
    assert agents > 5 and others > 20
