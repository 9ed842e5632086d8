"""Waiting for what other processes do: as long as a slow machine may take, and no longer than it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 120.0


def wait_for(holds: Callable[[], object], seconds: float = PATIENCE_S, what: object = "") -> None:
    """Wait until something holds; ``what`` is told where it does not come about."""
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit, what or f"it did not come about within {seconds:g} s"
        time.sleep(0.02)


def is_dead(pid: int | str) -> bool:
    """Tell whether a process has ended, though nobody may have taken note of it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
