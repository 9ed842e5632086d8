"""A model of a file system that loses power: what was not synced may be there, or not, or in part.

``Recorder`` passes the calls of ``durable`` on to the real file system and keeps them. Its ``states`` are all
that a power cut after so many calls may leave: each change of a directory since its last sync independently
there or not, and each file with all, half or none of what was written since its own.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterator
from typing import Any

State = dict[str, bytes]
DIRECTORY = b"<directory>"


class Recorder:
    """Stands in for the module ``os`` inside ``durable``."""

    def __init__(self, sync_files: bool = True, sync_directories: bool = True) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._open: dict[int, tuple[str, int]] = {}
        self._sync = {False: sync_files, True: sync_directories}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        descriptor = os.open(path, flags, mode)
        inode = os.fstat(descriptor).st_ino
        self._open[descriptor] = (str(path), inode)
        if flags & os.O_CREAT:
            self.calls.append(("name", {str(path): inode}))
        return descriptor

    def write(self, descriptor: int, data: Any) -> int:
        count = os.write(descriptor, bytes(data)[: max(1, len(data) // 2)])  # short, as a disk may be
        self.calls.append(("write", self._open[descriptor][1], bytes(data)[:count]))
        return count

    def fsync(self, descriptor: int) -> None:
        path, inode = self._open[descriptor]
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        if self._sync[is_directory]:
            self.calls.append(("sync directory", path) if is_directory else ("sync", inode))

    def link(self, source: Any, target: Any) -> None:
        os.link(source, target)
        self.calls.append(("name", {str(target): os.stat(target).st_ino}))

    def unlink(self, path: Any) -> None:
        os.unlink(path)
        self.calls.append(("name", {str(path): None}))

    def replace(self, source: Any, target: Any) -> None:
        inode = os.stat(source).st_ino
        os.replace(source, target)
        self.calls.append(("name", {str(source): None, str(target): inode}))

    def mkdir(self, path: Any) -> None:
        os.mkdir(path)
        self.calls.append(("name", {str(path): -1}))

    def states(self, calls: int, before: State) -> Iterator[State]:
        """Yield every state of the disk that a cut after so many calls may leave."""
        synced, written, names, pending = _replay(self.calls[:calls], before)
        for chosen in itertools.product((False, True), repeat=len(pending)):
            found = dict(names)
            for change, is_there in zip(pending, chosen, strict=True):
                if is_there:
                    found.update(change)
            for share in (0.0, 0.5, 1.0):
                yield {
                    path: _content(inode, synced, written, share)
                    for path, inode in found.items()
                    if inode is not None
                }


def _replay(calls: list[tuple[Any, ...]], before: State) -> tuple[Any, ...]:
    synced: dict[Any, bytes] = {f"old {path}": content for path, content in before.items()}
    written: dict[Any, bytes] = dict(synced)
    names: dict[str, Any] = {path: f"old {path}" for path in before}
    pending: list[dict[str, Any]] = []
    for kind, *what in calls:
        if kind == "write":
            written[what[0]] = written.get(what[0], b"") + what[1]
        elif kind == "sync":
            synced[what[0]] = written.get(what[0], b"")
        elif kind == "name":
            pending.append(what[0])
        else:
            inside = [c for c in pending if all(os.path.dirname(path) == what[0] for path in c)]
            for change in inside:
                names.update(change)
            pending = [c for c in pending if c not in inside]
    return synced, written, names, pending


def _content(inode: Any, synced: dict[Any, bytes], written: dict[Any, bytes], share: float) -> bytes:
    if inode == -1:
        return DIRECTORY
    sure, all_of_it = synced.get(inode, b""), written.get(inode, b"")
    return all_of_it[: len(sure) + int(share * (len(all_of_it) - len(sure)))]
