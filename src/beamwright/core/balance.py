"""The balance of a line of the ledger, wherever the line stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

TERMS = ("read", "created", "written", "filtered", "prescaled", "quarantined")


def imbalance(line: Mapping[str, Any]) -> str:
    """Say why a line does not account for every record; nothing when it does.

    What was read or created is written, filtered, prescaled or quarantined. Of records that are generated,
    those requested are created or quarantined, and those created are written, filtered or prescaled.
    """
    requested, gone = line.get("requested"), sum(line[term] for term in TERMS[2:])
    came = line["read"] + line["created"] if requested is None else requested
    is_made = requested is None or (not line["read"] and requested == line["created"] + line["quarantined"])
    if came == gone and is_made:
        return ""
    return ", ".join(f"{term} {line[term]}" for term in terms(line))


def terms(line: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the terms that a line has."""
    return TERMS if line.get("requested") is None else ("requested", *TERMS)


def terms_among(lines: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the names of the terms that some of the lines have."""
    return max((terms(line) for line in lines), key=len, default=TERMS)


def taken(line: Mapping[str, Any]) -> int:
    """Return how many records a unit was to account for: those that it read, or was to make."""
    return int(line["read"] if line.get("requested") is None else line["requested"])
