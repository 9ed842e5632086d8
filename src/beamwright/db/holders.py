"""Who keeps others from writing: asked when somebody has waited too long; an unknown answer is no error."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa

_PROC = Path("/proc")
# Bytes that a writer locks: 120 of the log's index file, or one past a gigabyte of the database itself.
_WRITER_IN_LOG, _WRITER_IN_FILE = 120, 0x40000001
_COMMAND = 80

_activity = sa.table(
    "pg_stat_activity", *map(sa.column, ("pid", "application_name", "xact_start", "datname", "backend_xid"))
)


def of_file(database: Path) -> str:
    """Return the process that writes to a SQLite file, in words; empty when it cannot be told."""
    wanted = {_identity(Path(f"{database}-shm")): _WRITER_IN_LOG, _identity(database): _WRITER_IN_FILE}
    with suppress(OSError):
        for line in (_PROC / "locks").read_text().splitlines():
            words = line.split()
            if len(words) == 8 and words[1] == "POSIX" and words[3] == "WRITE":
                byte = wanted.get(words[5].rpartition(":")[2])
                if byte is not None and int(words[6]) <= byte <= _end(words[7]):
                    return _process(int(words[4]))
    return ""


def of_server(engine: sa.Engine) -> str:
    """Return the oldest writing transaction of this database, in words; empty when it cannot be told."""
    age = sa.func.extract("epoch", sa.func.clock_timestamp() - _activity.c.xact_start)
    chosen = sa.select(_activity.c.pid, _activity.c.application_name, age.label("age")).where(
        _activity.c.datname == sa.func.current_database(),
        _activity.c.backend_xid.is_not(None),
        _activity.c.pid != sa.func.pg_backend_pid(),
    )
    with suppress(sa.exc.SQLAlchemyError, OSError), engine.connect() as conn:
        row = conn.execute(chosen.order_by(_activity.c.xact_start).limit(1)).first()
        if row is not None:
            return f"{row.application_name or 'a client'}, server process {row.pid}, for {row.age:.0f} s"
    return ""


def own_name() -> str:
    """Return what we call ourselves to a server."""
    return f"beamwright {os.getpid()}@{os.uname().nodename}"[:63]


def _identity(path: Path) -> str:
    with suppress(OSError):
        return str(path.stat().st_ino)
    return f"no {path.name}"


def _end(word: str) -> int:
    return 1 << 62 if word == "EOF" else int(word)


def _process(number: int) -> str:
    with suppress(OSError):
        words = (_PROC / str(number) / "cmdline").read_bytes().split(b"\0")
        command = " ".join(Path(w.decode(errors="replace")).name for w in words[:5] if w)[:_COMMAND]
        return f"process {number}, {command}"
    return f"process {number}"
