"""The tables of metadata that people declare; part of ``db.schema``."""

from __future__ import annotations

import sqlalchemy as sa

from beamwright.db import columns as c
from beamwright.db.columns import metadata


def _held() -> list[sa.schema.SchemaItem]:
    """Return whose value it is and when it held; objects of one value stand side by side."""
    key = sa.PrimaryKeyConstraint("key_id", "value", "object", "added")
    return [c.integer("object"), c.moment("added"), c.moment("removed", nullable=True), key]


metadata_kind = sa.Table(
    "metadata_kind",
    metadata,
    c.identity(),
    c.text("name", unique=True),
    c.text("subject"),
    c.text("doc"),
    c.moment("created"),
)

metadata_key = sa.Table(
    "metadata_key",
    metadata,
    c.identity(),
    c.reference("kind_id", "metadata_kind.id"),
    c.text("name"),
    c.text("type"),
    c.text("unit"),
    c.text("doc"),
    c.flag("is_required"),
    c.flag("is_indexed"),
    c.moment("created"),
    sa.UniqueConstraint("kind_id", "name"),
)

# What an object says under a kind from ``added`` until ``removed``; ``object`` is a row of its subject.
# Rows come by the million: neither here nor in the indexes below does the database check each reference, and
# each table is one tree on SQLite.
metadata_document = sa.Table(
    "metadata_document",
    metadata,
    c.integer("object"),
    c.integer("kind_id"),
    c.document("content"),
    c.moment("added"),
    c.moment("removed", nullable=True),
    sa.PrimaryKeyConstraint("object", "kind_id", "added"),
    sqlite_with_rowid=False,
)

# The indexed keys of the documents, by type (flags are integers, times numbers), with the times of their
# documents: what is found here needs no look at those.
metadata_integer = sa.Table(
    "metadata_integer",
    metadata,
    c.integer("key_id"),
    c.integer("value"),
    *_held(),
    sqlite_with_rowid=False,
)

metadata_number = sa.Table(
    "metadata_number",
    metadata,
    c.integer("key_id"),
    sa.Column("value", sa.Float(53), nullable=False),
    *_held(),
    sqlite_with_rowid=False,
)

metadata_text = sa.Table(
    "metadata_text",
    metadata,
    c.integer("key_id"),
    c.label("value"),
    *_held(),
    sqlite_with_rowid=False,
)
