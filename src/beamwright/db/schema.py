"""The tables. Every layer above writes its statements against these.

Times are seconds since the epoch (float). Intervals are stored as series and six integers. Documents are
JSON text written by ``core.canonical``. A column ``state`` holds a state of ``core.states``; only
``db.history.move`` changes it.
"""

from __future__ import annotations

import sqlalchemy as sa

from beamwright.db import columns as c
from beamwright.db.columns import Id as Id
from beamwright.db.columns import metadata as metadata
from beamwright.db.declared import metadata_document as metadata_document
from beamwright.db.declared import metadata_integer as metadata_integer
from beamwright.db.declared import metadata_key as metadata_key
from beamwright.db.declared import metadata_kind as metadata_kind
from beamwright.db.declared import metadata_number as metadata_number
from beamwright.db.declared import metadata_text as metadata_text
from beamwright.db.seeds import generation_seed as generation_seed

# --- runs: what the detector delivered ------------------------------------------------------------
run = sa.Table(
    "run",
    metadata,
    c.identity(),
    c.text("series"),
    c.integer("number"),
    c.text("tier"),
    c.text("state"),
    c.integer("version"),
    c.document("expected", nullable=True),
    c.flag("end_marker"),
    sa.Column("luminosity", sa.Float(53)),
    sa.Column("livetime", sa.Float(53)),
    c.flag("is_mc"),
    c.flag("is_resampled"),
    c.document("conditions"),
    c.moment("created"),
    sa.UniqueConstraint("series", "number", "tier"),
)

chunk = sa.Table(
    "chunk",
    metadata,
    c.identity(),
    c.reference("run_id", "run.id"),
    c.integer("sequence"),
    c.integer("first_section"),
    c.integer("last_section"),
    c.document("records"),
    c.text("reader"),
    c.text("index_file"),
    c.text("delivery_hash"),
    c.moment("created"),
    sa.UniqueConstraint("run_id", "sequence"),
)

chunk_file = sa.Table(
    "chunk_file",
    metadata,
    c.reference("chunk_id", "chunk.id"),
    c.reference("file_id", "file.id"),
    c.text("role"),
    sa.PrimaryKeyConstraint("chunk_id", "file_id"),
)

# --- files and collections ------------------------------------------------------------------------
file = sa.Table(
    "file",
    metadata,
    c.identity(),
    c.label("scope"),
    c.label("name"),
    c.text("kind"),
    c.integer("size"),
    c.text("sha256"),
    c.text("adler32"),
    c.text("uuid", nullable=True),
    c.text("tier"),
    c.reference("attempt_id", "attempt.id", nullable=True),
    c.document("lineage"),
    c.moment("created"),
    sa.UniqueConstraint("scope", "name"),
    sa.Index("ix_file_sha256_start", sa.text("substr(sha256, 1, 8)")),
    c.known("uuid"),
)

file_parent = sa.Table(
    "file_parent",
    metadata,
    c.reference("file_id", "file.id"),
    c.reference("parent_id", "file.id"),
    sa.PrimaryKeyConstraint("file_id", "parent_id"),
    sa.Index(None, "parent_id"),
)

replica = sa.Table(
    "replica",
    metadata,
    c.identity(),
    c.reference("file_id", "file.id"),
    c.text("endpoint"),
    c.text("path"),
    c.text("state"),
    c.text("verified_by", nullable=True),
    c.moment("verified_at", nullable=True),
    c.integer("inode", nullable=True),
    c.integer("mtime_ns", nullable=True),
    sa.UniqueConstraint("endpoint", "path"),
    sa.Index(None, "file_id"),
    sa.Index(None, "endpoint", "file_id", "state"),
)

# What a storage said that it holds, what of it disagreed with the catalogue, and what was done about it.
listing = sa.Table(
    "listing",
    metadata,
    c.identity(),
    c.text("endpoint"),
    c.moment("taken"),
    c.text("sha256"),
    c.integer("files"),
    c.integer("bytes"),
    c.moment("created"),
    sa.UniqueConstraint("endpoint", "taken"),
)

listing_finding = sa.Table(
    "listing_finding",
    metadata,
    c.reference("listing_id", "listing.id"),
    c.text("path"),
    c.text("kind"),
    c.integer("size", nullable=True),
    c.reference("replica_id", "replica.id", nullable=True),
    sa.PrimaryKeyConstraint("listing_id", "path"),
    sa.CheckConstraint("kind in ('dark','lost','differs')", name="kind"),
)

reconciliation = sa.Table(
    "reconciliation",
    metadata,
    c.reference("listing_id", "listing.id", primary_key=True, autoincrement=False),
    c.reference("earlier_id", "listing.id"),
    c.integer("lost"),
    c.integer("suspect"),
    c.integer("bytes"),
    c.integer("live"),
    c.document("brakes"),
    c.text("reason"),
    c.moment("created"),
)

collection = sa.Table(
    "collection",
    metadata,
    c.identity(),
    c.label("scope"),
    c.label("name"),
    c.text("tier"),
    c.text("stream"),
    c.text("state"),
    c.integer("events"),
    c.reference("unit_id", "unit.id", nullable=True),
    *c.interval(),
    c.text("release"),
    c.text("config_hash"),
    c.text("global_tag"),
    c.text("resolved_hash"),
    c.flag("is_mc"),
    c.flag("is_resampled"),
    c.moment("created"),
    sa.UniqueConstraint("scope", "name"),
    sa.Index(None, "tier", "stream"),
    sa.Index(None, "unit_id"),
    sa.Index(None, "series", "first_run"),
)

collection_file = sa.Table(
    "collection_file",
    metadata,
    c.reference("collection_id", "collection.id"),
    c.reference("file_id", "file.id"),
    c.integer("position"),
    sa.PrimaryKeyConstraint("collection_id", "file_id"),
    sa.Index(None, "file_id"),
)

dataset = sa.Table(
    "dataset",
    metadata,
    c.identity(),
    c.text("scope"),
    c.text("name"),
    c.integer("version"),
    c.text("state"),
    c.document("query"),
    c.text("content_hash", nullable=True),
    c.moment("created"),
    c.moment("frozen", nullable=True),
    sa.UniqueConstraint("scope", "name", "version"),
)

dataset_collection = sa.Table(
    "dataset_collection",
    metadata,
    c.reference("dataset_id", "dataset.id"),
    c.reference("collection_id", "collection.id"),
    sa.PrimaryKeyConstraint("dataset_id", "collection_id"),
)

# A decision that a collection is not used any more; ``new_id`` takes its place, where something does.
supersession = sa.Table(
    "supersession",
    metadata,
    c.identity(),
    c.reference("old_id", "collection.id", unique=True),
    c.reference("new_id", "collection.id", nullable=True),
    c.text("actor"),
    c.text("reason"),
    c.moment("created"),
    sa.Index(None, "new_id"),
)

# --- work -----------------------------------------------------------------------------------------
production = sa.Table(
    "production",
    metadata,
    c.identity(),
    c.text("name", unique=True),
    c.text("experiment"),
    c.text("release"),
    c.document("spec"),
    c.text("spec_hash"),
    c.moment("created"),
    c.moment("finished", nullable=True),
)

task = sa.Table(
    "task",
    metadata,
    c.identity(),
    c.reference("production_id", "production.id"),
    c.text("step"),
    c.text("kind"),
    c.text("state"),
    c.integer("config_version"),
    c.document("config"),
    c.text("config_hash"),
    c.flag("uniform"),
    c.moment("created"),
    # When its scouts were done, and what they were found to need.
    c.moment("released", nullable=True),
    c.document("needs", nullable=True),
    sa.UniqueConstraint("production_id", "step"),
)

# ``key`` is the content hash of (production, step, interval or inputs, configuration hash, resolved hash).
unit = sa.Table(
    "unit",
    metadata,
    c.identity(),
    c.text("key", unique=True),
    c.reference("task_id", "task.id"),
    c.text("kind"),
    *c.interval(),
    c.text("record"),
    c.integer("config_version"),
    c.text("config_hash"),
    c.text("resolved_hash"),
    c.text("stream"),
    c.document("definition"),
    c.integer("priority"),
    c.moment("created"),
    sa.Index(None, "task_id", "series", "first_run"),
)

unit_input = sa.Table(
    "unit_input",
    metadata,
    c.identity(),
    c.reference("unit_id", "unit.id"),
    c.reference("chunk_id", "chunk.id", nullable=True),
    c.reference("collection_id", "collection.id", nullable=True),
    c.integer("position"),
    sa.Index(None, "unit_id"),
    sa.Index(None, "chunk_id"),
    sa.Index(None, "collection_id"),
)

job = sa.Table(
    "job",
    metadata,
    c.identity(),
    c.reference("unit_id", "unit.id", unique=True),
    c.text("state"),
    c.integer("priority"),
    c.integer("failures"),
    c.moment("not_before"),
    c.text("reason"),
    c.moment("created"),
    # The user's name for its state; needs that differ from its unit's; nodes to avoid; ``split`` when it is
    # to become smaller units.
    c.text("label", nullable=True),
    c.integer("memory_mb", nullable=True),
    c.moment("wall_s", nullable=True),
    c.document("avoid", nullable=True),
    c.text("wish", nullable=True),
    sa.Index(None, "state", "priority", "id"),
)

attempt = sa.Table(
    "attempt",
    metadata,
    c.identity(),
    c.reference("job_id", "job.id"),
    c.integer("number"),
    c.text("nonce", unique=True),
    c.text("state"),
    c.text("farm"),
    c.text("directory"),
    c.text("batch_id", nullable=True),
    c.moment("leased"),
    c.moment("deadline"),
    c.moment("started", nullable=True),
    c.moment("ended", nullable=True),
    c.text("host", nullable=True),
    sa.Column("cpu_s", sa.Float(53)),
    sa.Column("wall_s", sa.Float(53)),
    c.integer("max_rss_kb", nullable=True),
    c.integer("exit_code", nullable=True),
    c.text("failure_class", nullable=True),
    c.text("message", nullable=True),
    c.text("release", nullable=True),
    c.text("report_sha256", nullable=True),
    c.document("timings", nullable=True),
    c.document("figures", nullable=True),
    sa.UniqueConstraint("job_id", "number"),
    sa.Index(None, "state", "farm"),
)

# Invariant 1 is this table's unique constraint: one accepted output per unit and stream.
output = sa.Table(
    "output",
    metadata,
    c.identity(),
    c.reference("unit_id", "unit.id"),
    c.text("stream"),
    c.reference("attempt_id", "attempt.id"),
    c.reference("file_id", "file.id"),
    c.reference("collection_id", "collection.id", nullable=True),
    c.integer("events"),
    sa.UniqueConstraint("unit_id", "stream"),
    sa.Index(None, "file_id"),
)

ledger = sa.Table(
    "ledger",
    metadata,
    c.identity(),
    c.reference("unit_id", "unit.id"),
    c.reference("attempt_id", "attempt.id"),
    c.text("record"),
    c.text("stream"),
    *c.interval(),
    c.integer("read"),
    c.integer("created"),
    c.integer("written"),
    c.integer("filtered"),
    c.integer("prescaled"),
    c.integer("quarantined"),
    c.integer("requested", nullable=True),
    sa.UniqueConstraint("unit_id", "record", "stream"),
)

quarantine = sa.Table(
    "quarantine",
    metadata,
    c.identity(),
    c.reference("unit_id", "unit.id"),
    c.reference("attempt_id", "attempt.id"),
    c.text("record"),
    c.text("series"),
    c.integer("run"),
    c.integer("section"),
    c.integer("event"),
    c.text("module"),
    c.text("error"),
    c.text("traceback"),
    c.text("approved_by", nullable=True),
    sa.UniqueConstraint("unit_id", "record", "series", "run", "section", "event"),
)

# --- conditions -----------------------------------------------------------------------------------
payload = sa.Table(
    "payload",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    c.text("kind"),
    c.integer("size"),
    sa.Column("data", sa.LargeBinary, nullable=False),
    c.moment("created"),
)

tag = sa.Table(
    "tag",
    metadata,
    c.identity(),
    c.text("name", unique=True),
    c.text("kind"),
    c.integer("version"),
    c.moment("created"),
)

# An interval belongs to every version of its tag from ``added`` up to, and without, ``removed``.
iov = sa.Table(
    "iov",
    metadata,
    c.identity(),
    c.reference("tag_id", "tag.id"),
    *c.interval(),
    c.text("payload_id"),
    c.integer("added"),
    c.integer("removed", nullable=True),
    c.text("origin"),
    c.text("reason"),
    c.integer("generation"),
    c.moment("created"),
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
    c.identity(),
    c.text("name", unique=True),
    c.text("state"),
    c.integer("version"),
    c.text("merkle", nullable=True),
    c.moment("created"),
    c.moment("frozen", nullable=True),
)

# One row per sweep and tag: version v of the global tag uses version tag_version of the tag.
global_tag_member = sa.Table(
    "global_tag_member",
    metadata,
    c.reference("global_tag_id", "global_tag.id"),
    c.integer("version"),
    c.reference("tag_id", "tag.id"),
    c.integer("tag_version"),
    c.moment("created"),
    sa.PrimaryKeyConstraint("global_tag_id", "version", "tag_id"),
    sa.Index(None, "global_tag_id", "tag_id", "version"),
)

# Tags and global tags that are copies of those of ``source``: nobody but the mirror adds to them.
mirrored = sa.Table(
    "mirrored",
    metadata,
    c.text("kind"),
    c.text("name"),
    c.text("source"),
    c.moment("created"),
    sa.PrimaryKeyConstraint("kind", "name"),
    sa.CheckConstraint("kind in ('tag','global_tag')", name="kind"),
)

# --- the chain of rolling calibrations ------------------------------------------------------------
# ``accumulated`` lists the links whose accumulators wait for a fit: the chain's accumulator is their sum.
# In its further rounds a link collects with the constants that the round before ``proposed``.
chain = sa.Table(
    "chain",
    metadata,
    c.identity(),
    c.reference("task_id", "task.id"),
    c.text("series"),
    c.integer("generation"),
    c.document("accumulated"),
    sa.UniqueConstraint("task_id", "series"),
)

chain_link = sa.Table(
    "chain_link",
    metadata,
    c.identity(),
    c.reference("chain_id", "chain.id"),
    c.reference("chunk_id", "chunk.id"),
    *c.interval(),
    c.integer("generation"),
    c.text("state"),
    c.reference("collect_unit_id", "unit.id", nullable=True),
    c.reference("fit_unit_id", "unit.id", nullable=True),
    c.document("start"),
    c.document("result"),
    c.document("figures"),
    c.text("reason"),
    c.moment("created"),
    c.integer("round", nullable=True),
    c.document("proposed", nullable=True),
    sa.UniqueConstraint("chain_id", "chunk_id", "generation"),
    sa.Index(None, "chain_id", "state", "first_run"),
)

# --- quality --------------------------------------------------------------------------------------
verdict = sa.Table(
    "verdict",
    metadata,
    c.identity(),
    c.text("series"),
    c.integer("run"),
    c.text("tier"),
    c.text("subject"),
    c.integer("version"),
    c.text("value"),
    c.text("author"),
    c.text("reason"),
    c.document("checks"),
    c.reference("unit_id", "unit.id", nullable=True),
    c.moment("created"),
    sa.UniqueConstraint("series", "run", "tier", "subject", "version"),
    sa.CheckConstraint("value in ('good','bad','unknown')", name="value"),
)

# References and limits that were put beside the code: the newest version of an experiment's is in force.
reference = sa.Table(
    "reference",
    metadata,
    c.identity(),
    c.text("experiment"),
    c.integer("version"),
    c.text("text"),
    c.text("hash"),
    c.text("author"),
    c.text("reason"),
    c.moment("created"),
    sa.UniqueConstraint("experiment", "version"),
)

# --- the system -----------------------------------------------------------------------------------
history = sa.Table(
    "history",
    metadata,
    c.identity(),
    c.moment("at"),
    c.text("kind"),
    c.text("object"),
    c.text("source", nullable=True),
    c.text("target"),
    c.text("actor"),
    c.text("reason"),
    c.document("data"),
    sa.Index(None, "kind", "object"),
)

# Each seal names the lines ``first`` to ``last`` by a Merkle root, and the seal before it by ``chain``.
seal = sa.Table(
    "seal",
    metadata,
    c.identity(),
    c.integer("first", unique=True),
    c.integer("last"),
    c.integer("lines"),
    c.text("root"),
    c.text("chain"),
    c.moment("created"),
)

claim = sa.Table(
    "claim",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    c.text("holder"),
    c.moment("taken"),
    c.moment("deadline"),
)

workspace = sa.Table("workspace", metadata, sa.Column("name", sa.Text, primary_key=True), c.document("value"))
