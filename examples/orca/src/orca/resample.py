"""More volume than there is data: events resampled from real ones, for load tests alone.

A mixed event has the triggered hits of one event and the noise of another of the same run; a bootstrapped
DST event is drawn with replacement. Both have keys of their own in runs of their own, which are flagged
resampled, keep parents and seed in the bank Origin, and count in no physics figure. What is drawn follows
from the seed and the new key, so that any part of a run can be made by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from beamwright import durable
from beamwright.core.canonical import canonical_json
from beamwright.event.batch import Table
from beamwright.event.keys import key_hash
from beamwright.production.experiment import DeliveredFile, Delivery
from beamwright.production.spec import ConstantsSpec, DatasetSpec, ProductionSpec, StepSpec
from orca import jagged, raw
from orca.deliveries import RUN_OFFSET
from orca.errors import RawDataError
from orca.jagged import Array, Ints
from orca.readers import (
    BANKS,
    DAQ,
    DST,
    DST_BANKS,
    EVENT,
    EVENT_BANKS,
    DstReader,
    OnlineReader,
    Tables,
    TelescopeReader,
    event_tables,
    hit_links,
)
from orca.samples import sample

RECIPE = "recipe"
GLOBAL_TAG = "orca-resampled"
SECTION_EVENTS = 500
UNITS = 16
"""The volume is cut into about so many units per step."""


@dataclass(frozen=True)
class Recipe:
    """How many events to make out of which run, with which seed."""

    events: int
    source_run: int
    seed: int

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a recipe file.

        Raises: RawDataError.
        """
        try:
            document = json.loads(path.read_bytes())
            return cls(*(int(document[name]) for name in ("events", "source_run", "seed")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RawDataError(path, f"no recipe for resampling ({error})", "Make it anew") from error


class ResampledReader(TelescopeReader):
    """Makes events from those of a source reader."""

    def __init__(self, source: TelescopeReader, recipe: Recipe, path: Path, series: str, run: int) -> None:
        super().__init__(series, run)
        self._source, self._recipe, self._path = source, recipe, path

    def close(self) -> None:
        self._source.close()

    def _keys(self, record: str) -> tuple[Path, raw.KeyIndex]:
        number = np.arange(self._recipe.events)
        run = np.full(len(number), self.run)
        return self._path, raw.KeyIndex(record, run, number // SECTION_EVENTS, number, number)

    def _drawn(self, entries: Ints) -> tuple[Ints, Ints]:
        """Draw two parents for each new event: positions in the source's index."""
        bits = key_hash(self.run, entries // SECTION_EVENTS, entries, self._recipe.seed)
        n = np.uint64(len(self._source.index(EVENT)))
        return (bits % n).astype(np.int64), ((bits >> np.uint64(32)) % n).astype(np.int64)

    def _origin(self, first: Ints, second: Ints) -> Table:
        index = self._source.index(EVENT)
        n = len(first)
        columns = {
            "run": np.full(n, self._recipe.source_run), "seed": np.full(n, self._recipe.seed),
            "section": index.section[first], "event": index.event[first],
            "noise_section": index.section[second], "noise_event": index.event[second],
        }  # fmt: skip
        return Table(BANKS["Origin"], np.arange(n + 1), columns)

    def _new_run(self, n: int) -> Table:
        columns = {"detector": np.full(n, int(self.series)), "run": np.full(n, self.run)}
        return Table.one(BANKS["RunHeader"], columns)


class MixedReader(ResampledReader):
    """Raw events mixed of the triggered hits of one event and the noise of another."""

    roles = (DAQ, RECIPE)
    BANKS_OF = {EVENT: EVENT_BANKS}

    @classmethod
    def open(cls, paths: Mapping[str, Path], *, series: str, run: int) -> Self:
        recipe = Recipe.read(paths[RECIPE])
        source = OnlineReader({DAQ: paths[DAQ]}, series, recipe.source_run)
        return cls(source, recipe, paths[RECIPE], series, run)

    def _tables(self, record: str, entries: Ints, wanted: frozenset[str]) -> Tables:
        first, second = self._drawn(entries)
        batch = self._source.read(EVENT, np.arange(len(self._source.index(EVENT))))
        triggered = _rows(batch["TrigHit"], "trigger_mask")
        noise = _noise(triggered, _rows(batch["SnapHit"]))
        shift = _starts(triggered)[first] - _starts(triggered)[second]
        snapshot = _mixed(triggered.take(first), noise.take(second), shift)
        header: dict[str, Array] = {
            column: batch[bank][column][first]
            for bank in ("RunHeader", "EventHeader")
            for column in batch[bank].columns
        }
        tables = event_tables(header, triggered.take(first), snapshot, None, None)
        return {**tables, "RunHeader": self._new_run(len(entries)), "Origin": self._origin(first, second)}


class BootstrapReader(ResampledReader):
    """DST events drawn with replacement."""

    roles = (DST, RECIPE)
    BANKS_OF = {EVENT: DST_BANKS}

    @classmethod
    def open(cls, paths: Mapping[str, Path], *, series: str, run: int) -> Self:
        recipe = Recipe.read(paths[RECIPE])
        source = DstReader.open({DST: paths[DST]}, series=series, run=recipe.source_run)
        return cls(source, recipe, paths[RECIPE], series, run)

    def _tables(self, record: str, entries: Ints, wanted: frozenset[str]) -> Tables:
        drawn, _ = self._drawn(entries)
        tables = self._source._tables(record, self._source.index(EVENT).entry[drawn], wanted)
        return {**tables, "RunHeader": self._new_run(len(entries)), "Origin": self._origin(drawn, drawn)}


def enlarge(spec: ProductionSpec, events: int, folder: Path) -> tuple[ProductionSpec, list[Delivery]]:
    """Add resampled runs to a production until it has so many events; recipes are written to a folder.

    Half of them are mixed raw events of run 6884, half are bootstrapped DST events of run 6370.
    """
    mixed, drawn = (events + 1) // 2, events // 2
    deliveries = [
        _delivery(folder, "mixed", 6884, mixed, "raw", DAQ, sample("online/events_sample.root")),
        _delivery(folder, "bootstrap", 6370, drawn, "dst", DST, sample("dst/orca4_sample.root")),
    ]
    runs = {d.tier: {d.series: [d.run]} for d in deliveries}
    datasets = [
        DatasetSpec(name=f"resampled-{t}", tier=t, runs=r, global_tag=GLOBAL_TAG, is_resampled=True)
        for t, r in runs.items()
    ]
    steps = [_enlarged(step, events) for step in spec.step]
    constants = [*spec.constants, ConstantsSpec(name="resampled", global_tag=GLOBAL_TAG)]
    changes = {"dataset": [*spec.dataset, *datasets], "step": steps, "constants": constants}
    return spec.model_copy(update=changes), deliveries


def _enlarged(step: StepSpec, events: int) -> StepSpec:
    more = {"reco": ["resampled-raw"], "dst-import": ["resampled-dst"]}.get(step.name, [])
    if not more:
        return step
    split = max(step.split or 0, events // UNITS + 1)
    return step.model_copy(update={"inputs": [*step.inputs, *more], "split": split})


def _delivery(
    folder: Path, reader: str, source_run: int, events: int, tier: str, role: str, path: Path
) -> Delivery:
    recipe = {"events": events, "source_run": source_run, "seed": source_run}
    durable.make_directory(folder)
    recipe_path = folder / f"{reader}-{source_run}-{events}.json"
    durable.put_once(recipe_path, canonical_json(recipe))
    files = tuple(_delivered(r, p) for r, p in ((role, path), (RECIPE, recipe_path)))
    return Delivery(
        series="44", run=RUN_OFFSET + source_run, tier=tier, sequence=1, reader=reader, files=files,
        first_section=0, last_section=max(events - 1, 0) // SECTION_EVENTS, records={EVENT: events},
        is_resampled=True, end_marker=True,
    )  # fmt: skip


def _delivered(role: str, path: Path) -> DeliveredFile:
    digest = durable.hash_file(path)
    return DeliveredFile(role, str(path), digest.size, digest.sha256)


def _rows(table: Table, *more: str) -> jagged.Table:
    names = ("dom_id", "channel", "tdc", "tot", *more)
    return jagged.Table({name: table[name] for name in names}, table.offsets)


def _noise(triggered: jagged.Table, snapshot: jagged.Table) -> jagged.Table:
    """Leave out of each snapshot the hits that took part in the trigger."""
    links = hit_links(triggered, snapshot)
    keep = np.ones(snapshot.offsets[-1], bool)
    keep[(links + snapshot.offsets[triggered.owner])[links >= 0]] = False
    return snapshot.where(keep)


def _starts(hits: jagged.Table) -> Ints:
    """Time of the first hit of each event."""
    first = np.full(len(hits), raw.FRAME_NS)
    np.minimum.at(first, hits.owner, hits["tdc"].astype(np.int64))
    return first


def _mixed(triggered: jagged.Table, noise: jagged.Table, shift: Ints) -> jagged.Table:
    """Put noise, moved to the time of the triggered hits, behind them."""
    moved = np.clip(noise["tdc"].astype(np.int64) + shift[noise.owner], 0, raw.FRAME_NS - 1)
    names: tuple[str, ...] = ("dom_id", "channel", "tdc", "tot")
    late: dict[str, Array] = {**noise.columns, "tdc": moved.astype(np.uint32)}
    first = jagged.Table({n: triggered[n] for n in names}, triggered.offsets)
    return jagged.joined(first, jagged.Table({n: late[n] for n in names}, noise.offsets))
