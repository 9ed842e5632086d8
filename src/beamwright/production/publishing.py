"""Snapshots of conditions for workers: written once, under their hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from beamwright import durable
from beamwright.conditions import tags
from beamwright.conditions.snapshot import Snapshot
from beamwright.core.canonical import sha256_hex
from beamwright.core.errors import ConfigError
from beamwright.core.runs import Interval
from beamwright.production import chain
from beamwright.production.experiment import Experiment
from beamwright.production.spec import ProductionSpec
from beamwright.production.splitting import Covered
from beamwright.production.tasks import Plan, Task
from beamwright.production.workspace import Workspace


def publish(
    workspace: Workspace, conn: sa.Connection, global_tag: str, reads: Sequence[str], interval: Interval,
    overrides: Mapping[str, str] | None = None,
) -> Covered:  # fmt: skip
    """Write the snapshot of what is read over an interval; ``overrides`` (role: payload id) stand in for
    tags, as pass 1 needs.
    """
    data = tags.export(conn, global_tag, [interval], reads, overrides=overrides or {})
    digest = sha256_hex(data)
    name = f"{digest}.bwc"
    durable.put_once(workspace.root / "snapshots" / name, data)
    return Covered(name, digest, Snapshot.from_bytes(data).resolved_hash(reads, interval))


def cover(
    workspace: Workspace, conn: sa.Connection, global_tag: str, reads: Sequence[str], interval: Interval
) -> Covered | None:
    """Publish the snapshot of an interval, or return None while the global tag does not cover it."""
    if not reads:
        return Covered()
    if tags.resolve(conn, global_tag, reads, interval).gaps:
        return None
    return publish(workspace, conn, global_tag, reads, interval)


def initial_constants(
    conn: sa.Connection, experiment: Experiment, task: Task, series: str, now: float
) -> dict[str, str]:
    """Return, by role, the payload ids of the constants that a chain starts from, stored when they are new.

    Raises: ConfigError when a role has none.
    """
    loaded = experiment.load_constants(task.step.initial[series]) if series in task.step.initial else []
    wanted = {row.tag: row.payload for row in loaded if row.tag in task.facts.tags}
    missing = sorted(set(task.facts.tags) - set(wanted))
    if missing:
        roles = ", ".join(missing)
        raise ConfigError(
            f"step {task.step.name!r}: the chain of series {series} has no initial constants for {roles}",
            hint=f"name a set of constants that has them in [step.initial], under {series!r}",
        )
    return {role: tags.put_payload(conn, payload, now) for role, payload in sorted(wanted.items())}


def check_chains(conn: sa.Connection, plan: Plan, experiment: Experiment, now: float) -> None:
    """Refuse, before anything starts, chains that would write one tag or that have nothing to start from.

    Raises: ConflictError, ConfigError, UnknownNameError.
    """
    for task, series in chain.check_new(conn, plan):
        initial_constants(conn, experiment, task, series, now)


def load_constants(conn: sa.Connection, spec: ProductionSpec, experiment: Experiment, now: float) -> None:
    """Make the production's global tags and load the constants that its file names, once."""
    for name in sorted({dataset.global_tag for dataset in spec.dataset}):
        tags.create_global_tag(conn, name, now)
    for constants in spec.constants:
        versions = {}
        for loaded in experiment.load_constants(constants.name):
            tag = f"{constants.global_tag}/{loaded.tag}"
            tags.create_tag(conn, tag, loaded.payload.kind, now)
            payload_id = tags.put_payload(conn, loaded.payload, now)
            versions[tag] = tags.append(
                conn, tag, [(loaded.interval, payload_id, "loaded", constants.name)], now
            )
        tags.sweep(conn, constants.global_tag, versions, now)
