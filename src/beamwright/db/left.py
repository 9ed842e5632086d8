"""The mark of a database that was moved elsewhere: what anybody still wrote into it would be lost.

It stands beside the tables, so that these stay as they are: in the head of an SQLite file, in the comment on
a table of PostgreSQL.
"""

from __future__ import annotations

import sqlalchemy as sa

_NUMBER, _WORD = 0x6C656674, "left"


def mark(conn: sa.Connection) -> None:
    """Mark a database as left; the transaction decides."""
    if conn.dialect.name == "postgresql":
        conn.exec_driver_sql(f"COMMENT ON TABLE alembic_version IS '{_WORD}'")
    else:
        conn.exec_driver_sql(f"PRAGMA user_version={_NUMBER}")


def is_marked(conn: sa.Connection) -> bool:
    """Tell whether a database was left."""
    if conn.dialect.name == "postgresql":
        said = "SELECT obj_description(to_regclass('alembic_version'), 'pg_class')"
        return bool(conn.exec_driver_sql(said).scalar() == _WORD)
    return bool(conn.exec_driver_sql("PRAGMA user_version").scalar() == _NUMBER)
