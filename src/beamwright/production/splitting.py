"""From what a step can read to units of work: exact key ranges, no gap, no overlap. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamwright.core import garbage
from beamwright.core.canonical import content_hash
from beamwright.core.messages import ACCUMULATOR, HISTOGRAMS, PAYLOAD_PREFIX, InputDoc, StreamDoc
from beamwright.core.runs import Interval, Position, before
from beamwright.core.settings import Limits
from beamwright.production.rules import own_limits
from beamwright.production.tasks import Facts, Task
from beamwright.production.units import UnitPlan


@dataclass(frozen=True)
class Item:
    """Something that units are cut from: a chunk of raw data, or a collection.

    ``keys`` holds the section and event numbers of the records in key order, ``runs`` their runs where there
    may be several; ``edition`` counts how often work on it was asked for anew, ``round`` the rounds of its
    calibration.
    """

    interval: Interval
    inputs: tuple[InputDoc, ...]
    global_tag: str
    is_mc: bool
    is_resampled: bool
    records: dict[str, int]
    chunk_ids: tuple[int, ...] = ()
    collection_ids: tuple[int, ...] = ()
    edition: int = 0
    round: int = 1
    keys: tuple[NDArray[Any], NDArray[Any]] | None = None
    runs: NDArray[Any] | None = None

    @property
    def size(self) -> int:
        """Bytes of all inputs."""
        return sum(item["size"] for item in self.inputs)


@dataclass(frozen=True)
class Covered:
    """The conditions of one unit: a snapshot file with its hash, and the resolved hash."""

    snapshot: str = ""
    sha256: str = ""
    resolved_hash: str = ""


@dataclass(frozen=True)
class Run:
    """How the units of this call are to be run."""

    workers: int = 1
    limits: Limits = field(default_factory=Limits)


def ranges(item: Item, size: int | None) -> list[tuple[Interval, int | None]]:
    """Cut an item into intervals of at most ``size`` records; together they are the item's interval, exactly.

    The second member is the number of records, where it is known.
    """
    if item.keys is None:
        return [(item.interval, None)]
    sections, events = item.keys
    total = len(sections)
    if size is None or total <= size:
        return [(item.interval, total)]
    run = item.interval.first[0]
    starts: list[Position] = [
        (run if item.runs is None else int(item.runs[i]), int(sections[i]), int(events[i]))
        for i in range(size, total, size)
    ]
    firsts = [item.interval.first, *starts]
    lasts = [*(before(start) for start in starts), item.interval.last]
    counts = [min(size, total - i) for i in range(0, total, size)]
    return [
        (Interval(item.interval.series, f, last), n) for f, last, n in zip(firsts, lasts, counts, strict=True)
    ]


def within(item: Item) -> Item:
    """Return an item with those keys only that lie in its interval."""
    if item.keys is None:
        return item
    (sections, events), first, last = item.keys, item.interval.first, item.interval.last
    runs = np.full(len(sections), first[0]) if item.runs is None else item.runs
    keys = list(zip(runs.tolist(), sections.tolist(), events.tolist(), strict=True))
    inside = np.array([first <= key <= last for key in keys], dtype=bool)
    return replace(item, keys=(sections[inside], events[inside]), runs=runs[inside])


def part_name(interval: Interval) -> str:
    """Return the part of an output's name that tells its place: series.run.section[.event][-last run]."""
    run, section, event = interval.first
    name = f"{interval.series}.{run:08d}.{section:07d}" + (f".{event}" if event else "")
    return name + (f"-{interval.last[0]:08d}" if interval.last[0] != run else "")


def process_units(
    task: Task, item: Item, covered: dict[Interval, Covered], run: Run, size: int | None
) -> list[UnitPlan]:
    """Return the units of a process step over one item, of at most ``size`` records each; ``covered`` holds
    the conditions of each of its ranges.
    """
    facts, kind = task.facts, task.step.kind if task.step.kind == "generate" else "process"
    tiers, common = facts.streams | {HISTOGRAMS: item_tier(facts)}, _common(task, kind, item, facts, run)
    units = []
    with garbage.put_off():
        for interval, count in ranges(item, size):
            records = {facts.record: count if count is not None else item.records.get(facts.record)}
            own = _own(task, common, item, interval, covered[interval], tiers, records)
            units.append(_plan(task, kind, item, interval, facts.record, common | own, covered[interval]))
    return units


def collect_unit(task: Task, item: Item, covered: Covered, run: Run) -> UnitPlan:
    """Return the unit that fills a chain's accumulators from one chunk."""
    tiers = {ACCUMULATOR: "raw", HISTOGRAMS: "raw"}
    definition = _definition(task, "collect", item, task.facts, covered, run, tiers, dict(item.records))
    return _plan(task, "collect", item, item.interval, "", definition, covered)


def fit_unit(task: Task, item: Item, covered: Covered, run: Run) -> UnitPlan:
    """Return the unit that fits the accumulators of one or more chunks."""
    tiers = {PAYLOAD_PREFIX + tag: "raw" for tag in task.facts.tags}
    definition = _definition(task, "fit", item, task.facts, covered, run, tiers, {})
    return _plan(task, "fit", item, item.interval, "", definition, covered)


def merge_unit(task: Task, item: Item, stream: str, tier: str, version: int, run: Run) -> UnitPlan:
    """Return the unit that merges collections of one stream."""
    facts = Facts("", {stream: tier})
    definition = _definition(task, "merge", item, facts, Covered(), run, {stream: tier}, {}, version)
    return _plan(task, "merge", item, item.interval, "", definition, Covered(), stream)


def item_tier(facts: Facts) -> str:
    """Return the tier of a step's first stream."""
    return next(iter(facts.streams.values()), "user")


def _streams(
    task: Task, item: Item, interval: Interval, tiers: dict[str, str], version: int = 1
) -> dict[str, StreamDoc]:
    suffix = f".v{max(version, task.config_version)}" if max(version, task.config_version) > 1 else ""
    place = part_name(interval) + suffix + (f".e{item.edition + 1}" if item.edition else "")
    place += f".r{item.round}" if item.round > 1 else ""
    return {stream: _stream(task, stream, tier, place) for stream, tier in tiers.items()}


def _stream(task: Task, stream: str, tier: str, place: str) -> StreamDoc:
    is_bundle = stream in (HISTOGRAMS, ACCUMULATOR) or stream.startswith(PAYLOAD_PREFIX)
    label = stream.replace(":", ".")
    file = f"{task.step.name}.{label}.{place}.{'bwb' if is_bundle else 'root'}"
    return {"tier": tier, "name": f"{task.step.name}.{label}/{place}", "file": file}


def _definition(
    task: Task, kind: str, item: Item, facts: Facts, covered: Covered, run: Run,
    tiers: dict[str, str], records: dict[str, int | None], version: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Return the definition of a unit over a whole item."""
    common = _common(task, kind, item, facts, run)
    return common | _own(task, common, item, item.interval, covered, tiers, records, version)


def _common(task: Task, kind: str, item: Item, facts: Facts, run: Run) -> dict[str, Any]:
    """Return what all units of a step over one item have in common."""
    step = task.step
    return {
        "kind": kind,
        "production": task.production,
        "step": step.name,
        "experiment": task.experiment,
        "path": step.path,
        "calibrations": step.calibrations,
        "config": step.parameters,
        "record": facts.record,
        "inputs": list(item.inputs),
        "global_tag": item.global_tag,
        "reads": sorted(facts.reads),
        "is_mc": item.is_mc,
        "is_resampled": item.is_resampled,
        "workers": run.workers,
        "prescale": step.prescale,
        "limits": _limits(run.limits) | own_limits(step.model_dump()),
        "farms": step.farms,
        "edition": item.edition,
    }


def _own(
    task: Task, common: dict[str, Any], item: Item, interval: Interval, covered: Covered,
    tiers: dict[str, str], records: dict[str, int | None], version: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Return what a unit over an interval has of its own; its tier is that of its first stream."""
    return {
        "snapshot": {"file": covered.snapshot, "sha256": covered.sha256} if covered.snapshot else None,
        "streams": _streams(task, item, interval, tiers, version),
        "seeds": {"job": _seed(task, common["kind"], interval, item.edition)},
        "tier": next(iter(tiers.values())),
        "records": records,
    }


def _limits(limits: Limits) -> dict[str, Any]:
    return {"wall_s": limits.wall_s, "memory_mb": limits.memory_mb, "event_s": limits.event_s}


def _seed(task: Task, kind: str, interval: Interval, edition: int) -> int:
    """Return the seed of a unit; one that generates has its own for each configuration and each time that it
    is asked for anew.
    """
    identity: list[Any] = [task.production, task.step.name, kind, interval.document(), task.step.seed]
    if kind != "generate":
        return int(content_hash(identity)[:12], 16)
    return int(content_hash([*identity, task.config_version, task.config_hash, edition])[:16], 16) >> 1


def _plan(
    task: Task,
    kind: str,
    item: Item,
    interval: Interval,
    record: str,
    definition: dict[str, Any],
    covered: Covered,
    stream: str = "",
) -> UnitPlan:
    return UnitPlan(
        kind,
        interval,
        record,
        definition,
        covered.resolved_hash,
        stream,
        item.chunk_ids,
        item.collection_ids,
        task.step.priority,
        item.edition,
        item.round,
    )


def hull(intervals: Sequence[Interval]) -> Interval:
    """Return the smallest interval that holds all of one series."""
    return Interval(intervals[0].series, min(i.first for i in intervals), max(i.last for i in intervals))


def key_arrays(bundle: dict[str, NDArray[Any]], record: str) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Return the section and event numbers of one record kind out of a chunk's key index."""
    if f"{record}/section" not in bundle:
        return None
    return np.asarray(bundle[f"{record}/section"]), np.asarray(bundle[f"{record}/event"])
