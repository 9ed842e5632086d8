"""Progress on standard error: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

import click

from beamwright.cli.common import can_overwrite

T = TypeVar("T")
_BAR = 24
_TERMINAL_EVERY, _ELSEWHERE_EVERY = 0.1, 10.0  # s


class Progress:
    """Tells how far a pass is: records done, how many per second, and when it will be done.

    ``of`` None: nobody knows how many there will be. One that is ``passing`` leaves nothing behind.
    """

    def __init__(self, unit: str = "records", *, passing: bool = False) -> None:
        self._unit, self._is_passing = unit, passing
        self._is_terminal = can_overwrite(sys.stderr)
        self._begun = self._told = time.monotonic()
        self._is_open = False

    def __call__(self, done: int, of: int | None) -> None:
        now = time.monotonic()
        every = _TERMINAL_EVERY if self._is_terminal else _ELSEWHERE_EVERY
        is_end = done == of and not self._is_passing
        if is_end or now - self._told >= every:
            self._told = now
            self._show(line(done, of, now - self._begun, self._is_terminal, self._unit))

    def _show(self, text: str) -> None:
        if self._is_terminal:
            _overwrite(text)
            self._is_open = True
        else:
            click.echo(text, err=True)

    def close(self) -> None:
        """End the line of a terminal."""
        if self._is_open:
            if self._is_passing:
                _overwrite("")
            else:
                click.echo("", err=True)
            self._is_open = False


def _overwrite(text: str) -> None:
    # Not by click, which takes what moves the cursor for a colour, and out where none are wanted.
    sys.stderr.write(f"\r\x1b[K{text}")
    sys.stderr.flush()


def each(items: Sequence[T], unit: str) -> Iterator[T]:
    """Yield items one by one, and tell on the way how many are done; of what is quick nothing is told."""
    progress = Progress(unit, passing=True)
    try:
        for number, item in enumerate(items):
            progress(number, len(items))
            yield item
    finally:
        progress.close()


def line(done: int, of: int | None, seconds: float, with_bar: bool = False, unit: str = "records") -> str:
    """Return the line that tells of so many records done after so many seconds."""
    rate = done / seconds if seconds > 0 else 0.0
    told = f"{_number(rate)} {unit}/s"
    if of is None:
        return f"{done:,} {unit}, {told}"
    bar = ""
    if with_bar:
        full = _BAR * done // of if of else _BAR
        bar = f"[{'█' * full}{' ' * (_BAR - full)}] "
    text = f"{bar}{done:,} of {of:,} {unit}, {told}"
    if done < of:
        text += f", {duration((of - done) / rate)} left" if rate else ""
    else:
        text += f", took {duration(seconds)}"
    return text


def _number(value: float) -> str:
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"
