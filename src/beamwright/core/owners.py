"""Whose things are: what an analyst makes is named in the analyst's own scope, ``user.NAME``."""

from __future__ import annotations

import re

_OWNED = re.compile(r"(user\.[a-z0-9_-]+)(\..+)?")


def owner(scope: str) -> str:
    """Return the analyst that a scope or production belongs to, or "" for the experiment's own."""
    found = _OWNED.fullmatch(scope)
    return found[1] if found else ""
