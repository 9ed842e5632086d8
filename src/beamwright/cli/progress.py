"""Progress on standard error: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time

import click

from beamwright.cli.common import can_overwrite

_BAR = 24
_TERMINAL_EVERY, _ELSEWHERE_EVERY = 0.1, 10.0  # s


class Progress:
    """Tells how far a pass is: records done, how many per second, and when it will be done.

    ``of`` None: nobody knows how many there will be.
    """

    def __init__(self) -> None:
        self._is_terminal = can_overwrite(sys.stderr)
        self._begun = self._told = time.monotonic()
        self._is_open = False

    def __call__(self, done: int, of: int | None) -> None:
        now = time.monotonic()
        every = _TERMINAL_EVERY if self._is_terminal else _ELSEWHERE_EVERY
        if done == of or now - self._told >= every:
            self._told = now
            self._show(line(done, of, now - self._begun, self._is_terminal))

    def _show(self, text: str) -> None:
        if self._is_terminal:
            click.echo(f"\r\x1b[K{text}", err=True, nl=False)
            self._is_open = True
        else:
            click.echo(text, err=True)

    def close(self) -> None:
        """End the line of a terminal."""
        if self._is_open:
            click.echo("", err=True)
            self._is_open = False


def line(done: int, of: int | None, seconds: float, with_bar: bool = False) -> str:
    """Return the line that tells of so many records done after so many seconds."""
    rate = done / seconds if seconds > 0 else 0.0
    told = f"{_number(rate)} records/s"
    if of is None:
        return f"{done:,} records, {told}"
    bar = ""
    if with_bar:
        full = _BAR * done // of if of else _BAR
        bar = f"[{'█' * full}{' ' * (_BAR - full)}] "
    text = f"{bar}{done:,} of {of:,} records, {told}"
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
