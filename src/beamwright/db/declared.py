"""The tables of metadata that people declare; part of ``db.schema``."""

from __future__ import annotations

import sqlalchemy as sa

from beamwright.db.columns import document as _json
from beamwright.db.columns import flag as _flag
from beamwright.db.columns import identity as _id
from beamwright.db.columns import integer as _int
from beamwright.db.columns import metadata
from beamwright.db.columns import moment as _time
from beamwright.db.columns import reference as _ref
from beamwright.db.columns import text as _text

metadata_kind = sa.Table(
    "metadata_kind",
    metadata,
    _id(),
    _text("name", unique=True),
    _text("subject"),
    _text("doc"),
    _time("created"),
)

metadata_key = sa.Table(
    "metadata_key",
    metadata,
    _id(),
    _ref("kind_id", "metadata_kind.id"),
    _text("name"),
    _text("type"),
    _text("unit"),
    _text("doc"),
    _flag("is_required"),
    _flag("is_indexed"),
    _time("created"),
    sa.UniqueConstraint("kind_id", "name"),
)

# What an object says under a kind from ``added`` until ``removed``; ``object`` is a row of its subject.
# Rows come by the million: neither here nor in the indexes below does the database check each reference.
metadata_document = sa.Table(
    "metadata_document",
    metadata,
    _id(),
    _int("kind_id"),
    _int("object"),
    _json("content"),
    _time("added"),
    _time("removed", nullable=True),
    sa.Index(None, "object", "kind_id"),
)

# The indexed keys of the documents, by type: flags are integers, times numbers.
metadata_integer = sa.Table(
    "metadata_integer",
    metadata,
    _int("key_id"),
    _int("value"),
    _int("document_id"),
    sa.PrimaryKeyConstraint("key_id", "value", "document_id"),
)

metadata_number = sa.Table(
    "metadata_number",
    metadata,
    _int("key_id"),
    sa.Column("value", sa.Float(53), nullable=False),
    _int("document_id"),
    sa.PrimaryKeyConstraint("key_id", "value", "document_id"),
)

metadata_text = sa.Table(
    "metadata_text",
    metadata,
    _int("key_id"),
    _text("value"),
    _int("document_id"),
    sa.PrimaryKeyConstraint("key_id", "value", "document_id"),
)
