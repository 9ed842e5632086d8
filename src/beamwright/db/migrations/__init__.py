"""Schema revisions: numbered, each a module in ``versions``; the last one gives exactly ``db.schema``."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0002"
_VERSION = sa.table("alembic_version", sa.column("version_num"))


def known() -> set[str]:
    """Return the revisions that this release can read or upgrade."""
    return {f"{number:04d}" for number in range(1, int(HEAD) + 1)}


def current(connection: sa.Connection) -> str | None:
    """Return the revision of a database, None for an empty one."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(sa.select(_VERSION.c.version_num)).scalar()
    return found


def upgrade(connection: sa.Connection, revision: str = "head") -> None:
    """Apply the missing revisions inside the transaction of ``connection``."""
    from alembic import command

    command.upgrade(config(connection), revision)


def config(connection: sa.Connection) -> Config:
    """Return alembic's configuration for these revisions and this connection."""
    from alembic.config import Config

    found = Config()
    found.set_main_option("script_location", str(resources.files(__package__)).replace("%", "%%"))
    found.attributes["connection"] = connection
    return found
