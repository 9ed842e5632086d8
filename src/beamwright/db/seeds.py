"""The table of the seeds that generated units have; part of ``db.schema``."""

from __future__ import annotations

import sqlalchemy as sa

from beamwright.db import columns as c
from beamwright.db.columns import metadata

# Its key is the guard: no two units of a workspace share a seed of the same generator.
generation_seed = sa.Table(
    "generation_seed",
    metadata,
    c.text("generator"),
    c.integer("seed"),
    c.reference("unit_id", "unit.id", unique=True),
    sa.PrimaryKeyConstraint("generator", "seed"),
)
