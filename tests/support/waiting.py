"""Waiting for what other processes do: as long as a slow machine may take, and no longer than it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 120.0


def wait_for(
    holds: Callable[[], object],
    seconds: float = PATIENCE_S,
    what: str = "it did not come about",
    seen: Callable[[], object] = str,
) -> None:
    """Wait until something holds; else ``what`` is told, and what is ``seen`` then."""
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit, f"{what} within {seconds:g} s: {seen()}"
        time.sleep(0.02)


def is_dead(pid: int | str) -> bool:
    """Tell whether a process has ended, though nobody may have taken note of it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
