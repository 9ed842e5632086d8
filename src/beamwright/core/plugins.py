"""Plug-ins: what installed distributions register under the entry points that beamwright reads.

Built-ins register the same way, in beamwright's own distribution.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

from beamwright.core.errors import ConfigError, UnknownNameError

SCHEDULERS = "beamwright.schedulers"


def names(group: str) -> list[str]:
    """Return the names that are registered in a group."""
    return sorted({entry.name for entry in metadata.entry_points(group=group)})


def load(group: str, name: str) -> Any:
    """Return what is registered under a name.

    Raises: UnknownNameError, ConfigError when it cannot be imported.
    """
    found = {entry.name: entry for entry in metadata.entry_points(group=group)}
    if name not in found:
        raise UnknownNameError(f"plug-in of {group}", name, found)
    try:
        return found[name].load()
    except (ImportError, AttributeError) as error:
        hint = f"reinstall the distribution that registers it ({found[name].value})"
        raise ConfigError(f"plug-in {name} of {group} cannot be imported: {error}", hint=hint) from error
