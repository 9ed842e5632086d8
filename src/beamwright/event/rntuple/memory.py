"""Memory for columns that is used again: to get new pages from the system costs more than to fill them."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np

from beamwright.event.rntuple.schema import Array

KEEP = 512 << 20
"""Bytes that are held at most, used or not."""
LEAST = 1 << 20
"""Bytes of the smallest block that is held; the C library keeps smaller ones."""
_GRAIN = 1 << 16


class Arena:
    """Hands out arrays over blocks of memory, a block again once no array refers to it.

    An array keeps its block alive, so nothing need be given back. Beyond ``keep`` bytes nothing is held.
    """

    def __init__(self, keep: int = KEEP, least: int = LEAST) -> None:
        self.keep, self.least = keep, least
        self._blocks: list[Array] = [np.empty(0, np.uint8)]
        self._lock = threading.Lock()
        self._idle = self._references(0)
        self._blocks.clear()

    def empty(self, n: int, dtype: np.dtype[Any]) -> Array:
        """Return an array of ``n`` values that are not set."""
        size = n * dtype.itemsize
        if not self.least <= size <= self.keep:
            return np.empty(n, dtype)
        with self._lock:
            return self._block(size)[:size].view(dtype)

    @property
    def held(self) -> int:
        """Return the bytes of all blocks that are held."""
        return sum(block.nbytes for block in self._blocks)

    def _references(self, number: int) -> int:
        return sys.getrefcount(self._blocks[number])

    def _block(self, size: int) -> Array:
        idle = [n for n in range(len(self._blocks)) if self._references(n) <= self._idle]
        fitting = [n for n in idle if size <= self._blocks[n].nbytes <= size + size // 2 + _GRAIN]
        if fitting:
            return self._blocks[min(fitting, key=lambda n: self._blocks[n].nbytes)]
        block = np.empty(-(-size // _GRAIN) * _GRAIN, np.uint8)
        excess = self.held + block.nbytes - self.keep
        for number in reversed(idle):
            if excess > 0:
                excess -= self._blocks.pop(number).nbytes
        if excess <= 0:
            self._blocks.append(block)
        return block


COLUMNS = Arena()
"""The arena of all columns that are read."""
