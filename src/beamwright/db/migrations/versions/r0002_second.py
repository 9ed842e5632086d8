"""What the second release adds: tables, columns and indexes, and guards of the append-only tables among them."""
# ruff: noqa: E501

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from beamwright.db.migrations.guards import keep

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INT, TEXT, FLAG, REAL, BYTES = sa.BigInteger(), sa.Text(), sa.Boolean(), sa.Float(53), sa.LargeBinary()
JSON = sa.JSON(none_as_null=True)
LABEL = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
TABLES = (
    "generation_seed",
    "listing",
    "metadata_document",
    "metadata_integer",
    "metadata_kind",
    "metadata_number",
    "metadata_text",
    "mirrored",
    "reference",
    "seal",
    "supersession",
    "listing_finding",
    "metadata_key",
    "reconciliation",
)  # fmt: skip
APPEND_ONLY = (
    "reference",
    "listing",
    "listing_finding",
    "reconciliation",
    "seal",
    "supersession",
    "generation_seed",
)  # fmt: skip
COLUMNS = (
    ("chain_link", "round", INT),
    ("chain_link", "proposed", JSON),
    ("job", "label", TEXT),
    ("job", "memory_mb", INT),
    ("job", "wall_s", REAL),
    ("job", "avoid", JSON),
    ("job", "wish", TEXT),
    ("ledger", "requested", INT),
    ("task", "released", REAL),
    ("task", "needs", JSON),
)  # fmt: skip
INDEXES = (
    ("ix_chain_link_chain_id_state_first_run", "chain_link", ("chain_id", "state", "first_run",)),
    ("ix_collection_series_first_run", "collection", ("series", "first_run",)),
    ("ix_global_tag_member_global_tag_id_tag_id_version", "global_tag_member", ("global_tag_id", "tag_id", "version",)),
    ("ix_iov_tag_id_added", "iov", ("tag_id", "added",)),
    ("ix_iov_tag_id_removed", "iov", ("tag_id", "removed",)),
    ("ix_replica_endpoint_file_id_state", "replica", ("endpoint", "file_id", "state",)),
)  # fmt: skip
PARTIAL = (
    ("ix_file_uuid", "file", "uuid"),
)  # fmt: skip
STARTS = (
    ("ix_file_sha256_start", "file", "substr(sha256, 1, 8)"),
)  # fmt: skip
WHOLE = (
    ("ix_file_sha256", "file", ("sha256",)),
)  # fmt: skip
LABELS = (
    ("collection", "scope"),
    ("collection", "name"),
    ("file", "scope"),
    ("file", "name"),
)  # fmt: skip


def _c(name: str, kind: Any, null: bool = False) -> sa.Column[Any]:
    if name == "id" and kind is ID:
        return sa.Column(name, kind, nullable=null, autoincrement=True)
    return sa.Column(name, kind, nullable=null)


def upgrade() -> None:
    """Make the tables, columns and indexes, then the guards."""
    _tables_1()
    _tables_2()
    _tables_3()
    for table, column, kind in COLUMNS:
        op.add_column(table, _c(column, kind, null=True))
    for name, table, columns in INDEXES:
        op.create_index(op.f(name), table, list(columns))
    for name, table, column in PARTIAL:
        known = sa.column(column).is_not(None)
        op.create_index(op.f(name), table, [column], sqlite_where=known, postgresql_where=known)
    for name, table, expression in STARTS:
        op.create_index(op.f(name), table, [sa.text(expression)])
    for name, table, _columns in WHOLE:
        op.drop_index(op.f(name), table)
    _sort_labels(LABEL)
    keep(op.get_bind(), APPEND_ONLY)


def downgrade() -> None:
    """Drop them."""
    _sort_labels(TEXT)
    for name, table, columns in WHOLE:
        op.create_index(op.f(name), table, list(columns))
    for name, table, _columns in (*INDEXES, *PARTIAL, *STARTS):
        op.drop_index(op.f(name), table)
    for table, column, _kind in COLUMNS:
        op.drop_column(table, column)
    for table in reversed(TABLES):
        op.drop_table(table)


def _sort_labels(kind: Any) -> None:
    """Let PostgreSQL sort names by their characters, as SQLite does: then their indexes find what begins so."""
    if op.get_bind().dialect.name == "postgresql":
        for table, column in LABELS:
            op.alter_column(table, column, type_=kind, existing_type=TEXT, existing_nullable=False)


def _tables_1() -> None:
    op.create_table(
        "generation_seed", _c("generator", TEXT), _c("seed", INT), _c("unit_id", ID),
        sa.ForeignKeyConstraint(["unit_id"], ["unit.id"], name=op.f("fk_generation_seed_unit_id")),
        sa.PrimaryKeyConstraint("generator", "seed", name=op.f("pk_generation_seed")),
        sa.UniqueConstraint("unit_id", name=op.f("uq_generation_seed_unit_id")),
    )  # fmt: skip
    op.create_table(
        "listing", _c("id", ID), _c("endpoint", TEXT), _c("taken", REAL), _c("sha256", TEXT),
        _c("files", INT), _c("bytes", INT), _c("created", REAL),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_listing")),
        sa.UniqueConstraint("endpoint", "taken", name=op.f("uq_listing_endpoint_taken")),
    )  # fmt: skip
    op.create_table(
        "metadata_document", _c("object", INT), _c("kind_id", INT), _c("content", JSON),
        _c("added", REAL), _c("removed", REAL, null=True),
        sa.PrimaryKeyConstraint("object", "kind_id", "added", name=op.f("pk_metadata_document")),
        sqlite_with_rowid=False,
    )  # fmt: skip
    op.create_table(
        "metadata_integer", _c("key_id", INT), _c("value", INT), _c("object", INT), _c("added", REAL),
        _c("removed", REAL, null=True),
        sa.PrimaryKeyConstraint("key_id", "value", "object", "added", name=op.f("pk_metadata_integer")),
        sqlite_with_rowid=False,
    )  # fmt: skip
    op.create_table(
        "metadata_kind", _c("id", ID), _c("name", TEXT), _c("subject", TEXT), _c("doc", TEXT),
        _c("created", REAL), sa.PrimaryKeyConstraint("id", name=op.f("pk_metadata_kind")),
        sa.UniqueConstraint("name", name=op.f("uq_metadata_kind_name")),
    )  # fmt: skip
    op.create_table(
        "metadata_number", _c("key_id", INT), _c("value", REAL), _c("object", INT), _c("added", REAL),
        _c("removed", REAL, null=True),
        sa.PrimaryKeyConstraint("key_id", "value", "object", "added", name=op.f("pk_metadata_number")),
        sqlite_with_rowid=False,
    )  # fmt: skip
    op.create_table(
        "metadata_text", _c("key_id", INT), _c("value", LABEL), _c("object", INT), _c("added", REAL),
        _c("removed", REAL, null=True),
        sa.PrimaryKeyConstraint("key_id", "value", "object", "added", name=op.f("pk_metadata_text")),
        sqlite_with_rowid=False,
    )  # fmt: skip


def _tables_2() -> None:
    op.create_table(
        "mirrored", _c("kind", TEXT), _c("name", TEXT), _c("source", TEXT), _c("created", REAL),
        sa.CheckConstraint("kind in ('tag','global_tag')", name=op.f("ck_mirrored_kind")),
        sa.PrimaryKeyConstraint("kind", "name", name=op.f("pk_mirrored")),
    )  # fmt: skip
    op.create_table(
        "reference", _c("id", ID), _c("experiment", TEXT), _c("version", INT), _c("text", TEXT),
        _c("hash", TEXT), _c("author", TEXT), _c("reason", TEXT), _c("created", REAL),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reference")),
        sa.UniqueConstraint("experiment", "version", name=op.f("uq_reference_experiment_version")),
    )  # fmt: skip
    op.create_table(
        "seal", _c("id", ID), _c("first", INT), _c("last", INT), _c("lines", INT), _c("root", TEXT),
        _c("chain", TEXT), _c("created", REAL), sa.PrimaryKeyConstraint("id", name=op.f("pk_seal")),
        sa.UniqueConstraint("first", name=op.f("uq_seal_first")),
    )  # fmt: skip
    op.create_table(
        "supersession", _c("id", ID), _c("old_id", ID), _c("new_id", ID, null=True), _c("actor", TEXT),
        _c("reason", TEXT), _c("created", REAL),
        sa.ForeignKeyConstraint(["new_id"], ["collection.id"], name=op.f("fk_supersession_new_id")),
        sa.ForeignKeyConstraint(["old_id"], ["collection.id"], name=op.f("fk_supersession_old_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_supersession")),
        sa.UniqueConstraint("old_id", name=op.f("uq_supersession_old_id")),
    )  # fmt: skip
    op.create_index(op.f("ix_supersession_new_id"), "supersession", ["new_id"], unique=False)
    op.create_table(
        "listing_finding", _c("listing_id", ID), _c("path", TEXT), _c("kind", TEXT),
        _c("size", INT, null=True), _c("replica_id", ID, null=True),
        sa.CheckConstraint("kind in ('dark','lost','differs')", name=op.f("ck_listing_finding_kind")),
        sa.ForeignKeyConstraint(["listing_id"], ["listing.id"], name=op.f("fk_listing_finding_listing_id")),
        sa.ForeignKeyConstraint(["replica_id"], ["replica.id"], name=op.f("fk_listing_finding_replica_id")),
        sa.PrimaryKeyConstraint("listing_id", "path", name=op.f("pk_listing_finding")),
    )  # fmt: skip
    op.create_table(
        "metadata_key", _c("id", ID), _c("kind_id", ID), _c("name", TEXT), _c("type", TEXT),
        _c("unit", TEXT), _c("doc", TEXT), _c("is_required", FLAG), _c("is_indexed", FLAG),
        _c("created", REAL),
        sa.ForeignKeyConstraint(["kind_id"], ["metadata_kind.id"], name=op.f("fk_metadata_key_kind_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_metadata_key")),
        sa.UniqueConstraint("kind_id", "name", name=op.f("uq_metadata_key_kind_id_name")),
    )  # fmt: skip


def _tables_3() -> None:
    op.create_table(
        "reconciliation", _c("listing_id", ID), _c("earlier_id", ID), _c("lost", INT),
        _c("suspect", INT), _c("bytes", INT), _c("live", INT), _c("brakes", JSON), _c("reason", TEXT),
        _c("created", REAL),
        sa.ForeignKeyConstraint(["earlier_id"], ["listing.id"], name=op.f("fk_reconciliation_earlier_id")),
        sa.ForeignKeyConstraint(["listing_id"], ["listing.id"], name=op.f("fk_reconciliation_listing_id")),
        sa.PrimaryKeyConstraint("listing_id", name=op.f("pk_reconciliation")),
    )  # fmt: skip
