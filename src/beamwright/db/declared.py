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


def _held() -> list[sa.schema.SchemaItem]:
    """Return whose value it is and when it held; objects of one value stand side by side."""
    key = sa.PrimaryKeyConstraint("key_id", "value", "object", "added")
    return [_int("object"), _time("added"), _time("removed", nullable=True), key]


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
# Rows come by the million: neither here nor in the indexes below does the database check each reference, and
# each table is one tree on SQLite.
metadata_document = sa.Table(
    "metadata_document",
    metadata,
    _int("object"),
    _int("kind_id"),
    _json("content"),
    _time("added"),
    _time("removed", nullable=True),
    sa.PrimaryKeyConstraint("object", "kind_id", "added"),
    sqlite_with_rowid=False,
)

# The indexed keys of the documents, by type (flags are integers, times numbers), with the times of their
# documents: what is found here needs no look at those.
metadata_integer = sa.Table(
    "metadata_integer",
    metadata,
    _int("key_id"),
    _int("value"),
    *_held(),
    sqlite_with_rowid=False,
)

metadata_number = sa.Table(
    "metadata_number",
    metadata,
    _int("key_id"),
    sa.Column("value", sa.Float(53), nullable=False),
    *_held(),
    sqlite_with_rowid=False,
)

metadata_text = sa.Table(
    "metadata_text",
    metadata,
    _int("key_id"),
    _text("value"),
    *_held(),
    sqlite_with_rowid=False,
)
