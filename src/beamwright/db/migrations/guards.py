"""Triggers that keep append-only tables append-only, whoever writes to the database.

Revisions install them; they are part of the schema and never change after a
release (a later revision adds its own).
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

APPEND_ONLY = ("history", "ledger", "payload", "file", "file_parent", "output", "global_tag_member")
APPEND_ONLY_SINCE_0002: tuple[str, ...] = (
    "reference",
    "listing",
    "listing_finding",
    "reconciliation",
    "seal",
    "supersession",
    "generation_seed",
)

# An interval may only be ended, once: what a version of a tag said, it says for ever.
_IOV_KEPT = (
    "tag_id", "series", "first_run", "first_section", "first_event", "last_run", "last_section", "last_event",
    "payload_id", "added", "origin", "reason", "generation", "created",
)  # fmt: skip


def guard(connection: sa.Connection) -> None:
    """Install the triggers."""
    statements = _postgresql() if connection.dialect.name == "postgresql" else _sqlite()
    for statement in statements:
        connection.exec_driver_sql(statement)


def keep(connection: sa.Connection, tables: Sequence[str]) -> None:
    """Make tables of a later revision append-only; dropping a table drops its triggers."""
    make = _postgresql_keep if connection.dialect.name == "postgresql" else _sqlite_keep
    for statement in (statement for table in tables for statement in make(table)):
        connection.exec_driver_sql(statement)


def unguard(connection: sa.Connection) -> None:
    """Take all triggers away; for undoing a revision."""
    for table in (*APPEND_ONLY, "iov"):
        release(connection, table)
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("DROP FUNCTION refuse_change()")


def guarded() -> tuple[str, ...]:
    """Return the tables that have a guard in the newest revision."""
    return (*APPEND_ONLY, *APPEND_ONLY_SINCE_0002, "iov")


def has_guard(connection: sa.Connection, table: str) -> bool:
    """Tell whether a table is guarded, against changing and against removing rows."""
    names = set(_names(connection, table))
    split = connection.dialect.name == "sqlite" or table == "iov"
    return names >= ({f"keep_{table}_update", f"keep_{table}_delete"} if split else {f"keep_{table}"})


def release(connection: sa.Connection, table: str) -> None:
    """Take the triggers of one table away; for restoring backups and for tests that plant violations."""
    for name in _names(connection, table):
        suffix = f" ON {table}" if connection.dialect.name == "postgresql" else ""
        connection.exec_driver_sql(f"DROP TRIGGER {name}{suffix}")


def _names(connection: sa.Connection, table: str) -> list[str]:
    names = sa.text(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = CAST(:t AS regclass) AND tgname LIKE 'keep_%' "
        "AND tgenabled <> 'D'"
        if connection.dialect.name == "postgresql"
        else "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = :t AND name LIKE 'keep_%'"
    )
    return list(connection.execute(names, {"t": table}).scalars())


def _sqlite_keep(table: str) -> list[str]:
    return [
        f"CREATE TRIGGER keep_{table}_{action.lower()} BEFORE {action} ON {table} "
        f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        for action in ("UPDATE", "DELETE")
    ]


def _postgresql_keep(table: str) -> list[str]:
    return [
        f"CREATE TRIGGER keep_{table} BEFORE UPDATE OR DELETE ON {table} "
        "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
    ]


def _sqlite() -> list[str]:
    found = [statement for table in APPEND_ONLY for statement in _sqlite_keep(table)]
    found.append(
        f"CREATE TRIGGER keep_iov_update BEFORE UPDATE ON iov WHEN {_iov_change('IS NOT')} "
        "BEGIN SELECT RAISE(ABORT, 'an interval can only be ended, once'); END"
    )
    found.append(
        "CREATE TRIGGER keep_iov_delete BEFORE DELETE ON iov "
        "BEGIN SELECT RAISE(ABORT, 'iov is append-only'); END"
    )
    return found


def _postgresql() -> list[str]:
    found = [
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '%% is append-only', TG_TABLE_NAME; END $$"
    ]
    found += [statement for table in APPEND_ONLY for statement in _postgresql_keep(table)]
    found.append(
        f"CREATE TRIGGER keep_iov_update BEFORE UPDATE ON iov FOR EACH ROW "
        f"WHEN ({_iov_change('IS DISTINCT FROM')}) EXECUTE FUNCTION refuse_change()"
    )
    found.append(
        "CREATE TRIGGER keep_iov_delete BEFORE DELETE ON iov FOR EACH ROW EXECUTE FUNCTION refuse_change()"
    )
    return found


def _iov_change(differs: str) -> str:
    kept = " OR ".join(f"NEW.{column} {differs} OLD.{column}" for column in _IOV_KEPT)
    return f"OLD.removed IS NOT NULL OR NEW.removed IS NULL OR {kept}"
