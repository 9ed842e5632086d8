"""The raw reader: a file says how many pulses and tracks a run has; what they are follows from their keys."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from beamwright.core.errors import FormatError
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch, Table
from beamwright.event.keys import Index
from beamwright.event.reader import Positions, Reader
from drift import truth
from drift.truth import CHANNELS, LAYERS, RESOLUTION, VELOCITY, WIRES, Floats

BANKS = BankSet.load(Path(__file__).with_name("banks.toml"))
EVENT, PULSE, ROLE = "event", "pulse", "raw"


class DriftReader(Reader):
    """Makes the records of one run."""

    roles = (ROLE,)

    def __init__(self, path: Path, series: str, run: int) -> None:
        self.path, self.series, self.run = path, series, run
        found = read_file(path)
        if found["run"] != run:
            raise FormatError(
                f"{path} is of run {found['run']}, not {run}", hint="deliver the run's own file"
            )
        self.dead = np.array(found.get("dead", []), np.int64)
        self._counts = {EVENT: int(found["tracks"]), PULSE: int(found["pulses"])}

    @classmethod
    def open(cls, paths: Mapping[str, Path], *, series: str, run: int) -> Self:
        return cls(paths[ROLE], series, run)

    def records(self) -> tuple[str, ...]:
        return (EVENT, PULSE)

    def banks(self, record: str) -> tuple[str, ...]:
        return ("Hit",) if record == EVENT else ("Pulse",)

    def index(self, record: str) -> Index:
        return Index.build(self.run, 0, np.arange(self._counts[record]), name=str(self.path))

    def read(self, record: str, positions: Positions, banks: Iterable[str] | None = None) -> Batch:
        index = self.index(record)
        section, event = index.section[positions], index.event[positions]
        wanted = self.banks(record) if banks is None else tuple(banks)
        make = self._hits if record == EVENT else self._pulses
        return Batch(
            record, self.series, self.run, section, event, {n: make(event) for n in wanted}, banks=BANKS
        )

    def _pulses(self, events: Any) -> Table:
        numbers = (events[:, None] * np.uint64(CHANNELS) + np.arange(CHANNELS, dtype=np.uint64)).ravel()
        channel = np.tile(np.arange(CHANNELS), len(events))
        time = truth.truth(self.run).offsets[channel] + RESOLUTION * truth.gauss(self.run, numbers, 3)
        return self._alive("Pulse", len(events), channel, time)

    def _hits(self, events: Any) -> Table:
        true = truth.truth(self.run)
        numbers = (events[:, None] * np.uint64(LAYERS) + np.arange(LAYERS, dtype=np.uint64)).ravel()
        wire = (truth.uniform(self.run, numbers, 20) * WIRES).astype(np.int64)
        channel = np.tile(np.arange(LAYERS), len(events)) * WIRES + wire
        time = ((_positions(self.run, events) - true.shifts) / VELOCITY).ravel() + true.offsets[channel]
        time += RESOLUTION * truth.gauss(self.run, numbers, 5)
        noisy = truth.uniform(self.run, numbers, 21) < truth.NOISE
        time[noisy] += 400.0 * (truth.uniform(self.run, numbers[noisy], 22) - 0.5)
        return self._alive("Hit", len(events), channel, time)

    def _alive(self, name: str, records: int, channel: Any, time: Floats) -> Table:
        """Make a table of the hits of channels that are not dead."""
        kept = ~np.isin(channel, self.dead)
        counts = kept.reshape(records, -1).sum(axis=1) if records else np.zeros(0, np.int64)
        columns = {"channel": channel[kept].astype(np.uint8), "time": time[kept]}
        return Table.from_counts(name, counts, columns)


def read_file(path: Path) -> dict[str, Any]:
    """Read a raw file.

    Raises: FormatError.
    """
    try:
        found = json.loads(path.read_text())
        return {"run": int(found["run"])} | {name: found[name] for name in found if name != "run"}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"raw file {path} is damaged: {error}", hint="send it again") from error


def _positions(run: int, events: Any) -> Floats:
    """Return where the tracks of events cross the layers, mm."""
    start = 40.0 * (truth.uniform(run, events, 23) - 0.5)
    slope = 0.1 * (truth.uniform(run, events, 24) - 0.5)
    return start[:, None] + slope[:, None] * truth.Z
