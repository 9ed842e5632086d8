"""The tables. Every layer above writes its statements against these.

Times are seconds since the epoch (float). Intervals are stored as series and six integers. Documents are
JSON text written by ``core.canonical``. A column ``state`` holds a state of ``core.states``; only
``db.history.move`` changes it.
"""

from __future__ import annotations

import sqlalchemy as sa

from beamwright.db.columns import Id, metadata
from beamwright.db.columns import document as _json
from beamwright.db.columns import flag as _flag
from beamwright.db.columns import identity as _id
from beamwright.db.columns import integer as _int
from beamwright.db.columns import interval as _interval
from beamwright.db.columns import known as _known
from beamwright.db.columns import moment as _time
from beamwright.db.columns import reference as _ref
from beamwright.db.columns import text as _text
from beamwright.db.declared import (
    metadata_document,
    metadata_integer,
    metadata_key,
    metadata_kind,
    metadata_number,
    metadata_text,
)
from beamwright.db.seeds import generation_seed as generation_seed  # noqa: PLC0414

__all__ = [
    "Id",
    "metadata",
    "metadata_document",
    "metadata_integer",
    "metadata_key",
    "metadata_kind",
    "metadata_number",
    "metadata_text",
]


# --- runs: what the detector delivered ------------------------------------------------------------
run = sa.Table(
    "run",
    metadata,
    _id(),
    _text("series"),
    _int("number"),
    _text("tier"),
    _text("state"),
    _int("version"),
    _json("expected", nullable=True),
    _flag("end_marker"),
    sa.Column("luminosity", sa.Float(53)),
    sa.Column("livetime", sa.Float(53)),
    _flag("is_mc"),
    _flag("is_resampled"),
    _json("conditions"),
    _time("created"),
    sa.UniqueConstraint("series", "number", "tier"),
)

chunk = sa.Table(
    "chunk",
    metadata,
    _id(),
    _ref("run_id", "run.id"),
    _int("sequence"),
    _int("first_section"),
    _int("last_section"),
    _json("records"),
    _text("reader"),
    _text("index_file"),
    _text("delivery_hash"),
    _time("created"),
    sa.UniqueConstraint("run_id", "sequence"),
)

chunk_file = sa.Table(
    "chunk_file",
    metadata,
    _ref("chunk_id", "chunk.id"),
    _ref("file_id", "file.id"),
    _text("role"),
    sa.PrimaryKeyConstraint("chunk_id", "file_id"),
)

# --- files and collections ------------------------------------------------------------------------
file = sa.Table(
    "file",
    metadata,
    _id(),
    _text("scope"),
    _text("name"),
    _text("kind"),
    _int("size"),
    _text("sha256"),
    _text("adler32"),
    _text("uuid", nullable=True),
    _text("tier"),
    _ref("attempt_id", "attempt.id", nullable=True),
    _json("lineage"),
    _time("created"),
    sa.UniqueConstraint("scope", "name"),
    sa.Index("ix_file_sha256_start", sa.text("substr(sha256, 1, 8)")),
    _known("uuid"),
)

file_parent = sa.Table(
    "file_parent",
    metadata,
    _ref("file_id", "file.id"),
    _ref("parent_id", "file.id"),
    sa.PrimaryKeyConstraint("file_id", "parent_id"),
    sa.Index(None, "parent_id"),
)

replica = sa.Table(
    "replica",
    metadata,
    _id(),
    _ref("file_id", "file.id"),
    _text("endpoint"),
    _text("path"),
    _text("state"),
    _text("verified_by", nullable=True),
    _time("verified_at", nullable=True),
    _int("inode", nullable=True),
    _int("mtime_ns", nullable=True),
    sa.UniqueConstraint("endpoint", "path"),
    sa.Index(None, "file_id"),
    sa.Index(None, "endpoint", "file_id", "state"),
)

# What a storage said that it holds, what of it disagreed with the catalogue, and what was done about it.
listing = sa.Table(
    "listing",
    metadata,
    _id(),
    _text("endpoint"),
    _time("taken"),
    _text("sha256"),
    _int("files"),
    _int("bytes"),
    _time("created"),
    sa.UniqueConstraint("endpoint", "taken"),
)

listing_finding = sa.Table(
    "listing_finding",
    metadata,
    _ref("listing_id", "listing.id"),
    _text("path"),
    _text("kind"),
    _int("size", nullable=True),
    _ref("replica_id", "replica.id", nullable=True),
    sa.PrimaryKeyConstraint("listing_id", "path"),
    sa.CheckConstraint("kind in ('dark','lost','differs')", name="kind"),
)

reconciliation = sa.Table(
    "reconciliation",
    metadata,
    _ref("listing_id", "listing.id", primary_key=True, autoincrement=False),
    _ref("earlier_id", "listing.id"),
    _int("lost"),
    _int("suspect"),
    _int("bytes"),
    _int("live"),
    _json("brakes"),
    _text("reason"),
    _time("created"),
)

collection = sa.Table(
    "collection",
    metadata,
    _id(),
    _text("scope"),
    _text("name"),
    _text("tier"),
    _text("stream"),
    _text("state"),
    _int("events"),
    _ref("unit_id", "unit.id", nullable=True),
    *_interval(),
    _text("release"),
    _text("config_hash"),
    _text("global_tag"),
    _text("resolved_hash"),
    _flag("is_mc"),
    _flag("is_resampled"),
    _time("created"),
    sa.UniqueConstraint("scope", "name"),
    sa.Index(None, "tier", "stream"),
    sa.Index(None, "unit_id"),
    sa.Index(None, "series", "first_run"),
)

collection_file = sa.Table(
    "collection_file",
    metadata,
    _ref("collection_id", "collection.id"),
    _ref("file_id", "file.id"),
    _int("position"),
    sa.PrimaryKeyConstraint("collection_id", "file_id"),
    sa.Index(None, "file_id"),
)

dataset = sa.Table(
    "dataset",
    metadata,
    _id(),
    _text("scope"),
    _text("name"),
    _int("version"),
    _text("state"),
    _json("query"),
    _text("content_hash", nullable=True),
    _time("created"),
    _time("frozen", nullable=True),
    sa.UniqueConstraint("scope", "name", "version"),
)

dataset_collection = sa.Table(
    "dataset_collection",
    metadata,
    _ref("dataset_id", "dataset.id"),
    _ref("collection_id", "collection.id"),
    sa.PrimaryKeyConstraint("dataset_id", "collection_id"),
)

# A decision that a collection is not used any more; ``new_id`` takes its place, where something does.
supersession = sa.Table(
    "supersession",
    metadata,
    _id(),
    _ref("old_id", "collection.id", unique=True),
    _ref("new_id", "collection.id", nullable=True),
    _text("actor"),
    _text("reason"),
    _time("created"),
    sa.Index(None, "new_id"),
)

# --- work -----------------------------------------------------------------------------------------
production = sa.Table(
    "production",
    metadata,
    _id(),
    _text("name", unique=True),
    _text("experiment"),
    _text("release"),
    _json("spec"),
    _text("spec_hash"),
    _time("created"),
    _time("finished", nullable=True),
)

task = sa.Table(
    "task",
    metadata,
    _id(),
    _ref("production_id", "production.id"),
    _text("step"),
    _text("kind"),
    _text("state"),
    _int("config_version"),
    _json("config"),
    _text("config_hash"),
    _flag("uniform"),
    _time("created"),
    # When its scouts were done, and what they were found to need.
    _time("released", nullable=True),
    _json("needs", nullable=True),
    sa.UniqueConstraint("production_id", "step"),
)

# ``key`` is the content hash of (production, step, interval or inputs, configuration hash, resolved hash).
unit = sa.Table(
    "unit",
    metadata,
    _id(),
    _text("key", unique=True),
    _ref("task_id", "task.id"),
    _text("kind"),
    *_interval(),
    _text("record"),
    _int("config_version"),
    _text("config_hash"),
    _text("resolved_hash"),
    _text("stream"),
    _json("definition"),
    _int("priority"),
    _time("created"),
    sa.Index(None, "task_id", "series", "first_run"),
)

unit_input = sa.Table(
    "unit_input",
    metadata,
    _id(),
    _ref("unit_id", "unit.id"),
    _ref("chunk_id", "chunk.id", nullable=True),
    _ref("collection_id", "collection.id", nullable=True),
    _int("position"),
    sa.Index(None, "unit_id"),
    sa.Index(None, "chunk_id"),
    sa.Index(None, "collection_id"),
)

job = sa.Table(
    "job",
    metadata,
    _id(),
    _ref("unit_id", "unit.id", unique=True),
    _text("state"),
    _int("priority"),
    _int("failures"),
    _time("not_before"),
    _text("reason"),
    _time("created"),
    # The user's name for its state; needs that differ from its unit's; nodes to avoid; ``split`` when it is
    # to become smaller units.
    _text("label", nullable=True),
    _int("memory_mb", nullable=True),
    _time("wall_s", nullable=True),
    _json("avoid", nullable=True),
    _text("wish", nullable=True),
    sa.Index(None, "state", "priority", "id"),
)

attempt = sa.Table(
    "attempt",
    metadata,
    _id(),
    _ref("job_id", "job.id"),
    _int("number"),
    _text("nonce", unique=True),
    _text("state"),
    _text("farm"),
    _text("directory"),
    _text("batch_id", nullable=True),
    _time("leased"),
    _time("deadline"),
    _time("started", nullable=True),
    _time("ended", nullable=True),
    _text("host", nullable=True),
    sa.Column("cpu_s", sa.Float(53)),
    sa.Column("wall_s", sa.Float(53)),
    _int("max_rss_kb", nullable=True),
    _int("exit_code", nullable=True),
    _text("failure_class", nullable=True),
    _text("message", nullable=True),
    _text("release", nullable=True),
    _text("report_sha256", nullable=True),
    _json("timings", nullable=True),
    _json("figures", nullable=True),
    sa.UniqueConstraint("job_id", "number"),
    sa.Index(None, "state", "farm"),
)

# Invariant 1 is this table's unique constraint: one accepted output per unit and stream.
output = sa.Table(
    "output",
    metadata,
    _id(),
    _ref("unit_id", "unit.id"),
    _text("stream"),
    _ref("attempt_id", "attempt.id"),
    _ref("file_id", "file.id"),
    _ref("collection_id", "collection.id", nullable=True),
    _int("events"),
    sa.UniqueConstraint("unit_id", "stream"),
    sa.Index(None, "file_id"),
)

ledger = sa.Table(
    "ledger",
    metadata,
    _id(),
    _ref("unit_id", "unit.id"),
    _ref("attempt_id", "attempt.id"),
    _text("record"),
    _text("stream"),
    *_interval(),
    _int("read"),
    _int("created"),
    _int("written"),
    _int("filtered"),
    _int("prescaled"),
    _int("quarantined"),
    _int("requested", nullable=True),
    sa.UniqueConstraint("unit_id", "record", "stream"),
)

quarantine = sa.Table(
    "quarantine",
    metadata,
    _id(),
    _ref("unit_id", "unit.id"),
    _ref("attempt_id", "attempt.id"),
    _text("record"),
    _text("series"),
    _int("run"),
    _int("section"),
    _int("event"),
    _text("module"),
    _text("error"),
    _text("traceback"),
    _text("approved_by", nullable=True),
    sa.UniqueConstraint("unit_id", "record", "series", "run", "section", "event"),
)

# --- conditions -----------------------------------------------------------------------------------
payload = sa.Table(
    "payload",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    _text("kind"),
    _int("size"),
    sa.Column("data", sa.LargeBinary, nullable=False),
    _time("created"),
)

tag = sa.Table(
    "tag", metadata, _id(), _text("name", unique=True), _text("kind"), _int("version"), _time("created")
)

# An interval belongs to every version of its tag from ``added`` up to, and without, ``removed``.
iov = sa.Table(
    "iov",
    metadata,
    _id(),
    _ref("tag_id", "tag.id"),
    *_interval(),
    _text("payload_id"),
    _int("added"),
    _int("removed", nullable=True),
    _text("origin"),
    _text("reason"),
    _int("generation"),
    _time("created"),
    sa.ForeignKeyConstraint(["payload_id"], ["payload.id"]),
    sa.CheckConstraint("origin in ('initial','fitted','carried','late','loaded')", name="origin"),
    sa.Index(None, "tag_id", "series", "first_run"),
    sa.Index(None, "payload_id"),
    sa.Index(None, "tag_id", "added"),
    sa.Index(None, "tag_id", "removed"),
)

global_tag = sa.Table(
    "global_tag",
    metadata,
    _id(),
    _text("name", unique=True),
    _text("state"),
    _int("version"),
    _text("merkle", nullable=True),
    _time("created"),
    _time("frozen", nullable=True),
)

# One row per sweep and tag: version v of the global tag uses version tag_version of the tag.
global_tag_member = sa.Table(
    "global_tag_member",
    metadata,
    _ref("global_tag_id", "global_tag.id"),
    _int("version"),
    _ref("tag_id", "tag.id"),
    _int("tag_version"),
    _time("created"),
    sa.PrimaryKeyConstraint("global_tag_id", "version", "tag_id"),
    sa.Index(None, "global_tag_id", "tag_id", "version"),
)

# Tags and global tags that are copies of those of ``source``: nobody but the mirror adds to them.
mirrored = sa.Table(
    "mirrored",
    metadata,
    _text("kind"),
    _text("name"),
    _text("source"),
    _time("created"),
    sa.PrimaryKeyConstraint("kind", "name"),
    sa.CheckConstraint("kind in ('tag','global_tag')", name="kind"),
)

# --- the chain of rolling calibrations ------------------------------------------------------------
# ``accumulated`` lists the links whose accumulators wait for a fit: the chain's accumulator is their sum.
# In its further rounds a link collects with the constants that the round before ``proposed``.
chain = sa.Table(
    "chain",
    metadata,
    _id(),
    _ref("task_id", "task.id"),
    _text("series"),
    _int("generation"),
    _json("accumulated"),
    sa.UniqueConstraint("task_id", "series"),
)

chain_link = sa.Table(
    "chain_link",
    metadata,
    _id(),
    _ref("chain_id", "chain.id"),
    _ref("chunk_id", "chunk.id"),
    *_interval(),
    _int("generation"),
    _text("state"),
    _ref("collect_unit_id", "unit.id", nullable=True),
    _ref("fit_unit_id", "unit.id", nullable=True),
    _json("start"),
    _json("result"),
    _json("figures"),
    _text("reason"),
    _time("created"),
    _int("round", nullable=True),
    _json("proposed", nullable=True),
    sa.UniqueConstraint("chain_id", "chunk_id", "generation"),
    sa.Index(None, "chain_id", "state", "first_run"),
)

# --- quality --------------------------------------------------------------------------------------
verdict = sa.Table(
    "verdict",
    metadata,
    _id(),
    _text("series"),
    _int("run"),
    _text("tier"),
    _text("subject"),
    _int("version"),
    _text("value"),
    _text("author"),
    _text("reason"),
    _json("checks"),
    _ref("unit_id", "unit.id", nullable=True),
    _time("created"),
    sa.UniqueConstraint("series", "run", "tier", "subject", "version"),
    sa.CheckConstraint("value in ('good','bad','unknown')", name="value"),
)

# References and limits that were put beside the code: the newest version of an experiment's is in force.
reference = sa.Table(
    "reference",
    metadata,
    _id(),
    _text("experiment"),
    _int("version"),
    _text("text"),
    _text("hash"),
    _text("author"),
    _text("reason"),
    _time("created"),
    sa.UniqueConstraint("experiment", "version"),
)

# --- the system -----------------------------------------------------------------------------------
history = sa.Table(
    "history",
    metadata,
    _id(),
    _time("at"),
    _text("kind"),
    _text("object"),
    _text("source", nullable=True),
    _text("target"),
    _text("actor"),
    _text("reason"),
    _json("data"),
    sa.Index(None, "kind", "object"),
)

# Each seal names the lines ``first`` to ``last`` by a Merkle root, and the seal before it by ``chain``.
seal = sa.Table(
    "seal",
    metadata,
    _id(),
    _int("first", unique=True),
    _int("last"),
    _int("lines"),
    _text("root"),
    _text("chain"),
    _time("created"),
)

claim = sa.Table(
    "claim",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    _text("holder"),
    _time("taken"),
    _time("deadline"),
)

workspace = sa.Table("workspace", metadata, sa.Column("name", sa.Text, primary_key=True), _json("value"))
