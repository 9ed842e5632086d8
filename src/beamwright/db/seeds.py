"""The table of the seeds that generated units have; part of ``db.schema``."""

from __future__ import annotations

import sqlalchemy as sa

from beamwright.db.columns import integer as _int
from beamwright.db.columns import metadata
from beamwright.db.columns import reference as _ref
from beamwright.db.columns import text as _text

# Its key is the guard: no two units of a workspace share a seed of the same generator.
generation_seed = sa.Table(
    "generation_seed",
    metadata,
    _text("generator"),
    _int("seed"),
    _ref("unit_id", "unit.id", unique=True),
    sa.PrimaryKeyConstraint("generator", "seed"),
)
