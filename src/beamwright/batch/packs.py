"""Packs: several jobs in one element of an array, each with its own attempt, nonce and report.

A pack is a directory whose file ``pack`` lists job directories; the wrapper runs them one after the other.
Its members bear the id of their element with their number and the size of the pack, so that any process that
reads an id knows what it is part of.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from beamwright import durable
from beamwright.batch.scheduler import Status
from beamwright.batch.wrapper import PACK_FILE
from beamwright.core.errors import SchedulerError

_MEMBER = re.compile(r"(.+)#(\d+)/(\d+)")


class Statuses(Mapping[str, Status]):
    """What is said of elements, asked by the ids of elements or of their members; ``members`` are listed."""

    def __init__(self, elements: Mapping[str, Status], members: Iterable[str] = ()) -> None:
        self._elements = elements
        self._members = [batch_id for batch_id in members if element(batch_id) in elements]

    def __getitem__(self, batch_id: str) -> Status:
        return self._elements[element(batch_id)]

    def __iter__(self) -> Iterator[str]:
        yield from self._elements
        yield from self._members

    def __len__(self) -> int:
        return len(self._elements) + len(self._members)


def directory(folder: Path, jobs: Sequence[Path]) -> Path:
    """Return the directory of an element: the only job's own, or that of a new pack.

    Raises: SchedulerError.
    """
    if len(jobs) == 1:
        return jobs[0]
    text = "".join(f"{job}\n" for job in jobs).encode()
    pack = folder / "packs" / hashlib.sha256(text).hexdigest()[:24]
    try:
        durable.make_directory(pack)
        durable.put_once(pack / PACK_FILE, text)
    except OSError as error:
        message = f"the pack {pack} cannot be written: {error.strerror}"
        raise SchedulerError(message, hint="make room on its file system") from error
    return pack


def members(batch_id: str, count: int) -> list[str]:
    """Return the ids of an element's jobs."""
    return [f"{batch_id}#{n}/{count}" for n in range(count)] if count > 1 else [batch_id]


def element(batch_id: str) -> str:
    """Return the id of the element that a job is part of."""
    found = _MEMBER.fullmatch(batch_id)
    return found[1] if found else batch_id


def whole(ids: Iterable[str]) -> list[str]:
    """Return the elements that are named with all their members: one member cannot be ended through them."""
    seen: dict[str, set[str]] = {}
    sizes: dict[str, int] = {}
    for batch_id in ids:
        found = _MEMBER.fullmatch(batch_id)
        name = found[1] if found else batch_id
        seen.setdefault(name, set()).add(batch_id)
        size = int(found[3]) if found else 1
        sizes[name] = min(size, sizes.get(name, size))
    return [name for name, part in seen.items() if len(part) >= sizes[name]]
