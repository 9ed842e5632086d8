"""Numbers the operations of every process that starts with this on its path, and kills one at one of them.

An operation is a system call that changes a file system, or a statement or commit that changes the database.
``KILL_NOTES`` names a directory in which each process leaves what it did. ``KILL_POINT`` is
``ROLE:PROCESS:OPERATION``: the process that started as so manieth of its role dies by SIGKILL just before its
operation of this number; a write is half done by then. Roles: agents, wrapper, runner, child (of a runner),
payload, validate.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
from typing import Any

NOTES = os.environ.get("KILL_NOTES", "")
_raw = {name: getattr(os, name) for name in ("open", "write", "close", "kill", "getpid")}


class Process:
    """What this process has done so far."""

    def __init__(self) -> None:
        self.role = ""
        self.ordinal = -1
        self.count = 0
        self.target = -1
        self.lock = _thread.allocate_lock()

    def enter(self, role: str) -> None:
        """Take a role: the process learns how many of that role came before it, and where it is to die."""
        self.role, self.count, self.target = role, 0, -1
        self.ordinal = next(i for i in range(1000) if _exclusive(f"{NOTES}/{role}.{i}"))
        role, ordinal, operation = (os.environ.get("KILL_POINT") or "::").split(":")
        if role == self.role and ordinal == str(self.ordinal):
            self.target = int(operation)
        if self.step("start"):
            die()

    def step(self, what: str) -> bool:
        """Count an operation; tell whether the process is to die in it."""
        if not self.role:
            return False
        with self.lock:
            self.count += 1
            if not os.environ.get("KILL_POINT"):
                self.note(what)
            return self.count == self.target

    def note(self, what: str) -> None:
        descriptor = _raw["open"](f"{NOTES}/{self.role}.{self.ordinal}", os.O_WRONLY | os.O_APPEND)
        _raw["write"](descriptor, f"{what}\n".encode())
        _raw["close"](descriptor)


process = Process()


def _exclusive(path: str) -> bool:
    try:
        _raw["close"](_raw["open"](path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def die() -> None:
    _exclusive(f"{NOTES}/fired")
    _raw["kill"](_raw["getpid"](), signal.SIGKILL)


def _wrap(module: Any, name: str, counts: Any = lambda *a, **k: True) -> None:
    real = getattr(module, name)

    def call(*arguments: Any, **options: Any) -> Any:
        if counts(*arguments, **options) and process.step(f"{name} {arguments[0]}"):
            die()
        return real(*arguments, **options)

    setattr(module, name, call)


def _write(descriptor: int, data: Any) -> int:
    if descriptor > 2 and process.step(f"write {descriptor}"):
        _raw["write"](descriptor, bytes(data)[: len(data) // 2])
        die()
    return int(_raw["write"](descriptor, data))


def _creates(path: Any, flags: int, *_: Any, **__: Any) -> bool:
    return bool(flags & os.O_CREAT)


def _opens_for_writing(path: Any, mode: str = "r", *_: Any, **__: Any) -> bool:
    return isinstance(path, (str, os.PathLike)) and any(letter in mode for letter in "wxa+")


def _instrument_files() -> None:
    import builtins
    import io

    for name in ("link", "fsync", "rename", "replace", "unlink", "remove", "mkdir", "rmdir", "ftruncate"):
        _wrap(os, name)
    _wrap(os, "open", _creates)
    os.write = _write
    _wrap(io, "open", _opens_for_writing)
    builtins.open = io.open


def _instrument_database() -> None:
    """Count what changes the database: the class of every connection is one of ours."""
    try:
        from pysqlite3 import dbapi2
    except ImportError:
        return

    class Cursor(dbapi2.Cursor):  # type: ignore[misc]
        def execute(self, statement: str, *arguments: Any) -> Any:
            _statement(statement)
            return super().execute(statement, *arguments)

        def executemany(self, statement: str, *arguments: Any) -> Any:
            _statement(statement)
            return super().executemany(statement, *arguments)

    class Connection(dbapi2.Connection):  # type: ignore[misc]
        def cursor(self, *arguments: Any) -> Any:
            return super().cursor(*(arguments or (Cursor,)))

        def commit(self) -> None:
            if self.in_transaction and not self.is_reading and process.step("commit"):
                die()
            super().commit()

        is_reading = False

    real = dbapi2.connect

    def connect(*arguments: Any, **options: Any) -> Any:
        return real(*arguments, **(options | {"factory": Connection}))

    dbapi2.connect = connect


def _statement(statement: str) -> None:
    word = statement.split(None, 1)[0].upper()
    if word in ("INSERT", "UPDATE", "DELETE") and process.step(f"sql {statement[:60]!r}"):
        die()


def _role() -> str:
    argv = sys.orig_argv
    if "beamwright.batch.wrapper" in argv:
        return "wrapper"
    if "process" in argv:
        return "runner" if "--serve" in argv else "payload"
    return "validate" if "validate" in argv else ""


if NOTES:
    _instrument_files()
    found = _role()
    if found:
        process.enter(found)
        os.register_at_fork(
            after_in_child=lambda: process.enter("child") if process.role == "runner" else None
        )
    else:
        _instrument_database()
