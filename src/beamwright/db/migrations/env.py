"""What alembic runs for every command: revisions go through the connection that is handed over, in its transaction."""

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
