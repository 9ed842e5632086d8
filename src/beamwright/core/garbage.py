"""When Python looks for cycles of objects that nobody uses any more."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# So many objects more than were freed, and Python looks through the new ones: it is 700 otherwise.
SELDOM = 20_000


def seldom() -> None:
    """Look for cycles seldom from now on, and not among what is there already: for a process that stays.

    A process forked later is spared the copies of the pages that a search would write to.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(SELDOM)


@contextmanager
def put_off() -> Iterator[None]:
    """Look for cycles afterwards: while very many objects are made that all stay, each search is in vain."""
    is_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_on:
            gc.enable()
