"""Clocks and randomness as things that are passed in, so that simulations can drive the same code."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from beamwright.core.errors import FormatError

_FAR = 1e12


class Clock(Protocol):
    """Tells the time in seconds since the epoch, and waits."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass
class ManualClock:
    """A clock that moves only when told, or by what is slept."""

    time: float = 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


Nonces = Callable[[], str]


def random_nonce() -> str:
    """Return 128 random bits in hexadecimal."""
    return secrets.token_hex(16)


def seconds_of(value: str | float, owner: str = "a time") -> float:
    """Return the seconds since the epoch of a date or a time in ISO 8601 (UTC unless it says).

    A date alone is its first moment. Raises: FormatError.
    """
    try:
        found = _read(value) if isinstance(value, str) else float(value)
    except (ValueError, OverflowError):
        found = math.nan
    if not abs(found) < _FAR:
        raise FormatError(f"{owner} is {str(value)[:40]!r}", hint="write 2026-05-01 or 2026-05-01T12:00:00Z")
    return found


def _read(text: str) -> float:
    moment = datetime.fromisoformat(text.strip())
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
