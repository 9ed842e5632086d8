"""The tables of the first release, and what keeps the append-only ones so."""
# ruff: noqa: E501

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from beamwright.db.migrations.guards import guard, unguard

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INT, TEXT, FLAG, REAL, BYTES = sa.BigInteger(), sa.Text(), sa.Boolean(), sa.Float(53), sa.LargeBinary()
JSON = sa.JSON(none_as_null=True)
TABLES = (
    "claim", "dataset", "global_tag", "history", "payload", "production", "run", "tag", "workspace",
    "chunk", "global_tag_member", "iov", "task", "chain", "unit", "chain_link", "collection", "job",
    "verdict", "attempt", "dataset_collection", "unit_input", "file", "ledger", "quarantine",
    "chunk_file", "collection_file", "file_parent", "output", "replica",
)  # fmt: skip


def _c(name: str, kind: Any, null: bool = False) -> sa.Column[Any]:
    if name == "id" and kind is ID:
        return sa.Column(name, kind, nullable=null, autoincrement=True)
    return sa.Column(name, kind, nullable=null)


def upgrade() -> None:
    """Make the tables, then the guards of the append-only ones."""
    _tables_1()
    _tables_2()
    _tables_3()
    _tables_4()
    _tables_5()
    _tables_6()
    guard(op.get_bind())


def downgrade() -> None:
    """Drop the tables."""
    unguard(op.get_bind())
    for table in reversed(TABLES):
        op.drop_table(table)


def _tables_1() -> None:
    op.create_table(
        "claim", _c("name", TEXT), _c("holder", TEXT), _c("taken", REAL), _c("deadline", REAL),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_claim")),
    )  # fmt: skip
    op.create_table(
        "dataset", _c("id", ID), _c("scope", TEXT), _c("name", TEXT), _c("version", INT),
        _c("state", TEXT), _c("query", JSON), _c("content_hash", TEXT, null=True), _c("created", REAL),
        _c("frozen", REAL, null=True), sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset")),
        sa.UniqueConstraint("scope", "name", "version", name=op.f("uq_dataset_scope_name_version")),
    )  # fmt: skip
    op.create_table(
        "global_tag", _c("id", ID), _c("name", TEXT), _c("state", TEXT), _c("version", INT),
        _c("merkle", TEXT, null=True), _c("created", REAL), _c("frozen", REAL, null=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_global_tag")),
        sa.UniqueConstraint("name", name=op.f("uq_global_tag_name")),
    )  # fmt: skip
    op.create_table(
        "history", _c("id", ID), _c("at", REAL), _c("kind", TEXT), _c("object", TEXT),
        _c("source", TEXT, null=True), _c("target", TEXT), _c("actor", TEXT), _c("reason", TEXT),
        _c("data", JSON), sa.PrimaryKeyConstraint("id", name=op.f("pk_history")),
    )  # fmt: skip
    op.create_index(op.f("ix_history_kind_object"), "history", ["kind", "object"], unique=False)
    op.create_table(
        "payload", _c("id", TEXT), _c("kind", TEXT), _c("size", INT), _c("data", BYTES),
        _c("created", REAL), sa.PrimaryKeyConstraint("id", name=op.f("pk_payload")),
    )  # fmt: skip
    op.create_table(
        "production", _c("id", ID), _c("name", TEXT), _c("experiment", TEXT),
        _c("release", TEXT), _c("spec", JSON), _c("spec_hash", TEXT), _c("created", REAL),
        _c("finished", REAL, null=True), sa.PrimaryKeyConstraint("id", name=op.f("pk_production")),
        sa.UniqueConstraint("name", name=op.f("uq_production_name")),
    )  # fmt: skip
    op.create_table(
        "run", _c("id", ID), _c("series", TEXT), _c("number", INT), _c("tier", TEXT), _c("state", TEXT),
        _c("version", INT), _c("expected", JSON, null=True), _c("end_marker", FLAG),
        _c("luminosity", REAL, null=True), _c("livetime", REAL, null=True), _c("is_mc", FLAG),
        _c("is_resampled", FLAG), _c("conditions", JSON), _c("created", REAL),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run")),
        sa.UniqueConstraint("series", "number", "tier", name=op.f("uq_run_series_number_tier")),
    )  # fmt: skip


def _tables_2() -> None:
    op.create_table(
        "tag", _c("id", ID), _c("name", TEXT), _c("kind", TEXT), _c("version", INT), _c("created", REAL),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tag")),
        sa.UniqueConstraint("name", name=op.f("uq_tag_name")),
    )  # fmt: skip
    op.create_table(
        "workspace", _c("name", TEXT), _c("value", JSON),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workspace")),
    )  # fmt: skip
    op.create_table(
        "chunk", _c("id", ID), _c("run_id", ID), _c("sequence", INT), _c("first_section", INT),
        _c("last_section", INT), _c("records", JSON), _c("reader", TEXT), _c("index_file", TEXT),
        _c("delivery_hash", TEXT), _c("created", REAL),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_chunk_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chunk")),
        sa.UniqueConstraint("run_id", "sequence", name=op.f("uq_chunk_run_id_sequence")),
    )  # fmt: skip
    op.create_table(
        "global_tag_member", _c("global_tag_id", ID), _c("version", INT), _c("tag_id", ID),
        _c("tag_version", INT), _c("created", REAL),
        sa.ForeignKeyConstraint(["global_tag_id"], ["global_tag.id"], name=op.f("fk_global_tag_member_global_tag_id")),
        sa.ForeignKeyConstraint(["tag_id"], ["tag.id"], name=op.f("fk_global_tag_member_tag_id")),
        sa.PrimaryKeyConstraint("global_tag_id", "version", "tag_id", name=op.f("pk_global_tag_member")),
    )  # fmt: skip
    op.create_table(
        "iov", _c("id", ID), _c("tag_id", ID), _c("series", TEXT), _c("first_run", INT),
        _c("first_section", INT), _c("first_event", INT), _c("last_run", INT), _c("last_section", INT),
        _c("last_event", INT), _c("payload_id", TEXT), _c("added", INT), _c("removed", INT, null=True),
        _c("origin", TEXT), _c("reason", TEXT), _c("generation", INT), _c("created", REAL),
        sa.CheckConstraint("origin in ('initial','fitted','carried','late','loaded')", name=op.f("ck_iov_origin")),
        sa.ForeignKeyConstraint(["payload_id"], ["payload.id"], name=op.f("fk_iov_payload_id")),
        sa.ForeignKeyConstraint(["tag_id"], ["tag.id"], name=op.f("fk_iov_tag_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_iov")),
    )  # fmt: skip
    op.create_index(op.f("ix_iov_payload_id"), "iov", ["payload_id"], unique=False)
    op.create_index(
        op.f("ix_iov_tag_id_series_first_run"), "iov", ["tag_id", "series", "first_run"], unique=False
    )
    op.create_table(
        "task", _c("id", ID), _c("production_id", ID), _c("step", TEXT), _c("kind", TEXT),
        _c("state", TEXT), _c("config_version", INT), _c("config", JSON), _c("config_hash", TEXT),
        _c("uniform", FLAG), _c("created", REAL),
        sa.ForeignKeyConstraint(["production_id"], ["production.id"], name=op.f("fk_task_production_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task")),
        sa.UniqueConstraint("production_id", "step", name=op.f("uq_task_production_id_step")),
    )  # fmt: skip


def _tables_3() -> None:
    op.create_table(
        "chain", _c("id", ID), _c("task_id", ID), _c("series", TEXT), _c("generation", INT),
        _c("accumulated", JSON),
        sa.ForeignKeyConstraint(["task_id"], ["task.id"], name=op.f("fk_chain_task_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chain")),
        sa.UniqueConstraint("task_id", "series", name=op.f("uq_chain_task_id_series")),
    )  # fmt: skip
    op.create_table(
        "unit", _c("id", ID), _c("key", TEXT), _c("task_id", ID), _c("kind", TEXT), _c("series", TEXT),
        _c("first_run", INT), _c("first_section", INT), _c("first_event", INT), _c("last_run", INT),
        _c("last_section", INT), _c("last_event", INT), _c("record", TEXT), _c("config_version", INT),
        _c("config_hash", TEXT), _c("resolved_hash", TEXT), _c("stream", TEXT), _c("definition", JSON),
        _c("priority", INT), _c("created", REAL),
        sa.ForeignKeyConstraint(["task_id"], ["task.id"], name=op.f("fk_unit_task_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_unit")),
        sa.UniqueConstraint("key", name=op.f("uq_unit_key")),
    )  # fmt: skip
    op.create_index(
        op.f("ix_unit_task_id_series_first_run"), "unit", ["task_id", "series", "first_run"], unique=False
    )
    op.create_table(
        "chain_link", _c("id", ID), _c("chain_id", ID), _c("chunk_id", ID), _c("series", TEXT),
        _c("first_run", INT), _c("first_section", INT), _c("first_event", INT), _c("last_run", INT),
        _c("last_section", INT), _c("last_event", INT), _c("generation", INT), _c("state", TEXT),
        _c("collect_unit_id", ID, null=True), _c("fit_unit_id", ID, null=True), _c("start", JSON),
        _c("result", JSON), _c("figures", JSON), _c("reason", TEXT), _c("created", REAL),
        sa.ForeignKeyConstraint(["chain_id"], ["chain.id"], name=op.f("fk_chain_link_chain_id")),
        sa.ForeignKeyConstraint(["chunk_id"], ["chunk.id"], name=op.f("fk_chain_link_chunk_id")),
        sa.ForeignKeyConstraint(["collect_unit_id"], ["unit.id"], name=op.f("fk_chain_link_collect_unit_id")),
        sa.ForeignKeyConstraint(["fit_unit_id"], ["unit.id"], name=op.f("fk_chain_link_fit_unit_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chain_link")),
        sa.UniqueConstraint("chain_id", "chunk_id", "generation", name=op.f("uq_chain_link_chain_id_chunk_id_generation")),
    )  # fmt: skip
    op.create_table(
        "collection", _c("id", ID), _c("scope", TEXT), _c("name", TEXT), _c("tier", TEXT),
        _c("stream", TEXT), _c("state", TEXT), _c("events", INT), _c("unit_id", ID, null=True),
        _c("series", TEXT), _c("first_run", INT), _c("first_section", INT), _c("first_event", INT),
        _c("last_run", INT), _c("last_section", INT), _c("last_event", INT), _c("release", TEXT),
        _c("config_hash", TEXT), _c("global_tag", TEXT), _c("resolved_hash", TEXT), _c("is_mc", FLAG),
        _c("is_resampled", FLAG), _c("created", REAL),
        sa.ForeignKeyConstraint(["unit_id"], ["unit.id"], name=op.f("fk_collection_unit_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_collection")),
        sa.UniqueConstraint("scope", "name", name=op.f("uq_collection_scope_name")),
    )  # fmt: skip
    op.create_index(op.f("ix_collection_tier_stream"), "collection", ["tier", "stream"], unique=False)
    op.create_index(op.f("ix_collection_unit_id"), "collection", ["unit_id"], unique=False)


def _tables_4() -> None:
    op.create_table(
        "job", _c("id", ID), _c("unit_id", ID), _c("state", TEXT), _c("priority", INT),
        _c("failures", INT), _c("not_before", REAL), _c("reason", TEXT), _c("created", REAL),
        sa.ForeignKeyConstraint(["unit_id"], ["unit.id"], name=op.f("fk_job_unit_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sa.UniqueConstraint("unit_id", name=op.f("uq_job_unit_id")),
    )  # fmt: skip
    op.create_index(op.f("ix_job_state_priority_id"), "job", ["state", "priority", "id"], unique=False)
    op.create_table(
        "verdict", _c("id", ID), _c("series", TEXT), _c("run", INT), _c("tier", TEXT),
        _c("subject", TEXT), _c("version", INT), _c("value", TEXT), _c("author", TEXT),
        _c("reason", TEXT), _c("checks", JSON), _c("unit_id", ID, null=True), _c("created", REAL),
        sa.CheckConstraint("value in ('good','bad','unknown')", name=op.f("ck_verdict_value")),
        sa.ForeignKeyConstraint(["unit_id"], ["unit.id"], name=op.f("fk_verdict_unit_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_verdict")),
        sa.UniqueConstraint("series", "run", "tier", "subject", "version", name=op.f("uq_verdict_series_run_tier_subject_version")),
    )  # fmt: skip
    op.create_table(
        "attempt", _c("id", ID), _c("job_id", ID), _c("number", INT), _c("nonce", TEXT),
        _c("state", TEXT), _c("farm", TEXT), _c("directory", TEXT), _c("batch_id", TEXT, null=True),
        _c("leased", REAL), _c("deadline", REAL), _c("started", REAL, null=True),
        _c("ended", REAL, null=True), _c("host", TEXT, null=True), _c("cpu_s", REAL, null=True),
        _c("wall_s", REAL, null=True), _c("max_rss_kb", INT, null=True), _c("exit_code", INT, null=True),
        _c("failure_class", TEXT, null=True), _c("message", TEXT, null=True),
        _c("release", TEXT, null=True), _c("report_sha256", TEXT, null=True),
        _c("timings", JSON, null=True), _c("figures", JSON, null=True),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_attempt_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempt")),
        sa.UniqueConstraint("job_id", "number", name=op.f("uq_attempt_job_id_number")),
        sa.UniqueConstraint("nonce", name=op.f("uq_attempt_nonce")),
    )  # fmt: skip
    op.create_index(op.f("ix_attempt_state_farm"), "attempt", ["state", "farm"], unique=False)
    op.create_table(
        "dataset_collection", _c("dataset_id", ID), _c("collection_id", ID),
        sa.ForeignKeyConstraint(["collection_id"], ["collection.id"], name=op.f("fk_dataset_collection_collection_id")),
        sa.ForeignKeyConstraint(["dataset_id"], ["dataset.id"], name=op.f("fk_dataset_collection_dataset_id")),
        sa.PrimaryKeyConstraint("dataset_id", "collection_id", name=op.f("pk_dataset_collection")),
    )  # fmt: skip


def _tables_5() -> None:
    op.create_table(
        "unit_input", _c("id", ID), _c("unit_id", ID), _c("chunk_id", ID, null=True),
        _c("collection_id", ID, null=True), _c("position", INT),
        sa.ForeignKeyConstraint(["chunk_id"], ["chunk.id"], name=op.f("fk_unit_input_chunk_id")),
        sa.ForeignKeyConstraint(["collection_id"], ["collection.id"], name=op.f("fk_unit_input_collection_id")),
        sa.ForeignKeyConstraint(["unit_id"], ["unit.id"], name=op.f("fk_unit_input_unit_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_unit_input")),
    )  # fmt: skip
    op.create_index(op.f("ix_unit_input_chunk_id"), "unit_input", ["chunk_id"], unique=False)
    op.create_index(op.f("ix_unit_input_collection_id"), "unit_input", ["collection_id"], unique=False)
    op.create_index(op.f("ix_unit_input_unit_id"), "unit_input", ["unit_id"], unique=False)
    op.create_table(
        "file", _c("id", ID), _c("scope", TEXT), _c("name", TEXT), _c("kind", TEXT), _c("size", INT),
        _c("sha256", TEXT), _c("adler32", TEXT), _c("uuid", TEXT, null=True), _c("tier", TEXT),
        _c("attempt_id", ID, null=True), _c("lineage", JSON), _c("created", REAL),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempt.id"], name=op.f("fk_file_attempt_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_file")),
        sa.UniqueConstraint("scope", "name", name=op.f("uq_file_scope_name")),
    )  # fmt: skip
    op.create_index(op.f("ix_file_sha256"), "file", ["sha256"], unique=False)
    op.create_table(
        "ledger", _c("id", ID), _c("unit_id", ID), _c("attempt_id", ID), _c("record", TEXT),
        _c("stream", TEXT), _c("series", TEXT), _c("first_run", INT), _c("first_section", INT),
        _c("first_event", INT), _c("last_run", INT), _c("last_section", INT), _c("last_event", INT),
        _c("read", INT), _c("created", INT), _c("written", INT), _c("filtered", INT),
        _c("prescaled", INT), _c("quarantined", INT),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempt.id"], name=op.f("fk_ledger_attempt_id")),
        sa.ForeignKeyConstraint(["unit_id"], ["unit.id"], name=op.f("fk_ledger_unit_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger")),
        sa.UniqueConstraint("unit_id", "record", "stream", name=op.f("uq_ledger_unit_id_record_stream")),
    )  # fmt: skip
    op.create_table(
        "quarantine", _c("id", ID), _c("unit_id", ID), _c("attempt_id", ID), _c("record", TEXT),
        _c("series", TEXT), _c("run", INT), _c("section", INT), _c("event", INT), _c("module", TEXT),
        _c("error", TEXT), _c("traceback", TEXT), _c("approved_by", TEXT, null=True),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempt.id"], name=op.f("fk_quarantine_attempt_id")),
        sa.ForeignKeyConstraint(["unit_id"], ["unit.id"], name=op.f("fk_quarantine_unit_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quarantine")),
        sa.UniqueConstraint("unit_id", "record", "series", "run", "section", "event", name=op.f("uq_quarantine_unit_id_record_series_run_section_event")),
    )  # fmt: skip


def _tables_6() -> None:
    op.create_table(
        "chunk_file", _c("chunk_id", ID), _c("file_id", ID), _c("role", TEXT),
        sa.ForeignKeyConstraint(["chunk_id"], ["chunk.id"], name=op.f("fk_chunk_file_chunk_id")),
        sa.ForeignKeyConstraint(["file_id"], ["file.id"], name=op.f("fk_chunk_file_file_id")),
        sa.PrimaryKeyConstraint("chunk_id", "file_id", name=op.f("pk_chunk_file")),
    )  # fmt: skip
    op.create_table(
        "collection_file", _c("collection_id", ID), _c("file_id", ID), _c("position", INT),
        sa.ForeignKeyConstraint(["collection_id"], ["collection.id"], name=op.f("fk_collection_file_collection_id")),
        sa.ForeignKeyConstraint(["file_id"], ["file.id"], name=op.f("fk_collection_file_file_id")),
        sa.PrimaryKeyConstraint("collection_id", "file_id", name=op.f("pk_collection_file")),
    )  # fmt: skip
    op.create_index(op.f("ix_collection_file_file_id"), "collection_file", ["file_id"], unique=False)
    op.create_table(
        "file_parent", _c("file_id", ID), _c("parent_id", ID),
        sa.ForeignKeyConstraint(["file_id"], ["file.id"], name=op.f("fk_file_parent_file_id")),
        sa.ForeignKeyConstraint(["parent_id"], ["file.id"], name=op.f("fk_file_parent_parent_id")),
        sa.PrimaryKeyConstraint("file_id", "parent_id", name=op.f("pk_file_parent")),
    )  # fmt: skip
    op.create_index(op.f("ix_file_parent_parent_id"), "file_parent", ["parent_id"], unique=False)
    op.create_table(
        "output", _c("id", ID), _c("unit_id", ID), _c("stream", TEXT), _c("attempt_id", ID),
        _c("file_id", ID), _c("collection_id", ID, null=True), _c("events", INT),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempt.id"], name=op.f("fk_output_attempt_id")),
        sa.ForeignKeyConstraint(["collection_id"], ["collection.id"], name=op.f("fk_output_collection_id")),
        sa.ForeignKeyConstraint(["file_id"], ["file.id"], name=op.f("fk_output_file_id")),
        sa.ForeignKeyConstraint(["unit_id"], ["unit.id"], name=op.f("fk_output_unit_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_output")),
        sa.UniqueConstraint("unit_id", "stream", name=op.f("uq_output_unit_id_stream")),
    )  # fmt: skip
    op.create_index(op.f("ix_output_file_id"), "output", ["file_id"], unique=False)
    op.create_table(
        "replica", _c("id", ID), _c("file_id", ID), _c("endpoint", TEXT), _c("path", TEXT),
        _c("state", TEXT), _c("verified_by", TEXT, null=True), _c("verified_at", REAL, null=True),
        _c("inode", INT, null=True), _c("mtime_ns", INT, null=True),
        sa.ForeignKeyConstraint(["file_id"], ["file.id"], name=op.f("fk_replica_file_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replica")),
        sa.UniqueConstraint("endpoint", "path", name=op.f("uq_replica_endpoint_path")),
    )  # fmt: skip
    op.create_index(op.f("ix_replica_file_id"), "replica", ["file_id"], unique=False)
