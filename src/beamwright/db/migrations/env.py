"""What alembic runs for every command: revisions run in the transaction of a given connection."""

from __future__ import annotations

from alembic import context

from beamwright.db.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
