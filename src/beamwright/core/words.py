"""Numbers of things, as sentences have them."""

from __future__ import annotations


def number_of(number: int, thing: str) -> str:
    """Return ``1 unit``, ``2 units``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
